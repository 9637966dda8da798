package main

import (
	"errors"
	"fmt"
	"testing"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/issuer/store"
)

// A supervisor starts a server again that ended because a database went away while it
// began; what the operator has to mend it leaves alone.
func TestWhatIsAwayAtTheStartIsUnavailableAndNoMistake(t *testing.T) {
	for name, tt := range map[string]struct {
		err  error
		want int
	}{
		"a database that has gone since it was opened": {fmt.Errorf("store: %w", store.ErrUnavailable), cli.Unavailable},
		"and could not be closed either":               {errors.Join(fmt.Errorf("store: %w", store.ErrUnavailable), errors.New("close")), cli.Unavailable},
		"a database that never answered":               {&attest.Error{Kind: attest.Unavailable, Check: "database_connect", Err: errors.New("refused")}, cli.Unavailable},
		"a file that is damaged":                       {&attest.Error{Kind: attest.Malformed, Check: "database_damaged", Err: errors.New("page 7")}, cli.Usage},
		"anything else":                                {errors.New("no such file"), cli.Usage},
	} {
		if got := cli.ExitCode(starting(tt.err)); got != tt.want {
			t.Errorf("%s: exit code %d, want %d", name, got, tt.want)
		}
	}
}
