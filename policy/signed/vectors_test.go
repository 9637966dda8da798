package signed_test

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/assay-project/assay/policy/signed"
)

var update = flag.Bool("update", false, "rewrite the test vectors")

// seeded is the key of the vectors whose seed is 32 times the byte. Ed25519 is
// deterministic, and so are the vectors.
func seeded(b byte) crypto.Signer { return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{b}, 32)) }

// The vectors of docs/spec/signed-policy.md are what this package writes, byte
// for byte, and what it reads.
func TestTheVectorsAreWhatIsWrittenAndRead(t *testing.T) {
	src := prod(7)
	alice, bob := seeded(1), seeded(2)
	one, err := signed.Sign(file, src, alice)
	must(t, err)
	joint, err := signed.SignJoint(file, src, alice)
	must(t, err)
	joint, err = signed.Approve(file, joint, bob)
	must(t, err)
	for name, content := range map[string][]byte{"prod.yaml": src, "prod-one.signed": one, "prod-two.signed": joint} {
		path := filepath.Join("testdata", name)
		if *update {
			must(t, os.MkdirAll("testdata", 0o755))
			must(t, os.WriteFile(path, content, 0o644))
		}
		want, err := os.ReadFile(path)
		must(t, err)
		if !bytes.Equal(content, want) {
			t.Errorf("%s is not what is written today:\n%x\n%x", name, want, content)
		}
	}
	spec, err := os.ReadFile(filepath.Join("..", "..", "docs", "spec", "signed-policy.md"))
	must(t, err)
	digest, oneDigest, twoDigest := sha256.Sum256(src), sha256.Sum256(one), sha256.Sum256(joint)
	for what, value := range map[string]string{
		"the digest of prod.yaml": hex.EncodeToString(digest[:]), "that of prod-one.signed": hex.EncodeToString(oneDigest[:]), "that of prod-two.signed": hex.EncodeToString(twoDigest[:]),
		"the first key id": id(t, alice).String(), "the second key id": id(t, bob).String(),
	} {
		if !bytes.Contains(spec, []byte(value)) {
			t.Errorf("docs/spec/signed-policy.md does not name %s: %s", what, value)
		}
	}
	if _, err := signed.Verify(file, one, signers(t, 1, alice)); err != nil {
		t.Error(err)
	}
	if _, err := signed.Verify(file, joint, signers(t, 2, alice, bob)); err != nil {
		t.Error(err)
	}
}
