package federation

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"

	"github.com/assay-project/assay/attest"
)

func TestABundleSurvivesItsDocumentAndGoSPIFFEReadsTheSame(t *testing.T) {
	b := bundle(7, 90*time.Second, newAuthority(t, "spiffe://b.example.org"), newAuthority(t, ""))
	for _, id := range []string{"two", "one"} {
		must(t, b.AddJWTAuthority(id, newKey(t).Public()))
	}
	doc := document(t, b)
	for range 20 {
		if !bytes.Equal(doc, document(t, b)) {
			t.Fatal("the same bundle is not always the same bytes")
		}
	}
	got, ignored, err := Parse(theirs, doc)
	must(t, err)
	if !got.Equal(b) || len(ignored) != 0 {
		t.Errorf("Parse reads another bundle, ignoring %v", ignored)
	}
	their, err := spiffebundle.Parse(theirs, doc)
	must(t, err)
	if !their.Equal(b) {
		t.Error("go-spiffe reads another bundle")
	}
	marshaled, err := b.Marshal() // as go-spiffe's endpoints do
	must(t, err)
	if got, _, err = Parse(theirs, marshaled); err != nil || !got.Equal(b) {
		t.Errorf("of go-spiffe's document: %v", err)
	}
	jwks, err := EncodeJWT(b)
	must(t, err)
	only, err := spiffebundle.Parse(theirs, jwks)
	must(t, err)
	if len(only.X509Authorities()) != 0 || !only.JWTBundle().Equal(b.JWTBundle()) {
		t.Error("the set of JWT authorities is another one")
	}
	if none, err := EncodeJWT(bundle(1, 0)); err != nil || none != nil {
		t.Errorf("without a JWT authority: %q, %v", none, err)
	}
}

// jwk makes one element of a set.
func jwk(t testing.TB, key any, use, id string, cert *x509.Certificate, change func(map[string]any)) string {
	t.Helper()
	k := jose.JSONWebKey{Key: key, Use: use, KeyID: id}
	if cert != nil {
		k.Certificates = []*x509.Certificate{cert}
	}
	raw, err := k.MarshalJSON()
	must(t, err)
	m := map[string]any{}
	must(t, json.Unmarshal(raw, &m))
	if change != nil {
		change(m)
	}
	raw, err = json.Marshal(m)
	must(t, err)
	return string(raw)
}

func set(members string, keys ...string) []byte {
	return []byte(`{` + members + `"keys":[` + strings.Join(keys, ",") + `]}`)
}

func TestADocumentThatIsNotAsItShouldBeIsRefusedByItsCheck(t *testing.T) {
	ca := newAuthority(t, "spiffe://b.example.org")
	x := func(change func(map[string]any)) string {
		return jwk(t, ca.cert.PublicKey, "x509-svid", "", ca.cert, change)
	}
	j := func(id string, change func(map[string]any)) string {
		return jwk(t, newKey(t).Public(), "jwt-svid", id, nil, change)
	}
	leaf := ca.leaf(t, "spiffe://b.example.org/x").Leaf
	stranger := newAuthority(t, "spiffe://c.example.org")
	der := base64.StdEncoding.EncodeToString(ca.cert.Raw)
	var many, manyJWT, tooMany []string
	for i := range MaxAuthorities + 1 {
		a := newAuthority(t, "")
		many = append(many, jwk(t, a.cert.PublicKey, "x509-svid", "", a.cert, nil))
		manyJWT = append(manyJWT, j(fmt.Sprint(i), nil))
	}
	for range maxKeys + 1 {
		tooMany = append(tooMany, `{"kty":"X"}`)
	}
	for name, c := range map[string]struct {
		doc   []byte
		check string
	}{
		"nothing":                       {nil, "bundle_format"},
		"an HTML page":                  {[]byte("<html>"), "bundle_format"},
		"an array":                      {[]byte("[]"), "bundle_format"},
		"without keys":                  {[]byte(`{"spiffe_sequence":1}`), "bundle_format"},
		"with null for keys":            {[]byte(`{"keys":null}`), "bundle_format"},
		"keys that are no array":        {[]byte(`{"keys":{}}`), "bundle_format"},
		"a key that is no object":       {set("", "1"), "bundle_format"},
		"cut short":                     {set("", x(nil))[:100], "bundle_format"},
		"something behind it":           {append(set(""), []byte(" {}")...), "bundle_format"},
		"keys twice":                    {[]byte(`{"keys":[],"keys":[]}`), "bundle_format"},
		"not UTF-8":                     {[]byte("{\"keys\":[],\"x\":\"\xff\"}"), "bundle_format"},
		"a negative sequence":           {set(`"spiffe_sequence":-1,`), "bundle_format"},
		"a sequence with a fraction":    {set(`"spiffe_sequence":1.5,`), "bundle_format"},
		"a sequence beyond 64 bits":     {set(`"spiffe_sequence":18446744073709551616,`), "bundle_format"},
		"a sequence in words":           {set(`"spiffe_sequence":"1",`), "bundle_format"},
		"a hint in words":               {set(`"spiffe_refresh_hint":"soon",`), "bundle_format"},
		"a member of a key twice":       {set("", strings.Replace(j("a", nil), "{", `{"use":"jwt-svid",`, 1)), "bundle_format"},
		"a point that is not on P-256":  {set("", j("a", func(m map[string]any) { m["x"] = m["y"] })), "bundle_format"},
		"a private key":                 {set("", jwk(t, newKey(t), "jwt-svid", "a", nil, nil)), "bundle_format"},
		"another key than the cert's":   {set("", jwk(t, newKey(t).Public(), "x509-svid", "", nil, func(m map[string]any) { m["x5c"] = []string{der} })), "bundle_format"},
		"a certificate that is garbage": {set("", x(func(m map[string]any) { m["x5c"] = []string{"AAAA"} })), "bundle_format"},
		"no certificate":                {set("", x(func(m map[string]any) { delete(m, "x5c") })), "bundle_authorities"},
		"two certificates":              {set("", x(func(m map[string]any) { m["x5c"] = []string{der, der} })), "bundle_authorities"},
		"a leaf's certificate":          {set("", jwk(t, leaf.PublicKey, "x509-svid", "", leaf, nil)), "bundle_authorities"},
		"a JWT key without an ID":       {set("", j("", nil)), "bundle_authorities"},
		"two JWT keys with one ID":      {set("", j("a", nil), j("a", nil)), "bundle_authorities"},
		"a JWT key with a long ID":      {set("", j(strings.Repeat("a", 257), nil)), "bundle_authorities"},
		"many X.509 authorities":        {set("", many...), "bundle_authorities"},
		"many JWT authorities":          {set("", manyJWT...), "bundle_authorities"},
		"many keys to ignore":           {set("", tooMany...), "bundle_authorities"},
		"large":                         {append(set(""), bytes.Repeat([]byte(" "), MaxDocument)...), "bundle_size"},
		"of another trust domain":       {set("", x(nil), jwk(t, stranger.cert.PublicKey, "x509-svid", "", stranger.cert, nil)), "bundle_trust_domain"},
	} {
		t.Run(name, func(t *testing.T) {
			b, _, err := Parse(theirs, c.doc)
			wantCheck(t, err, c.check)
			if b != nil {
				t.Error("a bundle beside an error")
			}
		})
	}
}

func TestKeysThatSPIFFEDoesNotDefineAreIgnored(t *testing.T) {
	ca := newAuthority(t, "spiffe://b.example.org")
	good := jwk(t, ca.cert.PublicKey, "x509-svid", "", ca.cert, nil)
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	must(t, err)
	ed, _, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	for name, other := range map[string]string{
		"no use":          `{"kty":"EC","crv":"P-256"}`,
		"an unknown use":  `{"kty":"EC","use":"wit-svid","crv":"P-256"}`,
		"another case":    `{"kty":"EC","use":"X509-SVID"}`,
		"an unknown type": `{"kty":"AKP","use":"jwt-svid","kid":"a"}`,
		"a weak key":      jwk(t, &weak.PublicKey, "jwt-svid", "a", nil, nil),
		"Ed25519":         jwk(t, ed, "jwt-svid", "a", nil, nil),
	} {
		b, ignored, err := Parse(theirs, set(`"spiffe_sequence":3,"more":[1],`, good, other))
		if err != nil || len(ignored) != 1 || len(b.X509Authorities()) != 1 || len(b.JWTAuthorities()) != 0 {
			t.Errorf("%s: ignored %v, %v", name, ignored, err)
		}
	}
	for _, none := range []string{"", `"spiffe_sequence":null,"spiffe_refresh_hint":null,`, `"spiffe_refresh_hint":0,`, `"spiffe_refresh_hint":-5,`} {
		b, _, err := Parse(theirs, set(none))
		must(t, err)
		if _, ok := b.RefreshHint(); ok || !b.Empty() {
			t.Errorf("%s: not an empty bundle without a hint", none)
		}
	}
	b, _, err := Parse(theirs, set(`"spiffe_refresh_hint":9223372036854775807,`))
	must(t, err)
	if hint, _ := b.RefreshHint(); hint != maxHintSeconds*time.Second {
		t.Errorf("a hint beyond all bounds is %s", hint)
	}
}

func FuzzParse(f *testing.F) {
	ca := newAuthority(f, "spiffe://b.example.org")
	b := bundle(7, time.Minute, ca)
	must(f, b.AddJWTAuthority("a", newKey(f).Public()))
	f.Add(document(f, b))
	f.Add([]byte(`{"keys":[]}`))
	f.Add(set(`"spiffe_sequence":1,`, `{"kty":"oct","use":"jwt-svid","k":"AA"}`, `{"kty":"RSA","use":"jwt-svid","kid":"r","n":"AQ","e":"AQAB"}`))
	f.Fuzz(func(t *testing.T, doc []byte) {
		b, _, err := Parse(theirs, doc)
		if (b == nil) != (err != nil) {
			t.Fatal("neither a bundle nor an error, or both")
		}
		if err != nil {
			if e := attest.CheckOf(err); e == "" {
				t.Fatalf("an error without a check: %v", err)
			}
			return
		}
		// What is accepted can be told on, is the same then, and go-spiffe reads it so.
		again, _, err := Parse(theirs, document(t, b))
		must(t, err)
		if !again.Equal(b) {
			t.Fatal("another bundle after encoding it")
		}
		their, err := spiffebundle.Parse(theirs, document(t, b))
		must(t, err)
		if d := cmp.Diff(len(b.X509Authorities()), len(their.X509Authorities())); d != "" || !their.Equal(b) {
			t.Fatal("go-spiffe reads another bundle")
		}
	})
}

func TestAWeakX509AuthorityIsIgnored(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 1024)
	must(t, err)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	must(t, err)
	c, err := x509.ParseCertificate(der)
	must(t, err)
	good := newAuthority(t, "")
	b := bundle(1, 0, good)
	b.AddX509Authority(c)
	got, ignored, err := Parse(theirs, document(t, b))
	must(t, err)
	if len(got.X509Authorities()) != 1 || !got.HasX509Authority(good.cert) || len(ignored) != 1 || !strings.Contains(ignored[0], "RSA key of 1024 bits") {
		t.Errorf("%d authorities, ignored: %q", len(got.X509Authorities()), ignored)
	}
}
