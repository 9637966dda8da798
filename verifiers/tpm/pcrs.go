package tpm

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifiers/internal/check"
)

// staticPCRs are the registers that only a reset of the machine resets (PC Client
// Platform TPM Profile, section 4.6.1): 0 to 15. 16 and 23 are reset by anyone, 17
// to 22 by locality.
const staticPCRs = 0xffff

// bank is the one bank that a quote selects.
type bank struct {
	name   string // "sha256", as in claims
	hash   crypto.Hash
	chosen selection
}

// checkSelection demands of a quote one bank, of a hash that is good, and at least
// one static register. What is quoted is read from the signed structure only.
func checkSelection(q *attested) (*bank, error) {
	if len(q.selection) != 1 {
		return nil, refuse(CheckPCRBankCount, detail{
			Err: errors.New("the quote is not over exactly one bank"), Expected: "1 selection", Got: fmt.Sprintf("%d", len(q.selection)),
		})
	}
	s := q.selection[0]
	b := &bank{chosen: s}
	switch s.bank {
	case algSHA256:
		b.name, b.hash = "sha256", crypto.SHA256
	case algSHA384:
		b.name, b.hash = "sha384", crypto.SHA384
	default:
		return nil, refuse(CheckPCRBank, detail{
			Err: errors.New("the quote is over a bank that proves nothing"), Expected: "SHA-256 or SHA-384", Got: algName(s.bank), Hint: "activate the SHA-256 bank in the firmware's settings",
		})
	}
	if s.pcrs == 0 {
		return nil, refuse(CheckPCREmpty, detail{Err: errors.New("the quote is over no register"), Expected: "one of PCR 0 to 15"})
	}
	if s.pcrs&staticPCRs == 0 {
		return nil, refuse(CheckPCRResettable, detail{
			Err: errors.New("the quote is only over registers that can be reset while the machine runs"), Expected: "one of PCR 0 to 15", Got: fmt.Sprintf("PCRs %v", s.indexes()),
		})
	}
	return b, nil
}

// checkValues demands a value for each selected register, and for no other, each
// as long as the bank's digest. Without the length, values could be cut at other
// places and still hash to the quoted digest.
func (b *bank) checkValues(values map[uint32][]byte) error {
	want := b.chosen.indexes()
	complete := len(values) == len(want)
	for _, i := range want {
		if _, ok := values[uint32(i)]; !ok {
			complete = false
		}
	}
	if !complete {
		return refuse(CheckPCRValues, detail{
			Err:      errors.New("the registers' values are not exactly those that are quoted"),
			Expected: fmt.Sprintf("PCRs %v", want), Got: fmt.Sprintf("PCRs %v", slices.Sorted(maps.Keys(values))),
		})
	}
	for _, i := range want {
		if v := values[uint32(i)]; len(v) != b.hash.Size() {
			return refuse(CheckPCRValueLength, detail{
				Err:      fmt.Errorf("the value of PCR %d has another length than the bank's digests", i),
				Expected: fmt.Sprintf("%d bytes", b.hash.Size()), Got: fmt.Sprintf("%d bytes", len(v)),
			})
		}
	}
	return nil
}

// checkDigest recomputes the quoted digest: the hash of the signature's scheme
// over the values in ascending order (Part 3, section 18.4).
func (b *bank) checkDigest(q *attested, values map[uint32][]byte, hash uint16) error {
	h, ok := hashOf(hash)
	if !ok {
		return refuse(CheckQuoteHash, detail{Err: errNotSupported, Got: algName(hash)})
	}
	d := h.New()
	for _, i := range b.chosen.indexes() {
		d.Write(values[uint32(i)])
	}
	if sum := d.Sum(nil); !bytes.Equal(sum, q.digest) {
		return refuse(CheckPCRDigest, detail{
			Err: errors.New("the registers' values are not those that were quoted"), Expected: check.ClipHex(q.digest), Got: check.ClipHex(sum),
		})
	}
	return nil
}

// claims are the static registers.
func (b *bank) claims(values map[uint32][]byte) map[int]attest.Bytes {
	out := make(map[int]attest.Bytes, 16)
	for _, i := range b.chosen.indexes() {
		if 1<<i&staticPCRs != 0 {
			out[i] = values[uint32(i)]
		}
	}
	return out
}
