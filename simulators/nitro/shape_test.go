package nitro

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/internal/vectors"
)

// outer is a COSE_Sign1 taken apart without any checks.
type outer struct {
	_           struct{} `cbor:",toarray"`
	Protected   []byte
	Unprotected cbor.RawMessage
	Payload     []byte
	Signature   []byte
}

// inner is the payload, read leniently.
type inner struct {
	ModuleID    string         `cbor:"module_id"`
	Digest      string         `cbor:"digest"`
	Timestamp   int64          `cbor:"timestamp"`
	PCRs        map[int][]byte `cbor:"pcrs"`
	Certificate []byte         `cbor:"certificate"`
	CABundle    [][]byte       `cbor:"cabundle"`
	PublicKey   []byte         `cbor:"public_key"`
	UserData    []byte         `cbor:"user_data"`
	Nonce       []byte         `cbor:"nonce"`
}

func open(t testing.TB, doc []byte) (outer, inner) {
	t.Helper()
	var o outer
	if err := cbor.Unmarshal(doc, &o); err != nil {
		t.Fatal(err)
	}
	var i inner
	if err := cbor.Unmarshal(o.Payload, &i); err != nil {
		t.Fatal(err)
	}
	return o, i
}

// shape is what documents have in common that were made in one way: everything
// but keys, names, numbers and times.
type shape struct {
	Prefix       string // the bytes before the payload's length
	Unprotected  string
	Signature    int
	Indefinite   bool
	Keys         []string
	TimestampLen int
	PCRHeads     []string // the encoded keys with the head of the value
	Chain        []certificateShape
}

type certificateShape struct {
	Name       []string // attribute type and string type, in order
	Serial     bool     // positive, at most 20 bytes
	Algorithm  x509.SignatureAlgorithm
	Curve      string
	Extensions []string // with criticality, in order
	CA         bool
	PathLen    int
	Usage      x509.KeyUsage
	CRLs       int
	Lifetime   string
}

func shapeOf(t testing.TB, doc []byte) shape {
	t.Helper()
	o, i := open(t, doc)
	s := shape{
		Prefix:      fmt.Sprintf("%x", doc[:7]),
		Unprotected: fmt.Sprintf("%x", []byte(o.Unprotected)),
		Signature:   len(o.Signature),
		Indefinite:  o.Payload[0] == cborIndefiniteMap,
	}
	rest := o.Payload[1:]
	for len(rest) > 0 && rest[0] != cborBreak {
		var key string
		var value cbor.RawMessage
		var err error
		if rest, err = cbor.UnmarshalFirst(rest, &key); err != nil {
			t.Fatal(err)
		}
		if rest, err = cbor.UnmarshalFirst(rest, &value); err != nil {
			t.Fatal(err)
		}
		s.Keys = append(s.Keys, key)
		switch key {
		case "timestamp":
			s.TimestampLen = len(value)
		case "pcrs":
			for p, n := []byte(value)[1:], 0; len(p) >= 3+pcrSize && n < 16; p, n = p[3+pcrSize:], n+1 {
				s.PCRHeads = append(s.PCRHeads, fmt.Sprintf("%x", p[:3]))
			}
		}
	}
	for _, der := range append(i.CABundle, i.Certificate) {
		s.Chain = append(s.Chain, certificateShapeOf(t, der))
	}
	return s
}

func certificateShapeOf(t testing.TB, der []byte) certificateShape {
	t.Helper()
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	s := certificateShape{
		Serial: c.SerialNumber.Sign() > 0 && c.SerialNumber.BitLen() <= 160, Algorithm: c.SignatureAlgorithm,
		CA: c.IsCA, PathLen: c.MaxPathLen, Usage: c.KeyUsage, CRLs: len(c.CRLDistributionPoints),
		Lifetime: lifetimeClass(c.NotAfter.Sub(c.NotBefore)),
	}
	if k, ok := c.PublicKey.(*ecdsa.PublicKey); ok {
		s.Curve = k.Params().Name
	}
	for _, e := range c.Extensions {
		s.Extensions = append(s.Extensions, fmt.Sprintf("%v critical=%v", e.Id, e.Critical))
	}
	var name []asn1.RawValue
	if _, err := asn1.Unmarshal(c.RawSubject, &name); err != nil {
		t.Fatal(err)
	}
	var rdns pkix.RDNSequence
	if _, err := asn1.Unmarshal(c.RawSubject, &rdns); err != nil {
		t.Fatal(err)
	}
	for n, set := range name {
		var attr struct {
			Type  asn1.ObjectIdentifier
			Value asn1.RawValue
		}
		if _, err := asn1.Unmarshal(set.Bytes, &attr); err != nil {
			t.Fatal(err)
		}
		s.Name = append(s.Name, fmt.Sprintf("%d: %v as %d", n, attr.Type, attr.Value.Tag))
	}
	return s
}

// lifetimeClass names the level that a certificate of this lifetime has on EC2.
func lifetimeClass(d time.Duration) string {
	for _, c := range []struct {
		name     string
		min, max time.Duration
	}{
		{"leaf", 3 * time.Hour, 3*time.Hour + 5*time.Second},
		{"instance", 24 * time.Hour, 24*time.Hour + time.Second},
		{"zonal", 132 * time.Hour, 145 * time.Hour},
		{"regional", 480 * time.Hour, 482 * time.Hour},
		{"root", 262993 * time.Hour, 262993 * time.Hour},
	} {
		if d >= c.min && d <= c.max {
			return c.name
		}
	}
	return d.String()
}

func TestAMintedDocumentHasTheShapeOfRealOnes(t *testing.T) {
	a := newTestAuthority(t, AuthorityOptions{})
	compared, recent := 0, 0
	for _, v := range vectors.Load(t, "nitro") {
		var doc []byte
		for _, f := range v.Files {
			if strings.HasSuffix(f, "document.cbor") {
				doc = v.Read(t, "document.cbor")
			}
		}
		if doc == nil || !bytes.Contains(doc, []byte("enclaves.s3")) || bytes.Contains(doc, []byte("nitrotpm_pcrs")) {
			continue // without AWS's CRL address it did not come from EC2, and a NitroTPM is another device
		}
		t.Run(v.Name, func(t *testing.T) {
			real := shapeOf(t, doc)
			minted := shapeOf(t, mint(t, a, Document{Indefinite: real.Indefinite}))
			// Until 2024 instance certificates had no key identifiers.
			if x := &minted.Chain[3].Extensions; len(real.Chain[3].Extensions) == 2 {
				*x = (*x)[:2]
			} else {
				recent++
			}
			if diff := cmp.Diff(real, minted); diff != "" {
				t.Errorf("a minted document differs (-real +minted):\n%s", diff)
			}
		})
		compared++
	}
	if compared < 15 || recent < 5 {
		t.Errorf("compared with %d real documents, %d of them recent, want at least 15 and 5: the recordings have changed", compared, recent)
	}
}

func TestPCR4OfRealDocumentsIsThatOfTheirInstance(t *testing.T) {
	checked := 0
	for _, v := range vectors.Load(t, "nitro") {
		for _, f := range v.Files {
			if !strings.HasSuffix(f, "document.cbor") {
				continue
			}
			_, i := open(t, v.Read(t, "document.cbor"))
			if bytes.Equal(i.PCRs[4], InstancePCR(InstanceOf(i.ModuleID))) {
				checked++
			}
		}
	}
	if checked < 15 {
		t.Errorf("%d real documents agree with InstancePCR, want at least 15", checked)
	}
}

// TestTheDocumentedBytes pins, without any recording, what AWS documents.
func TestTheDocumentedBytes(t *testing.T) {
	now := time.Date(2026, 3, 4, 5, 6, 7, 8_000_000, time.UTC)
	a := newTestAuthority(t, AuthorityOptions{Now: func() time.Time { return now }})
	doc := mint(t, a, Document{ModuleID: "i-0123456789abcdef0-enc0199aabbccddeeff", Nonce: []byte{}})
	if !bytes.HasPrefix(doc, []byte{0x84, 0x44, 0xa1, 0x01, 0x38, 0x22, 0xa0, 0x59}) {
		t.Errorf("the document begins with %x", doc[:8])
	}
	o, i := open(t, doc)
	if o.Payload[0] != 0xa9 {
		t.Errorf("the payload begins with %#x, want a map of nine", o.Payload[0])
	}
	if i.Timestamp != now.UnixMilli() || i.Digest != "SHA384" || i.Nonce == nil || i.UserData != nil {
		t.Errorf("timestamp %d, digest %s, nonce %v, user data %v", i.Timestamp, i.Digest, i.Nonce, i.UserData)
	}
	leaf, err := x509.ParseCertificate(i.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := leaf.Subject.CommonName, "i-0123456789abcdef0-enc0199aabbccddeeff.us-east-1.simulated"; got != want {
		t.Errorf("leaf %q, want %q", got, want)
	}
	if got, want := fmt.Sprintf("%032x", leaf.SerialNumber), fmt.Sprintf("0199aabbccddeeff%016x", now.Unix()); got != want {
		t.Errorf("leaf serial %s, want %s", got, want)
	}
	if got, want := leaf.NotAfter, now.Truncate(time.Second).Add(3*time.Hour); !got.Equal(want) {
		t.Errorf("leaf until %v, want %v", got, want)
	}
	for _, der := range i.CABundle {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(c.Subject.CommonName, "simulated") || !slices.Contains(c.Subject.Organization, "Assay simulator") {
			t.Errorf("%s does not say that it is simulated", c.Subject)
		}
	}
}

func TestDocumentsOfOneEnclaveShareALeafUntilItIsAboutToExpire(t *testing.T) {
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	a := newTestAuthority(t, AuthorityOptions{Now: func() time.Time { return now }})
	leaf := func(d Document) string {
		_, i := open(t, mint(t, a, d))
		return string(i.Certificate)
	}
	first := leaf(Document{})
	if leaf(Document{}) != first {
		t.Error("the next document has another leaf")
	}
	if leaf(Document{ModuleID: "i-0aaaaaaaaaaaaaaaa-enc0199aabbccddeeff"}) == first {
		t.Error("another enclave's document has the same leaf")
	}
	now = now.Add(leafLifetime - leafRenewal - time.Second)
	if leaf(Document{}) != first {
		t.Error("a leaf with five minutes to live was replaced")
	}
	now = now.Add(2 * time.Second)
	second := leaf(Document{})
	if second == first {
		t.Error("a leaf that is about to expire is still used")
	}
	if leaf(Document{FreshLeaf: true}) == second {
		t.Error("a fresh leaf was asked for, and not made")
	}
}

func TestADocumentOutsideTheRootsLifeIsRefused(t *testing.T) {
	a := newTestAuthority(t, AuthorityOptions{})
	for _, at := range []time.Time{time.Unix(0, 0), time.Now().AddDate(40, 0, 0)} {
		if _, err := a.Mint(Document{Timestamp: at}); err == nil {
			t.Errorf("a document of %v was minted", at)
		}
	}
}
