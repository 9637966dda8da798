// Package storetest is the test suite that every implementation of
// [store.Store] passes, and the reason why the others need no tests of their own
// for what the interface promises.
package storetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/issuer/store"
)

// Run runs the suite. open returns an empty store that the test may fill, and
// reopen closes a store and opens what it left.
func Run(t *testing.T, open func(t *testing.T) store.Store, reopen func(t *testing.T, s store.Store) store.Store) {
	t.Run("ATrustDomainKeepsItsKindForLife", func(t *testing.T) { trustDomainKind(t, open(t)) })
	t.Run("AuthoritiesAreListedAndNeverReplaced", func(t *testing.T) { authorities(t, open(t)) })
	t.Run("OnlyTheFirstAuthorityBeginsAsActive", func(t *testing.T) { firstAuthority(t, open(t)) })
	t.Run("WhatBecomesOfAnAuthorityIsSaidOnce", func(t *testing.T) { authorityChanges(t, open(t), reopen) })
	t.Run("AnAuthorityOfBeforeIsSignedOnce", func(t *testing.T) { signAuthority(t, open(t)) })
	t.Run("AServerJoinsOnce", func(t *testing.T) { members(t, open(t)) })
	t.Run("DocumentsOnlyGrow", func(t *testing.T) { documents(t, open(t)) })
	t.Run("PolicyRevisionsOnlyGrow", func(t *testing.T) { policies(t, open(t)) })
	t.Run("PolicyChangesAreKeptWithWhoAndWhy", func(t *testing.T) { policyChanges(t, open(t), reopen) })
	t.Run("DocumentsOfPoliciesAreBounded", func(t *testing.T) { prunePolicies(t, open(t)) })
	t.Run("WhatWasAppendedIsRead", func(t *testing.T) { appended(t, open(t), reopen) })
	t.Run("ABatchIsWrittenWholeOrNotAtAll", func(t *testing.T) { atomic(t, open(t)) })
	t.Run("AnAppendOnAnotherHeadIsRefused", func(t *testing.T) { conflict(t, open(t)) })
	t.Run("OfTwoWritersOneWins", func(t *testing.T) { race(t, open(t)) })
	t.Run("EntriesAreFound", func(t *testing.T) { find(t, open(t)) })
	t.Run("TrustDomainsAndChainsDoNotMix", func(t *testing.T) { isolation(t, open(t)) })
	t.Run("PruneLeavesTheLedgerAlone", func(t *testing.T) { prune(t, open(t)) })
	t.Run("ACancelledAppendWritesNothing", func(t *testing.T) { cancelled(t, open(t)) })
	t.Run("TPMBindingsAreRemembered", func(t *testing.T) { tpmBindings(t, open(t), reopen) })
	t.Run("TheTPMInventoryChangesWholeOrNotAtAll", func(t *testing.T) { tpmInventory(t, open(t), reopen) })
	t.Run("EventLogsAreStoredOnce", func(t *testing.T) { eventLogs(t, open(t)) })
	t.Run("ASerialAndAKeyAreGivenOnceOverAllChains", func(t *testing.T) { once(t, open(t)) })
	t.Run("EntriesAreFoundInAnyChain", func(t *testing.T) { chains(t, open(t)) })
	t.Run("ChangesThatComeAtOnceAreMadeInTurn", func(t *testing.T) { inTurn(t, open(t)) })
	t.Run("NamesAreInTheOrderOfTheirBytes", func(t *testing.T) { byteOrder(t, open(t)) })
	t.Run("TextComesBackAsItWentIn", func(t *testing.T) { anyText(t, open(t)) })
	t.Run("PruningLeavesNoEvidenceWithoutItsLog", func(t *testing.T) { pruneBeside(t, open(t)) })
	RunFederations(t, open, reopen)
	RunBans(t, open, reopen)
}

const td = "simulated.example.org"

var start = time.Date(2026, 11, 1, 12, 0, 0, 123456000, time.UTC)

func initialised(t *testing.T, s store.Store) store.Store {
	t.Helper()
	must(t, s.InitTrustDomain(t.Context(), store.TrustDomain{Name: td, Simulated: true, CreatedAt: start}))
	return s
}

// Entry makes the n-th entry of a test chain: one identity, content by number.
func Entry(chain string, n uint64) store.Entry {
	sum := func(what string) [32]byte { return sha256.Sum256(fmt.Appendf(nil, "%s/%s/%d", chain, what, n)) }
	return store.Entry{
		Chain: chain, Outcome: "granted", Sequence: n, Hash: sum("hash"), Payload: fmt.Appendf(nil, `{"n":%d}`, n),
		At: start.Add(time.Duration(n) * time.Second), Reference: fmt.Sprintf("as-%s-%d", chain, n),
		Instance: fmt.Sprintf("aws-nitro:i-%d", n%3), EvidenceDigest: sum("evidence"),
		Identities: []store.Identity{{
			Serial: fmt.Sprintf("%s%04x", chain, n), SPIFFEID: fmt.Sprintf("spiffe://%s/w%d", td, n%2),
			KeyThumbprint: sum("key"), NotAfter: start.Add(time.Hour),
		}},
	}
}

// Batch makes the batch of entries from to to of a test chain.
func Batch(chain string, from, to uint64) store.Batch {
	b := store.Batch{TrustDomain: td, Chain: chain}
	if from > 1 {
		b.Previous = store.Head{Sequence: from - 1, Hash: Entry(chain, from-1).Hash}
	}
	for n := from; n <= to; n++ {
		b.Entries = append(b.Entries, Entry(chain, n))
	}
	return b
}

func trustDomainKind(t *testing.T, s store.Store) {
	ctx := t.Context()
	row := store.TrustDomain{Name: td, Simulated: true, CreatedAt: start}
	must(t, s.InitTrustDomain(ctx, row))
	again := row
	again.CreatedAt = start.Add(time.Hour)
	must(t, s.InitTrustDomain(ctx, again))
	other := row
	other.Simulated = false
	if err := s.InitTrustDomain(ctx, other); !errors.Is(err, store.ErrConflict) {
		t.Errorf("another kind: %v, want ErrConflict", err)
	}
	got, err := s.TrustDomain(ctx, td)
	must(t, err)
	diff(t, row, got)
	if _, err := s.TrustDomain(ctx, "other.example.org"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("unknown: %v, want ErrNotFound", err)
	}
	all, err := s.TrustDomains(ctx)
	must(t, err)
	diff(t, []store.TrustDomain{row}, all)
	must(t, s.Ping(ctx))
}

// change is a change of the policy in force.
func change(name string, revision uint64, digest byte) store.PolicyChange {
	return store.PolicyChange{
		Policy: store.Policy{TrustDomain: td, Name: name, Revision: revision, Digest: [32]byte{digest}, At: start},
		Source: "push", Actor: "uid 0", Note: "release 42", Signers: []string{"aa", "bb"}, Document: []byte{digest},
		Server: "a", Signature: []byte{1, digest},
	}
}

func policies(t *testing.T, s store.Store) {
	ctx := t.Context()
	initialised(t, s)
	if _, err := s.LatestPolicy(ctx, td, "p"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("none: %v, want ErrNotFound", err)
	}
	p := change("p", 5, 5)
	must(t, s.PutPolicy(ctx, p))
	again := p
	again.At = start.Add(time.Hour)
	must(t, s.PutPolicy(ctx, again))
	for name, q := range map[string]store.PolicyChange{"lower": change("p", 4, 5), "changed": change("p", 5, 6)} {
		if err := s.PutPolicy(ctx, q); !errors.Is(err, store.ErrConflict) {
			t.Errorf("%s: %v, want ErrConflict", name, err)
		}
	}
	must(t, s.PutPolicy(ctx, change("q", 1, 1)))
	got, err := s.LatestPolicy(ctx, td, "p")
	must(t, err)
	diff(t, p.Policy, got)
	p = change("p", 9, 9)
	must(t, s.PutPolicy(ctx, p))
	got, err = s.LatestPolicy(ctx, td, "p")
	must(t, err)
	diff(t, p.Policy, got)
	p.TrustDomain = "other.example.org"
	if err := s.PutPolicy(ctx, p); err == nil {
		t.Error("a policy of an unknown trust domain was stored")
	}
	if err := s.PutPolicy(ctx, change("r", 1<<64-1, 1)); err == nil {
		t.Error("a revision that no integer holds was stored")
	}
	// Of what was refused nothing is in force, and no revision is taken.
	must(t, s.RefusePolicy(ctx, change("p", 20, 20)))
	must(t, s.PutPolicy(ctx, change("p", 10, 10)))
}

func policyChanges(t *testing.T, s store.Store, reopen func(*testing.T, store.Store) store.Store) {
	ctx := t.Context()
	initialised(t, s)
	must(t, s.InitTrustDomain(ctx, store.TrustDomain{Name: "other.example.org", CreatedAt: start}))
	first, refused, second, other := change("p", 1, 1), change("p", 2, 2), change("p", 3, 3), change("o", 1, 7)
	refused.Signers, refused.Detail, refused.Document, refused.Size = nil, "too few signers", nil, 99
	other.TrustDomain = "other.example.org"
	must(t, s.PutPolicy(ctx, first))
	must(t, s.PutPolicy(ctx, first)) // a restart is no change
	must(t, s.RefusePolicy(ctx, refused))
	must(t, s.PutPolicy(ctx, second))
	must(t, s.PutPolicy(ctx, other))
	if err := s.PutPolicy(ctx, first); !errors.Is(err, store.ErrConflict) {
		t.Errorf("an older one: %v", err)
	}
	s = reopen(t, s)
	stored := func(c store.PolicyChange, id uint64, refused bool) store.PolicyChange {
		c.ID, c.Refused = id, refused
		if c.Document != nil {
			c.Kept, c.Size = true, int64(len(c.Document))
		}
		if c.Signers == nil {
			c.Signers = []string{}
		}
		return c
	}
	all, err := s.PolicyChanges(ctx, td, store.FindPolicy{Documents: true, Limit: 9})
	must(t, err)
	if len(all) != 3 {
		t.Fatalf("%d changes, want 3: %v", len(all), all)
	}
	one, two, three := stored(first, all[2].ID, false), stored(refused, all[1].ID, true), stored(second, all[0].ID, false)
	diff(t, []store.PolicyChange{three, two, one}, all)

	without := func(c store.PolicyChange) store.PolicyChange { c.Document = nil; return c }
	digest := first.Digest
	for name, tt := range map[string]struct {
		f    store.FindPolicy
		want []store.PolicyChange
	}{
		"without documents": {store.FindPolicy{Limit: 9}, []store.PolicyChange{without(three), two, without(one)}},
		"in force":          {store.FindPolicy{Outcome: store.PolicyInForce, Limit: 1}, []store.PolicyChange{without(three)}},
		"refused":           {store.FindPolicy{Outcome: store.PolicyRefused, Limit: 9}, []store.PolicyChange{two}},
		"by revision":       {store.FindPolicy{Name: "p", Revision: 1, Limit: 9, Documents: true}, []store.PolicyChange{one}},
		"by digest":         {store.FindPolicy{Digest: &digest, Outcome: store.PolicyInForce, Limit: 9, Documents: true}, []store.PolicyChange{one}},
		"by another name":   {store.FindPolicy{Name: "o", Limit: 9}, nil},
		"a page":            {store.FindPolicy{Before: all[0].ID, Limit: 1}, []store.PolicyChange{two}},
	} {
		got, err := s.PolicyChanges(ctx, td, tt.f)
		must(t, err)
		if d := cmp.Diff(tt.want, got); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}

	// Another name, and back: the last in force is the one that was put last.
	must(t, s.PutPolicy(ctx, change("q", 1, 9)))
	must(t, s.PutPolicy(ctx, second))
	last, err := s.PolicyChanges(ctx, td, store.FindPolicy{Outcome: store.PolicyInForce, Limit: 1})
	must(t, err)
	if len(last) != 1 || last[0].Name != "p" || last[0].Revision != 3 {
		t.Errorf("last in force: %v", last)
	}
	spoilt := change("s", 1, 1)
	spoilt.Signers = []string{"a b"}
	if err := s.PutPolicy(ctx, spoilt); err == nil {
		t.Error("a key id that would come back as two was stored")
	}
}

func prunePolicies(t *testing.T, s store.Store) {
	ctx := t.Context()
	initialised(t, s)
	for n := range uint64(5) {
		c := change("p", n+1, byte(n+1))
		c.Document = make([]byte, 100)
		must(t, s.PutPolicy(ctx, c))
		must(t, s.RefusePolicy(ctx, change("p", n+1, 77)))
	}
	held := func() (out []uint64, refused int) {
		t.Helper()
		all, err := s.PolicyChanges(ctx, td, store.FindPolicy{Limit: 99, Documents: true})
		must(t, err)
		for _, c := range all {
			if c.Refused {
				refused++
				continue
			}
			if c.Kept != (c.Document != nil) || c.Size != 100 {
				t.Errorf("revision %d: kept %v, %d bytes, size %d", c.Revision, c.Kept, len(c.Document), c.Size)
			}
			if c.Kept {
				out = append(out, c.Revision)
			}
		}
		return out, refused
	}
	for _, tt := range []struct {
		bytes   int64
		refused int
		want    []uint64
	}{{1000, 9, []uint64{5, 4, 3, 2, 1}}, {250, 2, []uint64{5, 4}}, {10, 2, []uint64{5}}, {0, 0, []uint64{5}}} {
		must(t, s.PrunePolicyChanges(ctx, td, tt.bytes, tt.refused))
		got, refused := held()
		if d := cmp.Diff(tt.want, got); d != "" || refused != min(tt.refused, 5) {
			t.Errorf("within %d bytes: %s; %d refused, want %d", tt.bytes, d, refused, tt.refused)
		}
	}
	all, err := s.PolicyChanges(ctx, td, store.FindPolicy{Outcome: store.PolicyInForce, Limit: 99})
	must(t, err)
	if len(all) != 5 {
		t.Errorf("%d changes in force are on record, want all 5", len(all))
	}
}

func appended(t *testing.T, s store.Store, reopen func(*testing.T, store.Store) store.Store) {
	ctx := t.Context()
	initialised(t, s)
	if h, err := s.Head(ctx, td, "a"); err != nil || h != (store.Head{}) {
		t.Errorf("empty chain: head %v, %v", h, err)
	}
	b := Batch("a", 1, 3)
	b.Entries[1].Identities = append(b.Entries[1].Identities, store.Identity{Serial: "ff", SPIFFEID: "spiffe://x/y", NotAfter: start})
	b.Evidence = []store.Evidence{{Digest: [32]byte{1}, Platform: "aws-nitro", Instance: "i", Body: []byte("body"), Endorsements: [][]byte{{1}, {2, 3}}, At: start}}
	b.Denials = []store.Denial{{At: start, Reference: "as-d", Instance: "i", EvidenceDigest: [32]byte{1}, Payload: []byte(`{}`)}}
	b.Certificates = []store.Certificate{{Serial: "01", DER: []byte{4}, At: start}}
	b.Checkpoints = []store.Checkpoint{{Size: 2, Note: []byte("two"), At: start}, {Size: 3, Note: []byte("three"), At: start}}
	must(t, s.Append(ctx, b))
	s = reopen(t, s)

	got, err := s.Entries(ctx, td, "a", 0, 10)
	must(t, err)
	want := Batch("a", 1, 3).Entries
	for i := range want {
		want[i].Identities = nil
	}
	diff(t, want, got)
	page, err := s.Entries(ctx, td, "a", 1, 1)
	must(t, err)
	diff(t, want[1:2], page)
	entry, err := s.Entry(ctx, td, "a", 2)
	must(t, err)
	diff(t, want[1], entry)
	ids, err := s.EntryIdentities(ctx, td, "a", 2)
	must(t, err)
	diff(t, b.Entries[1].Identities, ids)
	head, err := s.Head(ctx, td, "a")
	must(t, err)
	diff(t, store.Head{Sequence: 3, Hash: want[2].Hash}, head)
	ev, err := s.Evidence(ctx, td, [32]byte{1})
	must(t, err)
	diff(t, b.Evidence[0], ev)
	den, err := s.FindDenials(ctx, td, store.Find{Limit: 5})
	must(t, err)
	if len(den) != 1 || den[0].ID == 0 {
		t.Fatalf("denials %v, want one with an ID", den)
	}
	b.Denials[0].ID = den[0].ID
	diff(t, b.Denials, den)
	for serial, want := range map[string]bool{"ff": true, "a0003": true, "a0004": false} {
		if got, err := s.HasSerial(ctx, td, serial); err != nil || got != want {
			t.Errorf("HasSerial(%s) = %v, %v, want %v", serial, got, err, want)
		}
	}
	if n, err := s.StrayIdentities(ctx, td); n != 0 || err != nil {
		t.Errorf("%d stray identities, %v", n, err)
	}
	var many [][32]byte
	for n := range 600 {
		many = append(many, Entry("none", uint64(n)).Identities[0].KeyThumbprint)
	}
	for n := range uint64(3) {
		many = append(many, Entry("a", n+1).Identities[0].KeyThumbprint)
	}
	onRecord, err := s.KeysOnRecord(ctx, td, many)
	must(t, err)
	if len(onRecord) != 3 || !onRecord[many[600]] || !onRecord[many[602]] {
		t.Errorf("%d keys on record, want 3", len(onRecord))
	}
	if onRecord, err := s.KeysOnRecord(ctx, "other.example.org", many); err != nil || len(onRecord) != 0 {
		t.Errorf("keys of another trust domain: %v, %v", onRecord, err)
	}
	if onRecord, err := s.KeysOnRecord(ctx, td, nil); err != nil || len(onRecord) != 0 {
		t.Errorf("no keys: %v, %v", onRecord, err)
	}
	cert, err := s.Certificate(ctx, td, "01")
	must(t, err)
	diff(t, b.Certificates[0], cert)
	cps, err := s.Checkpoints(ctx, td, "a", 0, 9)
	must(t, err)
	diff(t, b.Checkpoints, cps)
	cps, err = s.Checkpoints(ctx, td, "a", 0, 1)
	must(t, err)
	diff(t, b.Checkpoints[:1], cps)
	cps, err = s.Checkpoints(ctx, td, "a", b.Checkpoints[0].Size, 9)
	must(t, err)
	diff(t, b.Checkpoints[1:], cps)
	last, err := s.LastCheckpoint(ctx, td, "a")
	must(t, err)
	diff(t, b.Checkpoints[1], last)
	use, err := s.Usage(ctx, td)
	must(t, err)
	diff(t, store.Usage{Denials: 1, DenialBytes: 2, Evidence: 7}, use)

	for what, err := range map[string]error{
		"entry":       second(s.Entry(ctx, td, "a", 4)),
		"entry 2^64":  second(s.Entry(ctx, td, "a", 1<<64-1)),
		"evidence":    second(s.Evidence(ctx, td, [32]byte{2})),
		"certificate": second(s.Certificate(ctx, td, "02")),
		"checkpoint":  second(s.LastCheckpoint(ctx, td, "b")),
	} {
		if !errors.Is(err, store.ErrNotFound) {
			t.Errorf("missing %s: %v, want ErrNotFound", what, err)
		}
	}
}

func atomic(t *testing.T, s store.Store) {
	ctx := t.Context()
	initialised(t, s)
	for name, spoil := range map[string]func(*store.Batch){
		"a serial twice": func(b *store.Batch) { b.Entries[2].Identities[0].Serial = b.Entries[0].Identities[0].Serial },
		"a key twice": func(b *store.Batch) {
			b.Entries[2].Identities[0].KeyThumbprint = b.Entries[0].Identities[0].KeyThumbprint
		},
		"a reference twice":  func(b *store.Batch) { b.Entries[2].Reference = b.Entries[0].Reference },
		"a gap":              func(b *store.Batch) { b.Entries[2].Sequence = 4 },
		"a denial twice":     func(b *store.Batch) { b.Denials = append(b.Denials, b.Denials[0]) },
		"unknown trust name": func(b *store.Batch) { b.TrustDomain = "other.example.org" },
	} {
		b := Batch("a", 1, 3)
		b.Denials = []store.Denial{{At: start, Reference: "as-d", Payload: []byte(`{}`)}}
		b.Evidence = []store.Evidence{{Digest: [32]byte{1}, Body: []byte("x"), At: start}}
		spoil(&b)
		if err := s.Append(ctx, b); err == nil {
			t.Fatalf("%s: appended", name)
		}
		if h, err := s.Head(ctx, td, "a"); err != nil || h != (store.Head{}) {
			t.Errorf("%s: head %v, %v: part of the batch was written", name, h, err)
		}
		if u, err := s.Usage(ctx, td); err != nil || u != (store.Usage{}) {
			t.Errorf("%s: usage %v, %v: part of the batch was written", name, u, err)
		}
	}
	must(t, s.Append(ctx, Batch("a", 1, 3)))
	b := Batch("a", 4, 4)
	b.Entries[0].Identities[0].Serial = Entry("a", 1).Identities[0].Serial
	if err := s.Append(ctx, b); !errors.Is(err, store.ErrDuplicate) {
		t.Errorf("a serial of an earlier batch: %v, want ErrDuplicate", err)
	}
}

func conflict(t *testing.T, s store.Store) {
	ctx := t.Context()
	initialised(t, s)
	must(t, s.Append(ctx, Batch("a", 1, 2)))
	for name, b := range map[string]store.Batch{
		"the same entries again": Batch("a", 1, 2),
		"a gap":                  Batch("a", 4, 4),
		"another hash": func() store.Batch {
			b := Batch("a", 3, 3)
			b.Previous.Hash[0] ^= 1
			return b
		}(),
	} {
		if err := s.Append(ctx, b); !errors.Is(err, store.ErrConflict) {
			t.Errorf("%s: %v, want ErrConflict", name, err)
		}
	}
	must(t, s.Append(ctx, Batch("a", 3, 3)))
}

func race(t *testing.T, s store.Store) {
	initialised(t, s)
	errs := make([]error, 4)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() { errs[i] = s.Append(context.WithoutCancel(t.Context()), Batch("a", 1, 5)) })
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		switch {
		case err == nil:
			won++
		case !errors.Is(err, store.ErrConflict):
			t.Errorf("%v, want ErrConflict", err)
		}
	}
	if won != 1 {
		t.Errorf("%d writers won, want 1", won)
	}
}

func find(t *testing.T, s store.Store) {
	ctx := t.Context()
	initialised(t, s)
	must(t, s.Append(ctx, Batch("a", 1, 9)))
	for _, tt := range []struct {
		name string
		f    store.Find
		want []uint64
	}{
		{"newest first", store.Find{Limit: 2}, []uint64{9, 8}},
		{"by reference", store.Find{Reference: "as-a-4", Limit: 9}, []uint64{4}},
		{"by instance", store.Find{Instance: "aws-nitro:i-0", Limit: 9}, []uint64{9, 6, 3}},
		{"by SPIFFE ID", store.Find{SPIFFEID: "spiffe://" + td + "/w0", Limit: 9}, []uint64{8, 6, 4, 2}},
		{"by serial", store.Find{Serial: "a0007", Limit: 9}, []uint64{7}},
		{"by time", store.Find{Before: start.Add(3 * time.Second), Limit: 9}, []uint64{2, 1}},
		{"by both", store.Find{Instance: "aws-nitro:i-0", SPIFFEID: "spiffe://" + td + "/w0", Limit: 9}, []uint64{6}},
		{"oldest first, paged", store.Find{Oldest: true, After: 4, Limit: 2}, []uint64{5, 6}},
		{"beyond the end", store.Find{After: 1<<64 - 1, Limit: 2}, nil},
		{"none", store.Find{Reference: "as-' OR 1=1 --", Limit: 9}, nil},
	} {
		got, err := s.FindEntries(ctx, td, "a", tt.f)
		must(t, err)
		var seqs []uint64
		for _, e := range got {
			seqs = append(seqs, e.Sequence)
		}
		if d := cmp.Diff(tt.want, seqs); d != "" {
			t.Errorf("%s: %s", tt.name, d)
		}
	}
}

func isolation(t *testing.T, s store.Store) {
	ctx := t.Context()
	initialised(t, s)
	must(t, s.InitTrustDomain(ctx, store.TrustDomain{Name: "other.example.org", CreatedAt: start}))
	b := Batch("a", 1, 2)
	b.Evidence = []store.Evidence{{Digest: [32]byte{1}, Body: []byte("x"), At: start}}
	b.Certificates = []store.Certificate{{Serial: "01", DER: []byte{1}, At: start}}
	b.Checkpoints = []store.Checkpoint{{Size: 2, Note: []byte("n"), At: start}}
	b.Denials = []store.Denial{{At: start, Reference: "as-d", Payload: []byte(`{}`)}}
	must(t, s.Append(ctx, b))
	must(t, s.Append(ctx, Batch("b", 1, 1)))
	other := Batch("a", 1, 1) // the very same serial and reference, in another trust domain
	other.TrustDomain = "other.example.org"
	must(t, s.Append(ctx, other))

	const o = "other.example.org"
	if got, err := s.Entries(ctx, o, "a", 0, 9); err != nil || len(got) != 1 {
		t.Errorf("entries of the other trust domain: %d, %v", len(got), err)
	}
	if got, err := s.Entries(ctx, td, "b", 0, 9); err != nil || len(got) != 1 {
		t.Errorf("entries of the other chain: %d, %v", len(got), err)
	}
	for what, err := range map[string]error{
		"evidence":    second(s.Evidence(ctx, o, [32]byte{1})),
		"certificate": second(s.Certificate(ctx, o, "01")),
		"checkpoint":  second(s.LastCheckpoint(ctx, o, "a")),
	} {
		if !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s seen from the other trust domain: %v", what, err)
		}
	}
	if d, err := s.FindDenials(ctx, o, store.Find{Limit: 9}); err != nil || len(d) != 0 {
		t.Errorf("denials seen from the other trust domain: %v, %v", d, err)
	}
	if u, err := s.Usage(ctx, o); err != nil || u != (store.Usage{}) {
		t.Errorf("usage of the other trust domain: %v, %v", u, err)
	}
}

func prune(t *testing.T, s store.Store) {
	ctx := t.Context()
	initialised(t, s)
	b := Batch("a", 1, 5)
	for i := range 5 {
		at := start.Add(time.Duration(i) * time.Hour)
		b.Evidence = append(b.Evidence, store.Evidence{Digest: [32]byte{byte(i)}, Body: []byte("x"), Denied: i%2 == 1, At: at})
		b.Certificates = append(b.Certificates, store.Certificate{Serial: fmt.Sprint(i), DER: []byte{1}, At: at})
		b.Denials = append(b.Denials, store.Denial{At: at, Reference: fmt.Sprint(i), Payload: []byte(`{}`)})
	}
	must(t, s.Append(ctx, b))
	p, err := s.Prune(ctx, td, start.Add(2*time.Hour), 2)
	must(t, err)
	diff(t, store.Pruned{Evidence: 2, Certificates: 2, Denials: 3}, p)
	u, err := s.Usage(ctx, td)
	must(t, err)
	diff(t, store.Usage{Denials: 2, DenialBytes: 4, Evidence: 2, DeniedEvidence: 1}, u)
	left, err := s.FindDenials(ctx, td, store.Find{Limit: 9})
	must(t, err)
	if len(left) != 2 || left[0].Reference != "4" || left[1].Reference != "3" {
		t.Errorf("the newest denials should stay, got %v", left)
	}
	if _, err := s.Evidence(ctx, td, [32]byte{2}); err != nil {
		t.Errorf("evidence of that very moment was pruned: %v", err)
	}
	entries, err := s.Entries(ctx, td, "a", 0, 9)
	if err != nil || len(entries) != 5 {
		t.Errorf("%d entries left, %v: want all 5", len(entries), err)
	}
}

func cancelled(t *testing.T, s store.Store) {
	initialised(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Append(ctx, Batch("a", 1, 1)); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want context.Canceled", err)
	}
	if h, err := s.Head(t.Context(), td, "a"); err != nil || h != (store.Head{}) {
		t.Errorf("head %v, %v", h, err)
	}
}

func second[T any](_ T, err error) error { return err }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func diff(t *testing.T, want, got any) {
	t.Helper()
	equalBytes := cmp.Comparer(func(a, b []byte) bool { return bytes.Equal(a, b) })
	if d := cmp.Diff(want, got, equalBytes); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}
