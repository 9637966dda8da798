package tpm_test

import (
	"crypto/x509"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifiers/internal/checktest"
	"github.com/assay-project/assay/verifiers/tpm"
)

// hardware returns a verifier under the built-in roots with an empty cache.
func hardware(t testing.TB, opts ...tpm.Option) *tpm.Verifier {
	t.Helper()
	return verifierOver(t, tpm.HardwareRoots(), opts...)
}

func verifierOver(t testing.TB, r tpm.Roots, opts ...tpm.Option) *tpm.Verifier {
	t.Helper()
	v, err := tpm.New(r, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// evidence encodes a body, and adds what comes beside it.
func evidence(t testing.TB, e attest.TPMEvidence, log []byte, endorsements ...[]byte) attest.Evidence {
	t.Helper()
	body, err := e.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return attest.Evidence{Platform: attest.TPM2, Body: body, EventLog: log, Endorsements: endorsements}
}

func accept(t testing.TB, v *tpm.Verifier, ev attest.Evidence, at time.Time) *attest.Claims {
	t.Helper()
	got, err := v.Authenticate(t.Context(), ev, at)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// kindOf is the kind that the table gives to a check.
func kindOf(t testing.TB, check string) attest.Kind {
	t.Helper()
	return checktest.KindOf(t, tpm.Checks(), check)
}

// wantRefusal fails unless the verifier returned an error of exactly this check,
// of the kind that the table gives to it, and nothing beside it.
func wantRefusal(t testing.TB, got *attest.Claims, err error, check string) {
	t.Helper()
	checktest.Refused(t, tpm.Checks(), got, err, check)
}

var toolsDir = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/google/go-tpm-tools").Output()
	return strings.TrimSpace(string(out)), err
})

// module is the directory of go-tpm-tools' module, whose test data are recorded
// from real machines: they are there without recordings too.
func module(t testing.TB) string {
	t.Helper()
	dir, err := toolsDir()
	if err != nil || dir == "" {
		t.Fatalf("go-tpm-tools is not in the module cache: %v", err)
	}
	return dir
}

// other is the event log of another real machine, in go-tpm-tools' module.
func other(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(module(t), "internal", "test", "eventlogs", "ubuntu-2104-no-dbx.bin"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// googleRoots are the roots in go-tpm-tools' module, PEM.
func googleRoots(t testing.TB) []byte {
	t.Helper()
	var out []*x509.Certificate
	for _, f := range []string{"gcp_ek_ak_ca_root.crt", "tpm_ek_root_1.cer"} {
		b, err := os.ReadFile(filepath.Join(module(t), "server", "ca-certs", f))
		if err != nil {
			t.Fatal(err)
		}
		c, err := x509.ParseCertificate(b)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, c)
	}
	return pemOf(out...)
}

func parseCertificate(der []byte) (*x509.Certificate, error) { return x509.ParseCertificate(der) }

// The built-in certificates are those of go-tpm-tools' module, byte by byte.
func TestTheBuiltInRootsAreThoseOfTheLibrary(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(module(t), "server", "ca-certs", "*"))
	if err != nil || len(files) != 5 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	own, err := filepath.Glob("roots/*.pem")
	if err != nil || len(own) != len(files) {
		t.Fatalf("%d built in, %v", len(own), err)
	}
	theirs := make(map[string]bool)
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		theirs[string(b)] = true
	}
	for _, f := range own {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if block, _ := pem.Decode(b); block == nil || !theirs[string(block.Bytes)] {
			t.Errorf("%s is not in the module", f)
		}
	}
}
