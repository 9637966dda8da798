package attest_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"
	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
)

// whole is a body with every part.
func whole() attest.TPMEvidence {
	return attest.TPMEvidence{
		Quote: []byte("quote"), Signature: []byte("signature"), AKPublic: []byte("ak"),
		PCRs:     map[uint32][]byte{0: bytes.Repeat([]byte{1}, 32), 23: bytes.Repeat([]byte{2}, 32)},
		EKPublic: []byte("ek"), EKCertificate: []byte("ek certificate"), AKCertificate: []byte("ak certificate"),
		EventLogDigest: bytes.Repeat([]byte{3}, 32),
		Certified:      []attest.TPMCertified{{Public: []byte("key"), Attest: []byte("certify"), Signature: []byte("signature")}},
	}
}

func TestATPMBodyReadsAsItWasWritten(t *testing.T) {
	for name, want := range map[string]attest.TPMEvidence{"whole": whole(), "least": {Quote: []byte{1}, Signature: []byte{2}, AKPublic: []byte{3}, PCRs: map[uint32][]byte{}}} {
		b, err := want.Encode()
		if err != nil {
			t.Fatal(name, err)
		}
		got, err := attest.DecodeTPMEvidence(b)
		if err != nil {
			t.Fatal(name, err)
		}
		if diff := cmp.Diff(&want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestATPMBodyWithAPartThatCannotBeIsRefused(t *testing.T) {
	cases := map[string]struct {
		says   string
		change func(*attest.TPMEvidence)
	}{
		"no quote":            {"quote is missing", func(e *attest.TPMEvidence) { e.Quote = nil }},
		"no signature":        {"signature is missing", func(e *attest.TPMEvidence) { e.Signature = []byte{} }},
		"no AK":               {"AK public area is missing", func(e *attest.TPMEvidence) { e.AKPublic = nil }},
		"no certified public": {"certified key 0: public area is missing", func(e *attest.TPMEvidence) { e.Certified[0].Public = nil }},
		"a long certificate":  {"EK certificate has 8193 bytes", func(e *attest.TPMEvidence) { e.EKCertificate = make([]byte, 8193) }},
		"17 certified keys": {"17 certified keys", func(e *attest.TPMEvidence) {
			for len(e.Certified) < 17 {
				e.Certified = append(e.Certified, e.Certified[0])
			}
		}},
		"a short log digest": {"event log's digest has 31 bytes", func(e *attest.TPMEvidence) { e.EventLogDigest = e.EventLogDigest[1:] }},
		"PCR 24":             {"no PCR 24", func(e *attest.TPMEvidence) { e.PCRs[24] = []byte{1} }},
		"a long PCR":         {"PCR 0 has 65 bytes", func(e *attest.TPMEvidence) { e.PCRs[0] = make([]byte, 65) }},
	}
	for name, c := range cases {
		e := whole()
		c.change(&e)
		b, err := e.Encode()
		if attest.KindOf(err) != attest.Malformed || attest.CheckOf(err) != "tpm_body" || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
		if b != nil {
			t.Errorf("%s: bytes came with the error", name)
		}
	}
}

// A body has one encoding, or its digest would name several.
func TestATPMBodyInAnotherEncodingIsRefused(t *testing.T) {
	good, err := whole().Encode()
	if err != nil {
		t.Fatal(err)
	}
	var m map[uint64]cbor.RawMessage
	if err := cbor.Unmarshal(good, &m); err != nil {
		t.Fatal(err)
	}
	unsorted := func() []byte {
		out := []byte{0xa0 | byte(len(m))}
		for k := uint64(9); k > 0; k-- {
			out = append(append(out, byte(k)), m[k]...)
		}
		return out
	}
	for name, b := range map[string][]byte{
		"another order":      unsorted(),
		"a trailing byte":    append(bytes.Clone(good), 0),
		"an unknown key":     append(append([]byte{good[0] + 1}, good[1:]...), 0x0a, 0xf6),
		"a key twice":        append(append([]byte{good[0] + 1}, good[1:]...), 0x01, 0x41, 0x00),
		"an indefinite map":  append(append([]byte{0xbf}, good[1:]...), 0xff),
		"a long integer key": append([]byte{good[0], 0x18, 0x01}, good[2:]...),
		"null for a part":    {0xa5, 0x01, 0x41, 1, 0x02, 0x41, 1, 0x03, 0x41, 1, 0x04, 0xa0, 0x05, 0xf6},
		"null for PCRs":      {0xa4, 0x01, 0x41, 1, 0x02, 0x41, 1, 0x03, 0x41, 1, 0x04, 0xf6},
		"no PCRs":            {0xa3, 0x01, 0x41, 1, 0x02, 0x41, 1, 0x03, 0x41, 1},
		"PCRs out of order":  {0xa4, 0x01, 0x41, 1, 0x02, 0x41, 1, 0x03, 0x41, 1, 0x04, 0xa2, 0x01, 0x41, 1, 0x00, 0x41, 1},
		"a PCR twice":        {0xa4, 0x01, 0x41, 1, 0x02, 0x41, 1, 0x03, 0x41, 1, 0x04, 0xa2, 0x01, 0x41, 1, 0x01, 0x41, 1},
		"a long PCR key":     {0xa4, 0x01, 0x41, 1, 0x02, 0x41, 1, 0x03, 0x41, 1, 0x04, 0xa1, 0x18, 0x01, 0x41, 1},
		"an empty part":      {0xa5, 0x01, 0x41, 1, 0x02, 0x41, 1, 0x03, 0x41, 1, 0x04, 0xa0, 0x05, 0x40},
		"no certified key":   {0xa5, 0x01, 0x41, 1, 0x02, 0x41, 1, 0x03, 0x41, 1, 0x04, 0xa0, 0x09, 0x80},
		"a long length":      {0xa4, 0x01, 0x58, 1, 1, 0x02, 0x41, 1, 0x03, 0x41, 1, 0x04, 0xa0},
		"a length of 2^64":   {0xa4, 0x01, 0x5b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
		"text for bytes":     {0xa4, 0x01, 0x61, 1, 0x02, 0x41, 1, 0x03, 0x41, 1, 0x04, 0xa0},
		"chunked bytes":      {0xa4, 0x01, 0x5f, 0x41, 1, 0xff, 0x02, 0x41, 1, 0x03, 0x41, 1, 0x04, 0xa0},
		"a short end":        {0xa4, 0x01, 0x41, 1, 0x02, 0x41, 1, 0x03, 0x41, 1, 0x04},
		"a key in text":      {0xa4, 0x01, 0x41, 1, 0x02, 0x41, 1, 0x03, 0x41, 1, 0x61, '4', 0xa0},
		"one more in text":   {0xa5, 0x01, 0x41, 1, 0x02, 0x41, 1, 0x03, 0x41, 1, 0x04, 0xa0, 0x61, '1', 0x41, 1},
		"a PCR in text":      {0xa4, 0x01, 0x41, 1, 0x02, 0x41, 1, 0x03, 0x41, 1, 0x04, 0xa1, 0x61, '1', 0x41, 1},
		"a tag":              append([]byte{0xc1}, good...),
		"no map":             {0x80},
		"nothing":            {},
		"49 KiB":             make([]byte, attest.MaxTPMBody+1),
	} {
		if e, err := attest.DecodeTPMEvidence(b); attest.CheckOf(err) != "tpm_body" || e != nil {
			t.Errorf("%s: %v, %v", name, e, err)
		}
	}
}

// strict is a decoder of another make, told the same rules.
var strict = func() cbor.DecMode {
	m, err := cbor.DecOptions{
		DupMapKey: cbor.DupMapKeyEnforcedAPF, ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
		IndefLength: cbor.IndefLengthForbidden, TagsMd: cbor.TagsForbidden, MaxNestedLevels: 4,
	}.DecMode()
	if err != nil {
		panic(err)
	}
	return m
}()

// What is accepted has one encoding, and means to a library what it means here.
func FuzzTPMEvidence(f *testing.F) {
	b, err := whole().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte{0xa0})
	f.Fuzz(func(t *testing.T, in []byte) {
		e, err := attest.DecodeTPMEvidence(in)
		if (e == nil) == (err == nil) {
			t.Fatal("neither or both")
		}
		var other attest.TPMEvidence
		librarys := strict.Unmarshal(in, &other)
		if err != nil {
			if librarys != nil {
				return
			}
			// Refused here and read there: not in its one encoding, or a part is
			// missing, empty or too long. Encoding it again shows which.
			if again, err := other.Encode(); err == nil && bytes.Equal(again, in) {
				t.Fatalf("%x is refused: %v", in, err)
			}
			return
		}
		if librarys != nil {
			t.Fatalf("%x is read, and the library says %v", in, librarys)
		}
		if diff := cmp.Diff(&other, e); diff != "" {
			t.Fatalf("%x (-library +read):\n%s", in, diff)
		}
		out, err := e.Encode()
		if err != nil || !bytes.Equal(out, in) {
			t.Fatalf("%x became %x, %v", in, out, err)
		}
	})
}
