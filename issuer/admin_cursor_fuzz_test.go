package issuer

import (
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/issuer/store"
)

// A cursor comes from whoever asks: it is read as it was written, or refused.
func FuzzCursor(f *testing.F) {
	list := newListing("/list", spiffeid.RequireTrustDomainFromString("example.org"), "a")
	at := time.UnixMicro(1_766_000_000_000_000).UTC()
	f.Add(list.afterHolder(at, store.HolderPlace{Last: at, Instance: "aws-nitro:i-1"}))
	f.Add(list.afterHeld(store.HeldPlace{At: at, Chain: "main", Sequence: 17, Position: 2}))
	f.Add("")
	f.Fuzz(func(t *testing.T, cursor string) {
		if until, p, err := list.holderAt(cursor); err == nil {
			if again := list.afterHolder(until, p); again != cursor {
				t.Errorf("%q is read as %v, %+v, which is %q", cursor, until, p, again)
			}
		}
		if p, err := list.heldAt(cursor); err == nil {
			if again := list.afterHeld(p); again != cursor {
				t.Errorf("%q is read as %+v, which is %q", cursor, p, again)
			}
			if p.Position < 0 {
				t.Errorf("%q has the position %d", cursor, p.Position)
			}
		}
	})
}
