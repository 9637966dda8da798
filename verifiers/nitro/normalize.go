package nitro

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/fxamacker/cbor/v2"
)

// maxFile is the largest input of Normalize, in bytes: a document of [MaxSize]
// in hex, with room for line ends and wrapping.
const maxFile = 4 * MaxSize

// Normalize finds the document in what people keep in files: the document
// itself, an NSM response that holds it ({"Attestation": {"document": …}}, with
// or without the four-byte length of a socket), the SCALE framing that dstack
// writes around it, each of them as binary, hex or base64. It trusts nothing
// and verifies nothing: a wrapping only says where the document is.
//
// The error is an *attest.Error, check "encoding".
func Normalize(raw []byte) ([]byte, error) {
	if len(raw) > maxFile {
		return nil, refuse(CheckEncoding, detail{
			Err: errors.New("too large for a document"), Expected: fmt.Sprintf("at most %d bytes", maxFile), Got: fmt.Sprintf("%d bytes", len(raw)),
		})
	}
	if !isText(raw) {
		return unwrap(raw)
	}
	text := strings.Join(strings.Fields(string(raw)), "")
	text = strings.TrimPrefix(strings.TrimPrefix(text, "0x"), "0X")
	if text == "" {
		return nil, refuse(CheckEncoding, detail{Err: errors.New("nothing there")})
	}
	// A hex text is a base64 text too, so hex goes first; whichever yields a
	// document is right.
	if b, err := hex.DecodeString(text); err == nil {
		if doc, err := unwrap(b); err == nil {
			return doc, nil
		}
	}
	trimmed := strings.TrimRight(text, "=")
	for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		if b, err := enc.DecodeString(trimmed); err == nil {
			return unwrap(b)
		}
	}
	return nil, refuse(CheckEncoding, detail{
		Err: errors.New("the text is neither hex nor base64 of a document"), Got: fmt.Sprintf("%.40q", text),
	})
}

// isText reports ASCII text. No form of a document in binary is that: each has
// a byte of its framing outside ASCII.
func isText(b []byte) bool {
	for _, c := range b {
		if (c < 0x20 || c > 0x7e) && c != '\n' && c != '\r' && c != '\t' {
			return false
		}
	}
	return true
}

// unwrap takes one document out of its framing.
func unwrap(b []byte) ([]byte, error) {
	if isDocument(b) {
		return b, nil
	}
	if n := len(b); n > 4 && uint64(binary.BigEndian.Uint32(b)) == uint64(n-4) {
		b = b[4:]
		if isDocument(b) {
			return b, nil
		}
	}
	if doc, ok := fromSCALE(b); ok {
		return doc, nil
	}
	if len(b) > 0 && b[0]>>5 == majorMap {
		return fromResponse(b)
	}
	return nil, refuse(CheckEncoding, detail{
		Err:      errors.New("no document and no NSM response"),
		Expected: "first byte 84 (COSE_Sign1), d2 (the same, tagged) or a1 (NSM response)", Got: clipHex(b), Hint: hintBytes,
	})
}

// isDocument reports what can only be meant as a COSE message: an array, or one
// behind tags. Whether it is a good one is for Authenticate to say.
func isDocument(b []byte) bool {
	for range maxTags {
		if len(b) == 0 || b[0]>>5 != majorTag {
			break
		}
		_, _, size, _, ok := head(b)
		if !ok {
			return false
		}
		b = b[size:]
	}
	return len(b) > 0 && b[0]>>5 == majorArray
}

// maxTags is how many stacked tags are looked through by those who only look.
const maxTags = 4

// fromResponse reads the NSM's answer to an Attestation request.
func fromResponse(b []byte) ([]byte, error) {
	var r map[string]cbor.RawMessage
	if err := cbor.Unmarshal(b, &r); err != nil {
		return nil, refuse(CheckEncoding, detail{Err: fmt.Errorf("not an NSM response: %w", err), Got: clipHex(b)})
	}
	if raw, ok := r["Error"]; ok {
		var code string
		_ = cbor.Unmarshal(raw, &code) // the code is for the message only
		return nil, refuse(CheckEncoding, detail{Err: errors.New("the NSM answered with an error, not with a document"), Got: fmt.Sprintf("%.40q", code)})
	}
	var a map[string]cbor.RawMessage
	if err := cbor.Unmarshal(r["Attestation"], &a); err != nil || len(r) != 1 {
		return nil, refuse(CheckEncoding, detail{
			Err: errors.New("the NSM response is not an answer to Attestation"), Expected: `{"Attestation": {"document": …}}`, Got: clipHex(b),
		})
	}
	doc, _, ok := byteString(a["document"])
	if !ok || !isDocument(doc) {
		return nil, refuse(CheckEncoding, detail{Err: errors.New("the NSM response holds no document"), Got: clipHex(a["document"])})
	}
	return doc, nil
}

// fromSCALE reads the framing of dstack: version 0, variant 2, then the
// document behind its compact length (Parity SCALE codec), then fields that are
// dstack's own and are left out.
func fromSCALE(b []byte) ([]byte, bool) {
	if len(b) < 3 || b[0] != 0 || b[1] != 2 {
		return nil, false
	}
	b = b[2:]
	var n, size int
	switch b[0] & 3 { // the two low bits say how long the length is
	case 0:
		n, size = int(b[0]>>2), 1
	case 1:
		if len(b) < 2 {
			return nil, false
		}
		n, size = int(binary.LittleEndian.Uint16(b)>>2), 2
	case 2:
		if len(b) < 4 {
			return nil, false
		}
		n, size = int(binary.LittleEndian.Uint32(b)>>2), 4
	default: // more than a gigabyte
		return nil, false
	}
	if n > len(b)-size || !isDocument(b[size:size+n]) {
		return nil, false
	}
	return b[size : size+n], true
}
