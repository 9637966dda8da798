package nitro

import (
	"bytes"
	"encoding/hex"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/google/go-cmp/cmp"
	"github.com/hf/nitrite"

	"github.com/assay-project/assay/attest"
	simnitro "github.com/assay-project/assay/simulators/nitro"
)

func TestHeadsAreRead(t *testing.T) {
	type result struct {
		Major    byte
		Arg      uint64
		Size     int
		Shortest bool
		OK       bool
	}
	for in, want := range map[string]result{
		"":                   {},
		"17":                 {majorUnsigned, 23, 1, true, true},
		"1818":               {majorUnsigned, 24, 2, true, true},
		"1817":               {majorUnsigned, 23, 2, false, true},
		"190100":             {majorUnsigned, 256, 3, true, true},
		"1900ff":             {majorUnsigned, 255, 3, false, true},
		"1a00010000":         {majorUnsigned, 65536, 5, true, true},
		"1a0000ffff":         {majorUnsigned, 65535, 5, false, true},
		"1b0000000100000000": {majorUnsigned, 1 << 32, 9, true, true},
		"1b00000000ffffffff": {majorUnsigned, 1<<32 - 1, 9, false, true},
		"3822":               {majorNegative, 34, 2, true, true},
		"d2":                 {majorTag, 18, 1, true, true},
		"19":                 {Major: majorUnsigned},
		"1901":               {Major: majorUnsigned},
		"1c":                 {Major: majorUnsigned}, // reserved
		"5f":                 {Major: majorBytes},    // indefinite
	} {
		raw, err := hex.DecodeString(in)
		if err != nil {
			t.Fatal(err)
		}
		var got result
		got.Major, got.Arg, got.Size, got.Shortest, got.OK = head(raw)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", in, diff)
		}
	}
}

func TestFlatContainersAreWalked(t *testing.T) {
	for in, want := range map[string][]string{
		"80":                            {},
		"9fff":                          {},
		"a0":                            {},
		"bfff":                          {},
		"8301204161":                    {"01", "20", "4161"},
		"9f01204161ff":                  {"01", "20", "4161"},
		"a201410002410a":                {"01", "4100", "02", "410a"},
		"bf0141001a00000002410a" + "ff": {"01", "4100", "1a00000002", "410a"},
		// Not walked: nil.
		"":                     nil,
		"01":                   nil, // no container
		"4161":                 nil,
		"8101ff":               nil, // something behind it
		"9fff00":               nil,
		"9f01":                 nil, // no end
		"8201":                 nil, // an item is missing
		"8141":                 nil, // an item is cut
		"8180":                 nil, // nested
		"81c001":               nil, // tagged
		"81f6":                 nil, // null
		"815f4161ff":           nil, // a string in chunks
		"81ff":                 nil, // a break where none may be
		"9bffffffffffffffff":   nil, // absurd
		"bbffffffffffffffff":   nil,
		"815bffffffffffffffff": nil,
	} {
		raw, err := hex.DecodeString(in)
		if err != nil {
			t.Fatal(err)
		}
		got := []string{}
		if !flat(raw, func(item []byte) bool { got = append(got, hex.EncodeToString(item)); return true }) {
			got = nil
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", in, diff)
		}
	}
	n := 0
	if flat([]byte{0x82, 1, 2}, func([]byte) bool { n++; return false }) || n != 1 {
		t.Errorf("the walk went on after it was stopped: %d items", n)
	}
}

// What is walked by hand is what the CBOR library finds, item by item.
func FuzzFlat(f *testing.F) {
	for _, s := range []string{"80", "9fff", "a0", "bfff", "8301204161", "9f01204161ff", "a201410002410a", "bf0141001a00000002410aff", "8180", "815f4161ff"} {
		raw, err := hex.DecodeString(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	m, err := newModes()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var got [][]byte
		if !flat(raw, func(item []byte) bool { got = append(got, item); return true }) {
			return
		}
		// As one array: a map's keys and values are an array's items.
		as := bytes.Join(append([][]byte{{0x9f}}, append(got, []byte{0xff})...), nil)
		var want []cbor.RawMessage
		if err := m.inner.Unmarshal(as, &want); err != nil {
			for _, item := range got { // the library demands UTF-8, flat leaves that to its callers
				if item[0]>>5 == majorText {
					return
				}
			}
			t.Fatalf("%x was walked, and the library refuses it: %v", raw, err)
		}
		if len(want) != len(got) {
			t.Fatalf("%x: %d items, the library finds %d", raw, len(got), len(want))
		}
		for i := range want {
			if !bytes.Equal(want[i], got[i]) {
				t.Errorf("%x: item %d is %x, the library finds %x", raw, i, got[i], want[i])
			}
		}
		if err := m.inner.Wellformed(raw); err != nil && raw[0]>>5 == majorArray {
			t.Errorf("%x was walked, and is not well-formed: %v", raw, err)
		}
	})
}

// A payload that is accepted means the same to the CBOR library as nitrite uses
// it, whoever signed it. This is where two decoders could part.
func FuzzPayload(f *testing.F) {
	a, err := simnitro.NewAuthority(simnitro.AuthorityOptions{Now: func() time.Time { return noon }})
	if err != nil {
		f.Fatal(err)
	}
	m, err := newModes()
	if err != nil {
		f.Fatal(err)
	}
	add := func(d simnitro.Document, faults ...simnitro.Fault) {
		body, err := a.Mint(d, faults...)
		if err != nil {
			f.Fatal(err)
		}
		if env, err := m.open(body); err == nil {
			f.Add(env.payload)
		}
	}
	add(simnitro.Document{UserData: []byte{}, Nonce: []byte{1}, PublicKey: []byte{2}})
	add(simnitro.Document{Indefinite: true})
	for _, fault := range simnitro.Faults() {
		if !fault.MintOnly {
			add(simnitro.Document{}, fault)
		}
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		if len(payload) == 0 || len(payload) > MaxSize {
			return
		}
		d, err := m.read(payload)
		if err != nil {
			return
		}
		var theirs nitrite.Document
		if err := cbor.Unmarshal(payload, &theirs); err != nil {
			t.Fatalf("we read what nitrite cannot: %v", err)
		}
		ours := nitrite.Document{
			ModuleID: d.moduleID, Timestamp: uint64(d.timestamp.UnixMilli()), Digest: d.digest,
			PCRs: make(map[uint][]byte), Certificate: d.certificate, CABundle: d.cabundle,
			PublicKey: d.publicKey, UserData: d.userData, Nonce: d.nonce,
		}
		for i, v := range d.pcrs {
			ours.PCRs[uint(i)] = v
		}
		if diff := cmp.Diff(theirs, ours); diff != "" {
			t.Errorf("(-nitrite +ours):\n%s", diff)
		}
	})
}

func TestADocumentIsRefusedAsAWholeWhenAnyPartIs(t *testing.T) {
	m, err := newModes()
	if err != nil {
		t.Fatal(err)
	}
	if env, err := m.open([]byte{0xd2}); attest.CheckOf(err) == "" || env.payload != nil {
		t.Errorf("a tag alone: %v", err)
	}
	if d, err := m.read([]byte{0xa0}); attest.CheckOf(err) != CheckDocMissingKey || d != nil {
		t.Errorf("an empty map: %v", err)
	}
}
