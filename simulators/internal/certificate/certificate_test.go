package certificate

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"math/big"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// The bytes are those of RFC 5280's types in DER, worked out by hand.
func TestExtensionsAreDER(t *testing.T) {
	for name, c := range map[string]struct {
		make func() (pkix.Extension, error)
		want string
	}{
		"no CA":              {func() (pkix.Extension, error) { return Constraints(false, -1) }, "3000"},
		"a CA":               {func() (pkix.Extension, error) { return Constraints(true, -7) }, "30030101ff"},
		"a CA over nobody":   {func() (pkix.Extension, error) { return Constraints(true, 0) }, "30060101ff020100"},
		"a CA over two":      {func() (pkix.Extension, error) { return Constraints(true, 2) }, "30060101ff020102"},
		"to sign":            {func() (pkix.Extension, error) { return Usage(x509.KeyUsageDigitalSignature) }, "03020780"},
		"to sign all":        {func() (pkix.Extension, error) { return Usage(x509.KeyUsageCertSign | x509.KeyUsageCRLSign) }, "03020106"},
		"no use":             {func() (pkix.Extension, error) { return Usage(0) }, "030100"},
		"an issuer's no key": {func() (pkix.Extension, error) { return AuthorityID(nil) }, "3000"},
		"a CRL":              {func() (pkix.Extension, error) { return CRL("http://a") }, "3010" + "300e" + "a00c" + "a00a" + "8608" + hex.EncodeToString([]byte("http://a"))},
	} {
		e, err := c.make()
		if got := hex.EncodeToString(e.Value); err != nil || got != c.want {
			t.Errorf("%s: %s, want %s (%v)", name, got, c.want, err)
		}
	}
}

func TestEveryAttributeIsReadAsWhatItIs(t *testing.T) {
	der, err := Name(Country("US"), State("s"), Locality("l"), Organization("o"), Unit("u"), CommonName("c"))
	if err != nil {
		t.Fatal(err)
	}
	var seq pkix.RDNSequence
	if _, err := asn1.Unmarshal(der, &seq); err != nil {
		t.Fatal(err)
	}
	if got, want := seq.String(), "CN=c,OU=u,O=o,L=l,ST=s,C=US"; got != want {
		t.Errorf("it is read as %s, want %s", got, want)
	}
}

func TestTheStandardLibraryReadsWhatWasWritten(t *testing.T) {
	key, issuer := newKey(t), newKey(t)
	name, err := Name(Unit("Prüfstand"), Country("US"), CommonName("a"))
	if err != nil {
		t.Fatal(err)
	}
	// SEQUENCE { SET { SEQUENCE { OID 2.5.4.11, UTF8String } } … }
	want := "302e" + "3113301106035504" + "0b0c0a" + hex.EncodeToString([]byte("Prüfstand")) +
		"310b3009060355040613025553" + "310a300806035504030c0161"
	if got := hex.EncodeToString(name); got != want {
		t.Errorf("the name is\n%s, want\n%s", got, want)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), RawSubject: name}
	for _, make := range []func() (pkix.Extension, error){
		func() (pkix.Extension, error) { return Constraints(true, 1) },
		func() (pkix.Extension, error) { return Usage(x509.KeyUsageCertSign | x509.KeyUsageCRLSign) },
		func() (pkix.Extension, error) { return SubjectID(key.Public()) },
		func() (pkix.Extension, error) { return AuthorityID(issuer.Public()) },
		func() (pkix.Extension, error) { return CRL("http://crl.invalid/a.crl") },
	} {
		e, err := make()
		if err != nil {
			t.Fatal(err)
		}
		template.ExtraExtensions = append(template.ExtraExtensions, e)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), issuer)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	if !c.IsCA || c.MaxPathLen != 1 || c.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageCRLSign {
		t.Errorf("CA %v over %d, usage %b", c.IsCA, c.MaxPathLen, c.KeyUsage)
	}
	if diff := cmp.Diff([]string{"http://crl.invalid/a.crl"}, c.CRLDistributionPoints); diff != "" {
		t.Error(diff)
	}
	for i, e := range template.ExtraExtensions {
		if !c.Extensions[i].Id.Equal(e.Id) || c.Extensions[i].Critical != (i < 2) {
			t.Errorf("extension %d is %v, critical %v", i, c.Extensions[i].Id, c.Extensions[i].Critical)
		}
	}
	for got, of := range map[*[]byte]*ecdsa.PrivateKey{&c.SubjectKeyId: key, &c.AuthorityKeyId: issuer} {
		spki, err := x509.MarshalPKIXPublicKey(of.Public())
		if err != nil {
			t.Fatal(err)
		}
		if sum := sha256.Sum256(spki); !bytes.Equal(*got, sum[:20]) {
			t.Errorf("key id %x, want %x", *got, sum[:20])
		}
	}
}

func TestAKeyThatX509DoesNotKnowHasNoID(t *testing.T) {
	if _, err := SubjectID("no key"); err == nil {
		t.Error("a string has a subject key id")
	}
	if _, err := AuthorityID("no key"); err == nil {
		t.Error("a string has an authority key id")
	}
}
