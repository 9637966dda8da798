package svid

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"flag"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/attest"
)

var update = flag.Bool("update", false, "write the test vectors in testdata anew")

// vector is testdata/NAME.json: what a reader of another language must find in
// NAME.pem, and what must come of it.
type vector struct {
	Description  string     `json:"description"`
	VerifyAt     time.Time  `json:"verify_at"`
	Outcome      string     `json:"outcome"` // "ok", or "kind check"
	Accept       []string   `json:"accept,omitempty"`
	ExtensionHex string     `json:"extension_value"`
	CWTHex       string     `json:"cwt"`
	PayloadHex   string     `json:"payload"`
	KeyID        Thumbprint `json:"key_id"`
	Result       Result     `json:"result"`
}

// vectorCase is one certificate of the vectors.
type vectorCase struct {
	name, description string
	appraisal         func() Appraisal
	change            func(*Result)
	sign              string // the key that signs the result
	outcome           string
	require           []Requirement
	accept            []string
}

func vectorCases() []vectorCase {
	return []vectorCase{
		{name: "nitro-affirming", description: "an owned enclave with an approved image", appraisal: func() Appraisal {
			a := nitroAppraisal()
			a.Attributes = map[string]string{"team": "payments"}
			return a
		}, outcome: "ok"},
		{name: "nitro-debug", description: "an enclave in debug mode, which a policy admitted", appraisal: debugAppraisal, outcome: "denied tier"},
		{name: "nitro-simulated", description: "a simulated enclave, where nobody asked for simulation", appraisal: simulatedAppraisal, outcome: "denied simulated"},
		{name: "nitro-simulated-accepted", description: "a simulated enclave, accepted by name", appraisal: simulatedAppraisal, outcome: "ok",
			require: []Requirement{Simulated()}, accept: []string{"simulated"}},
		{name: "snp-affirming", description: "an SEV-SNP guest on a machine of the owner's, with approved image and firmware", appraisal: snpAppraisal, outcome: "ok",
			require: []Requirement{MinTier(Affirming), Owned(), Measurement("measurement", register("measurement"))}},
		{name: "snp-grace", description: "the same guest while the revocation list is past its date: accepted, with a warning", outcome: "ok",
			appraisal: func() Appraisal { return snpChanged(func(s *attest.SNP) { s.Revocation = "grace" }) }},
		{name: "snp-debug", description: "a guest whose memory the host may read, which a policy admitted", outcome: "denied tier",
			appraisal: func() Appraisal { return snpChanged(func(s *attest.SNP) { s.Policy.Debug = true }) }},
		{name: "tpm-affirming", description: "a machine of the owner's with a certified TPM, whose boot and firmware are approved", appraisal: tpmAppraisal, outcome: "ok",
			require: []Requirement{MinTier(Affirming), Owned(), Tee(attest.TPM2), PCR(4, tpmRegister("pcr4")), PCR(7, tpmRegister("pcr7"))}},
		{name: "tpm-sha384", description: "the same machine, with the registers of another bank", outcome: "ok",
			appraisal: func() Appraisal { return tpmChanged(tpmSHA384) }, require: []Requirement{PCR(4, register("pcr4"))}},
		{name: "tpm-inventory", description: "a machine whose TPM no maker vouches for, only the owner's inventory", outcome: "ok",
			appraisal: func() Appraisal { return tpmChanged(func(t *attest.TPM) { t.EKCertificate = nil }) }},
		{name: "spliced", description: "the result of another key", appraisal: nitroAppraisal, outcome: "untrusted result_key",
			change: func(r *Result) { r.KeyThumbprint = Thumbprint{1} }},
		{name: "unknown-verifier", description: "signed by a key that is not in the verifier-keys document", appraisal: nitroAppraisal,
			sign: "stranger", outcome: "untrusted verifier_key"},
	}
}

// repeatCA is the trust domain's authority.
func repeatCA(t *testing.T, td spiffeid.TrustDomain) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{Organization: []string{td.Name()}, CommonName: "Assay test authority"},
		NotBefore: issued.Add(-24 * time.Hour), NotAfter: issued.AddDate(1, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		URIs: []*url.URL{td.ID().URL()},
	}
	return certificate(t, template, template, "ca", "ca")
}

func certificate(t *testing.T, template, parent *x509.Certificate, subject, issuer string) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(nil, template, parent, testKey(t, subject).Public(), testKey(t, issuer))
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// mintVector makes the certificate of a case.
func mintVector(t *testing.T, tc vectorCase) (*x509.Certificate, *Unverified) {
	t.Helper()
	r := appraised(t, tc.appraisal())
	if tc.change != nil {
		tc.change(r)
	}
	signer := "verifier"
	if tc.sign != "" {
		signer = tc.sign
	}
	cwt, err := r.Sign(testKey(t, signer))
	if err != nil {
		t.Fatal(err)
	}
	ext, err := Extension(cwt)
	if err != nil {
		t.Fatal(err)
	}
	id := spiffeid.RequireFromString(r.Subject)
	leaf := certificate(t, &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: issued.Add(-10 * time.Second), NotAfter: expires,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		URIs:        []*url.URL{id.URL()}, ExtraExtensions: []pkix.Extension{ext},
	}, repeatCA(t, id.TrustDomain()), "leaf", "ca")
	u, err := ResultFrom(leaf)
	if err != nil {
		t.Fatal(err)
	}
	return leaf, u
}

// golden compares with a file of testdata, or writes it.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (go test ./svid -update writes it)", err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s differs (go test ./svid -update writes it anew):\n%s", path, diff)
	}
}

func jsonBytes(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return append(b, '\n')
}

// TestTheVectorsAreWhatThisCodeWrites pins the bytes. Keys come from names and
// signatures from RFC 6979, so that -update changes nothing unless the format
// has changed.
func TestTheVectorsAreWhatThisCodeWrites(t *testing.T) {
	for _, tc := range vectorCases() {
		t.Run(tc.name, func(t *testing.T) {
			leaf, u := mintVector(t, tc)
			var ext []byte
			for _, e := range leaf.Extensions {
				if e.Id.Equal(OID()) {
					ext = e.Value
				}
			}
			golden(t, tc.name+".pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Raw}))
			golden(t, tc.name+".json", jsonBytes(t, vector{
				Description: tc.description, VerifyAt: issued.Add(time.Minute), Outcome: tc.outcome, Accept: tc.accept,
				ExtensionHex: hex.EncodeToString(ext), CWTHex: hex.EncodeToString(u.CWT), PayloadHex: hex.EncodeToString(u.signed.payload),
				KeyID: u.KeyID, Result: u.Result,
			}))
		})
	}
	for name, td := range vectorDomains() {
		golden(t, "bundle-"+name+".pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: repeatCA(t, td).Raw}))
		k := verifierKeys(t)
		k.TrustDomain = td
		golden(t, "verifier-keys-"+name+".cose", signed(t, k))
	}
	rootPEM, err := MarshalVerifierRoot(root(t))
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "verifier-root.pem", rootPEM)
	for _, name := range []string{"leaf", "verifier", "verifier root", "ca"} {
		der, err := x509.MarshalPKCS8PrivateKey(testKey(t, name).PrivateKey)
		if err != nil {
			t.Fatal(err)
		}
		golden(t, "key-"+strings.ReplaceAll(name, " ", "-")+".pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	}
}

func vectorDomains() map[string]spiffeid.TrustDomain {
	return map[string]spiffeid.TrustDomain{
		"hardware":  td,
		"simulated": spiffeid.RequireTrustDomainFromString(SimulatedPrefix + td.Name()),
	}
}

// TestTheVectorsComeToTheirOutcome reads the files as a relying party of another
// language would: pinned root, signed document, bundle, certificate.
func TestTheVectorsComeToTheirOutcome(t *testing.T) {
	pinned, err := ParseVerifierRoot(testdata(t, "verifier-root.pem"))
	if err != nil {
		t.Fatal(err)
	}
	at := issued.Add(time.Minute)
	bundles := x509bundle.NewSet()
	var keys []*VerifierKeys
	for name, td := range vectorDomains() {
		k, err := ParseVerifierKeys(testdata(t, "verifier-keys-"+name+".cose"), pinned, at)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, k)
		bundle, err := x509bundle.Parse(td, testdata(t, "bundle-"+name+".pem"))
		if err != nil {
			t.Fatal(err)
		}
		bundles.Add(bundle)
	}
	src := NewSource(bundles, keys...)
	for _, tc := range vectorCases() {
		t.Run(tc.name, func(t *testing.T) {
			var want vector
			dec := json.NewDecoder(bytes.NewReader(testdata(t, tc.name+".json")))
			dec.DisallowUnknownFields()
			if err := dec.Decode(&want); err != nil {
				t.Fatal(err)
			}
			block, _ := pem.Decode(testdata(t, tc.name+".pem"))
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				t.Fatal(err)
			}
			u, err := ResultFrom(cert)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want.Result, u.Result); diff != "" {
				t.Error(diff)
			}
			outcome := "ok"
			if _, err := Verify([]*x509.Certificate{cert}, src, want.VerifyAt, tc.require...); err != nil {
				outcome = attest.KindOf(err).String() + " " + attest.CheckOf(err)
			}
			if outcome != want.Outcome || outcome != tc.outcome {
				t.Errorf("outcome %q, want %q", outcome, want.Outcome)
			}
		})
	}
}

// TestTheSignaturesVerifyByTheSpecificationAlone builds the Sig_structure of RFC
// 9052, section 4.4, by hand, and uses no COSE library.
func TestTheSignaturesVerifyByTheSpecificationAlone(t *testing.T) {
	head := func(major byte, n int) []byte { // of a byte string of 24 to 65535 bytes
		if n < 1<<8 {
			return []byte{major<<5 | 24, byte(n)}
		}
		return []byte{major<<5 | 25, byte(n >> 8), byte(n)}
	}
	check := func(name, signer string, message []byte) {
		t.Helper()
		var p sign1Parts
		if err := cbor.Unmarshal(message[1:], &p); err != nil {
			t.Fatal(err)
		}
		toBeSigned := append([]byte{0x84, 0x6a}, "Signature1"...)
		toBeSigned = append(append(toBeSigned, head(majorBytes, len(p.Protected))...), p.Protected...)
		toBeSigned = append(toBeSigned, 0x40)
		toBeSigned = append(append(toBeSigned, head(majorBytes, len(p.Payload))...), p.Payload...)
		sum := sha256.Sum256(toBeSigned)
		r, s := new(big.Int).SetBytes(p.Signature[:32]), new(big.Int).SetBytes(p.Signature[32:])
		if !ecdsa.Verify(&testKey(t, signer).PublicKey, sum[:], r, s) {
			t.Errorf("%s does not verify", name)
		}
	}
	var v vector
	if err := json.Unmarshal(testdata(t, "nitro-affirming.json"), &v); err != nil {
		t.Fatal(err)
	}
	check("the result", "verifier", unhex(t, v.CWTHex))
	check("the verifier keys", "verifier root", testdata(t, "verifier-keys-hardware.cose"))
}

func testdata(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}
