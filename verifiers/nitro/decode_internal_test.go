package nitro

import (
	"bytes"
	"encoding/hex"
	"maps"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"

	"github.com/assay-project/assay/attest"
)

// An envelope has one encoding, with or without tag 18. Everything else that
// CBOR allows for the same message is refused, and so is what only looks alike.
func TestAnEnvelopeHasOneEncoding(t *testing.T) {
	m, err := newModes()
	if err != nil {
		t.Fatal(err)
	}
	sig := "5860" + strings.Repeat("11", signatureSize)
	for in, check := range map[string]string{
		"8444a1013822a041a0" + sig:                   "",
		"d28444a1013822a041a0" + sig:                 "",
		"980444a1013822a041a0" + sig:                 CheckCOSEStructure, // longer head of the array
		"9f44a1013822a041a0" + sig + "ff":            CheckCOSEStructure, // indefinite array
		"845804a1013822a041a0" + sig:                 CheckCOSEStructure, // longer head of the protected header
		"8444a1013822a05801a0" + sig:                 CheckCOSEStructure, // longer head of the payload
		"8444a1013822a05f41a0ff" + sig:               CheckCOSEStructure, // payload in chunks
		"8444a1013822a040" + sig:                     CheckCOSEStructure, // empty payload
		"8444a1013822a061a0" + sig:                   CheckCOSEStructure, // payload is no UTF-8, and text
		"8444a1013822a06161" + sig:                   CheckCOSEStructure, // payload is text
		"8444a1013822a08118a0" + sig:                 CheckCOSEStructure, // payload is an array of numbers
		"8444a1013822a0c241a0" + sig:                 CheckCOSEStructure, // payload is tagged
		"8444a1013822a0f6" + sig:                     CheckCOSEStructure, // payload is null
		"8444a1013822a041a05900" + sig[2:]:           CheckCOSEStructure, // longer head of the signature
		"84f6a041a0" + sig:                           CheckCOSEStructure, // no protected header
		"8445a101390022a041a0" + sig:                 CheckCOSEProtected, // longer -35
		"8445a118013822a041a0" + sig:                 CheckCOSEProtected, // longer 1
		"8445bf013822ffa041a0" + sig:                 CheckCOSEProtected, // indefinite map
		"8445a101c13822a041a0" + sig:                 CheckCOSEProtected, // tagged -35
		"8446a16161382200a041a0" + sig:               CheckCOSEProtected,
		"8444a1023822a041a0" + sig:                   CheckCOSEProtected, // another label
		"8440a041a0" + sig:                           CheckCOSEProtected,
		"8444a1013823a041a0" + sig:                   CheckCOSEAlg,
		"8443a10122a041a0" + sig:                     CheckCOSEAlg,
		"8443a101f6a041a0" + sig:                     CheckCOSEAlg,
		"844ca1013b8000000000000000a041a0" + sig[2:]: CheckCOSEStructure,
		"844ba1013bffffffffffffffffa041a0" + sig:     CheckCOSEAlg,         // -2^64
		"8444a1013822b80041a0" + sig:                 CheckCOSEUnprotected, // longer head of the empty map
		"8444a10138228041a0" + sig:                   CheckCOSEUnprotected, // an array
		"8444a10138224041a0" + sig:                   CheckCOSEUnprotected,
		"d2d28444a1013822a041a0" + sig:               CheckCOSETag,
		"d8128444a1013822a041a0" + sig:               CheckCOSETag,
		"d9d9f78444a1013822a041a0" + sig:             CheckCOSETag, // self-described CBOR
	} {
		raw, err := hex.DecodeString(in)
		if err != nil {
			t.Fatal(in, err)
		}
		if env, err := m.open(raw); attest.CheckOf(err) != check || (err == nil) != (check == "") || (err != nil && env.payload != nil) {
			t.Errorf("%.40s…: %v, want %q", in, err, check)
		}
	}
}

func TestValuesOfAnotherTypeAreRefused(t *testing.T) {
	m, err := newModes()
	if err != nil {
		t.Fatal(err)
	}
	pcr, raw := make([]byte, pcrSize), func(s string) cbor.RawMessage { return cbor.RawMessage(s) }
	p48 := "\x58\x30" + string(pcr)
	good := map[string]any{
		keyModuleID: "i-1-enc1", keyDigest: "SHA384", keyTimestamp: 1, keyPCRs: map[int][]byte{0: pcr},
		keyCertificate: []byte{1}, keyCABundle: [][]byte{{1}},
	}
	for _, c := range []struct {
		key, check string
		value      any
	}{
		{keyNonce, "", nil},
		{keyNonce, "", []byte{}},
		{keyPCRs, "", raw("\xbf\x00" + p48 + "\xff")}, // indefinite, as newer NSMs may write it
		{keyPCRs, "", raw("\xa1\x18\x00" + p48)},      // signed, so its spelling is the NSM's affair
		{keyCABundle, "", raw("\x9f\x41\x01\xff")},
		{keyPCRs, CheckDocStructure, nil},
		{keyPCRs, CheckDocStructure, map[int]any{0: nil}},
		{keyPCRs, CheckDocStructure, map[int]any{0: []any{pcr}}},
		{keyPCRs, CheckDocStructure, map[int]any{0: []int{1, 2}}},
		{keyPCRs, CheckDocStructure, map[int]any{0: 1}},
		{keyPCRs, CheckDocStructure, map[float64][]byte{0.5: pcr}},
		{keyPCRs, CheckDocStructure, map[bool][]byte{true: pcr}},
		{keyPCRs, CheckDocStructure, raw("\xa1\x41\x00" + p48)}, // index is a byte string
		{keyPCRs, CheckDocStructure, raw("\xa1\x00\x5f" + p48 + "\xff")},
		{keyPCRs, CheckDocDuplicateKey, raw("\xa2\x00" + p48 + "\x18\x00" + p48)}, // one index, spelt twice
		{keyPCRs, CheckDocDuplicateKey, raw("\xa2\x18\x28" + p48 + "\x18\x28" + p48)},
		{keyPCRs, CheckPCRIndex, raw("\xa2\x18\x28" + p48 + "\x38\x28" + p48)},
		{keyPCRs, CheckPCRIndex, raw("\xa1\x3b\xff\xff\xff\xff\xff\xff\xff\xff" + p48)},
		{keyPCRs, CheckPCRIndex, raw("\xa1\x1b\xff\xff\xff\xff\xff\xff\xff\xff" + p48)},
		{keyCABundle, CheckDocStructure, nil},
		{keyCABundle, CheckDocStructure, []any{nil}},
		{keyCABundle, CheckDocStructure, []any{[]byte{1}, 1}},
		{keyCABundle, CheckDocStructure, []any{[][]byte{{1}}}},
		{keyCABundle, CheckDocStructure, []any{map[int]int{}}},
		{keyCABundle, CheckDocStructure, map[int][]byte{0: {1}}},
		{keyCABundle, CheckCABundleCount, [][]byte{}},
		{keyModuleID, CheckDocStructure, []byte("i-1")},
		{keyModuleID, CheckDocStructure, raw("\x61\xff")}, // no UTF-8
		{keyModuleID, CheckDocStructure, raw("\x7f\x61\x61\xff")},
		{keyModuleID, CheckModuleID, " "},
		{keyModuleID, CheckModuleID, "i-1 enc1"},
		{keyModuleID, CheckModuleID, "i-1\nenc1"},
		{keyModuleID, CheckModuleID, "i-é"},
		{keyModuleID, CheckModuleID, strings.Repeat("i", maxModuleID+1)},
		{keyModuleID, "", strings.Repeat("i", maxModuleID)},
		{keyTimestamp, CheckDocStructure, 1.5},
		{keyTimestamp, CheckDocStructure, true},
		{keyTimestamp, CheckDocStructure, nil},
		{keyTimestamp, "", uint64(maxTimestamp)},
		{keyTimestamp, CheckTimestamp, uint64(maxTimestamp + 1)},
		{keyCertificate, CheckDocStructure, nil},
		{keyUserData, CheckDocStructure, raw("\xf7")}, // undefined is not null
		{keyUserData, "", bytes.Repeat([]byte{1}, maxField)},
	} {
		fields := maps.Clone(good)
		fields[c.key] = c.value
		payload, err := cbor.Marshal(fields)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.read(payload); attest.CheckOf(err) != c.check || (err == nil) != (c.check == "") {
			t.Errorf("%s = %.40v: %v, want %q", c.key, c.value, err, c.check)
		}
	}
}
