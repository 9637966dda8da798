package tpm

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifiers/internal/check"
)

// TPMS_ATTEST, Part 2, section 10.12: what a TPM signs about itself.
const (
	generated   = 0xff544347 // TPM_GENERATED_VALUE: no outside data begins with it
	typeCertify = 0x8017     // TPM_ST_ATTEST_CERTIFY
	typeQuote   = 0x8018     // TPM_ST_ATTEST_QUOTE

	maxName     = 2 + 64 // nameAlg and the longest digest
	maxExtra    = 2 + 64 // TPM2B_DATA holds a TPMT_HA at most
	maxBanks    = 16
	maxSelector = 4 // bytes of a selection
)

// attested is a decoded TPMS_ATTEST. Slices share memory with the input.
type attested struct {
	raw       []byte
	kind      uint16
	signer    []byte // qualified name of the key that signed
	extra     []byte // qualifyingData of the caller
	clock     uint64 // milliseconds
	reset     uint32
	restart   uint32
	safe      bool
	firmware  uint64
	selection []selection // of a quote
	digest    []byte      // of a quote: pcrDigest
	name      []byte      // of a certification: the key's name,
	qualified []byte      // and its qualified name
}

// selection is a TPMS_PCR_SELECTION.
type selection struct {
	bank uint16
	pcrs uint32 // bit i: register i
}

// Faults of a TPMS_ATTEST, which quote and certification name differently.
var (
	errMagic     = errors.New("the magic number is not TPM_GENERATED_VALUE: a TPM did not make this structure")
	errKind      = errors.New("the structure attests something else")
	errStructure = errors.New("the structure is not complete, or something follows it")
)

// parseAttested decodes a TPMS_ATTEST of the wanted type, to the last byte. The
// error is one of the three above.
func parseAttested(b []byte, want uint16) (*attested, error) {
	if len(b) < 6 {
		return nil, errStructure
	}
	if binary.BigEndian.Uint32(b) != generated {
		return nil, errMagic
	}
	if binary.BigEndian.Uint16(b[4:]) != want {
		return nil, fmt.Errorf("%w: type 0x%04x", errKind, binary.BigEndian.Uint16(b[4:]))
	}
	r := &reader{b: b[6:]}
	a := &attested{raw: b, kind: want, signer: r.sized(maxName), extra: r.sized(maxExtra), clock: r.u64(), reset: r.u32(), restart: r.u32()}
	switch r.u8() { // TPMI_YES_NO
	case 0:
	case 1:
		a.safe = true
	default:
		r.bad = true
	}
	a.firmware = r.u64()
	if want == typeQuote {
		n := r.u32()
		if n > maxBanks {
			return nil, errStructure
		}
		for range n {
			a.selection = append(a.selection, r.selection())
		}
		a.digest = r.sized(64)
	} else {
		a.name, a.qualified = r.sized(maxName), r.sized(maxName)
	}
	if !r.done() {
		return nil, errStructure
	}
	return a, nil
}

func (r *reader) selection() selection {
	s := selection{bank: r.u16()}
	n := int(r.u8())
	if n > maxSelector {
		r.bad = true
	}
	for i, b := range r.next(n) {
		s.pcrs |= uint32(b) << (8 * i)
	}
	return s
}

// indexes lists the selected registers, ascending.
func (s selection) indexes() []int {
	var out []int
	for i := range 32 {
		if s.pcrs>>i&1 == 1 {
			out = append(out, i)
		}
	}
	return out
}

// parseQuote decodes a quote. Nothing in it is believed yet.
func parseQuote(b []byte) (*attested, error) {
	q, err := parseAttested(b, typeQuote)
	switch {
	case errors.Is(err, errMagic):
		return nil, refuse(CheckQuoteMagic, detail{Err: err, Expected: "ff544347", Got: check.ClipHex(b[:min(4, len(b))])})
	case errors.Is(err, errKind):
		return nil, refuse(CheckQuoteType, detail{Err: err, Expected: "0x8018, a quote"})
	case err != nil:
		return nil, refuse(CheckQuoteStructure, detail{Err: err, Expected: "a TPMS_ATTEST and nothing behind it", Got: fmt.Sprintf("%d bytes", len(b))})
	}
	return q, nil
}

// clockClaims are the counters as claims.
func (a *attested) clockClaims() *attest.TPMClock {
	return &attest.TPMClock{ResetCount: a.reset, RestartCount: a.restart, Firmware: a.firmware}
}
