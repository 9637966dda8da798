package nitro

import (
	"crypto/ecdsa"
	"crypto/sha512"
	"crypto/x509"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/hf/nitrite"

	"github.com/assay-project/assay/simulators/internal/fault"
)

// namedChecks are the verifier's checks, which every document runs through.
var namedChecks = []string{
	"size", "cose_structure", "cose_tag", "cose_protected", "cose_alg", "cose_unprotected", "cose_signature_length",
	"doc_structure", "doc_duplicate_key", "doc_platform", "doc_unknown_key", "doc_missing_key",
	"module_id", "digest", "timestamp", "pcr_count", "pcr_index", "pcr_length", "certificate_length",
	"cabundle_count", "cabundle_length", "public_key_length", "user_data_length", "nonce_length", "chain_parse",
	"chain_root", "chain_order", "chain_issuer", "chain_algorithm", "chain_extension", "chain_signature", "chain_ca",
	"chain_path_length", "leaf_is_ca", "leaf_key_usage", "leaf_curve", "cose_signature",
	"chain_validity", "timestamp_leaf", "timestamp_window",
	"binding_user_data", "binding_nonce", "binding_public_key",
}

func TestEveryNamedCheckHasAFault(t *testing.T) {
	var have []string
	for _, f := range Faults() {
		have = append(have, f.Check)
		if f.Check != "" && !slices.Contains(namedChecks, f.Check) {
			t.Errorf("fault %s: check %q is none of the verifier's", f.Name, f.Check)
		}
	}
	for _, c := range namedChecks {
		if !slices.Contains(have, c) {
			t.Errorf("no fault for check %s", c)
		}
	}
}

func TestFaultsAreWellNamed(t *testing.T) {
	var labels []fault.Label
	for _, f := range Faults() {
		labels = append(labels, fault.Label{Name: f.Name, Description: f.Description, Check: f.Check, Kind: f.Kind, Stage: f.Stage})
		if got, ok := FaultByName(f.Name); !ok || got.Check != f.Check {
			t.Errorf("FaultByName(%q) = %v, %v", f.Name, got, ok)
		}
	}
	for _, c := range fault.Complaints(labels) {
		t.Error(c)
	}
	if _, ok := FaultByName("no-such-fault"); ok {
		t.Error("a fault that does not exist was found")
	}
}

// asked is a document with everything that a challenge can ask for.
func asked(at time.Time) Document {
	return Document{
		Timestamp: at, Nonce: slices.Repeat([]byte{7}, 32),
		UserData: slices.Repeat([]byte{8}, 41), PublicKey: slices.Repeat([]byte{9}, 91),
	}
}

// A faulty document must be faulty for one reason alone. Where the fault is not
// the signature or the leaf's key itself, the leaf has signed the faulty bytes.
func TestAFaultyDocumentIsSignedAllTheSame(t *testing.T) {
	a := newTestAuthority(t, AuthorityOptions{})
	signed := 0
	for _, f := range Faults() {
		doc := mint(t, a, asked(time.Now()), f)
		if slices.Contains([]string{"leaf_curve", "cose_signature", "cose_signature_length"}, f.Check) {
			continue
		}
		if strings.HasPrefix(f.Check, "cose_") || f.Check == "size" && len(doc) == 0 {
			continue // the structure around the signature is what is broken
		}
		leaf, ok := rawCertificate(t, doc)
		if !ok {
			continue // the certificate is what is broken
		}
		signed++
		if !signatureHolds(t, doc, leaf) {
			t.Errorf("fault %s: the document is not signed by its leaf", f.Name)
		}
	}
	if signed < 85 {
		t.Errorf("looked at %d signatures only", signed)
	}
}

// rawCertificate finds the leaf in whatever the payload is.
func rawCertificate(t *testing.T, doc []byte) (*x509.Certificate, bool) {
	t.Helper()
	o, ok := outerOf(doc)
	if !ok {
		t.Fatalf("not a COSE_Sign1: %x…", doc[:min(8, len(doc))])
	}
	i := strings.Index(string(o.Payload), string(cborText("certificate")))
	if i < 0 {
		return nil, false
	}
	var der []byte
	if _, err := cbor.UnmarshalFirst(o.Payload[i+len(cborText("certificate")):], &der); err != nil {
		return nil, false
	}
	c, err := x509.ParseCertificate(der)
	return c, err == nil
}

func outerOf(doc []byte) (o outer, ok bool) {
	return o, cbor.Unmarshal(doc, &o) == nil
}

func signatureHolds(t *testing.T, doc []byte, leaf *x509.Certificate) bool {
	t.Helper()
	o, _ := outerOf(doc)
	tbs, err := cbor.Marshal([]any{"Signature1", o.Protected, []byte{}, o.Payload})
	if err != nil {
		t.Fatal(err)
	}
	sum := sha512.Sum384(tbs)
	key, ok := leaf.PublicKey.(*ecdsa.PublicKey)
	return ok && len(o.Signature) == 96 && ecdsa.Verify(key, sum[:],
		new(big.Int).SetBytes(o.Signature[:48]), new(big.Int).SetBytes(o.Signature[48:]))
}

// What the library refuses on its own shows that the faults are real, and that
// nothing but the fault is wrong: without it the same call accepts.
func TestTheLibraryRefusesWhatItCanSee(t *testing.T) {
	now := time.Now()
	a := newTestAuthority(t, AuthorityOptions{})
	verify := func(doc []byte) (err error) {
		defer func() {
			if r := recover(); r != nil {
				err = nil
				t.Logf("the library panics: %v", r)
			}
		}()
		_, err = nitrite.Verify(doc, nitrite.VerifyOptions{Roots: pool(a), CurrentTime: now})
		return err
	}
	if err := verify(mint(t, a, asked(now))); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		"truncated", "cose-not-array", "cose-three-items", "alg-es256", "signature-short", "digest-sha256", "pcrs-none",
		"pcr-index-32", "pcr-49-bytes", "cabundle-empty", "cabundle-item-empty", "cabundle-item-1025", "public-key-1025",
		"user-data-1025", "nonce-1025", "certificate-garbage", "foreign-root", "self-signed", "intermediate-signature",
		"intermediate-forged", "leaf-forged", "intermediate-not-ca", "path-length", "path-extra-ca", "signature-broken",
		"signature-other-key", "payload-changed", "leaf-expired", "leaf-not-yet-valid", "intermediate-expired",
	} {
		f, ok := FaultByName(name)
		if !ok {
			t.Fatalf("no fault %s", name)
		}
		if verify(mint(t, a, asked(now), f)) == nil {
			t.Errorf("fault %s: the library accepts the document", name)
		}
	}
	for _, name := range []string{"debug", "wrong-nonce", "wrong-user-data", "wrong-public-key"} {
		f, _ := FaultByName(name)
		if err := verify(mint(t, a, asked(now), f)); err != nil {
			t.Errorf("fault %s: the document should verify: %v", name, err)
		}
	}
}

func TestAFaultLeavesNoTraceInTheAuthority(t *testing.T) {
	a := newTestAuthority(t, AuthorityOptions{})
	before := mint(t, a, Document{})
	for _, f := range Faults() {
		mint(t, a, asked(time.Now()), f)
	}
	after := mint(t, a, Document{})
	_, b := open(t, before)
	_, c := open(t, after)
	if string(b.Certificate) != string(c.Certificate) || b.ModuleID != c.ModuleID {
		t.Error("a faulty document changed the leaf of those that follow")
	}
	if _, err := nitrite.Verify(after, nitrite.VerifyOptions{Roots: pool(a), CurrentTime: time.Now()}); err != nil {
		t.Errorf("a document after the faulty ones does not verify: %v", err)
	}
}

func TestADebugDocumentHasZeroMeasurements(t *testing.T) {
	a := newTestAuthority(t, AuthorityOptions{})
	f, _ := FaultByName("debug")
	_, i := open(t, mint(t, a, Document{}, f))
	for _, n := range []int{0, 1, 2, 8} {
		if string(i.PCRs[n]) != string(make([]byte, pcrSize)) {
			t.Errorf("PCR%d is %x", n, i.PCRs[n])
		}
	}
	if string(i.PCRs[4]) == string(make([]byte, pcrSize)) {
		t.Error("PCR4 is zero: a debug enclave still has its instance's")
	}
}
