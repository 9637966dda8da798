package nitro

import (
	"encoding/binary"
	"encoding/hex"
)

// CBOR major types (RFC 8949, section 3.1).
const (
	majorUnsigned = 0
	majorNegative = 1
	majorBytes    = 2
	majorText     = 3
	majorArray    = 4
	majorMap      = 5
	majorTag      = 6
)

const cborNull = 0xf6

// hintBytes goes with errors of people who feed the wrong file.
const hintBytes = "a document is binary CBOR and begins with 8444a1013822a0; hex and base64 must be decoded first (`assay evidence verify` does)"

// head reads the head of one CBOR data item: its major type, its argument, and
// how many bytes the head has. shortest reports whether the argument could not
// have been written shorter (RFC 8949, section 4.2.1). ok is false for an empty
// or cut head, and for an item of indefinite length.
func head(b []byte) (major byte, arg uint64, size int, shortest, ok bool) {
	if len(b) == 0 {
		return 0, 0, 0, false, false
	}
	major = b[0] >> 5
	info := b[0] & 0x1f
	if info < 24 {
		return major, uint64(info), 1, true, true
	}
	n := 0
	switch info {
	case 24:
		n = 1
	case 25:
		n = 2
	case 26:
		n = 4
	case 27:
		n = 8
	}
	if n == 0 || len(b) < 1+n {
		return major, 0, 0, false, false
	}
	var be [8]byte
	copy(be[8-n:], b[1:1+n])
	arg = binary.BigEndian.Uint64(be[:])
	floor := [9]uint64{1: 24, 2: 1 << 8, 4: 1 << 16, 8: 1 << 32}[n]
	return major, arg, 1 + n, arg >= floor, true
}

// content returns what a definite byte or text string holds, without copying.
func content(raw []byte, want byte) (s []byte, shortest, ok bool) {
	major, arg, size, shortest, ok := head(raw)
	if !ok || major != want || arg != uint64(len(raw)-size) {
		return nil, false, false
	}
	return raw[size:], shortest, true
}

// byteString returns what a definite byte string holds, without copying.
func byteString(raw []byte) (s []byte, shortest, ok bool) { return content(raw, majorBytes) }

// cborBreak ends a container of indefinite length.
const cborBreak = 0xff

// flat calls f with each item of an array, or with each key and each value of a
// map, in order and without copying, until f returns false. The container may
// have indefinite length; its items must be integers and definite strings,
// which is all that the format nests. It reports whether f saw every item and
// the container ends where raw does.
func flat(raw []byte, f func(item []byte) bool) bool {
	if len(raw) == 0 || (raw[0]>>5 != majorArray && raw[0]>>5 != majorMap) {
		return false
	}
	left, indefinite := uint64(0), raw[0]&0x1f == 0x1f
	if indefinite {
		raw = raw[1:]
	} else {
		major, n, size, _, ok := head(raw)
		if !ok || n > uint64(len(raw)) {
			return false
		}
		if left = n; major == majorMap {
			left *= 2
		}
		raw = raw[size:]
	}
	for ; ; left-- {
		switch {
		case indefinite && len(raw) > 0 && raw[0] == cborBreak:
			return len(raw) == 1
		case !indefinite && left == 0:
			return len(raw) == 0
		}
		major, n, size, _, ok := head(raw)
		if !ok {
			return false
		}
		switch major {
		case majorUnsigned, majorNegative:
		case majorBytes, majorText:
			if n > uint64(len(raw)-size) {
				return false
			}
			size += int(n)
		default:
			return false
		}
		if !f(raw[:size]) {
			return false
		}
		raw = raw[size:]
	}
}

// clipHex shortens bytes of a stranger for an error message.
func clipHex(b []byte) string {
	const n = 24
	if len(b) == 0 {
		return "nothing"
	}
	if len(b) > n {
		return hex.EncodeToString(b[:n]) + "…"
	}
	return hex.EncodeToString(b)
}
