package issuer_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"fmt"
	"testing"
	"time"

	simnitro "github.com/assay-project/assay/simulators/nitro"
)

// unavoidable is the bare cryptography of one attestation: the document's P-384
// signature and, for a new leaf, that of the leaf, to verify; one P-256
// certificate request to verify; two P-256 signatures to make (the result and
// the certificate).
func unavoidable(newLeaf bool) time.Duration {
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	p256, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	d384, d256 := sha512.Sum384([]byte("document")), sha256.Sum256([]byte("request"))
	s384, _ := ecdsa.SignASN1(rand.Reader, p384, d384[:])
	s256, _ := ecdsa.SignASN1(rand.Reader, p256, d256[:])
	verifications := 1
	if newLeaf {
		verifications = 2
	}
	best := time.Hour
	for range 50 { // the best of many: the rest is the machine's noise
		start := time.Now()
		for range verifications {
			if !ecdsa.VerifyASN1(&p384.PublicKey, d384[:], s384) {
				panic("P-384")
			}
		}
		if !ecdsa.VerifyASN1(&p256.PublicKey, d256[:], s256) {
			panic("P-256")
		}
		for range 2 {
			if _, err := ecdsa.SignASN1(rand.Reader, p256, d256[:]); err != nil {
				panic(err)
			}
		}
		best = min(best, time.Since(start))
	}
	return best
}

func serialOf(t testing.TB, der []byte) string {
	t.Helper()
	c, err := x509.ParseCertificate(der)
	must(t, err)
	return fmt.Sprintf("%032x", c.SerialNumber)
}

// documentOf is any document; making one makes the simulator's certificates.
func documentOf(*process) simnitro.Document { return simnitro.Document{PCRs: payments().PCRs()} }
