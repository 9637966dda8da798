package attest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
)

// A TPM's body is read by hand: its encoding is deterministic (RFC 8949, section
// 4.2.1) and its shape is fixed, so that reading it strictly is less work than
// decoding it leniently, encoding it again, and comparing. A fuzz target holds the
// reading to that of a CBOR library.

// The major types of RFC 8949, section 3.1, that a body has.
const (
	cborUint  = 0
	cborBytes = 2
	cborArray = 4
	cborMap   = 5
)

var errEnds = errors.New("the body ends within an item")

// cborReader reads deterministic CBOR from front to back. The first error stays.
type cborReader struct {
	rest []byte
	err  error
}

func (r *cborReader) fail(err error) {
	if r.err == nil {
		r.err, r.rest = err, nil
	}
}

// head reads a data item's head: its argument, in the shortest form.
func (r *cborReader) head(major byte) uint64 {
	if len(r.rest) == 0 {
		r.fail(errEnds)
		return 0
	}
	first := r.rest[0]
	r.rest = r.rest[1:]
	if got := first >> 5; got != major {
		r.fail(fmt.Errorf("an item of major type %d where %d is due", got, major))
		return 0
	}
	short := uint64(first & 0x1f)
	if short < 24 {
		return short
	}
	if short > 27 {
		r.fail(errors.New("an item of indefinite or unknown length"))
		return 0
	}
	size := 1 << (short - 24)
	if len(r.rest) < size {
		r.fail(errEnds)
		return 0
	}
	var wide [8]byte
	copy(wide[8-size:], r.rest)
	r.rest = r.rest[size:]
	n := binary.BigEndian.Uint64(wide[:])
	if n < 24 || size > 1 && bits.Len64(n) <= 4*size {
		r.fail(fmt.Errorf("the number %d is not in its shortest form", n))
		return 0
	}
	return n
}

// bytes reads a byte string, which shares the input's memory.
func (r *cborReader) bytes() []byte {
	n := r.head(cborBytes)
	if n > uint64(len(r.rest)) {
		r.fail(errEnds)
		return nil
	}
	if r.err != nil {
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

// part reads a byte string that is not empty: an empty part is left out.
func (r *cborReader) part(name string) []byte {
	b := r.bytes()
	if r.err == nil && len(b) == 0 {
		r.fail(fmt.Errorf("the %s is empty", name))
	}
	return b
}

// readTPMBody reads the map of a body.
func readTPMBody(body []byte) (*TPMEvidence, error) {
	r := &cborReader{rest: body}
	var e TPMEvidence
	parts := []struct {
		name string
		to   *[]byte
	}{
		1: {"quote", &e.Quote}, 2: {"signature", &e.Signature}, 3: {"AK public area", &e.AKPublic},
		5: {"EK public area", &e.EKPublic}, 6: {"EK certificate", &e.EKCertificate}, 7: {"AK certificate", &e.AKCertificate},
		8: {"event log's digest", &e.EventLogDigest},
	}
	var last uint64
	for range r.head(cborMap) {
		key := r.head(cborUint)
		if r.err != nil {
			break
		}
		if key <= last {
			r.fail(fmt.Errorf("the key %d is out of order", key))
			break
		}
		// 1 to 4 are required, so none of them is passed over.
		if last < 4 && key != last+1 {
			r.fail(fmt.Errorf("the key %d is missing", last+1))
			break
		}
		last = key
		switch {
		case key == 4:
			e.PCRs = r.registers()
		case key == 9:
			e.Certified = r.certified()
		case key < uint64(len(parts)):
			*parts[key].to = r.part(parts[key].name)
		default:
			r.fail(fmt.Errorf("the key %d is not known", key))
		}
		if r.err != nil {
			break
		}
	}
	switch {
	case r.err != nil:
		return nil, r.err
	case last < 4:
		return nil, fmt.Errorf("the key %d is missing", last+1)
	case len(r.rest) != 0:
		return nil, fmt.Errorf("%d bytes follow the body", len(r.rest))
	}
	return &e, nil
}

// registers reads the map of PCR values, ascending by index.
func (r *cborReader) registers() map[uint32][]byte {
	n := r.head(cborMap)
	if n > maxPCR+1 {
		r.fail(fmt.Errorf("%d registers, want at most %d", n, maxPCR+1))
		return nil
	}
	out := make(map[uint32][]byte, n)
	next := uint64(0)
	for range n {
		index := r.head(cborUint)
		value := r.bytes()
		switch {
		case r.err != nil:
			return nil
		case index > maxPCR:
			r.fail(fmt.Errorf("there is no PCR %d", index))
		case index < next:
			r.fail(fmt.Errorf("PCR %d is out of order", index))
		}
		next = index + 1
		out[uint32(index)] = value
	}
	return out
}

// certified reads the array of resident keys.
func (r *cborReader) certified() []TPMCertified {
	n := r.head(cborArray)
	if r.err == nil && (n == 0 || n > MaxKeys) {
		r.fail(fmt.Errorf("%d certified keys, want 1 to %d", n, MaxKeys))
	}
	if r.err != nil {
		return nil
	}
	out := make([]TPMCertified, n)
	for i := range out {
		if size := r.head(cborMap); r.err == nil && size != 3 {
			r.fail(fmt.Errorf("certified key %d has %d parts, want 3", i, size))
		}
		for key, to := range []*[]byte{&out[i].Public, &out[i].Attest, &out[i].Signature} {
			if got := r.head(cborUint); r.err == nil && got != uint64(key)+1 {
				r.fail(fmt.Errorf("certified key %d has the key %d where %d is due", i, got, key+1))
			}
			*to = r.bytes()
		}
	}
	if r.err != nil {
		return nil
	}
	return out
}
