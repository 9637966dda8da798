package ledger_test

import (
	"encoding/hex"
	"errors"
	"testing"

	"github.com/assay-project/assay/internal/attestedtest"
	"github.com/assay-project/assay/issuer/ledger"
	"github.com/assay-project/assay/issuer/store"
)

func TestAnIssuanceIsFoundByTheSerialThatItAllowed(t *testing.T) {
	f := newFixture(t)
	l := f.open(t, ledger.Options{})
	stop := run(t, l)
	first := f.record(t, l, attestedtest.Request{})
	second := f.record(t, l, attestedtest.Request{})
	for _, r := range []*ledger.Recorded{first, second} {
		serial := r.Issuances()[0].Serial
		item, err := l.BySerial(t.Context(), hex.EncodeToString(serial[:]))
		must(t, err)
		if item.Sequence != r.Sequence() || item.Entry.Reference != r.Reference() || item.Entry.Claims.Platform == "" {
			t.Errorf("serial %x: entry %d, %s", serial, item.Sequence, item.Entry.Reference)
		}
	}
	for _, serial := range []string{"", "00", "' OR 1=1 --"} {
		if _, err := l.BySerial(t.Context(), serial); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("serial %q: %v, want ErrNotFound", serial, err)
		}
	}
	must(t, stop())
}
