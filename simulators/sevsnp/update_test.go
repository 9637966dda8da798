package sevsnp

import (
	"crypto/rand"
	"crypto/rsa"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/assay-project/assay/simulators/internal/keyfile"
)

var update = flag.Bool("update", false, "make the well-known authority's keys and certificates anew")

// TestMain makes the files that are embedded, when asked. It takes a minute,
// and changes the roots of everybody who uses the well-known authority.
func TestMain(m *testing.M) {
	flag.Parse()
	if *update {
		if err := makeWellKnown(filepath.FromSlash(wellKnownDir)); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

func makeWellKnown(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, name := range append(Lines(), foreignLine) {
		made := make(map[string]*rsa.PrivateKey)
		for _, role := range []string{roleARK, roleASK, roleASVK} {
			key, err := rsa.GenerateKey(rand.Reader, rsaBits)
			if err != nil {
				return err
			}
			made[role] = key
			b, err := keyfile.EncodeKey(key)
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(dir, keyFile(name, role)), b, 0o644); err != nil {
				return err
			}
		}
		if name == foreignLine {
			continue
		}
		l, err := simulatedNames().line(name, keys{ark: made[roleARK], ask: made[roleASK], asvk: made[roleASVK]})
		if err != nil {
			return err
		}
		for role, n := range map[string]*node{roleARK: l.ark, roleASK: l.ask, roleASVK: l.asvk} {
			if err := os.WriteFile(filepath.Join(dir, certificateFile(name, role)), keyfile.EncodeCertificate(n.cert.Raw), 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}
