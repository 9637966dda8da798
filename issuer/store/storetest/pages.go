package storetest

import (
	"slices"
	"testing"
	"time"

	"github.com/assay-project/assay/issuer/store"
)

// pages reads lists in pages of every size, and while they grow: each row comes
// once, in the order of the whole list, and only those of the trust domain that is
// asked about.
func pages(t *testing.T, s store.Store) {
	ctx := t.Context()
	initialised(t, s)
	const other = "other.example.org"
	must(t, s.InitTrustDomain(ctx, store.TrustDomain{Name: other, Simulated: true, CreatedAt: start}))
	b := Batch("a", 1, 7)
	b.Entries[3].Identities = append(b.Entries[3].Identities, store.Identity{Serial: "aa01", SPIFFEID: "spiffe://" + td + "/w0", KeyThumbprint: [32]byte{1}, NotAfter: start.Add(time.Hour)},
		store.Identity{Serial: "aa00", SPIFFEID: "spiffe://" + td + "/w1", KeyThumbprint: [32]byte{2}, NotAfter: start.Add(time.Hour)})
	must(t, s.Append(ctx, b))
	must(t, s.Append(ctx, Batch("b", 1, 5))) // at the same times as those of the first
	elsewhere := Batch("a", 1, 9)
	elsewhere.TrustDomain = other
	must(t, s.Append(ctx, elsewhere))

	whole := func(domain string) (serials []string, places []store.HeldPlace) {
		t.Helper()
		rows, err := s.HeldIdentities(ctx, domain, store.FindHeld{})
		must(t, err)
		for _, h := range rows {
			serials, places = append(serials, h.Serial), append(places, h.Place())
		}
		return serials, places
	}
	want, places := whole(td)
	if len(want) != 14 {
		t.Fatalf("%d SVIDs, want 14", len(want))
	}
	theirs, theirPlaces := whole(other)

	for size := 1; size <= 15; size++ {
		var got []string
		f := store.FindHeld{Limit: size}
		for {
			rows, err := s.HeldIdentities(ctx, td, f)
			must(t, err)
			if len(rows) > size {
				t.Fatalf("a page of %d has %d", size, len(rows))
			}
			for _, h := range rows {
				got = append(got, h.Serial)
				f.Beyond = h.Place()
			}
			if len(rows) < size {
				break
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("pages of %d: %v, want %v", size, got, want)
		}
		got = nil
		for h, err := range store.EachHeld(ctx, s, td, store.FindHeld{Limit: size}) {
			must(t, err)
			got = append(got, h.Serial)
		}
		if !slices.Equal(got, want[:min(size, len(want))]) {
			t.Errorf("at most %d: %v", size, got)
		}
	}
	// A place is no permission: from that of another trust domain on there are one's
	// own rows, and nobody else's.
	for i, p := range theirPlaces {
		rows, err := s.HeldIdentities(ctx, td, store.FindHeld{Beyond: p})
		must(t, err)
		for _, h := range rows {
			if !slices.Contains(want, h.Serial) || !slices.Contains(places, h.Place()) {
				t.Errorf("from place %d of another trust domain: %+v", i, h)
			}
		}
	}
	for _, p := range places {
		rows, err := s.HeldIdentities(ctx, other, store.FindHeld{Beyond: p, Limit: 99})
		must(t, err)
		for _, h := range rows {
			if !slices.Contains(theirs, h.Serial) {
				t.Errorf("the other trust domain reads %s", h.Serial)
			}
		}
	}

	// Instances: who attests while the list is read is neither missed nor told twice.
	names := func(f store.FindHeld, between func(n int)) (out []string) {
		t.Helper()
		for {
			rows, err := s.Holders(ctx, td, f)
			must(t, err)
			for _, h := range rows {
				if f.MadeUntil.IsZero() {
					f.MadeUntil = h.Last
				}
				out = append(out, h.Instance)
				f.BeyondHolder = h.Place()
			}
			if len(rows) < f.Limit {
				return out
			}
			between(len(out))
		}
	}
	quiet := func(int) {}
	all := names(store.FindHeld{Limit: 99}, quiet)
	if len(all) != 3 {
		t.Fatalf("instances %v, want 3", all)
	}
	for size := 1; size <= 4; size++ {
		if got := names(store.FindHeld{Limit: size}, quiet); !slices.Equal(got, all) {
			t.Errorf("pages of %d: %v, want %v", size, got, all)
		}
	}
	next := uint64(8)
	got := names(store.FindHeld{Limit: 1}, func(int) { // each time, everybody attests
		must(t, s.Append(ctx, Batch("a", next, next+2)))
		next += 3
	})
	if !slices.Equal(got, all) {
		t.Errorf("while they attest: %v, want %v", got, all)
	}
	for size := 1; size <= 4; size++ {
		var got []string
		for h, err := range store.EachHolder(ctx, s, td, store.FindHeld{Limit: size}) {
			must(t, err)
			got = append(got, h.Instance)
		}
		if len(got) != min(size, 3) {
			t.Errorf("at most %d: %v", size, got)
		}
	}
	rows, err := s.Holders(ctx, td, store.FindHeld{MadeUntil: start.Add(2 * time.Second)})
	must(t, err)
	at := func(n int) time.Time { return start.Add(time.Duration(n) * time.Second) }
	end := start.Add(time.Hour)
	diff(t, []store.Holder{
		{Instance: "aws-nitro:i-2", First: at(2), Last: at(2), NotAfter: end, Attestations: 2},
		{Instance: "aws-nitro:i-1", First: at(1), Last: at(1), NotAfter: end, Attestations: 2},
	}, rows)
}

// longPages: who forgets to say how many gets a page, and not the database.
func longPages(t *testing.T, s store.Store) {
	ctx := t.Context()
	initialised(t, s)
	const many = store.HeldPage + 7
	b := Batch("a", 1, many)
	for i := range b.Entries {
		b.Entries[i].Instance += "-" + b.Entries[i].Reference
	}
	must(t, s.Append(ctx, b))
	for _, limit := range []int{0, -1, many, 1 << 30} {
		held, err := s.HeldIdentities(ctx, td, store.FindHeld{Limit: limit})
		must(t, err)
		holders, err := s.Holders(ctx, td, store.FindHeld{Limit: limit})
		must(t, err)
		if len(held) != store.HeldPage || len(holders) != store.HeldPage {
			t.Errorf("at most %d: %d SVIDs and %d instances, want pages of %d", limit, len(held), len(holders), store.HeldPage)
		}
	}
	n, instances := 0, map[string]bool{}
	for h, err := range store.EachHeld(ctx, s, td, store.FindHeld{}) {
		must(t, err)
		if want := Entry("a", uint64(many-n)).Identities[0].Serial; h.Serial != want {
			t.Fatalf("SVID %d: %s, want %s", n, h.Serial, want)
		}
		n++
	}
	for h, err := range store.EachHolder(ctx, s, td, store.FindHeld{}) {
		must(t, err)
		instances[h.Instance] = true
	}
	if n != many || len(instances) != many {
		t.Errorf("%d SVIDs and %d instances, want %d", n, len(instances), many)
	}
}
