package signed

import (
	"bytes"
	"errors"
	"sync"

	"github.com/fxamacker/cbor/v2"
)

// codec is the one way in which this package writes CBOR, and the strict way in
// which it reads it.
type codec struct {
	enc cbor.EncMode
	dec cbor.DecMode
}

// theCodec makes it once. The options are constant: an error is a mistake of
// ours.
var theCodec = sync.OnceValues(func() (codec, error) {
	enc, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		return codec{}, err
	}
	dec, err := cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		IndefLength:       cbor.IndefLengthForbidden,
		TagsMd:            cbor.TagsForbidden,
		UTF8:              cbor.UTF8RejectInvalid,
		MaxNestedLevels:   4,
		MaxArrayElements:  2 * maxSignatures,
		MaxMapPairs:       16,
		FieldNameMatching: cbor.FieldNameMatchingCaseSensitive,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
	}.DecMode()
	return codec{enc, dec}, err
})

// errNotExact is CBOR that says the same in another way than the deterministic
// one (RFC 8949 section 4.2.1).
var errNotExact = errors.New("not the deterministic encoding of what it says")

// decodeExact reads b, the encoding of one data item and nothing else, into v,
// and demands that v written again is b: so no other spelling, nothing that v
// does not hold, and nothing after it gets through.
func decodeExact(b []byte, v any) error {
	m, err := theCodec()
	if err != nil {
		return err
	}
	if err := m.dec.Unmarshal(b, v); err != nil {
		return err
	}
	again, err := m.enc.Marshal(v)
	if err != nil {
		return err
	}
	if !bytes.Equal(again, b) {
		return errNotExact
	}
	return nil
}

// encode writes v deterministically.
func encode(v any) ([]byte, error) {
	m, err := theCodec()
	if err != nil {
		return nil, err
	}
	return m.enc.Marshal(v)
}
