package ledger_test

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/attestedtest"
	"github.com/assay-project/assay/issuer/ledger"
	"github.com/assay-project/assay/issuer/store"
)

// token is one that the record allows.
func (f *fixture) token(r *ledger.Recorded) ledger.Token {
	is := r.Issuances()[0]
	return ledger.Token{
		SPIFFEID: is.Identity.SPIFFEID, Audience: []string{"sts.amazonaws.com"}, Parent: hex.EncodeToString(is.Serial[:]),
		IssuedAt: f.Now(), NotAfter: f.Now().Add(5 * time.Minute), Instance: r.Claims().Instance(),
		Policy: ledger.Policy{Name: "prod", Revision: 7, Digest: r.Decision().Digest},
	}
}

func TestATokenIsDurableBeforeItIsSigned(t *testing.T) {
	f := newFixture(t)
	l := f.open(t, ledger.Options{})
	run(t, l)
	want := f.token(f.record(t, l, attestedtest.Request{}))
	rec, err := l.RecordToken(t.Context(), want)
	must(t, err)
	got := rec.Token()
	if len(got.ID) != 32 {
		t.Errorf("ID %q, want 32 digits", got.ID)
	}
	want.ID = got.ID
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("what may be signed (-asked +recorded)\n%s", d)
	}

	ro, err := store.OpenSQLiteReadOnly(t.Context(), f.path)
	must(t, err)
	defer func() { _ = ro.Close() }()
	item, err := ledger.NewReader(ro, td, "").Get(t.Context(), got.ID)
	must(t, err)
	want.Instance, want.Policy = "", ledger.Policy{} // they are the entry's
	if d := cmp.Diff(ledger.Entry{
		Version: 1, TrustDomain: td, Chain: "main", Time: f.Now(), Reference: got.ID, Outcome: "token", Simulated: true,
		Instance: got.Instance, Policy: got.Policy, Token: &want,
	}, item.Entry); d != "" || item.Sequence != rec.Sequence() || rec.Sequence() != 2 {
		t.Errorf("entry %d, recorded as %d (-want +got)\n%s", item.Sequence, rec.Sequence(), d)
	}
	for _, absent := range []string{"claims", "decision", "identities", "evidence_digest", "verified_at", "action", "purpose"} {
		if strings.Contains(string(item.Payload), `"`+absent+`"`) {
			t.Errorf("the payload of a token holds %s: %s", absent, item.Payload)
		}
	}
	verifies(t, l)
}

func TestARecordedTokenIsSpentOnce(t *testing.T) {
	f := newFixture(t)
	l := f.open(t, ledger.Options{})
	run(t, l)
	r, err := l.RecordToken(t.Context(), f.token(f.record(t, l, attestedtest.Request{})))
	must(t, err)
	copied := *r
	must(t, r.Spend())
	for name, again := range map[string]*ledger.RecordedToken{"the same": r, "a copy": &copied, "a zero value": {}, "nil": nil} {
		if err := again.Spend(); !errors.Is(err, ledger.ErrSpent) {
			t.Errorf("%s: %v, want ErrSpent", name, err)
		}
	}
	if d := cmp.Diff(ledger.Token{}, (&ledger.RecordedToken{}).Token()); d != "" {
		t.Errorf("a zero value holds a token: %s", d)
	}
}

func TestATokenThatCannotBeOneIsNotRecorded(t *testing.T) {
	f := newFixture(t)
	l := f.open(t, ledger.Options{})
	run(t, l)
	good := f.token(f.record(t, l, attestedtest.Request{}))
	for name, change := range map[string]func(*ledger.Token){
		"another trust domain":      func(t *ledger.Token) { t.SPIFFEID = "spiffe://other.example.org/x" },
		"the trust domain's own ID": func(t *ledger.Token) { t.SPIFFEID = "spiffe://" + td },
		"no audience":               func(t *ledger.Token) { t.Audience = nil },
		"too many audiences":        func(t *ledger.Token) { t.Audience = strings.Split(strings.Repeat("a,", 16)+"a", ",") },
		"an empty audience":         func(t *ledger.Token) { t.Audience = []string{"a", ""} },
		"a long audience":           func(t *ledger.Token) { t.Audience = []string{strings.Repeat("a", 1025)} },
		"an ID of another form":     func(t *ledger.Token) { t.ID = "as-aaaaaaaaaa" },
		"an ID in upper case":       func(t *ledger.Token) { t.ID = strings.Repeat("AB", 16) },
		"a parent of another form":  func(t *ledger.Token) { t.Parent = "00" },
		"a parent nobody recorded":  func(t *ledger.Token) { t.Parent = strings.Repeat("40", 16) },
		"no instance":               func(t *ledger.Token) { t.Instance = "" },
		"no time":                   func(t *ledger.Token) { t.IssuedAt = time.Time{} },
		"an end that is no later":   func(t *ledger.Token) { t.NotAfter = t.IssuedAt },
	} {
		tok := good
		change(&tok)
		r, err := l.RecordToken(t.Context(), tok)
		if r != nil {
			t.Errorf("%s: recorded", name)
		}
		wantCheck(t, err, attest.Internal, "ledger_token")
	}
	if n := l.Stats().Size; n != 1 {
		t.Errorf("%d entries, want only the issuance", n)
	}
}

func TestTokensAndIssuancesShareACommit(t *testing.T) {
	f := newFixture(t)
	l := f.open(t, ledger.Options{})
	stop := run(t, l)
	parent := f.token(f.record(t, l, attestedtest.Request{}))
	must(t, stop())
	l = f.open(t, ledger.Options{})
	var wg sync.WaitGroup
	const n = 20
	for i := range n {
		g := f.Grant(t, attestedtest.Request{})
		wg.Go(func() {
			if _, err := l.Record(t.Context(), g, ledger.Origin{}); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			if _, err := l.RecordToken(t.Context(), parent); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			if _, err := l.RecordAction(t.Context(), ledger.Action{Actor: "uid 1000", Method: "List", Target: fmt.Sprint(i), Outcome: "done"}); err != nil {
				t.Error(err)
			}
		})
	}
	for l.Stats().Queue < 3*n { // all wait before the writer starts
		time.Sleep(time.Millisecond)
	}
	stop = run(t, l)
	wg.Wait()
	must(t, stop())
	if s := l.Stats(); s.Commits != 1 || s.Size != 3*n+1 {
		t.Errorf("%d commits, size %d, want 1 and %d", s.Commits, s.Size, 3*n+1)
	}
	if r := verifies(t, l); r.Entries != 3*n+1 {
		t.Errorf("%+v", r)
	}
}

func TestAnActionIsChained(t *testing.T) {
	f := newFixture(t)
	l := f.open(t, ledger.Options{})
	run(t, l)
	want := ledger.Action{
		Actor: "spiffe://admins.example.org/alice", Role: "operator", Method: "/assay.v1.Agents/Ban", Target: "i-1",
		Detail: "lost laptop", Outcome: "done", At: f.Now(),
	}
	seq, err := l.RecordAction(t.Context(), want)
	must(t, err)
	item, err := l.Get(t.Context(), fmt.Sprint(seq))
	must(t, err)
	if d := cmp.Diff(ledger.Entry{
		Version: 1, TrustDomain: td, Chain: "main", Time: f.Now(), Reference: item.Entry.Reference, Outcome: "admin", Simulated: true, Action: &want,
	}, item.Entry); d != "" || !strings.HasPrefix(item.Entry.Reference, "as-") {
		t.Errorf("(-want +got)\n%s", d)
	}
	// What a caller sends cannot make the entry as long as it likes.
	want.Detail = strings.Repeat("x", 1<<20)
	seq, err = l.RecordAction(t.Context(), want)
	must(t, err)
	item, err = l.Get(t.Context(), fmt.Sprint(seq))
	must(t, err)
	if n := len(item.Payload); n > 8<<10 {
		t.Errorf("an entry of %d bytes", n)
	}
	for name, a := range map[string]ledger.Action{
		"nobody": {Method: "m", Outcome: "done"}, "no method": {Actor: "a", Outcome: "done"}, "no outcome": {Actor: "a", Method: "m"},
	} {
		if _, err := l.RecordAction(t.Context(), a); err == nil {
			t.Errorf("an action of %s is recorded", name)
		} else {
			wantCheck(t, err, attest.Internal, "ledger_action")
		}
	}
	verifies(t, l)
}
