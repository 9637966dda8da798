package ledger_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"regexp"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/attestedtest"
	"github.com/assay-project/assay/issuer/ledger"
	"github.com/assay-project/assay/issuer/store"
	"github.com/assay-project/assay/policy"
)

func newKeys(t testing.TB, n int) []crypto.PublicKey {
	t.Helper()
	out := make([]crypto.PublicKey, n)
	for i := range out {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		must(t, err)
		out[i] = k.Public()
	}
	return out
}

func TestARecordIsDurableAndSaysWhatWasDecided(t *testing.T) {
	f := newFixture(t)
	l := f.open(t, ledger.Options{})
	run(t, l)
	keys := newKeys(t, 3) // one more than there are identities
	g := f.Grant(t, attestedtest.Request{Keys: keys})
	ref := ledger.NewReference()
	rec, err := l.Record(t.Context(), g, ledger.Origin{Peer: "192.0.2.1:4711", Reference: ref})
	must(t, err)

	// Another process, with its own connection, sees it.
	ro, err := store.OpenSQLiteReadOnly(t.Context(), f.path)
	must(t, err)
	defer func() { _ = ro.Close() }()
	item, err := ledger.NewReader(ro, td, "").Get(t.Context(), ref)
	must(t, err)
	e := item.Entry
	digest := g.EvidenceDigest()
	want := ledger.Entry{
		Version: 1, TrustDomain: td, Chain: "main", Time: f.Now(), Reference: ref, Outcome: "granted",
		Platform: attest.AWSNitro, Purpose: attest.Boot, Instance: g.Claims().Instance(), Simulated: true,
		EvidenceDigest: digest[:], EvidenceKept: true, VerifiedAt: f.Now(), Peer: "192.0.2.1:4711",
		Policy:   ledger.Policy{Name: "prod", Revision: 7, Digest: g.Decision().Digest},
		Claims:   g.Claims(),
		Decision: g.Decision(),
	}
	if d := cmp.Diff(want, e, cmp.FilterPath(func(p cmp.Path) bool { return p.String() == "Identities" }, cmp.Ignore())); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
	if len(e.Decision.Workloads) != 1 || len(e.Decision.Workloads[0].Rules) < 3 {
		t.Errorf("the decision should list every rule: %+v", e.Decision)
	}
	if len(e.Identities) != 2 || len(rec.Issuances()) != 2 {
		t.Fatalf("%d identities, %d issuances, want 2", len(e.Identities), len(rec.Issuances()))
	}
	for i, id := range e.Identities {
		spki, err := x509.MarshalPKIXPublicKey(keys[id.Key])
		must(t, err)
		thumb := sha256.Sum256(spki)
		if !cmp.Equal([]byte(id.KeyThumbprint), thumb[:]) {
			t.Errorf("identity %d has another key's thumbprint", i)
		}
		if !regexp.MustCompile(`^[4-7][0-9a-f]{31}$`).MatchString(id.Serial) {
			t.Errorf("serial %q: want 16 bytes, positive", id.Serial)
		}
		if ok, err := l.HasSerial(t.Context(), id.Serial); err != nil || !ok {
			t.Errorf("HasSerial(%s) = %v, %v", id.Serial, ok, err)
		}
		if !l.Remembers(id.Serial) {
			t.Errorf("a renewal of %s would read the database", id.Serial)
		}
	}
	if want := f.Now().Add(30 * time.Minute); !e.Identities[1].NotAfter.Equal(want) {
		t.Errorf("not after %v, want %v", e.Identities[1].NotAfter, want)
	}
	if rec.Reference() != ref || rec.Sequence() != 1 || rec.TrustDomain() != td {
		t.Errorf("recorded as %s, %d in %s", rec.Reference(), rec.Sequence(), rec.TrustDomain())
	}
	// The evidence is kept, and verifies again at the time of the record.
	ev, err := l.Evidence(t.Context(), digest)
	must(t, err)
	claims, err := f.Set.Authenticate(t.Context(), attest.Evidence{Platform: attest.Platform(ev.Platform), Body: ev.Body}, e.VerifiedAt)
	must(t, err)
	if d := cmp.Diff(e.Claims, *claims); d != "" {
		t.Errorf("replayed evidence: (-recorded +replayed)\n%s", d)
	}
}

func TestAGrantIsRecordedOnce(t *testing.T) {
	f := newFixture(t)
	l := f.open(t, ledger.Options{})
	run(t, l)
	g := f.Grant(t, attestedtest.Request{})
	copied := *g
	if _, err := l.Record(t.Context(), g, ledger.Origin{}); err != nil {
		t.Fatal(err)
	}
	for name, again := range map[string]*policy.Grant{"the same": g, "a copy": &copied, "a zero value": {}, "nil": nil} {
		r, err := l.Record(t.Context(), again, ledger.Origin{})
		if r != nil || !errors.Is(err, policy.ErrSpent) {
			t.Errorf("%s: %v, %v, want policy.ErrSpent", name, r, err)
		}
	}
	if n := l.Stats().Size; n != 1 {
		t.Errorf("%d entries, want 1", n)
	}
}

func TestARecordedIsSpentOnce(t *testing.T) {
	f := newFixture(t)
	l := f.open(t, ledger.Options{})
	run(t, l)
	r := f.record(t, l, attestedtest.Request{})
	copied := *r
	must(t, r.Spend())
	for name, again := range map[string]*ledger.Recorded{"the same": r, "a copy": &copied, "a zero value": {}, "nil": nil} {
		if err := again.Spend(); !errors.Is(err, ledger.ErrSpent) {
			t.Errorf("%s: %v, want ErrSpent", name, err)
		}
	}
	if (&ledger.Recorded{}).Issuances() != nil {
		t.Error("a zero value has issuances")
	}
}

func TestAGrantOfAnotherTrustDomainIsRefused(t *testing.T) {
	f := newFixture(t)
	l := f.open(t, ledger.Options{})
	run(t, l)
	other := attestedtest.NewFor(t, "simulated.other.example", "")
	_, err := l.Record(t.Context(), other.Grant(t, attestedtest.Request{}), ledger.Origin{})
	wantCheck(t, err, attest.Internal, "ledger_trust_domain")
}

func TestSimulatedEvidenceIsRefusedInAHardwareTrustDomain(t *testing.T) {
	f := newFixture(t)
	const hardware = "hardware.example.org"
	must(t, f.store.InitTrustDomain(t.Context(), store.TrustDomain{Name: hardware, CreatedAt: f.Now()}))
	l, err := ledger.Open(t.Context(), f.store, hardware, f.signer, ledger.Options{Now: f.Now})
	must(t, err)
	run(t, l)
	sim := attestedtest.NewFor(t, hardware, "")
	_, err = l.Record(t.Context(), sim.Grant(t, attestedtest.Request{}), ledger.Origin{})
	wantCheck(t, err, attest.Internal, "ledger_kind")
}

func TestConcurrentRecordsShareCommits(t *testing.T) {
	f := newFixture(t)
	l := f.open(t, ledger.Options{CheckpointEntries: 10})
	const n = 64
	grants := make([]*policy.Grant, n)
	for i := range grants {
		grants[i] = f.Grant(t, attestedtest.Request{Module: "i-0123456789abcdef0-enc0123456789abcdef"})
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := map[uint64]bool{}
	for _, g := range grants {
		wg.Go(func() {
			r, err := l.Record(context.Background(), g, ledger.Origin{})
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if seen[r.Sequence()] {
				t.Errorf("sequence %d twice", r.Sequence())
			}
			seen[r.Sequence()] = true
		})
	}
	for l.Stats().Queue < n { // all wait before the writer starts: one commit for all
		time.Sleep(time.Millisecond)
	}
	stop := run(t, l)
	wg.Wait()
	must(t, stop())
	s := l.Stats()
	if s.Records != n || s.Commits != 1 || s.Size != n {
		t.Errorf("%d records in %d commits, size %d: want %d in 1", s.Records, s.Commits, s.Size, n)
	}
	if r := verifies(t, l); r.Entries != n || r.Covered != n {
		t.Errorf("report %+v", r)
	}
}

func TestAFailedCommitFailsEverybodyAndTheChainGoesOn(t *testing.T) {
	for _, tt := range []struct {
		name    string
		durable bool // the commit reached the disk, and the answer did not arrive
		size    uint64
	}{{"nothing was written", false, 2}, {"it was written, and the answer lost", true, 5}} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t)
			faulty := &faultyStore{Store: f.store}
			l := f.openOn(t, faulty, ledger.Options{})
			var wg sync.WaitGroup
			faulty.set(func(ctx context.Context, b store.Batch) error {
				if tt.durable {
					if err := f.store.Append(ctx, b); err != nil {
						t.Error(err)
					}
				}
				return errors.New("injected: disk full")
			})
			for range 3 {
				g := f.Grant(t, attestedtest.Request{})
				wg.Go(func() {
					r, err := l.Record(context.Background(), g, ledger.Origin{})
					if r != nil {
						t.Error("a Recorded came out of a failed commit")
					}
					wantCheck(t, err, attest.Unavailable, "ledger")
				})
			}
			for l.Stats().Queue < 3 {
				time.Sleep(time.Millisecond)
			}
			stop := run(t, l)
			wg.Wait()
			faulty.set(nil)
			f.record(t, l, attestedtest.Request{})
			f.record(t, l, attestedtest.Request{})
			must(t, stop())
			if s := l.Stats(); s.Size != tt.size || s.Failures != 1 {
				t.Errorf("size %d, failures %d, want %d and 1", s.Size, s.Failures, tt.size)
			}
			verifies(t, l)
		})
	}
}

func TestAForeignWriterStopsTheLedger(t *testing.T) {
	f := newFixture(t)
	l := f.open(t, ledger.Options{})
	stop := run(t, l)
	f.record(t, l, attestedtest.Request{})
	head, err := f.store.Head(t.Context(), td, "main")
	must(t, err)
	must(t, f.store.Append(t.Context(), store.Batch{TrustDomain: td, Chain: "main", Previous: head, Entries: []store.Entry{
		{Sequence: 2, Payload: []byte(`{}`), Reference: "as-foreign"},
	}}))
	_, err = l.Record(t.Context(), f.Grant(t, attestedtest.Request{}), ledger.Origin{})
	wantCheck(t, err, attest.Unavailable, "ledger")
	if err := stop(); err == nil {
		t.Error("Run should end with an error when somebody else writes its chain")
	}
	_, err = l.Record(t.Context(), f.Grant(t, attestedtest.Request{}), ledger.Origin{})
	wantCheck(t, err, attest.Unavailable, "ledger")
}

func TestWhoGivesUpInTheQueueIsNotRecorded(t *testing.T) {
	f := newFixture(t)
	l := f.open(t, ledger.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	errs := make(chan error)
	g := f.Grant(t, attestedtest.Request{})
	go func() { _, err := l.Record(ctx, g, ledger.Origin{}); errs <- err }()
	for l.Stats().Queue == 0 {
		time.Sleep(time.Millisecond)
	}
	cancel()
	err := <-errs
	if !errors.Is(err, context.Canceled) || attest.KindOf(err) != attest.Unavailable {
		t.Errorf("%v, want context.Canceled, unavailable", err)
	}
	stop := run(t, l)
	f.record(t, l, attestedtest.Request{})
	must(t, stop())
	if n := l.Stats().Size; n != 1 {
		t.Errorf("%d entries, want only the second", n)
	}
}

func TestStoppingWritesWhatIsQueuedAndRefusesTheRest(t *testing.T) {
	f := newFixture(t)
	l := f.open(t, ledger.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 5 {
		g := f.Grant(t, attestedtest.Request{})
		wg.Go(func() {
			if _, err := l.Record(context.Background(), g, ledger.Origin{}); err != nil {
				t.Error(err)
			}
		})
	}
	for l.Stats().Queue < 5 {
		time.Sleep(time.Millisecond)
	}
	cancel()
	must(t, l.Run(ctx))
	wg.Wait()
	if r := verifies(t, l); r.Entries != 5 || r.Covered != 5 {
		t.Errorf("after the stop: %+v, want 5 entries, all covered by the last checkpoint", r)
	}
	_, err := l.Record(t.Context(), f.Grant(t, attestedtest.Request{}), ledger.Origin{})
	wantCheck(t, err, attest.Unavailable, "ledger")
	v, d := f.Denied(t, attestedtest.Request{Image: "other"})
	_, err = l.Deny(t.Context(), ledger.Denial{Verified: v, Decision: d.Decision})
	wantCheck(t, err, attest.Unavailable, "ledger")
	_, err = l.Checkpoint(t.Context())
	wantCheck(t, err, attest.Unavailable, "ledger")
	if err := l.Run(t.Context()); err == nil {
		t.Error("Run ran twice")
	}
}

func TestTheChainGoesOnAfterARestart(t *testing.T) {
	f := newFixture(t)
	for start := range uint64(3) {
		l := f.open(t, ledger.Options{})
		stop := run(t, l)
		for range 2 {
			f.record(t, l, attestedtest.Request{})
		}
		must(t, stop())
		if r := verifies(t, l); r.Entries != 2*(start+1) {
			t.Errorf("start %d: %+v", start, r)
		}
	}
}

// faultyStore is a real store whose appends of entries can be made to fail.
type faultyStore struct {
	store.Store
	mu    sync.Mutex
	fault func(context.Context, store.Batch) error
}

func (s *faultyStore) set(f func(context.Context, store.Batch) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = f
}

func (s *faultyStore) Append(ctx context.Context, b store.Batch) error {
	s.mu.Lock()
	fault := s.fault
	s.mu.Unlock()
	if fault != nil {
		return fault(ctx, b)
	}
	return s.Store.Append(ctx, b)
}
