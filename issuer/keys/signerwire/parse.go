package signerwire

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/assay-project/assay/attest"
)

// ParseRequest reads what a client may say: a [List] or a [Sign].
func ParseRequest(body []byte) (Message, error) {
	m, err := parse(body)
	if err != nil {
		return nil, err
	}
	switch m.(type) {
	case List, Sign:
		return m, nil
	}
	return nil, malformed("signer_message", fmt.Errorf("a %T is not a request", m))
}

// ParseResponse reads what a signer may say: [Keys], a [Signature] or a
// [Failure].
func ParseResponse(body []byte) (Message, error) {
	m, err := parse(body)
	if err != nil {
		return nil, err
	}
	switch m.(type) {
	case Keys, Signature, Failure:
		return m, nil
	}
	return nil, malformed("signer_message", fmt.Errorf("a %T is not a response", m))
}

func parse(body []byte) (Message, error) {
	if len(body) > MaxFrame {
		return nil, malformed("signer_frame", fmt.Errorf("%d bytes, at most %d", len(body), MaxFrame))
	}
	r := reader{rest: body}
	if v := r.byte(); r.err == nil && v != Version {
		return nil, malformed("signer_version", fmt.Errorf("version %d, want %d", v, Version))
	}
	var m Message
	switch t := r.byte(); t {
	case typeList:
		m = List{}
	case typeSign:
		m = Sign{Key: r.text(MaxName), Purpose: Purpose(r.text(MaxName)), Scheme: Scheme(r.byte()), Hash: Hash(r.byte()), Input: r.bytes(MaxMessage)}
	case typeKeys:
		m = r.keys()
	case typeSignature:
		m = Signature{Bytes: r.bytes(MaxSignature)}
	case typeFailure:
		m = Failure{Kind: attest.Kind(r.byte()), Check: r.text(maxCheck), Text: r.text(maxText), Hint: r.text(maxText)}
	default:
		if r.err == nil {
			r.err = fmt.Errorf("unknown type %#02x", t)
		}
	}
	if r.err == nil && len(r.rest) > 0 {
		r.err = fmt.Errorf("%d bytes follow the message", len(r.rest))
	}
	if r.err != nil {
		return nil, malformed("signer_message", r.err)
	}
	if err := m.check(); err != nil {
		return nil, err
	}
	return m, nil
}

var errShort = errors.New("the message ends early")

// reader takes a body apart. After its first error it returns zeros.
type reader struct {
	rest []byte
	err  error
}

func (r *reader) take(n int) []byte {
	if r.err == nil && n > len(r.rest) {
		r.err = errShort
	}
	if r.err != nil {
		return nil
	}
	out := r.rest[:n:n]
	r.rest = r.rest[n:]
	return out
}

func (r *reader) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) bytes(most int) []byte {
	head := r.take(2)
	if head == nil {
		return nil
	}
	n := int(binary.BigEndian.Uint16(head))
	if n > most {
		r.err = fmt.Errorf("a field of %d bytes, at most %d", n, most)
		return nil
	}
	return r.take(n)
}

func (r *reader) text(most int) string { return string(r.bytes(most)) }

func (r *reader) keys() Keys {
	n := int(r.byte())
	if n > MaxKeys {
		r.err = fmt.Errorf("%d keys, at most %d", n, MaxKeys)
	}
	var out Keys
	for range n {
		if r.err != nil {
			break
		}
		k := Key{Name: r.text(MaxName)}
		for range int(r.byte()) {
			if r.err != nil {
				break
			}
			k.Purposes = append(k.Purposes, Purpose(r.text(MaxName)))
		}
		k.Algorithm = r.text(MaxName)
		k.SPKI = r.bytes(maxSPKI)
		out.Keys = append(out.Keys, k)
	}
	return out
}
