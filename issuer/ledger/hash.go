package ledger

import (
	"crypto/sha256"
	"encoding/binary"
)

// entryTag separates the hash of an entry from every other hash in Assay.
const entryTag = "assay/v1 ledger entry"

// entryHash is H_i of docs/spec/ledger.md:
//
//	SHA-256(tag ‖ 00 ‖ len(td) ‖ td ‖ len(chain) ‖ chain ‖ i ‖ H_{i-1} ‖ SHA-256(payload))
//
// with lengths of 4 and i of 8 bytes, big-endian, and H_0 = 32 zero bytes.
// Naming trust domain and chain in every hash keeps an entry from being moved.
func entryHash(trustDomain, chain string, sequence uint64, previous [32]byte, payload []byte) [32]byte {
	sum := sha256.Sum256(payload)
	b := make([]byte, 0, len(entryTag)+1+8+len(trustDomain)+len(chain)+8+64)
	b = append(b, entryTag...)
	b = append(b, 0)
	b = binary.BigEndian.AppendUint32(b, uint32(len(trustDomain)))
	b = append(b, trustDomain...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(chain)))
	b = append(b, chain...)
	b = binary.BigEndian.AppendUint64(b, sequence)
	b = append(b, previous[:]...)
	b = append(b, sum[:]...)
	return sha256.Sum256(b)
}
