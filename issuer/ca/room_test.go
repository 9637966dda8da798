package ca

import (
	"fmt"
	"strings"
	"testing"

	"github.com/assay-project/assay/issuer/store"
)

// Agents refuse a bundle of too many authorities, whole. Somebody who taints by
// force and never revokes is refused before that, and so is what is planned, with
// room left for an emergency.
func TestTheBundleStaysWithinWhatAgentsTake(t *testing.T) {
	f := start(t)
	for _, use := range []store.Use{store.X509, store.JWT} {
		var refused error
		warned := false
		for n := 1; refused == nil; n++ {
			if n > 2*MaxAuthorities {
				t.Fatalf("%s: nothing is refused", use)
			}
			if n == maxPlanned+1 {
				if _, err := f.ca.Prepare(t.Context(), use, "uid 0"); !isErr(err, ErrTooEarly) {
					t.Errorf("%s: prepared as the %d.: %v", use, n, err)
				} else {
					wantCheck(t, err, "authority_limit")
				}
			}
			_, refused = f.ca.Taint(t.Context(), use, f.ca.now.Load().signing[use].row.ID, "a drill", "uid 0", true)
			has := strings.Contains(strings.Join(f.ca.Status().Warnings, "\n"), fmt.Sprintf("%s authorities are trusted, and agents take at most %d", use, MaxAuthorities))
			if half := f.ca.now.Load().trusted(use) >= MaxAuthorities/2; refused == nil && has != half {
				t.Fatalf("%s: %d are trusted, warned of: %t", use, f.ca.now.Load().trusted(use), has)
			}
			warned = warned || has
		}
		wantCheck(t, refused, "authority_limit")
		if !warned {
			t.Errorf("%s: no warning", use)
		}
		b := f.ca.Bundle()
		if x, j := len(b.X509Authorities()), len(b.JWTAuthorities()); x > MaxAuthorities || j > MaxAuthorities || max(x, j) != maxUnplanned {
			t.Errorf("%s: the bundle has %d X.509 and %d JWT authorities", use, x, j)
		}
		must(t, f.ca.Ready())
		// There is room again when the tainted ones are revoked.
		for _, a := range f.ca.Authorities() {
			if a.Use == use && a.State == store.Tainted {
				_, err := f.ca.Revoke(t.Context(), use, a.ID, "", "uid 0")
				must(t, err)
			}
		}
		_, err := f.ca.Taint(t.Context(), use, f.ca.now.Load().signing[use].row.ID, "stolen", "uid 0", true)
		must(t, err)
		_, err = f.ca.Prepare(t.Context(), use, "uid 0")
		must(t, err)
	}
}

// What is due is not made where there is no room, and the server goes on and says so.
func TestNoSuccessorIsMadeWhereThereIsNoRoom(t *testing.T) {
	f := start(t)
	for range maxPlanned {
		_, err := f.ca.Taint(t.Context(), store.JWT, f.ca.now.Load().signing[store.JWT].row.ID, "a drill", "uid 0", true)
		must(t, err)
	}
	before := len(f.ca.Authorities())
	f.Advance(16 * day) // half of the life of the one that signs
	must(t, f.ca.maintain(t.Context(), noStop))
	if n := len(f.ca.Authorities()); n != before {
		t.Errorf("%d authorities, there were %d", n, before)
	}
	if w := strings.Join(f.ca.Status().Warnings, "\n"); !strings.Contains(w, "the next jwt authority cannot be made") {
		t.Errorf("warnings %q", w)
	}
	must(t, f.ca.Ready())
	// The tainted ones end, which makes room by itself.
	f.Advance(15 * day)
	must(t, f.ca.maintain(t.Context(), noStop))
	if n := f.ca.now.Load().trusted(store.JWT); n > 2 {
		t.Errorf("%d are trusted", n)
	}
	if n := len(f.ca.Authorities()); n != before+1 {
		t.Errorf("%d authorities, want a successor", n)
	}
}
