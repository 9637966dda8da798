package nitro_test

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
	simnitro "github.com/assay-project/assay/simulators/nitro"
	"github.com/assay-project/assay/verifiers/nitro"
)

// seed adds good documents of every form, and every fault.
func seed(f *testing.F, add func([]byte)) *simnitro.Authority {
	f.Helper()
	a, _ := simulated(f)
	for _, d := range []simnitro.Document{{}, {Indefinite: true}, {Tagged: true}, {UserData: []byte{1}, Nonce: []byte{2}, PublicKey: []byte{3}}} {
		add(mint(f, a, d))
	}
	for _, fault := range simnitro.Faults() {
		if !fault.MintOnly {
			add(mint(f, a, simnitro.Document{}, fault))
		}
	}
	return a
}

// Whatever the bytes: no panic, no claims beside an error, every error is one of
// the table, and what is admitted is admitted by nitrite with the same content.
func FuzzAuthenticate(f *testing.F) {
	a := seed(f, func(b []byte) { f.Add(b) })
	v, roots := verifierOf(f, a), pool(a)
	f.Fuzz(func(t *testing.T, body []byte) {
		got, err := v.Authenticate(t.Context(), evidence(body), epoch)
		if err != nil {
			if got != nil {
				t.Error("claims beside an error")
			}
			if attest.KindOf(err) != kindOf(t, attest.CheckOf(err)) {
				t.Errorf("kind %s: %v", attest.KindOf(err), err)
			}
			return
		}
		res, err := nitriteAlone(body, roots, epoch)
		if err != nil {
			t.Fatalf("we admit what nitrite refuses: %v", err)
		}
		if diff := cmp.Diff(fromNitrite(res.Document), *got.Nitro); diff != "" {
			t.Errorf("(-nitrite +ours):\n%s", diff)
		}
	})
}

// Whatever the bytes: no panic, and a document that was found is found again in
// itself.
func FuzzNormalize(f *testing.F) {
	add := func(b []byte) {
		for _, w := range wrapped(f, b) {
			f.Add(w)
		}
	}
	add([]byte{0x84})
	a, _ := simulated(f)
	add(mint(f, a, simnitro.Document{}))
	f.Add([]byte("8444a1013822"))
	f.Add([]byte("hEShATgi"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		doc, err := nitro.Normalize(raw)
		if err != nil {
			if doc != nil || attest.CheckOf(err) != nitro.CheckEncoding {
				t.Errorf("%x, %v", doc, err)
			}
			return
		}
		again, err := nitro.Normalize(doc)
		if err != nil || !bytes.Equal(again, doc) {
			t.Errorf("%x became %x, %v", doc, again, err)
		}
	})
}

// Whatever the bytes: no panic, and what Authenticate would admit is inspected
// without complaint.
func FuzzInspect(f *testing.F) {
	a := seed(f, func(b []byte) { f.Add(b) })
	v := verifierOf(f, a)
	f.Fuzz(func(t *testing.T, body []byte) {
		u, err := nitro.Inspect(body)
		if (u == nil) == (err == nil) {
			t.Fatalf("%v, %v: want one of them", u, err)
		}
		if err != nil && attest.KindOf(err) != attest.Malformed {
			t.Errorf("kind %s: %v", attest.KindOf(err), err)
		}
		if _, verr := v.Authenticate(t.Context(), evidence(body), epoch); verr == nil && (err != nil || u.Malformed != nil) {
			t.Errorf("it verifies, and inspect complains: %v", err)
		}
	})
}
