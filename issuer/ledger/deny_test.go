package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/attestedtest"
	"github.com/assay-project/assay/issuer/ledger"
	"github.com/assay-project/assay/issuer/store"
	"github.com/assay-project/assay/verifiers"
)

func (f *fixture) deny(t testing.TB, l *ledger.Ledger, r attestedtest.Request) (ref string, kept bool) {
	t.Helper()
	if r.Image == "" {
		r.Image = "another"
	}
	v, d := f.Denied(t, r)
	ref = ledger.NewReference()
	kept, err := l.Deny(t.Context(), ledger.Denial{Verified: v, Decision: d.Decision, Origin: ledger.Origin{Reference: ref, Peer: "192.0.2.7:1"}})
	must(t, err)
	return ref, kept
}

func TestADenialIsKeptOutsideTheChainAndExplainsItself(t *testing.T) {
	f := newFixture(t)
	l := f.open(t, ledger.Options{})
	run(t, l)
	f.record(t, l, attestedtest.Request{})
	ref, kept := f.deny(t, l, attestedtest.Request{})
	if !kept {
		t.Fatal("not kept")
	}
	f.record(t, l, attestedtest.Request{})
	item, err := l.Get(t.Context(), ref)
	must(t, err)
	if item.Hash != nil || item.Previous != nil || item.Entry.Outcome != "denied" || len(item.Entry.Identities) != 0 || item.Entry.Peer != "192.0.2.7:1" {
		t.Errorf("item %+v", item)
	}
	rules := item.Entry.Decision.Workloads[0].Rules
	failing := 0
	for _, r := range rules {
		if !r.Holds {
			failing++
			if r.Expected == "" || r.Got == "" {
				t.Errorf("rule %+v does not say what it expected and got", r)
			}
		}
	}
	if failing == 0 {
		t.Errorf("no rule fails in %+v", rules)
	}
	ev, err := l.Evidence(t.Context(), [32]byte(item.Entry.EvidenceDigest))
	must(t, err)
	if !ev.Denied {
		t.Error("its evidence counts as an issuance's")
	}
	if r := verifies(t, l); r.Entries != 2 {
		t.Errorf("%d entries in the chain, want 2", r.Entries)
	}
}

func TestOnlyVerifiedEvidenceCanBeDenied(t *testing.T) {
	f := newFixture(t)
	l := f.open(t, ledger.Options{})
	run(t, l)
	for _, v := range []*verifiers.Verified{nil, {}} {
		_, err := l.Deny(t.Context(), ledger.Denial{Verified: v})
		wantCheck(t, err, attest.Internal, "ledger_denial")
	}
}

func TestDenialsHaveQuotas(t *testing.T) {
	const one, two = "i-0000000000000001-enc0000000000000001", "i-0000000000000002-enc0000000000000002"
	f := newFixture(t)
	l := f.open(t, ledger.Options{Quotas: ledger.Quotas{DenialsPerInstance: 2, DenialsPerHour: 3}})
	run(t, l)
	var got []bool
	deny := func(module string) {
		_, kept := f.deny(t, l, attestedtest.Request{Module: module})
		got = append(got, kept)
	}
	deny(one)
	deny(one)
	deny(one) // its quota
	deny(two)
	deny(two) // everybody's
	f.Advance(time.Hour)
	deny(one)
	if d := cmp.Diff([]bool{true, true, false, true, false, true}, got); d != "" {
		t.Error(d)
	}
	if s := l.Stats(); s.Denials != 4 || s.DenialsDropped != 2 {
		t.Errorf("stats %+v", s)
	}
	f.record(t, l, attestedtest.Request{Module: one}) // never bounds an issuance
}

func TestDenialsAreBoundedInBytes(t *testing.T) {
	f := newFixture(t)
	l := f.open(t, ledger.Options{Quotas: ledger.Quotas{DenialBytes: 40_000}})
	run(t, l)
	kept := 0
	for range 40 {
		if _, ok := f.deny(t, l, attestedtest.Request{}); ok {
			kept++
		}
	}
	if kept < 4 || kept == 40 {
		t.Errorf("%d of 40 kept", kept)
	}
	if _, ok := f.deny(t, l, attestedtest.Request{}); ok {
		t.Error("a full store took another")
	}
	p, err := l.Prune(t.Context(), time.Time{}) // nothing is old
	must(t, err)
	if p.Denials == 0 || p.Evidence != 0 {
		t.Errorf("pruned %+v: the oldest denials should make room, and nothing else", p)
	}
	if _, ok := f.deny(t, l, attestedtest.Request{}); !ok {
		t.Error("the room that was made was not used")
	}
}

func TestAnIssuanceIsNotFailedByADenial(t *testing.T) {
	f := newFixture(t)
	l := f.open(t, ledger.Options{})
	stop := run(t, l)
	ref, _ := f.deny(t, l, attestedtest.Request{})
	v, d := f.Denied(t, attestedtest.Request{Image: "another"})
	// The same reference again cannot be stored.
	if kept, err := l.Deny(t.Context(), ledger.Denial{Verified: v, Decision: d.Decision, Origin: ledger.Origin{Reference: ref}}); kept || err == nil {
		t.Errorf("kept %v, %v, want an error", kept, err)
	}
	f.record(t, l, attestedtest.Request{})
	must(t, stop())
}

func TestAFullDenialQueueDropsAndCounts(t *testing.T) {
	f := newFixture(t)
	l := f.open(t, ledger.Options{Quotas: ledger.Quotas{DenialsPerInstance: 1000}}) // Run has not started: nothing leaves the queue
	v, d := f.Denied(t, attestedtest.Request{Image: "another"})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var dropped bool
	for range 65 {
		kept, err := l.Deny(ctx, ledger.Denial{Verified: v, Decision: d.Decision})
		switch {
		case kept:
			t.Fatal("kept by nobody")
		case err == nil:
			dropped = true
		case !errors.Is(err, context.Canceled):
			t.Fatal(err)
		}
	}
	if !dropped || l.Stats().DenialsDropped != 1 {
		t.Errorf("dropped %v, stats %+v", dropped, l.Stats())
	}
}

func TestEvidenceHasQuotasAndTheRecordSaysSo(t *testing.T) {
	const one = "i-0000000000000001-enc0000000000000001"
	f := newFixture(t)
	l := f.open(t, ledger.Options{Quotas: ledger.Quotas{EvidencePerInstance: 2, EvidenceBytes: 20_000}})
	run(t, l)
	keptOf := func(r *ledger.Recorded) bool {
		item, err := l.Get(t.Context(), r.Reference())
		must(t, err)
		_, err = l.Evidence(t.Context(), r.EvidenceDigest())
		if item.Entry.EvidenceKept != (err == nil) {
			t.Errorf("the entry says kept: %v, the store %v", item.Entry.EvidenceKept, err)
		}
		return err == nil
	}
	var got []bool
	for range 3 {
		got = append(got, keptOf(f.record(t, l, attestedtest.Request{Module: one})))
	}
	if d := cmp.Diff([]bool{true, true, false}, got); d != "" {
		t.Errorf("quota of an instance: %s", d)
	}
	all := true
	for range 4 {
		all = keptOf(f.record(t, l, attestedtest.Request{})) && all
	}
	if all {
		t.Error("the budget of 20,000 bytes held more than 20,000 bytes")
	}
	if l.Stats().EvidenceDropped == 0 {
		t.Error("dropped evidence was not counted")
	}
}

func TestPruneEndsRetentionsAndLeavesTheChain(t *testing.T) {
	f := newFixture(t)
	l := f.open(t, ledger.Options{})
	run(t, l)
	old := f.record(t, l, attestedtest.Request{})
	oldDenial, _ := f.deny(t, l, attestedtest.Request{})
	f.Advance(time.Hour)
	young := f.record(t, l, attestedtest.Request{})
	p, err := l.Prune(t.Context(), f.Now().Add(-30*time.Minute))
	must(t, err)
	if p.Evidence != 2 || p.Denials != 1 {
		t.Errorf("pruned %+v", p)
	}
	if _, err := l.Evidence(t.Context(), old.EvidenceDigest()); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("old evidence: %v", err)
	}
	if _, err := l.Get(t.Context(), oldDenial); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("old denial: %v", err)
	}
	if _, err := l.Evidence(t.Context(), young.EvidenceDigest()); err != nil {
		t.Error(err)
	}
	if r := verifies(t, l); r.Entries != 2 {
		t.Errorf("report %+v", r)
	}
}

func TestRejectionsAreCountedAndSampledInBoundedMemory(t *testing.T) {
	f := newFixture(t)
	l := f.open(t, ledger.Options{})
	long := strings.Repeat("x", 10_000)
	l.Reject(ledger.Rejection{Kind: attest.Stale, Check: "timestamp_window", Reference: "as-rare", At: f.Now()})
	for i := range 100_000 {
		l.Reject(ledger.Rejection{
			Kind: attest.Untrusted, Check: fmt.Sprintf("check-%d", i%1000), Detail: long, Peer: long, Platform: attest.Platform(long),
			At: f.Now().Add(time.Duration(i)),
		})
	}
	counts, samples := l.Rejections()
	var total uint64
	for _, c := range counts {
		total += c.Count
	}
	if total != 100_001 || len(counts) > 257 || len(samples) > 257*16 {
		t.Errorf("%d counted in %d checks, %d samples", total, len(counts), len(samples))
	}
	rare := false
	for _, s := range samples {
		rare = rare || s.Reference == "as-rare"
		if len(s.Detail) > 520 || len(s.Peer) > 520 || len(s.Platform) > 520 {
			t.Fatal("a sample holds a stranger's text at full length")
		}
	}
	if !rare {
		t.Error("a flood of one kind washed the others away")
	}
	if n := l.Stats().Size; n != 0 {
		t.Errorf("%d entries", n)
	}
}

func TestListMergesPagesAndFilters(t *testing.T) {
	f := newFixture(t)
	l := f.open(t, ledger.Options{})
	run(t, l)
	const one = "i-0000000000000001-enc0000000000000001"
	var refs []string
	for range 3 {
		refs = append(refs, f.record(t, l, attestedtest.Request{Module: one}).Reference())
		f.Advance(time.Second)
		r, _ := f.deny(t, l, attestedtest.Request{})
		refs = append(refs, r)
		f.Advance(time.Second)
	}
	list := func(fl ledger.Filter) []string {
		t.Helper()
		items, err := l.List(t.Context(), fl)
		must(t, err)
		var out []string
		for _, it := range items {
			out = append(out, it.Entry.Reference)
		}
		return out
	}
	for name, tt := range map[string]struct {
		f    ledger.Filter
		want []string
	}{
		"all, newest first": {ledger.Filter{}, []string{refs[5], refs[4], refs[3], refs[2], refs[1], refs[0]}},
		"oldest first":      {ledger.Filter{Oldest: true, Limit: 3}, []string{refs[0], refs[1], refs[2]}},
		"granted":           {ledger.Filter{Outcome: ledger.Granted, Chain: "main", Oldest: true, After: 1}, []string{refs[2], refs[4]}},
		"denied":            {ledger.Filter{Outcome: ledger.Denied}, []string{refs[5], refs[3], refs[1]}},
		"instance":          {ledger.Filter{Instance: "aws-nitro:" + one}, []string{refs[4], refs[2], refs[0]}},
		"SPIFFE ID":         {ledger.Filter{SPIFFEID: "spiffe://" + td + "/orders", Limit: 1}, []string{refs[4]}},
		"before":            {ledger.Filter{Before: attestedtest.Noon.Add(2 * time.Second)}, []string{refs[1], refs[0]}},
		"nothing":           {ledger.Filter{SPIFFEID: "spiffe://x/y"}, nil},
	} {
		if d := cmp.Diff(tt.want, list(tt.f)); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
	if _, err := l.List(t.Context(), ledger.Filter{Outcome: "maybe"}); err == nil {
		t.Error("an unknown outcome passed")
	}
	if item, err := l.Get(t.Context(), "2"); err != nil || item.Entry.Reference != refs[2] || item.Sequence != 2 {
		t.Errorf("Get(2) = %v, %v", item.Sequence, err)
	}
	for _, key := range []string{"99", "as-aaaaaaaaaa", "", "-1", "99999999999999999999999"} {
		if _, err := l.Get(t.Context(), key); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("Get(%q): %v, want ErrNotFound", key, err)
		}
	}
}
