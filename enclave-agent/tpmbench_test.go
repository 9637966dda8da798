package agent

import (
	"crypto"
	"crypto/sha256"
	"testing"

	"github.com/google/go-tpm/tpm2"
)

// What the TPM itself takes, apart from the server's work: here swtpm's, which is a
// processor's; hardware takes tens to hundreds of milliseconds.
func BenchmarkTPM(b *testing.B) {
	m := newTPM2(b)
	newEKAuthority(b).certify(m, ekTemplates()[0], 0)
	tpm, want := m.attester(TPMOptions{}), bindingOf(b)
	if err := tpm.Prepare(b.Context()); err != nil {
		b.Fatal(err)
	}
	key := must(tpm.NewKey(b.Context()))
	own := bindingOf(b, key)
	body, _ := quoted(b, must(tpm.Evidence(b.Context(), want)), want.B)
	cred := must(credential(body.EKPublic, body.AKPublic, []byte("secret")))
	digest := sha256.Sum256(nil)
	for _, c := range []struct {
		name string
		run  func() error
	}{
		{"open-and-ask", func() error {
			_, err := withTPM(b.Context(), tpm, tpmTimeout, func(s *tpmSession) (uint32, error) { return s.property(tpm2.TPMPTManufacturer) })
			return err
		}},
		{"quote", func() error { _, err := tpm.Evidence(b.Context(), want); return err }},
		{"quote-and-certify", func() error {
			_, err := tpm.Quote(b.Context(), own, DefaultPCRs(), []crypto.Signer{key})
			return err
		}},
		{"activate", func() error { _, err := tpm.Activate(b.Context(), cred, want); return err }},
		{"new-key", func() error { _, err := tpm.NewKey(b.Context()); return err }},
		{"sign", func() error { _, err := key.Sign(nil, digest[:], crypto.SHA256); return err }},
		{"first-ecc-p256", func() error { return m.attester(TPMOptions{EK: TPMP256}).Prepare(b.Context()) }},
		{"first-rsa-2048", func() error { return m.attester(TPMOptions{EK: TPMRSA2048}).Prepare(b.Context()) }},
	} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				if err := c.run(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
