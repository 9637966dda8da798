package main

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
	simnitro "github.com/assay-project/assay/simulators/nitro"
)

func TestEverySimulatedFaultEndsTheCommandWithItsKind(t *testing.T) {
	authority, err := simnitro.NewAuthority(simnitro.AuthorityOptions{Now: func() time.Time { return fixtureTime }})
	check(t, err)
	roots := filepath.Join(t.TempDir(), "root.pem")
	check(t, os.WriteFile(roots, authority.RootPEM(), 0o600))
	refused := 0
	for _, f := range simnitro.Faults() {
		if f.Stage != simnitro.StageAuthenticate || f.Check == "" {
			continue
		}
		refused++
		t.Run(f.Name, func(t *testing.T) {
			t.Parallel()
			doc, err := authority.Mint(simnitro.Document{Timestamp: fixtureTime}, f)
			check(t, err)
			got := assay(t, doc, "evidence", "verify", "--tee", "aws-nitro", "--roots", roots, "--at", fixtureTime.Format(time.RFC3339), "--output", "json", "-")
			var v verdict
			got.decode(t, &v)
			var kind attest.Kind
			check(t, kind.UnmarshalText([]byte(f.Kind)))
			if v.Verified || v.Claims != nil || v.Check == nil || v.Kind == nil || *v.Kind != kind || got.code != cli.KindCode(kind) {
				t.Fatalf("exit code %d, want %s:\n%s", got.code, f.Kind, got.stdout)
			}
			// A file that cannot be told for a document is refused before that.
			if *v.Check != f.Check && (*v.Check != "encoding" || !slices.Contains([]string{"size", "cose_structure", "cose_tag"}, f.Check)) {
				t.Errorf("check %s, want %s", *v.Check, f.Check)
			}
			// And looking at it never fails in another way than by saying that it
			// cannot be decoded.
			if got := assay(t, doc, "evidence", "inspect", "--tee", "aws-nitro", "-"); got.code != cli.OK && got.code != cli.Malformed {
				t.Errorf("inspect: exit code %d\n%s%s", got.code, got.stdout, got.stderr)
			}
		})
	}
	if refused < 100 {
		t.Errorf("only %d faults", refused)
	}
}
