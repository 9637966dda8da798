package nitro

import (
	"crypto/x509"
	"testing"
	"time"

	"github.com/hf/nitrite"
)

func pool(a *Authority) *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.Root())
	return p
}

func newTestAuthority(t testing.TB, o AuthorityOptions) *Authority {
	t.Helper()
	a, err := NewAuthority(o)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func mint(t testing.TB, a *Authority, d Document, faults ...Fault) []byte {
	t.Helper()
	doc, err := a.Mint(d, faults...)
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func TestAMintedDocumentVerifiesUnderItsRoot(t *testing.T) {
	a := newTestAuthority(t, AuthorityOptions{})
	for name, d := range map[string]Document{
		"plain":      {},
		"indefinite": {Indefinite: true},
		"tagged":     {Tagged: true},
		"fresh leaf": {FreshLeaf: true},
		"past":       {Timestamp: time.Now().Add(-30 * 24 * time.Hour)},
		"full":       {PublicKey: make([]byte, 1024), UserData: make([]byte, 1024), Nonce: make([]byte, 1024)},
	} {
		t.Run(name, func(t *testing.T) {
			doc := mint(t, a, d)
			at := d.Timestamp
			if at.IsZero() {
				at = time.Now()
			}
			r, err := nitrite.Verify(doc, nitrite.VerifyOptions{Roots: pool(a), CurrentTime: at})
			if err != nil {
				t.Fatalf("nitrite refuses it: %v", err)
			}
			if !r.SignatureOK || len(r.Document.CABundle) != 4 || len(r.Document.PCRs) != 16 {
				t.Fatalf("signature %v, %d certificates, %d PCRs", r.SignatureOK, len(r.Document.CABundle), len(r.Document.PCRs))
			}
		})
	}
}
