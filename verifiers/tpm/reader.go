package tpm

import "encoding/binary"

// reader takes a TPM structure apart (TPM 2.0 Library, Part 2: big-endian, a size
// of two bytes in front of what varies). After the first fault every read yields
// zero, and done says no.
type reader struct {
	b   []byte
	bad bool
}

// next returns the next n bytes, which share memory with the input.
func (r *reader) next(n int) []byte {
	if r.bad || len(r.b) < n {
		r.bad = true
		return nil
	}
	out := r.b[:n:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) u8() uint8 {
	if b := r.next(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) u16() uint16 {
	if b := r.next(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *reader) u32() uint32 {
	if b := r.next(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *reader) u64() uint64 {
	if b := r.next(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// sized returns a TPM2B's content, at most limit bytes.
func (r *reader) sized(limit int) []byte {
	n := int(r.u16())
	if n > limit {
		r.bad = true
	}
	return r.next(n)
}

// done reports whether everything was there, and nothing is left.
func (r *reader) done() bool { return !r.bad && len(r.b) == 0 }
