package nitro_test

import (
	"crypto/x509"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hf/nitrite"

	"github.com/assay-project/assay/attest"
	simnitro "github.com/assay-project/assay/simulators/nitro"
	"github.com/assay-project/assay/verifiers/nitro"
)

// verdicts counts what both verifiers said.
type verdicts struct{ both, neither, onlyNitrite int }

// compare runs the document through our verifier and through nitrite with the
// real root (nil is AWS's), and fails if we admit what nitrite refuses, or claim
// what nitrite does not read.
func (n *verdicts) compare(t *testing.T, name string, v *nitro.Verifier, roots *x509.CertPool, body []byte, at time.Time) {
	t.Helper()
	got, err := v.Authenticate(t.Context(), evidence(body), at)
	res, nerr := nitriteAlone(body, roots, at)
	switch {
	case err == nil && nerr != nil:
		t.Errorf("%s: we admit it, nitrite refuses it: %v", name, nerr)
	case err == nil:
		n.both++
		if diff := cmp.Diff(fromNitrite(res.Document), *got.Nitro); diff != "" {
			t.Errorf("%s: claims differ (-nitrite +ours):\n%s", name, diff)
		}
	case nerr == nil:
		n.onlyNitrite++
	default:
		n.neither++
	}
}

// nitriteAlone is the library as its README uses it. A panic is a refusal here.
func nitriteAlone(body []byte, roots *x509.CertPool, at time.Time) (res *nitrite.Result, err error) {
	defer func() {
		if r := recover(); r != nil {
			res, err = nil, errPanic
		}
	}()
	return nitrite.Verify(body, nitrite.VerifyOptions{Roots: roots, CurrentTime: at})
}

type panicked struct{}

func (panicked) Error() string { return "nitrite panicked" }

var errPanic = panicked{}

func TestWeAdmitNothingOfRecordedDocumentsThatNitriteRefuses(t *testing.T) {
	v := hardware(t, nitro.WithCacheSize(0))
	var n verdicts
	for _, r := range recordings(t) {
		if r.want.Kind == "NitroTPM" {
			continue // nitrite reads no such document
		}
		for name, at := range map[string]time.Time{
			"at its time": r.at, "a day later": r.at.Add(24 * time.Hour),
			"4 minutes later": r.at.Add(4 * time.Minute),
		} {
			n.compare(t, r.name+" "+name, v, nil, r.body, at)
		}
		for _, body := range flipped(r.body, 19997) {
			n.compare(t, r.name+" flipped", v, nil, body, r.at)
		}
	}
	if n.both < 20 {
		t.Errorf("both admit %d documents, expected at least 20", n.both)
	}
	t.Logf("recorded: %+v", n)
}

func TestWeAdmitNoFaultThatNitriteRefuses(t *testing.T) {
	a, v := simulated(t, nitro.WithCacheSize(0))
	roots := pool(a)
	var n verdicts
	for _, f := range simnitro.Faults() {
		n.compare(t, f.Name, v, roots, mint(t, a, simnitro.Document{}, f), epoch)
	}
	for _, d := range []simnitro.Document{{}, {Indefinite: true}, {Tagged: true}, {UserData: []byte{}, Nonce: make([]byte, 1024), PublicKey: make([]byte, 1024)}} {
		body := mint(t, a, d)
		n.compare(t, "good", v, roots, body, epoch)
		n.compare(t, "good, expired", v, roots, body, epoch.Add(5*time.Hour))
		n.compare(t, "good, of another root", hardware(t), nil, body, epoch)
		for _, b := range flipped(body, 9973) {
			n.compare(t, "flipped", v, roots, b, epoch)
		}
	}
	if n.both < 5 {
		t.Errorf("both admit %d documents, expected at least 5", n.both)
	}
	t.Logf("simulated: %+v", n)
}

// flipped returns the body with one bit flipped, for every stride-th bit.
func flipped(body []byte, stride int) [][]byte {
	var out [][]byte
	for bit := 0; bit < 8*len(body); bit += stride {
		b := slices.Clone(body)
		b[bit/8] ^= 1 << (bit % 8)
		out = append(out, b)
	}
	return out
}

// What this package adds to the library: documents that nitrite accepts by
// itself, with the right root, and that are refused here.
func TestNitriteAloneAcceptsWhatWeRefuse(t *testing.T) {
	a, v := simulated(t)
	roots := pool(a)
	gap := make(map[string]string)
	for _, f := range simnitro.Faults() {
		if f.Stage == simnitro.StageBound {
			continue // nitrite has no notion of a challenge
		}
		body := mint(t, a, simnitro.Document{}, f)
		if _, err := nitriteAlone(body, roots, epoch); err != nil {
			continue
		}
		_, err := v.Authenticate(t.Context(), evidence(body), epoch)
		gap[f.Name] = attest.CheckOf(err)
	}
	for name, check := range map[string]string{
		"debug":                     "", // admitted by both: here it is a claim that policy reads
		"timestamp-one":             nitro.CheckTimestampLeaf,
		"alg-string":                nitro.CheckCOSEAlg,
		"tag-sign":                  nitro.CheckCOSETag,
		"tag-encrypt0":              nitro.CheckCOSETag,
		"public-key-empty":          nitro.CheckPublicKeyLength,
		"leaf-no-digital-signature": nitro.CheckLeafKeyUsage,
		"unprotected-kid":           nitro.CheckCOSEUnprotected,
		"unknown-key":               nitro.CheckDocUnknownKey,
		"document-old":              nitro.CheckTimestampWindow,
		"duplicate-key":             nitro.CheckDocDuplicateKey,
	} {
		if got, ok := gap[name]; !ok || got != check {
			t.Errorf("%s: nitrite accepts it: %t, we end in %q, want %q", name, ok, got, check)
		}
	}
	// Nitrite panics on a P-521 leaf, also when its chain is somebody's own.
	if _, err := nitriteAlone(mint(t, a, simnitro.Document{}, faultNamed(t, "leaf-p521")), x509.NewCertPool(), epoch); !errors.Is(err, errPanic) {
		t.Errorf("nitrite no longer panics on P-521: %v", err)
	}
	names := make([]string, 0, len(gap))
	for n := range gap {
		names = append(names, n)
	}
	slices.Sort(names)
	t.Logf("nitrite alone accepts %d of the simulator's faults: %s", len(names), strings.Join(names, ", "))
}
