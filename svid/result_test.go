package svid

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"
	"github.com/google/go-cmp/cmp"
	"github.com/veraison/cmw"

	"github.com/assay-project/assay/attest"
)

func TestASignedResultReadsBackAsItWas(t *testing.T) {
	for name, a := range map[string]Appraisal{
		"ordinary": nitroAppraisal(), "debug": debugAppraisal(), "simulated": simulatedAppraisal(),
	} {
		t.Run(name, func(t *testing.T) {
			r := appraised(t, a)
			key := testKey(t, "verifier")
			cwt, err := r.Sign(key)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d bytes", len(cwt))
			u, err := parseResult(cwt)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(*r, u.Result); diff != "" {
				t.Error(diff)
			}
			if err := u.signed.verify(&key.PublicKey); err != nil {
				t.Error(err)
			}
			if err := u.signed.verify(&testKey(t, "other").PublicKey); err == nil {
				t.Error("the signature verifies under another key")
			}
		})
	}
}

func TestTheExtensionIsACMWRecordToAnIndependentReader(t *testing.T) {
	cwt, err := appraised(t, nitroAppraisal()).Sign(testKey(t, "verifier"))
	if err != nil {
		t.Fatal(err)
	}
	ext, err := Extension(cwt)
	if err != nil {
		t.Fatal(err)
	}
	if ext.Critical {
		t.Error("the extension is critical")
	}
	got, err := cmw.DecodeX509Extension(ext)
	if err != nil {
		t.Fatal(err)
	}
	value, err := got.GetMonadValue()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(cwt, value); diff != "" {
		t.Error(diff)
	}
	if typ, err := got.GetMonadType(); err != nil || typ != "application/eat+cwt" {
		t.Errorf("type %q, %v", typ, err)
	}
	if ind, err := got.GetMonadIndicator(); err != nil || ind != cmw.AttestationResults {
		t.Errorf("indicator %v, %v", ind, err)
	}
	u, err := ResultFrom(&x509.Certificate{Extensions: []pkix.Extension{ext}})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(cwt, u.CWT); diff != "" {
		t.Error(diff)
	}
}

// tamper re-signs a result after its payload was changed, and reads it.
func tamper(t *testing.T, change func(claims map[any]any)) error {
	t.Helper()
	payload, err := appraised(t, nitroAppraisal()).encode()
	if err != nil {
		t.Fatal(err)
	}
	var claims map[any]any
	if err := decMode.Unmarshal(payload, &claims); err != nil {
		t.Fatal(err)
	}
	change(claims)
	payload, err = encMode.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	cwt, err := signSign1(testKey(t, "verifier"), typeResult, payload)
	if err != nil {
		t.Fatal(err)
	}
	_, err = parseResult(cwt)
	return err
}

// at walks into nested maps.
func at(m map[any]any, keys ...any) map[any]any {
	for _, k := range keys {
		m = m[k].(map[any]any)
	}
	return m
}

func u(n uint64) any { return n }
func n(n int64) any  { return n }

func TestAResultWithAWrongClaimIsRefused(t *testing.T) {
	sub := func(c map[any]any) map[any]any { return at(c, u(266), "aws-nitro") }
	ver := func(c map[any]any) map[any]any { return at(sub(c), u(1006)) }
	ms := func(c map[any]any) map[any]any { return at(sub(c), u(1005), n(-65542)) }
	long := strings.Repeat("x", 300)
	for _, tc := range []struct {
		name, check string
		change      func(c map[any]any)
	}{
		{"a text where a number belongs", "claims_structure", func(c map[any]any) { c[u(6)] = "now" }},
		{"a number too large", "claims_structure", func(c map[any]any) { c[u(6)] = uint64(1 << 63) }},
		{"another profile", "claims_profile", func(c map[any]any) { c[u(265)] = "tag:ietf.org,2026:rats/ear#03" }},
		{"no profile", "claims_profile", func(c map[any]any) { delete(c, u(265)) }},
		{"another profile of the submodule", "claims_profile", func(c map[any]any) { sub(c)[u(265)] = profileSVID + "1" }},
		{"no issuer", "claims_identity", func(c map[any]any) { delete(c, u(1)) }},
		{"an issuer without scheme", "claims_identity", func(c map[any]any) { c[u(1)] = "attested.example.org" }},
		{"an issuer with a path", "claims_identity", func(c map[any]any) { c[u(1)] = c[u(2)] }},
		{"no subject", "claims_identity", func(c map[any]any) { delete(c, u(2)) }},
		{"a subject without path", "claims_identity", func(c map[any]any) { c[u(2)] = c[u(1)] }},
		{"a subject of another trust domain", "claims_identity", func(c map[any]any) { c[u(2)] = "spiffe://other.org/a" }},
		{"a subject in capitals", "claims_identity", func(c map[any]any) { c[u(2)] = "SPIFFE://attested.example.org/a" }},
		{"no expiry", "claims_time", func(c map[any]any) { delete(c, u(4)) }},
		{"no issuance", "claims_time", func(c map[any]any) { delete(c, u(6)) }},
		{"expiry before issuance", "claims_time", func(c map[any]any) { c[u(4)] = c[u(6)] }},
		{"expiry after the year 9999", "claims_time", func(c map[any]any) { c[u(4)] = uint64(maxTime + 1) }},
		{"no confirmation", "claims_key", func(c map[any]any) { delete(c, u(8)) }},
		{"another confirmation method", "claims_key", func(c map[any]any) { c[u(8)] = map[any]any{u(3): make([]byte, 32)} }},
		{"a short thumbprint", "claims_key", func(c map[any]any) { at(c, u(8))[u(5)] = make([]byte, 31) }},
		{"no verifier", "claims_verifier", func(c map[any]any) { delete(c, u(1004)) }},
		{"no build", "claims_verifier", func(c map[any]any) { delete(at(c, u(1004)), u(1)) }},
		{"a long developer", "claims_verifier", func(c map[any]any) { at(c, u(1004))[u(0)] = long }},
		{"no submodule", "claims_submods", func(c map[any]any) { c[u(266)] = map[any]any{} }},
		{"two submodules", "claims_submods", func(c map[any]any) { at(c, u(266))["tpm2"] = sub(c) }},
		{"an unknown platform", "claims_submods", func(c map[any]any) { c[u(266)] = map[any]any{"toaster": sub(c)} }},
		{"no vector", "claims_vector", func(c map[any]any) { delete(sub(c), u(1001)) }},
		{"an empty vector", "claims_vector", func(c map[any]any) { sub(c)[u(1001)] = map[any]any{} }},
		{"an unknown aspect", "claims_vector", func(c map[any]any) { at(sub(c), u(1001))[u(8)] = u(2) }},
		{"a negative aspect", "claims_vector", func(c map[any]any) { at(sub(c), u(1001))[n(-1)] = u(2) }},
		{"an entry of zero", "claims_vector", func(c map[any]any) { at(sub(c), u(1001))[u(3)] = u(0) }},
		{"an entry of more than a byte", "claims_structure", func(c map[any]any) { at(sub(c), u(1001))[u(3)] = u(128) }},
		{"no status", "claims_status", func(c map[any]any) { delete(sub(c), u(1000)); at(sub(c), u(1001))[u(0)] = u(96) }},
		{"a status that is no tier", "claims_status", func(c map[any]any) { sub(c)[u(1000)] = u(3) }},
		{"a status better than the worst entry", "claims_status", func(c map[any]any) { at(sub(c), u(1001))[u(0)] = u(32) }},
		{"no policy", "claims_policy", func(c map[any]any) { delete(sub(c), u(1003)) }},
		{"two policies", "claims_policy", func(c map[any]any) { sub(c)[u(1003)] = []any{"a@1", "b@1"} }},
		{"an empty policy", "claims_policy", func(c map[any]any) { sub(c)[u(1003)] = []any{""} }},
		{"a long policy", "claims_policy", func(c map[any]any) { sub(c)[u(1003)] = []any{long} }},
		{"no policy digest", "claims_policy", func(c map[any]any) { delete(ver(c), n(-65540)) }},
		{"a short policy digest", "claims_policy", func(c map[any]any) { ver(c)[n(-65540)] = make([]byte, 31) }},
		{"no verifier claims", "claims_policy", func(c map[any]any) { delete(sub(c), u(1006)) }},
		{"no evidence time", "claims_time", func(c map[any]any) { delete(ver(c), n(-65538)) }},
		{"evidence after issuance", "claims_time", func(c map[any]any) { ver(c)[n(-65538)] = uint64(issued.Unix() + 1) }},
		{"no evidence digest", "claims_evidence", func(c map[any]any) { delete(ver(c), n(-65539)) }},
		{"an unsalted evidence digest", "claims_evidence", func(c map[any]any) { ver(c)[n(-65539)] = make([]byte, 32) }},
		{"not a word on simulation", "claims_simulated", func(c map[any]any) { delete(ver(c), n(-65537)) }},
		{"an empty set of measurements", "claims_measurements", func(c map[any]any) { at(sub(c), u(1005))[n(-65542)] = map[any]any{} }},
		{"a measurement without a name", "claims_measurements", func(c map[any]any) { ms(c)[""] = make([]byte, 48) }},
		{"a measurement with a strange name", "claims_measurements", func(c map[any]any) { ms(c)["pcr 0"] = make([]byte, 48) }},
		{"a measurement with a long name", "claims_measurements", func(c map[any]any) { ms(c)[long] = make([]byte, 48) }},
		{"an empty measurement", "claims_measurements", func(c map[any]any) { ms(c)["pcr0"] = []byte{} }},
		{"a long measurement", "claims_measurements", func(c map[any]any) { ms(c)["pcr0"] = make([]byte, 65) }},
		{"too many measurements", "claims_measurements", func(c map[any]any) {
			for i := range maxMeasurements {
				ms(c)[fmt.Sprintf("m%d", i)] = make([]byte, 1)
			}
		}},
		{"too many attributes", "claims_attributes", func(c map[any]any) {
			attrs := map[any]any{}
			for i := range maxAttributes + 1 {
				attrs[fmt.Sprint(i)] = ""
			}
			ver(c)[n(-65541)] = attrs
		}},
		{"an empty set of attributes", "claims_attributes", func(c map[any]any) { ver(c)[n(-65541)] = map[any]any{} }},
		{"an attribute without a name", "claims_attributes", func(c map[any]any) { ver(c)[n(-65541)] = map[any]any{"": "x"} }},
		{"an attribute with a long value", "claims_attributes", func(c map[any]any) { ver(c)[n(-65541)] = map[any]any{"x": long} }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			wantError(t, tamper(t, tc.change), attest.Malformed, tc.check)
		})
	}
}

func TestAWorseStatusThanTheVectorIsAccepted(t *testing.T) {
	if err := tamper(t, func(c map[any]any) { at(c, u(266), "aws-nitro")[u(1000)] = u(96) }); err != nil {
		t.Error(err)
	}
}

func TestClaimsOfTheFutureAreIgnored(t *testing.T) {
	if err := tamper(t, func(c map[any]any) {
		c[u(7)] = []byte("cti")
		c["example.org/claim"] = []any{true}
		at(c, u(266), "aws-nitro")[n(-70000)] = "x"
	}); err != nil {
		t.Error(err)
	}
}

// sign1Parts is a COSE_Sign1 taken apart.
type sign1Parts struct {
	_           struct{} `cbor:",toarray"`
	Protected   []byte
	Unprotected any
	Payload     []byte
	Signature   []byte
}

func TestACOSEMessageThatIsNotExactlyOursIsRefused(t *testing.T) {
	good, err := appraised(t, nitroAppraisal()).Sign(testKey(t, "verifier"))
	if err != nil {
		t.Fatal(err)
	}
	header := func(change func(h map[any]any)) func(*sign1Parts) {
		return func(p *sign1Parts) {
			var h map[any]any
			if err := decMode.Unmarshal(p.Protected, &h); err != nil {
				t.Fatal(err)
			}
			change(h)
			if p.Protected, err = encMode.Marshal(h); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, tc := range []struct {
		name, check string
		change      func(*sign1Parts)
	}{
		{"ES384", "cose_alg", header(func(h map[any]any) { h[u(1)] = -35 })},
		{"no algorithm", "cose_alg", header(func(h map[any]any) { delete(h, u(1)) })},
		{"an algorithm by name", "cose_alg", header(func(h map[any]any) { h[u(1)] = "ES256" })},
		{"a verifier-keys document", "cose_type", header(func(h map[any]any) { h[u(16)] = typeVerifierKeys })},
		{"no type", "cose_type", header(func(h map[any]any) { delete(h, u(16)) })},
		{"no key id", "cose_key_id", header(func(h map[any]any) { delete(h, u(4)) })},
		{"a short key id", "cose_key_id", header(func(h map[any]any) { h[u(4)] = make([]byte, 8) })},
		{"a critical extension", "cose_header", header(func(h map[any]any) { h[u(2)] = []any{u(70)}; h[u(70)] = true })},
		{"an unknown parameter", "cose_header", header(func(h map[any]any) { h[u(70)] = true })},
		{"a certificate chain", "cose_header", header(func(h map[any]any) { h[u(33)] = []byte("x5chain") })},
		{"a parameter by name", "cose_header", header(func(h map[any]any) { h["x"] = true })},
		{"an empty protected header", "cose_header", func(p *sign1Parts) { p.Protected = []byte{} }},
		{"a protected header with a byte after it", "cose_header", func(p *sign1Parts) { p.Protected = append(p.Protected, 0) }},
		{"an unprotected parameter", "cose_unprotected", func(p *sign1Parts) { p.Unprotected = map[any]any{u(4): []byte("kid")} }},
		{"no unprotected header", "cose_unprotected", func(p *sign1Parts) { p.Unprotected = u(0) }},
		{"a signature cut short", "cose_signature_length", func(p *sign1Parts) { p.Signature = p.Signature[:63] }},
		{"no signature", "cose_signature_length", func(p *sign1Parts) { p.Signature = []byte{} }},
		{"no payload", "claims_structure", func(p *sign1Parts) { p.Payload = []byte{} }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var p sign1Parts
			if err := cbor.Unmarshal(good[1:], &p); err != nil {
				t.Fatal(err)
			}
			tc.change(&p)
			b, err := encMode.Marshal(p)
			if err != nil {
				t.Fatal(err)
			}
			_, err = parseResult(append([]byte{tagSign1}, b...))
			wantError(t, err, attest.Malformed, tc.check)
		})
	}
	for _, tc := range []struct {
		name, check string
		cwt         []byte
	}{
		{"nothing", "cose_tag", nil},
		{"no tag", "cose_tag", good[1:]},
		{"two tags", "cose_structure", append([]byte{tagSign1}, good...)},
		{"the tag of COSE_Mac0", "cose_tag", append([]byte{0xd1}, good[1:]...)},
		{"the CWT tag", "cose_tag", append([]byte{0xd8, 61}, good...)},
		{"an array of three", "cose_structure", append([]byte{tagSign1, 0x83}, good[2:]...)},
		{"a byte after it", "cose_structure", append(bytes.Clone(good), 0)},
		{"cut short", "cose_structure", good[:len(good)-1]},
		{"too many bytes", "result_size", make([]byte, MaxResultSize+1)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := parseResult(tc.cwt)
			wantError(t, err, attest.Malformed, tc.check)
		})
	}
}

func TestAnExtensionThatIsNotExactlyOursIsRefused(t *testing.T) {
	cwt, err := appraised(t, nitroAppraisal()).Sign(testKey(t, "verifier"))
	if err != nil {
		t.Fatal(err)
	}
	good, err := Extension(cwt)
	if err != nil {
		t.Fatal(err)
	}
	wrap := func(v any) []byte {
		b, err := encMode.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		der, err := asn1.Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	utf8, err := asn1.MarshalWithParams(`["application/eat+cwt","",8]`, "utf8")
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, check string
		value       []byte
	}{
		{"empty", "result_der", nil},
		{"the JSON choice", "result_der", utf8},
		{"a byte after it", "result_der", append(bytes.Clone(good.Value), 0)},
		{"a length in a longer form", "result_der", append([]byte{4, 0x83, 0, good.Value[2], good.Value[3]}, good.Value[4:]...)},
		{"no CBOR", "result_cmw", []byte{4, 0}},
		{"a record without indicator", "result_cmw", wrap([]any{263, cwt})},
		{"a record of four", "result_cmw", wrap([]any{263, cwt, 8, 0})},
		{"evidence", "result_cmw", wrap([]any{263, cwt, 4})},
		{"results and evidence", "result_cmw", wrap([]any{263, cwt, 12})},
		{"a JWT", "result_cmw", wrap([]any{264, cwt, 8})},
		{"a type by name", "result_cmw", wrap([]any{"application/eat+cwt", cwt, 8})},
		{"a collection", "result_cmw", wrap(map[any]any{"a": []any{263, cwt, 8}})},
		{"a CBOR tag", "result_cmw", wrap(cbor.Tag{Number: 1668547081, Content: cwt})},
		{"a result that is too large", "result_size", wrap([]any{263, make([]byte, MaxResultSize+1), 8})},
		{"an extension that is too large", "result_size", make([]byte, MaxResultSize+33)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ext := pkix.Extension{Id: OID(), Value: tc.value}
			_, err := ResultFrom(&x509.Certificate{Extensions: []pkix.Extension{ext}})
			wantError(t, err, attest.Malformed, tc.check)
		})
	}
	critical := good
	critical.Critical = true
	_, err = ResultFrom(&x509.Certificate{Extensions: []pkix.Extension{critical}})
	wantError(t, err, attest.Malformed, "result_critical")
	_, err = ResultFrom(&x509.Certificate{Extensions: []pkix.Extension{good, good}})
	wantError(t, err, attest.Malformed, "result_duplicate")
	_, err = ResultFrom(&x509.Certificate{})
	wantError(t, err, attest.Untrusted, "result_missing")
	_, err = ResultFrom(nil)
	wantError(t, err, attest.Untrusted, "result_missing")
	_, err = Extension([]byte("not a result"))
	wantError(t, err, attest.Internal, "extension")
}

func FuzzResultFrom(f *testing.F) {
	for _, a := range []Appraisal{nitroAppraisal(), debugAppraisal(), simulatedAppraisal()} {
		cwt, err := appraised(f, a).Sign(testKey(f, "verifier"))
		if err != nil {
			f.Fatal(err)
		}
		ext, err := Extension(cwt)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(ext.Value)
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		u, err := ResultFrom(&x509.Certificate{Extensions: []pkix.Extension{{Id: OID(), Value: value}}})
		if (u == nil) == (err == nil) {
			t.Fatal("a result and an error, or neither")
		}
		if err != nil {
			if attest.KindOf(err) != attest.Malformed {
				t.Fatalf("%s: %v", attest.KindOf(err), err)
			}
			return
		}
		// What was read can be signed again, and reads the same.
		cwt, err := u.Result.Sign(testKey(t, "verifier"))
		if err != nil {
			t.Fatal(err)
		}
		again, err := parseResult(cwt)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(u.Result, again.Result); diff != "" {
			t.Fatal(diff)
		}
	})
}

func FuzzClaims(f *testing.F) {
	for _, a := range []Appraisal{nitroAppraisal(), debugAppraisal(), simulatedAppraisal()} {
		payload, err := appraised(f, a).encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(payload)
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		r, err := decodeResult(payload)
		if (r == nil) == (err == nil) {
			t.Fatal("a result and an error, or neither")
		}
		if err != nil && attest.KindOf(err) != attest.Malformed {
			t.Fatalf("%s: %v", attest.KindOf(err), err)
		}
	})
}
