package nitro_test

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"regexp"
	"testing"

	"github.com/fxamacker/cbor/v2"

	"github.com/assay-project/assay/attest"
	simnitro "github.com/assay-project/assay/simulators/nitro"
	"github.com/assay-project/assay/verifiers/nitro"
)

// wrapped is the document in the binary forms that Normalize knows.
func wrapped(t testing.TB, doc []byte) map[string][]byte {
	t.Helper()
	response, err := cbor.Marshal(map[string]any{"Attestation": map[string]any{"document": doc}})
	if err != nil {
		t.Fatal(err)
	}
	scale := binary.LittleEndian.AppendUint16([]byte{0, 2}, uint16(len(doc)<<2|1))
	return map[string][]byte{
		"document":              doc,
		"response":              response,
		"document with length":  append(binary.BigEndian.AppendUint32(nil, uint32(len(doc))), doc...),
		"response with length":  append(binary.BigEndian.AppendUint32(nil, uint32(len(response))), response...),
		"SCALE":                 append(scale, doc...),
		"SCALE and more fields": append(append(scale, doc...), `{"and":"more"}`...),
	}
}

func TestADocumentIsFoundInEveryWrapping(t *testing.T) {
	a, v := simulated(t)
	doc := mint(t, a, simnitro.Document{Tagged: true})
	lines := regexp.MustCompile(".{64}")
	for name, raw := range wrapped(t, doc) {
		h, b := hex.EncodeToString(raw), base64.StdEncoding.EncodeToString(raw)
		for form, in := range map[string][]byte{
			"binary": raw, "hex": []byte(h), "hex in lines": []byte(lines.ReplaceAllString(h, "$0\n") + "\n"), "0x": []byte("0x" + h),
			"upper-case hex": bytes.ToUpper([]byte(h)), "base64": []byte(b), "base64 in lines": []byte(lines.ReplaceAllString(b, "$0\r\n")),
			"base64url": []byte(base64.RawURLEncoding.EncodeToString(raw)), "padded base64url": []byte(base64.URLEncoding.EncodeToString(raw)),
		} {
			got, err := nitro.Normalize(in)
			if err != nil || !bytes.Equal(got, doc) {
				t.Errorf("%s in %s: %d bytes, %v; want the %d bytes of the document", name, form, len(got), err, len(doc))
			}
		}
	}
	accept(t, v, doc, epoch)
}

func TestRecordedWrappingsHoldTheRecordedDocument(t *testing.T) {
	seen := 0
	for _, r := range recordings(t) {
		if got, err := nitro.Normalize(r.body); err != nil || !bytes.Equal(got, r.body) {
			t.Errorf("%s: %v", r.name, err)
		}
		if r.name != "dstack-nsm-2025" {
			continue
		}
		seen++
		if got, err := nitro.Normalize(r.vector.Read(t, "nsm-response.bin")); err != nil || !bytes.Equal(got, r.body) {
			t.Errorf("%s, wrapped: %v", r.name, err)
		}
	}
	if seen != 1 {
		t.Error("no recorded wrapping")
	}
}

// Nothing that stands behind a bare document is cut off: that would hide a
// trailing byte from the check that refuses it.
func TestNormalizeDoesNotRepairADocument(t *testing.T) {
	a, v := simulated(t)
	in := append(mint(t, a, simnitro.Document{}), 0)
	got, err := nitro.Normalize(in)
	if err != nil || !bytes.Equal(got, in) {
		t.Fatalf("%d bytes of %d, %v", len(got), len(in), err)
	}
	c, err := v.Authenticate(t.Context(), evidence(got), epoch)
	wantRefusal(t, c, err, nitro.CheckCOSEStructure)
}

func TestWhatIsNoDocumentIsRefusedWithAReason(t *testing.T) {
	cut := []byte{0, 2, 0xbd} // SCALE, cut in its length
	for name, in := range map[string][]byte{
		"empty": {}, "blank": []byte(" \n"), "PEM": []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
		"JSON": []byte(`{"Attestation":{"document":[132]}}`), "hex of nothing known": []byte("00ff"), "base64 of text": []byte("aGVsbG8gd29ybGQ="),
		"SCALE, cut": cut, "SCALE, cut in 4 bytes": {0, 2, 2, 0}, "SCALE, huge": {0, 2, 3, 0xff, 0xff, 0xff, 0xff}, "SCALE, too long": {0, 2, 0xfd, 0xff, 0x84},
		"SCALE of nothing": {0, 2, 0}, "another SCALE version": {1, 2, 4, 0x84}, "DER": {0x30, 0x82, 1, 0},
		"response, cut": {0xa1, 0x6b}, "two responses": {0xa2, 0x61, 'a', 0, 0x61, 'b', 0}, "document is text": append([]byte("\xa1\x6bAttestation\xa1\x68document"), 0x61, 'x'),
		"document is empty": append([]byte("\xa1\x6bAttestation\xa1\x68document"), 0x40),
	} {
		got, err := nitro.Normalize(in)
		if got != nil || attest.CheckOf(err) != nitro.CheckEncoding || attest.KindOf(err) != attest.Malformed {
			t.Errorf("%s: %x, %v", name, got, err)
		}
	}
}
