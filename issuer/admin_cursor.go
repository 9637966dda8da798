package issuer

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"math"
	"strconv"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/issuer/store"
)

// A cursor is where a list goes on. It holds a place in the order of the list and a
// digest of what the list is of, so that one of another list is refused instead of
// misunderstood. It is no permission and not secret: what is read from a place on is
// always what the caller's own trust domain has, whoever made the cursor.
//
//	version 1, digest of the list [8], then times in microseconds and numbers, each 8
//	bytes, big endian; then a name
const (
	cursorVersion = 1
	cursorHead    = 1 + 8
	maxCursor     = 1024 // bytes, before base64
)

var errCursor = errors.New("the cursor is of another list: take that of a record of the same one, with the same selection")

// listing is what a list is of: a method, a trust domain and a selection.
type listing struct{ digest [8]byte }

func newListing(method string, td spiffeid.TrustDomain, selection ...string) listing {
	h := sha256.New()
	for _, s := range append([]string{"assay list cursor", method, td.Name()}, selection...) {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(s))))
		h.Write([]byte(s))
	}
	return listing{[8]byte(h.Sum(nil))}
}

func flag(b bool) string { return strconv.FormatBool(b) }

func (l listing) encode(name string, numbers ...uint64) string {
	out := append([]byte{cursorVersion}, l.digest[:]...)
	for _, n := range numbers {
		out = binary.BigEndian.AppendUint64(out, n)
	}
	if out = append(out, name...); len(out) > maxCursor {
		return "" // a name that long is of no list
	}
	return base64.RawURLEncoding.EncodeToString(out)
}

// decode reads n numbers and a name.
func (l listing) decode(cursor string, n int) (numbers []uint64, name string, err error) {
	if len(cursor) > base64.RawURLEncoding.EncodedLen(maxCursor) {
		return nil, "", errCursor
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(cursor)
	if err != nil || len(b) < cursorHead+8*n || b[0] != cursorVersion || [8]byte(b[1:cursorHead]) != l.digest {
		return nil, "", errCursor
	}
	b = b[cursorHead:]
	for range n {
		v := binary.BigEndian.Uint64(b)
		if v == 0 || v > math.MaxInt64 { // no time and no number is
			return nil, "", errCursor
		}
		numbers, b = append(numbers, v), b[8:]
	}
	return numbers, string(b), nil
}

func (l listing) afterHolder(until time.Time, p store.HolderPlace) string {
	return l.encode(p.Instance, uint64(until.UnixMicro()), uint64(p.Last.UnixMicro()))
}

func (l listing) holderAt(cursor string) (until time.Time, p store.HolderPlace, err error) {
	n, name, err := l.decode(cursor, 2)
	if err != nil {
		return time.Time{}, p, err
	}
	return time.UnixMicro(int64(n[0])).UTC(), store.HolderPlace{Last: time.UnixMicro(int64(n[1])).UTC(), Instance: name}, nil
}

func (l listing) afterHeld(p store.HeldPlace) string {
	return l.encode(p.Chain, uint64(p.At.UnixMicro()), p.Sequence, uint64(p.Position)+1)
}

func (l listing) heldAt(cursor string) (p store.HeldPlace, err error) {
	n, name, err := l.decode(cursor, 3)
	if err != nil || n[2] > math.MaxInt32 {
		return p, errCursor
	}
	return store.HeldPlace{At: time.UnixMicro(int64(n[0])).UTC(), Chain: name, Sequence: n[1], Position: int(n[2]) - 1}, nil
}
