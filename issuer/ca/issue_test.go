package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/attestedtest"
	"github.com/assay-project/assay/issuer/ledger"
	"github.com/assay-project/assay/svid"
)

func TestAnIssuedSVIDPassesEveryVerifier(t *testing.T) {
	f := start(t)
	p256 := newKey(t)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	must(t, err)
	rec := f.record(t, attestedtest.Request{Keys: publics(p256, p384)})
	issued, err := f.ca.Issue(t.Context(), rec)
	must(t, err)
	if issued.Reference != rec.Reference() || issued.Sequence != 1 || len(issued.SVIDs) != 2 {
		t.Fatalf("issued %+v", issued)
	}
	item, err := f.ledger.Get(t.Context(), issued.Reference)
	must(t, err)
	for i, s := range issued.SVIDs {
		leaf, err := x509.ParseCertificate(s.Chain[0])
		must(t, err)
		// go-spiffe and plain crypto/x509.
		if _, _, err := x509svid.Verify([]*x509.Certificate{leaf}, f.ca.Bundle(), x509svid.WithTime(f.Now())); err != nil {
			t.Errorf("SVID %d: go-spiffe: %v", i, err)
		}
		roots := x509.NewCertPool()
		for _, a := range f.ca.Bundle().X509Authorities() {
			roots.AddCert(a)
		}
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: f.Now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
			t.Errorf("SVID %d: crypto/x509: %v", i, err)
		}
		// Our own relying-party verification, with the keys from the signed document.
		root, err := VerifierRootPEM(f.dir)
		must(t, err)
		pub, err := svid.ParseVerifierRoot(root)
		must(t, err)
		keys, err := svid.ParseVerifierKeys(f.ca.VerifierKeysDocument(), pub, f.Now())
		must(t, err)
		got, err := svid.Verify([]*x509.Certificate{leaf}, svid.NewSource(f.ca.Bundle(), keys), f.Now(), svid.Simulated())
		if err != nil {
			t.Fatalf("SVID %d: svid.Verify: %v", i, err)
		}
		if !got.Result.IsOf([32]byte(item.Entry.EvidenceDigest)) || got.Result.Policy != "prod@7" {
			t.Errorf("SVID %d: the result is of other evidence or policy: %+v", i, got.Result)
		}
		if d := cmp.Diff(attest.Bytes(rec.Claims().Nitro.PCRs[0]), got.Result.Measurements["pcr0"]); d != "" {
			t.Errorf("SVID %d: pcr0: %s", i, d)
		}
		// The ledger names exactly this certificate.
		id := item.Entry.Identities[i]
		if id.SPIFFEID != s.ID.String() || id.Serial != s.Serial || !id.NotAfter.Equal(s.NotAfter) || id.Key != s.Key {
			t.Errorf("SVID %d is %+v, the ledger says %+v", i, s, id)
		}
		if !leaf.NotBefore.Equal(f.Now().Add(-30 * time.Second)) {
			t.Errorf("valid from %v, want 30 s before %v", leaf.NotBefore, f.Now())
		}
	}
	// The certificate itself is kept, best effort, with a later commit.
	for range 300 {
		if der, err := f.ledger.Certificate(t.Context(), issued.SVIDs[0].Serial); err == nil {
			if !cmp.Equal(der, issued.SVIDs[0].Chain[0]) {
				t.Error("another certificate was kept")
			}
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("the certificate was not kept")
}

func TestARecordIsIssuedOnce(t *testing.T) {
	f := start(t)
	rec := f.record(t, attestedtest.Request{})
	copied := *rec
	_, err := f.ca.Issue(t.Context(), rec)
	must(t, err)
	for name, again := range map[string]*ledger.Recorded{"the same": rec, "a copy": &copied, "a zero value": {}, "nil": nil} {
		out, err := f.ca.Issue(t.Context(), again)
		if out != nil || !errors.Is(err, ledger.ErrSpent) {
			t.Errorf("%s: %v, %v, want ErrSpent", name, out, err)
		}
	}
}

func TestARecordOfAnotherTrustDomainIsRefused(t *testing.T) {
	f := start(t)
	rec := f.record(t, attestedtest.Request{})
	var err error
	f.ca.td, err = checkTrustDomain("simulated.other.example", true)
	must(t, err)
	_, err = f.ca.Issue(t.Context(), rec)
	wantCheck(t, err, "issue_trust_domain")
}

func TestEveryPermittedKeyTypeIsIssuedAndNoOther(t *testing.T) {
	f := start(t)
	gen := func(k crypto.Signer, err error) crypto.Signer { must(t, err); return k }
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	rsa2048 := gen(rsa.GenerateKey(rand.Reader, 2048))
	for name, tt := range map[string]struct {
		key   crypto.PublicKey
		check string
	}{
		"P-256":    {newKey(t).Public(), ""},
		"P-384":    {gen(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)).Public(), ""},
		"Ed25519":  {ed.Public(), ""},
		"RSA 2048": {rsa2048.Public(), ""},
		"P-224":    {gen(ecdsa.GenerateKey(elliptic.P224(), rand.Reader)).Public(), "issue_key"},
		"P-521":    {gen(ecdsa.GenerateKey(elliptic.P521(), rand.Reader)).Public(), "issue_key"},
		"RSA e=3":  {&rsa.PublicKey{N: rsa2048.Public().(*rsa.PublicKey).N, E: 3}, "issue_key"},
	} {
		t.Run(name, func(t *testing.T) {
			rec := f.record(t, attestedtest.Request{Keys: []crypto.PublicKey{tt.key}})
			out, err := f.ca.Issue(t.Context(), rec)
			if tt.check == "" {
				must(t, err)
				return
			}
			if out != nil {
				t.Fatalf("issued %v", out)
			}
			wantCheck(t, err, tt.check)
		})
	}
}

func TestAnSVIDNeverOutlivesItsAuthority(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"X.509 authority": func(c *Config) { c.AuthorityTTL, c.Propagation = 20*time.Minute, time.Minute },
		"verifier key":    func(c *Config) { c.VerifierKeyTTL, c.Propagation = 20*time.Minute, time.Minute },
	} {
		t.Run(name, func(t *testing.T) {
			f := start(t, change)
			out, err := f.ca.Issue(t.Context(), f.record(t, attestedtest.Request{}))
			must(t, err)
			if want := f.Now().Add(20 * time.Minute); !out.SVIDs[0].NotAfter.Equal(want) {
				t.Errorf("not after %v, want %v", out.SVIDs[0].NotAfter, want)
			}
			f.Advance(20 * time.Minute)
			_, err = f.ca.Issue(t.Context(), f.record(t, attestedtest.Request{}))
			wantCheck(t, err, "authority_expired")
		})
	}
}
