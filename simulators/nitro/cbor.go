package nitro

import "encoding/binary"

// The device's encoder is written out here, so that a fault can put any byte
// anywhere: a general encoder refuses to write what a verifier must refuse to
// read. Major types are those of RFC 8949, section 3.1.
const (
	majorUint  = 0
	majorNeg   = 1
	majorBytes = 2
	majorText  = 3
	majorArray = 4
	majorMap   = 5
	majorTag   = 6
)

// Single-byte items of RFC 8949, section 3.
const (
	cborNull          = 0xf6
	cborFalse         = 0xf4
	cborTrue          = 0xf5
	cborBreak         = 0xff
	cborIndefiniteMap = 0xbf
)

// head encodes a data item head with the shortest argument.
func head(major byte, n uint64) []byte {
	switch {
	case n < 24:
		return []byte{major<<5 | byte(n)}
	case n <= 0xff:
		return []byte{major<<5 | 24, byte(n)}
	case n <= 0xffff:
		return binary.BigEndian.AppendUint16([]byte{major<<5 | 25}, uint16(n))
	case n <= 0xffffffff:
		return binary.BigEndian.AppendUint32([]byte{major<<5 | 26}, uint32(n))
	default:
		return binary.BigEndian.AppendUint64([]byte{major<<5 | 27}, n)
	}
}

func cborUint(n uint64) []byte  { return head(majorUint, n) }
func cborBytes(b []byte) []byte { return append(head(majorBytes, uint64(len(b))), b...) }
func cborText(s string) []byte  { return append(head(majorText, uint64(len(s))), s...) }

// cborInt encodes a signed integer.
func cborInt(n int64) []byte {
	if n < 0 {
		return head(majorNeg, uint64(-(n + 1)))
	}
	return cborUint(uint64(n))
}

// cborOptional encodes nil as null: absent is not the same as empty.
func cborOptional(b []byte) []byte {
	if b == nil {
		return []byte{cborNull}
	}
	return cborBytes(b)
}

func cborArray(items ...[]byte) []byte {
	out := head(majorArray, uint64(len(items)))
	for _, i := range items {
		out = append(out, i...)
	}
	return out
}

// pair is one encoded entry of a map.
type pair struct{ key, value []byte }

// cborMap encodes the entries in the order given; it neither sorts them nor
// looks for duplicates.
func cborMap(pairs ...pair) []byte {
	out := head(majorMap, uint64(len(pairs)))
	for _, p := range pairs {
		out = append(append(out, p.key...), p.value...)
	}
	return out
}
