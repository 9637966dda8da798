package storetest

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/issuer/store"
)

// chains: each server has its own, and look-ups find what is in any of them.
func chains(t *testing.T, s store.Store) {
	ctx := t.Context()
	initialised(t, s)
	if got, err := s.Chains(ctx, td); err != nil || len(got) != 0 {
		t.Errorf("of an empty database: %v, %v", got, err)
	}
	must(t, s.Append(ctx, Batch("b", 1, 4)))
	a := Batch("a", 1, 4)
	a.Entries[1].Outcome, a.Entries[1].Identities = "token", nil
	a.Entries[3].Outcome, a.Entries[3].Identities = "admin", nil
	must(t, s.Append(ctx, a))
	must(t, s.Append(ctx, store.Batch{TrustDomain: td, Chain: "empty", Checkpoints: []store.Checkpoint{{Size: 0, Note: []byte("n"), At: start}}}))
	got, err := s.Chains(ctx, td)
	must(t, err)
	diff(t, []string{"a", "b", "empty"}, got)
	if got, err := s.Chains(ctx, "other.example.org"); err != nil || len(got) != 0 {
		t.Errorf("of another trust domain: %v, %v", got, err)
	}

	find := func(chain string, f store.Find, want ...string) {
		t.Helper()
		f.Limit = max(f.Limit, 0)
		if f.Limit == 0 {
			f.Limit = 100
		}
		entries, err := s.FindEntries(ctx, td, chain, f)
		must(t, err)
		var got []string
		for _, e := range entries {
			got = append(got, e.Chain+"/"+e.Reference)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%q %+v (-want +got)\n%s", chain, f, d)
		}
	}
	at := func(chain string, n ...uint64) (out []string) {
		for _, n := range n {
			out = append(out, chain+"/"+Entry(chain, n).Reference)
		}
		return out
	}
	find("", store.Find{Reference: Entry("b", 3).Reference}, at("b", 3)...)
	find("", store.Find{Serial: Entry("a", 3).Identities[0].Serial}, at("a", 3)...)
	find("b", store.Find{Serial: Entry("a", 3).Identities[0].Serial})
	find("a", store.Find{Outcome: "granted"}, at("a", 3, 1)...)
	find("a", store.Find{Outcome: "admin"}, at("a", 4)...)
	find("", store.Find{Outcome: "token"}, at("a", 2)...)
	find("a", store.Find{Oldest: true, After: 1, Below: 4}, at("a", 2, 3)...)
	find("a", store.Find{Below: 3}, at("a", 2, 1)...)
	// Both servers' of one second are together, the newest first.
	find("", store.Find{Limit: 4}, "a/"+Entry("a", 4).Reference, "b/"+Entry("b", 4).Reference, "a/"+Entry("a", 3).Reference, "b/"+Entry("b", 3).Reference)
	find("", store.Find{SPIFFEID: "spiffe://" + td + "/w1", Oldest: true},
		"a/"+Entry("a", 1).Reference, "b/"+Entry("b", 1).Reference, "a/"+Entry("a", 3).Reference, "b/"+Entry("b", 3).Reference)
	find("", store.Find{SPIFFEID: "spiffe://" + td + "/w1", Instance: Entry("a", 3).Instance}, "a/"+Entry("a", 3).Reference, "b/"+Entry("b", 3).Reference)

	all, err := s.Entries(ctx, td, "a", 0, 9)
	must(t, err)
	for i, e := range all {
		if e.Chain != "a" || e.Outcome != a.Entries[i].Outcome {
			t.Errorf("entry %d of chain %q has outcome %q", e.Sequence, e.Chain, e.Outcome)
		}
	}
}
