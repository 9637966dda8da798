package ledger

import (
	"context"
	"fmt"

	"github.com/assay-project/assay/issuer/store"
)

// BySerial finds the issuance that allowed the SVID with that serial (32 digits
// of lower-case hex), whichever server's chain it is in. The error satisfies errors.Is(err, store.ErrNotFound) when
// there is none.
func (r *Reader) BySerial(ctx context.Context, serial string) (Item, error) {
	if serial == "" { // it would match everything
		return Item{}, fmt.Errorf("ledger: no serial: %w", store.ErrNotFound)
	}
	entries, err := r.st.FindEntries(ctx, r.trustDomain, "", store.Find{Serial: serial, Limit: 1})
	if err != nil {
		return Item{}, unavailable(err)
	}
	if len(entries) == 0 {
		return Item{}, fmt.Errorf("ledger: serial %.40q: %w", serial, store.ErrNotFound)
	}
	return r.item(ctx, entries[0])
}
