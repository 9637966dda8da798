package federation

import (
	"bytes"
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"

	"github.com/assay-project/assay/attest"
)

// padded is a bundle document of nearly the greatest size.
func padded(t testing.TB) []byte {
	return append(document(t, bundle(1, 0, newAuthority(t, ""))), bytes.Repeat([]byte(" "), MaxDocument-3000)...)
}

// names of foreign trust domains, each with an endpoint.
func budgeted() []string {
	return []string{"c.example", "d.example", "e.example", "f.example", "g.example", "h.example"}
}

func total(t testing.TB, f *Federations) (stored, served int) {
	t.Helper()
	must(t, f.Reload(t.Context()))
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range f.entries {
		stored += len(e.row.Bundle)
		if e.served() != nil {
			served += len(e.row.Bundle)
		}
	}
	return stored, served
}

// together makes every fetch of the first round wait for all others.
func together(doc []byte, fetches int) func(context.Context, *relation, x509bundle.Source) ([]byte, error) {
	var all sync.WaitGroup
	all.Add(fetches)
	return func(context.Context, *relation, x509bundle.Source) ([]byte, error) {
		all.Done()
		all.Wait()
		return doc, nil
	}
}

func TestBundlesFetchedAtOnceStayWithinTheBudget(t *testing.T) {
	s, _ := newStore(t)
	f := open(t, s, nil)
	f.fetch = together(padded(t), len(budgeted()))
	for _, n := range budgeted() {
		_, err := f.Set(t.Context(), Relation{TrustDomain: n, URL: "https://" + n + "/", Profile: Web}, "")
		must(t, err)
	}
	var refused sync.Map
	var done sync.WaitGroup
	for _, n := range budgeted() {
		done.Go(func() {
			if _, err := f.Refresh(t.Context(), n); err != nil {
				refused.Store(n, err)
			}
		})
	}
	done.Wait()
	if stored, _ := total(t, f); stored > maxTotal || stored == 0 {
		t.Errorf("%d bytes of foreign bundles, at most %d fit", stored, maxTotal)
	}
	n := 0
	refused.Range(func(_, err any) bool {
		n++
		wantCheck(t, err.(error), "bundle_budget")
		return true
	})
	if n != len(budgeted())-1 {
		t.Errorf("%d of %d were refused, room is for one", n, len(budgeted()))
	}
}

// Servers store at the same moment, and none of them sees the others: what is over
// is handed to nobody, by any of them.
func TestWhatSeveralServersStoredTogetherBeyondTheBudgetIsNotHandedOut(t *testing.T) {
	s, _ := newStore(t)
	f := open(t, s, nil)
	doc := padded(t)
	for _, n := range budgeted()[:3] {
		_, err := f.Set(t.Context(), Relation{TrustDomain: n, URL: "https://" + n + "/", Profile: Web}, "")
		must(t, err)
	}
	for _, n := range budgeted()[:3] { // as a server that does not see the others
		f.mu.Lock()
		row := f.entries[n].row
		f.mu.Unlock()
		row.Version, row.Bundle, row.FetchedAt = row.Version+1, doc, f.cfg.Now()
		must(t, f.cfg.Seal.bundle(&row))
		must(t, s.PutFederation(t.Context(), row))
	}
	changes := 0
	f.OnChange(func() { changes++ })
	stored, served := total(t, f)
	if stored <= maxTotal || served > maxTotal || served == 0 {
		t.Fatalf("%d bytes are stored, %d handed out, %d fit", stored, served, maxTotal)
	}
	if b, _ := f.Bundles(); len(b) != 1 || b[0].TrustDomain().Name() != "c.example" || changes != 1 {
		t.Errorf("%d bundles are handed out, after %d changes", len(b), changes)
	}
	if troubles := strings.Join(f.Troubles(), "\n"); strings.Count(troubles, "bundle_budget") != 2 || !strings.Contains(troubles, "with d.example is not used") {
		t.Errorf("operators are told: %s", troubles)
	}
	must(t, f.Delete(t.Context(), "c.example", ""))
	if b, _ := f.Bundles(); len(b) != 1 || b[0].TrustDomain().Name() != "d.example" || changes != 2 {
		t.Errorf("with room again %d bundles are handed out, after %d changes", len(b), changes)
	}
}

// Neither a lower number nor a document between without any brings back what was.
func TestADocumentWithoutANumberDoesNotOpenTheWayBack(t *testing.T) {
	s, _ := newStore(t)
	f := open(t, s, nil)
	web, old, now := newAuthority(t, ""), newAuthority(t, ""), newAuthority(t, "")
	e := newEndpoint(t, web.leaf(t, ""), serving(document(t, bundle(9, 0, now))))
	_, err := f.Set(t.Context(), byWeb(web, e.URL), "")
	must(t, err)
	_, err = f.Refresh(t.Context(), theirs.Name())
	must(t, err)
	for _, sequence := range []uint64{0, 3} {
		e.serve(serving(document(t, bundle(sequence, 0, old))))
		_, err = f.Refresh(t.Context(), theirs.Name())
		if wantCheck(t, err, "bundle_rollback"); attest.KindOf(err) != attest.Stale {
			t.Errorf("%v", err)
		}
	}
	if b, _ := f.Bundles(); len(b) != 1 || !b[0].HasX509Authority(now.cert) || b[0].HasX509Authority(old.cert) {
		t.Error("the old copy is back")
	}
}
