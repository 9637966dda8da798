package tpm

import (
	"encoding/binary"
	"slices"

	"github.com/google/go-tpm/tpm2"
)

// quoteFaults are those of quotes and of the registers' values beside them.
func quoteFaults() []Fault {
	return []Fault{
		malformed("quote-trailing-byte", "quote_structure", "a byte follows the quote").response(changeQuote(func(a, s []byte) ([]byte, []byte) {
			return append(a, 0), s
		})),
		malformed("quote-magic", "quote_magic", "the quote doesn't say that a TPM has made it").response(changeQuote(func(a, s []byte) ([]byte, []byte) {
			a[0] ^= 1
			return a, s
		})),
		malformed("quote-is-a-certify", "quote_type", "the AK certifies itself instead of quoting registers").command(quoteByCertify).response(func(x *exchange) {
			if first, _, ok := splitAuthorization(x.response.authorizations, 0); ok && x.swapped {
				x.response.authorizations = first // the client has sent one
			}
		}),
		untrusted("quote-signature-flipped", "quote_signature", "the signature of the quote has a wrong bit").response(changeQuote(func(a, s []byte) ([]byte, []byte) {
			return a, flip(s)
		})),
		malformed("quote-sha1-bank", "pcr_bank", "the quote is over the SHA-1 bank, which no firmware has filled").command(changeSelection(func(*tpm2.TPMLPCRSelection) *tpm2.TPMLPCRSelection {
			return selection(tpm2.TPMAlgSHA1, 0xff, 0xff, 0)
		})),
		malformed("quote-two-banks", "pcr_bank_count", "the quote is over two banks").command(changeSelection(func(s *tpm2.TPMLPCRSelection) *tpm2.TPMLPCRSelection {
			return &tpm2.TPMLPCRSelection{PCRSelections: append(slices.Clone(s.PCRSelections), selection(tpm2.TPMAlgSHA512, 1, 0, 0).PCRSelections...)}
		})),
		malformed("quote-no-registers", "pcr_empty", "the quote is over no register at all").command(changeSelection(func(s *tpm2.TPMLPCRSelection) *tpm2.TPMLPCRSelection {
			return selection(bank(s), 0, 0, 0)
		})),
		malformed("quote-resettable-registers", "pcr_resettable", "the quote is over registers alone that software resets at will").command(changeSelection(func(s *tpm2.TPMLPCRSelection) *tpm2.TPMLPCRSelection {
			return selection(bank(s), 0, 0, 0x81)
		})),
		malformed("quote-fewer-registers", "pcr_values", "the quote leaves out a register whose value is sent").command(changeSelection(func(s *tpm2.TPMLPCRSelection) *tpm2.TPMLPCRSelection {
			out := tpm2.TPMLPCRSelection{}
			for _, p := range s.PCRSelections {
				p.PCRSelect = slices.Clone(p.PCRSelect)
				if len(p.PCRSelect) > 0 {
					p.PCRSelect[0] &^= 0x80 // PCR7
				}
				out.PCRSelections = append(out.PCRSelections, p)
			}
			return &out
		})),
		malformed("pcr-boundary-shift", "pcr_value_length", "bytes of PCR1 are sent as part of PCR0, so that all together have the quoted digest").response(shiftBoundary),
		untrusted("pcr-value-flipped", "pcr_digest", "the value of PCR0 is sent with a wrong bit").response(func(x *exchange) {
			x.registers(func(values map[int][]byte) {
				if v, ok := values[0]; ok {
					values[0] = flip(v)
				}
			})
		}),
		foreign("quote-no-data", "binding_empty", "the quote is over no data").command(onQuote(func(x *exchange) {
			x.qualifying(func([]byte) []byte { return nil })
		})),
		foreign("quote-other-data", "binding_extra_data", "the quote is over other data").command(onQuote(func(x *exchange) {
			x.qualifying(flip)
		})),
		foreign("quote-replayed", "binding_extra_data", "the first quote that the machine made is given as every later one").response(func(x *exchange) {
			if x.command.code != ccQuote {
				return
			}
			if first, ok := x.memory["quote"]; ok {
				x.response.parameters = slices.Clone(first)
			} else {
				x.memory["quote"] = slices.Clone(x.response.parameters)
			}
		}),
	}
}

func onQuote(do func(*exchange)) func(*exchange) {
	return func(x *exchange) {
		if x.command.code == ccQuote {
			do(x)
		}
	}
}

func changeQuote(change func(attest, signature []byte) ([]byte, []byte)) func(*exchange) {
	return func(x *exchange) {
		if attest, signature, ok := x.attested(ccQuote); ok && len(attest) > 0 {
			x.reattest(change(attest, signature))
		}
	}
}

// changeSelection changes what Quote is to be over: its parameters are the
// qualifying data, the scheme and the selection.
func changeSelection(change func(*tpm2.TPMLPCRSelection) *tpm2.TPMLPCRSelection) func(*exchange) {
	return onQuote(func(x *exchange) {
		_, rest, err := take2B(x.command.parameters)
		if err != nil {
			return
		}
		n := schemeSize(rest)
		if n < 0 {
			return
		}
		s, err := tpm2.Unmarshal[tpm2.TPMLPCRSelection](rest[n:])
		if err != nil {
			return
		}
		before := slices.Clone(x.command.parameters[:len(x.command.parameters)-len(rest)+n])
		x.command.parameters = append(before, tpm2.Marshal(change(s))...)
	})
}

// schemeSize is how many bytes a TPMT_SIG_SCHEME has: an algorithm, and a hash
// unless it is TPM_ALG_NULL; -1 when there are too few.
func schemeSize(b []byte) int {
	switch {
	case len(b) >= 2 && binary.BigEndian.Uint16(b) == uint16(tpm2.TPMAlgNull):
		return 2
	case len(b) >= 4:
		return 4
	default:
		return -1
	}
}

func selection(bank tpm2.TPMAlgID, mask ...byte) *tpm2.TPMLPCRSelection {
	return &tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: bank, PCRSelect: mask}}}
}

// bank is the first that is selected.
func bank(s *tpm2.TPMLPCRSelection) tpm2.TPMAlgID {
	if len(s.PCRSelections) > 0 {
		return s.PCRSelections[0].Hash
	}
	return tpm2.TPMAlgSHA256
}

// quoteByCertify has the AK certify itself: handles are object and signer, and
// parameters the data and the scheme. The response looks like a quote's.
func quoteByCertify(x *exchange) {
	if x.command.code != ccQuote || len(x.command.handles) != 1 {
		return
	}
	_, rest, err := take2B(x.command.parameters)
	if err != nil {
		return
	}
	n := schemeSize(rest)
	if n < 0 {
		return
	}
	ak := x.command.handles[0]
	x.command.code, x.swapped = ccCertify, true
	x.command.handles = []uint32{ak, ak}
	x.command.authorizations = append(slices.Clone(x.command.authorizations), x.command.authorizations...)
	x.command.parameters = x.command.parameters[:len(x.command.parameters)-len(rest)+n]
}

// shiftBoundary sends the first 16 bytes of PCR1 at the end of PCR0.
func shiftBoundary(x *exchange) {
	const shifted = 16
	x.registers(func(values map[int][]byte) {
		_, zero := values[0]
		one, both := values[1]
		if !both {
			one = x.register(1)
		}
		if len(one) < shifted {
			return
		}
		if zero {
			values[0] = append(slices.Clone(values[0]), one[:shifted]...)
		}
		if both {
			values[1] = one[shifted:]
		}
	})
}

// registers changes the values that PCR_Read answers, by register. Its parameters
// are a counter, the selection, and the values in the order of the registers.
func (x *exchange) registers(change func(map[int][]byte)) {
	if x.command.code != ccPCRRead || len(x.response.parameters) < 4 {
		return
	}
	rest := x.response.parameters[4:]
	s, err := tpm2.Unmarshal[tpm2.TPMLPCRSelection](rest)
	if err != nil || len(s.PCRSelections) != 1 {
		return
	}
	digests, err := tpm2.Unmarshal[tpm2.TPMLDigest](rest[len(tpm2.Marshal(s)):])
	if err != nil {
		return
	}
	var order []int
	for i := range 8 * len(s.PCRSelections[0].PCRSelect) {
		if s.PCRSelections[0].PCRSelect[i/8]&(1<<(i%8)) != 0 {
			order = append(order, i)
		}
	}
	if len(order) != len(digests.Digests) {
		return
	}
	values := make(map[int][]byte)
	for i, pcr := range order {
		values[pcr] = digests.Digests[i].Buffer
	}
	change(values)
	for i, pcr := range order {
		digests.Digests[i].Buffer = values[pcr]
	}
	out := append(slices.Clone(x.response.parameters[:4]), tpm2.Marshal(s)...)
	x.response.parameters = append(out, tpm2.Marshal(digests)...)
}

// register reads one in the bank of the command.
func (x *exchange) register(pcr int) []byte {
	s, err := tpm2.Unmarshal[tpm2.TPMLPCRSelection](x.command.parameters)
	if err != nil {
		return nil
	}
	mask := make([]byte, 3)
	mask[pcr/8] = 1 << (pcr % 8)
	r, err := tpm2.PCRRead{PCRSelectionIn: *selection(bank(s), mask...)}.Execute(x.inner())
	if err != nil || len(r.PCRValues.Digests) != 1 {
		return nil
	}
	return r.PCRValues.Digests[0].Buffer
}
