package tpm

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Codes of the commands that faults change (Part 2, section 6.5.2).
const (
	ccCreatePrimary      = 0x131
	ccActivateCredential = 0x147
	ccCertify            = 0x148
	ccCreate             = 0x153
	ccQuote              = 0x158
	ccReadPublic         = 0x173
	ccPCRRead            = 0x17e
)

// handles is how many handles a command has in front of its authorizations, and
// its response in front of its parameters; ok is false for codes that no fault
// changes.
func handles(code uint32) (command, response int, ok bool) {
	switch code {
	case ccCreatePrimary:
		return 1, 1, true
	case ccCreate, ccQuote, ccReadPublic:
		return 1, 0, true
	case ccActivateCredential, ccCertify:
		return 2, 0, true
	case ccPCRRead:
		return 0, 0, true
	default:
		return 0, 0, false
	}
}

// parts is a command or a response taken apart (Part 1, sections 18.2 to 18.9):
// tag, size, code, handles, then for a command the authorizations with their
// size, for a response the size of the parameters, where there are sessions.
type parts struct {
	tag            uint16
	code           uint32
	handles        []uint32
	authorizations []byte // of a command, or behind a response's parameters
	parameters     []byte
}

var errParts = errors.New("the message ends too early")

// splitCommand takes a command apart.
func splitCommand(b []byte) (p parts, err error) {
	if err := checkCommand(b); err != nil {
		return p, err
	}
	p.tag, p.code = binary.BigEndian.Uint16(b), codeOf(b)
	n, _, ok := handles(p.code)
	if !ok {
		return p, fmt.Errorf("tpm: command 0x%x is none that is taken apart", p.code)
	}
	rest := b[headerSize:]
	if p.handles, rest, err = takeHandles(rest, n); err != nil {
		return p, err
	}
	if p.tag == tagSessions {
		if p.authorizations, rest, err = takeSized(rest); err != nil {
			return p, err
		}
	}
	p.parameters = rest
	return p, nil
}

// command puts it together again.
func (p parts) command() []byte {
	var body []byte
	for _, h := range p.handles {
		body = binary.BigEndian.AppendUint32(body, h)
	}
	if p.tag == tagSessions {
		body = binary.BigEndian.AppendUint32(body, uint32(len(p.authorizations)))
		body = append(body, p.authorizations...)
	}
	return p.seal(append(body, p.parameters...))
}

// splitResponse takes the response to a command apart. One that is an error has
// neither handles nor parameters.
func splitResponse(command uint32, b []byte) (p parts, err error) {
	if err := checkCommand(b); err != nil { // the header is the same
		return p, err
	}
	p.tag, p.code = binary.BigEndian.Uint16(b), codeOf(b)
	_, n, ok := handles(command)
	if !ok || p.code != 0 {
		return p, fmt.Errorf("tpm: response 0x%x to command 0x%x is none that is taken apart", p.code, command)
	}
	rest := b[headerSize:]
	if p.handles, rest, err = takeHandles(rest, n); err != nil {
		return p, err
	}
	if p.tag == tagSessions {
		if p.parameters, p.authorizations, err = takeSized(rest); err != nil {
			return p, err
		}
		return p, nil
	}
	p.parameters = rest
	return p, nil
}

// response puts it together again.
func (p parts) response() []byte {
	var body []byte
	for _, h := range p.handles {
		body = binary.BigEndian.AppendUint32(body, h)
	}
	if p.tag == tagSessions {
		body = binary.BigEndian.AppendUint32(body, uint32(len(p.parameters)))
	}
	body = append(body, p.parameters...)
	return p.seal(append(body, p.authorizations...))
}

func (p parts) seal(body []byte) []byte {
	out := binary.BigEndian.AppendUint16(make([]byte, 0, headerSize+len(body)), p.tag)
	out = binary.BigEndian.AppendUint32(out, uint32(headerSize+len(body)))
	return append(binary.BigEndian.AppendUint32(out, p.code), body...)
}

func takeHandles(b []byte, n int) (out []uint32, rest []byte, err error) {
	if len(b) < 4*n {
		return nil, nil, errParts
	}
	for range n {
		out = append(out, binary.BigEndian.Uint32(b))
		b = b[4:]
	}
	return out, b, nil
}

// takeSized takes what has its size, in four bytes, in front.
func takeSized(b []byte) (taken, rest []byte, err error) {
	if len(b) < 4 || int64(binary.BigEndian.Uint32(b)) > int64(len(b)-4) {
		return nil, nil, errParts
	}
	n := binary.BigEndian.Uint32(b)
	return b[4 : 4+n], b[4+n:], nil
}

// take2B takes a TPM2B: two bytes of size, and content.
func take2B(b []byte) (content, rest []byte, err error) {
	if len(b) < 2 || int(binary.BigEndian.Uint16(b)) > len(b)-2 {
		return nil, nil, errParts
	}
	n := int(binary.BigEndian.Uint16(b))
	return b[2 : 2+n], b[2+n:], nil
}

// put2B writes one.
func put2B(to, content []byte) []byte {
	return append(binary.BigEndian.AppendUint16(to, uint16(len(content))), content...)
}

// splitAuthorization takes the first authorization off: nonce, attributes and
// HMAC, and in a command a session handle in front, of handleSize bytes (Part 2,
// sections 10.13.2 and 10.13.3).
func splitAuthorization(b []byte, handleSize int) (first, rest []byte, ok bool) {
	if len(b) < handleSize {
		return nil, nil, false
	}
	_, rest, err := take2B(b[handleSize:])
	if err != nil || len(rest) < 1 {
		return nil, nil, false
	}
	if _, rest, err = take2B(rest[1:]); err != nil {
		return nil, nil, false
	}
	return b[:len(b)-len(rest)], rest, true
}
