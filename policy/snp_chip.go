package policy

import (
	"encoding/hex"
	"fmt"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/strictyaml"
)

// The lengths of a chip id in bytes: the report's field, and the part of it
// that Turin and later use, the rest being zero.
const (
	chipLength  = 64
	turinLength = 8
)

// chipID is the kind of CHIP_ID. Its value is always the field's 64 bytes; the
// 8 bytes of a Turin chip may be written alone, and are shown so.
type chipID struct{}

func (chipID) ops() []string { return []string{"eq", "in"} }

func (chipID) format(v value) string {
	if b := []byte(v); !allZero(b) && allZero(b[turinLength:]) {
		b = b[:turinLength]
		return hex.EncodeToString(b)
	}
	return hex.EncodeToString([]byte(v))
}

func (chipID) parse(d *strictyaml.Document, n *strictyaml.Node) (value, bool) {
	s, ok := d.Text(n)
	if !ok {
		return "", false
	}
	raw, err := hex.DecodeString(s)
	if err != nil || len(raw) != chipLength && len(raw) != turinLength {
		got := fmt.Sprintf("%d bytes", len(raw))
		if err != nil {
			got = fmt.Sprintf("%q", clip(s))
		}
		d.Report(n, "want a chip id of 64 bytes in hex (128 characters), or of 8 (16 characters) for Turin, got "+got, "as the report or the certificate's hardware id shows it")
		return "", false
	}
	if allZero(raw) {
		d.Report(n, "an all-zero reference value is refused", "zero is what every host reads that masks its chip id")
		return "", false
	}
	return value(append(raw, make([]byte, chipLength-len(raw))...)), true
}

func (chipID) compile(p *parser, f *field, op string, n *strictyaml.Node) (test, bool) {
	return compileSet(p, f, op, n)
}

// masking is the kind of chip_id_masked. A policy sees true and false; the
// implicit rule also asks who signed, because a VLEK vouches for a report
// without naming a chip, and a VCEK certificate that names one leaves no
// reason to accept a report that does not.
type masking struct{}

const maskedVLEK value = "true, signed with a VLEK"

func masked(s *attest.SNP) (value, bool) {
	switch {
	case len(s.ChipID) != chipLength:
		return "", false
	case !allZero(s.ChipID):
		return no, true
	case s.SigningKey == "vlek":
		return maskedVLEK, true
	}
	return yes, true
}

func (masking) ops() []string         { return []string{"eq"} }
func (masking) format(v value) string { return string(v) }

func (masking) parse(d *strictyaml.Document, n *strictyaml.Node) (value, bool) {
	return boolean{}.parse(d, n)
}

func (k masking) compile(p *parser, _ *field, _ string, n *strictyaml.Node) (test, bool) {
	v, ok := k.parse(p.doc, n)
	if !ok {
		return nil, false
	}
	entries := []entry{{value: v, text: string(v)}}
	if v == yes {
		entries = append(entries, entry{value: maskedVLEK, text: string(maskedVLEK)})
	}
	s := newSet("", true, entries)
	s.want = string(v)
	return s, true
}
