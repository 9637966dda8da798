package cli_test

import (
	"testing"

	"github.com/assay-project/assay/internal/cli"
)

func TestOneOfAThingIsNotSeveral(t *testing.T) {
	for _, tt := range []struct{ got, want string }{
		{cli.Count(0, "byte"), "0 bytes"},
		{cli.Count(1, "byte"), "1 byte"},
		{cli.Count(uint64(2), "entry", "entries"), "2 entries"},
		{cli.Count(uint64(1), "entry", "entries"), "1 entry"},
	} {
		if tt.got != tt.want {
			t.Errorf("got %q, want %q", tt.got, tt.want)
		}
	}
}
