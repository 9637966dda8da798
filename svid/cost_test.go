package svid_test

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"math/big"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/svid"
	"github.com/assay-project/assay/svid/svidtest"
)

// costly are RSA keys with which one signature takes a stranger's request long.
func costly(t *testing.T) map[string]*rsa.PublicKey {
	t.Helper()
	odd := func(bits int) *big.Int {
		n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), uint(bits)))
		if err != nil {
			t.Fatal(err)
		}
		return n.SetBit(n, bits-1, 1).SetBit(n, 0, 1)
	}
	return map[string]*rsa.PublicKey{"65536 bits": {N: odd(65536), E: 65537}, "an exponent of 31 bits": {N: odd(8192), E: 1<<31 - 1}}
}

// A trust domain that ours federates with chooses the authorities of its bundle, and
// any stranger may name one.
func TestAnRSAKeyThatIsTooLargeIsNotWorkedWith(t *testing.T) {
	a := authority(t)
	partner := spiffeid.RequireTrustDomainFromString("partner.test")
	for name, key := range costly(t) {
		signer := svidtest.NewKey(t)
		template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "partner"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key, signer)
		if err != nil {
			t.Fatal(err)
		}
		large, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		theirs := svidtest.NewAt(t, partner.Name(), clock)
		leaf := theirs.Mint(t, "/orders").Certificates
		bundles := x509bundle.NewSet(a.Bundle(), x509bundle.FromX509Authorities(partner, append(theirs.Bundle().X509Authorities(), large)))

		_, err = svid.Verify(leaf, svid.NewSource(bundles, a.VerifierKeys()), now)
		wantError(t, err, attest.Untrusted, "verifier_keys") // who is not pinned costs nothing
		_, err = svid.Verify(leaf, svid.NewSource(bundles, a.VerifierKeys(), theirs.VerifierKeys()), now)
		wantError(t, err, attest.Untrusted, "chain_key")
		_, err = svid.Verify(append(leaf, large), svid.NewSource(theirs.Bundle(), theirs.VerifierKeys()), now)
		wantError(t, err, attest.Untrusted, "chain_key") // nor does what a peer sends along

		b64 := base64.RawURLEncoding.EncodeToString
		token := b64([]byte(`{"alg":"RS256","kid":"k"}`)) + "." + b64([]byte(`{"sub":"spiffe://partner.test/x","aud":"inventory","exp":9999999999}`)) + "." + b64(make([]byte, key.Size()))
		jwts := jwtbundle.FromJWTAuthorities(partner, map[string]crypto.PublicKey{"k": key})
		_, err = svid.VerifyJWTSVID(token, jwts, "inventory", now)
		wantError(t, err, attest.Untrusted, "token_key_type")
		_, err = svid.VerifyJWT(token, jwts, "inventory", now)
		wantError(t, err, attest.Malformed, "token_algorithm")
		t.Log(name)
	}
}
