package svid_test

import (
	"crypto/tls"
	"crypto/x509"
	"testing"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/svid"
	"github.com/assay-project/assay/svid/svidtest"
)

// FuzzAdmit hands a gate what a stranger may show, of an authority that has the name
// of ours and is not: nothing passes, and nothing is our own mistake.
func FuzzAdmit(f *testing.F) {
	theirs, ours := svidtest.New(f, "example.test"), svidtest.New(f, "example.test")
	f.Add(theirs.Mint(f, "/orders").Certificates[0].Raw, "Bearer "+theirs.MintJWT(f, "/orders", "x"))
	f.Add([]byte{}, "Bearer "+theirs.MintJWT(f, "/orders", "x"))
	f.Add(theirs.Bundle().X509Authorities()[0].Raw, "")
	gate := &svid.Gate{Source: ours.Source(), Tokens: ours.JWTBundle(f), Audience: "x"}
	f.Fuzz(func(t *testing.T, der []byte, authorization string) {
		cs := &tls.ConnectionState{Version: tls.VersionTLS13}
		if chain, err := x509.ParseCertificates(der); err == nil {
			cs.PeerCertificates = chain
		}
		who, err := gate.Admit(cs, []string{authorization})
		if err == nil || who != nil || attest.KindOf(err) == attest.Internal {
			t.Fatalf("%v %v", who, err)
		}
	})
}

// One other bit in what is signed, in whichever byte, makes it nobody's; nor does a
// source take it for what it has seen.
func TestNoByteOfWhatIsSignedCanBeAnother(t *testing.T) {
	a := authority(t)
	flipped := func(b []byte, pass func(b []byte) bool) {
		t.Helper()
		if !pass(b) {
			t.Fatal("what nobody has changed does not pass: the test shows nothing")
		}
		for i := range b {
			bit := byte(1) << (i * 5 % 8)
			b[i] ^= bit
			if pass(b) {
				t.Errorf("byte %d, bit %08b", i, bit)
			}
			b[i] ^= bit
		}
	}
	src := a.Source()
	flipped(a.Mint(t, "/orders").Certificates[0].Raw, func(der []byte) bool {
		c, err := x509.ParseCertificate(append([]byte(nil), der...))
		if err != nil {
			return false
		}
		_, err = svid.Verify([]*x509.Certificate{c}, src, now)
		return err == nil
	})
	gate := &svid.Gate{Tokens: a.JWTBundle(t), Audience: "x", Now: a.Now}
	flipped([]byte(a.MintJWT(t, "/orders", "x")), func(token []byte) bool {
		_, err := gate.Admit(nil, []string{"Bearer " + string(token)})
		return err == nil
	})
	flipped(a.DenyList(t, svid.Denials{Serials: [][svid.SerialSize]byte{{1}, {2}}}), func(doc []byte) bool {
		_, err := svid.ParseDenyList(doc, a.VerifierRoot(), a.TrustDomain, now)
		return err == nil
	})
	flipped(a.Document(t), func(doc []byte) bool {
		_, err := svid.ParseVerifierKeys(doc, a.VerifierRoot(), now)
		return err == nil
	})
}
