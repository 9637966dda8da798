package nitro

import (
	"errors"
	"fmt"

	"github.com/fxamacker/cbor/v2"
)

// Sizes of the envelope.
const (
	// MaxSize is the largest document that is looked at, in bytes. The largest
	// that the NSM can make (three fields of 1024 bytes) has about 7.5 KB.
	MaxSize = 16 << 10
	// signatureSize is r and s of ES384, 48 bytes each.
	signatureSize = 96
	// tagSign1 is the one-byte encoding of CBOR tag 18, COSE_Sign1.
	tagSign1 = 0xd2
)

// protectedES384 is the map {1: -35}, alg = ES384. It is the only protected
// header that the NSM writes, and the only one that is understood here.
const protectedES384 = "\xa1\x01\x38\x22"

// envelope is a COSE_Sign1 message whose signature nobody has verified.
type envelope struct {
	protected []byte // content of the byte string
	payload   []byte
	signature []byte // 96 bytes, r ‖ s
}

// sign1 is COSE_Sign1 as it is on the wire.
type sign1 struct {
	_           struct{} `cbor:",toarray"`
	Protected   cbor.RawMessage
	Unprotected cbor.RawMessage
	Payload     cbor.RawMessage
	Signature   cbor.RawMessage
}

// modes are the two strict decoders: one for what nobody signed, which has
// exactly one encoding here, and one for the signed payload, whose maps may
// have indefinite length (newer NSMs write it so).
type modes struct {
	outer cbor.DecMode
	inner cbor.DecMode
}

func newModes() (modes, error) {
	o := cbor.DecOptions{
		DupMapKey:       cbor.DupMapKeyEnforcedAPF,
		IndefLength:     cbor.IndefLengthForbidden,
		TagsMd:          cbor.TagsForbidden,
		MaxNestedLevels: 4,
		UTF8:            cbor.UTF8RejectInvalid,
		IntDec:          cbor.IntDecConvertSignedOrFail,
	}
	outer, err := o.DecMode()
	if err != nil {
		return modes{}, err
	}
	o.IndefLength = cbor.IndefLengthAllowed
	inner, err := o.DecMode()
	return modes{outer: outer, inner: inner}, err
}

// open takes the envelope apart. It accepts one encoding of each message: what
// is outside the payload and the signature cannot be varied.
func (m modes) open(body []byte) (envelope, error) {
	if len(body) == 0 || len(body) > MaxSize {
		return envelope{}, refuse(CheckSize, detail{
			Err:      errors.New("the document is empty or too large"),
			Expected: fmt.Sprintf("1 to %d bytes", MaxSize), Got: fmt.Sprintf("%d bytes", len(body)),
		})
	}
	if body[0] == tagSign1 {
		body = body[1:]
	}
	if len(body) > 0 && body[0]>>5 == majorTag {
		return envelope{}, refuse(CheckCOSETag, detail{
			Err:      errors.New("the message has a CBOR tag that is not COSE_Sign1's"),
			Expected: "no tag, or tag 18 once, as d2", Got: fmt.Sprintf("first byte %02x", body[0]),
		})
	}
	var msg sign1
	if err := m.outer.Unmarshal(body, &msg); err != nil {
		return envelope{}, refuse(CheckCOSEStructure, detail{
			Err: fmt.Errorf("not a COSE_Sign1 message: %w", err), Hint: hintBytes,
		})
	}
	if body[0] != 0x84 {
		return envelope{}, refuse(CheckCOSEStructure, detail{
			Err:      errors.New("the message is not an array of four in its shortest form"),
			Expected: "first byte 84", Got: fmt.Sprintf("%02x", body[0]),
		})
	}
	var env envelope
	for _, f := range []struct {
		name string
		raw  []byte
		to   *[]byte
	}{
		{"protected header", msg.Protected, &env.protected},
		{"payload", msg.Payload, &env.payload},
		{"signature", msg.Signature, &env.signature},
	} {
		content, shortest, ok := byteString(f.raw)
		if !ok || !shortest {
			return envelope{}, refuse(CheckCOSEStructure, detail{
				Err:      fmt.Errorf("the %s is not a byte string with its length in the shortest form", f.name),
				Expected: "major type 2", Got: fmt.Sprintf("first byte %02x", f.raw[0]),
			})
		}
		*f.to = content
	}
	if len(env.payload) == 0 {
		return envelope{}, refuse(CheckCOSEStructure, detail{Err: errors.New("the payload is empty")})
	}
	if string(env.protected) != protectedES384 {
		return envelope{}, m.refuseProtected(env.protected)
	}
	if len(msg.Unprotected) != 1 || msg.Unprotected[0] != 0xa0 {
		return envelope{}, refuse(CheckCOSEUnprotected, detail{
			Err:      errors.New("the unprotected header is not an empty map: nobody signed what is in it"),
			Expected: "a0", Got: clipHex(msg.Unprotected),
		})
	}
	if len(env.signature) != signatureSize {
		return envelope{}, refuse(CheckCOSESigLength, detail{
			Err:      errors.New("the signature does not have the length of ES384"),
			Expected: fmt.Sprintf("%d bytes", signatureSize), Got: fmt.Sprintf("%d bytes", len(env.signature)),
		})
	}
	return env, nil
}

// refuseProtected says what is wrong with a protected header that is not
// {1: -35} byte for byte.
func (m modes) refuseProtected(h []byte) error {
	var fields map[any]cbor.RawMessage
	if len(h) == 0 || h[0]>>5 != majorMap {
		return refuse(CheckCOSEProtected, detail{
			Err:      errors.New("the protected header is not a map"),
			Expected: clipHex([]byte(protectedES384)), Got: clipHex(h),
		})
	}
	if err := m.outer.Unmarshal(h, &fields); err != nil {
		return refuse(CheckCOSEProtected, detail{
			Err: fmt.Errorf("the protected header: %w", err), Expected: clipHex([]byte(protectedES384)), Got: clipHex(h),
		})
	}
	alg, ok := fields[int64(1)]
	if !ok || len(fields) != 1 {
		return refuse(CheckCOSEProtected, detail{
			Err:      errors.New("the protected header must hold alg and nothing else: what is not understood cannot be honoured"),
			Expected: clipHex([]byte(protectedES384)), Got: clipHex(h),
		})
	}
	var n int64
	if alg[0]>>5 != majorNegative || m.outer.Unmarshal(alg, &n) != nil || n != -35 {
		return refuse(CheckCOSEAlg, detail{
			Err:      errors.New("the signature algorithm is not ES384"),
			Expected: "-35", Got: "CBOR " + clipHex(alg),
		})
	}
	return refuse(CheckCOSEProtected, detail{
		Err:      errors.New("the protected header is not in its shortest form"),
		Expected: clipHex([]byte(protectedES384)), Got: clipHex(h),
	})
}
