package agent

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
)

// snpReportSize is the length of an attestation report (AMD publication 56860,
// section 7.3, table "ATTESTATION_REPORT structure").
const snpReportSize = 1184

// snpReport is a report of this guest. The agent verifies no report: it reads
// what it needs to find the certificate that goes with it.
type snpReport []byte

func (r snpReport) version() uint32    { return binary.LittleEndian.Uint32(r[0x00:]) }
func (r snpReport) vmpl() uint32       { return binary.LittleEndian.Uint32(r[0x30:]) }
func (r snpReport) data() []byte       { return r[0x50:0x90] }
func (r snpReport) tcb() [8]byte       { return [8]byte(r[0x180:]) } // REPORTED_TCB
func (r snpReport) chipID() []byte     { return r[0x1a0:0x1e0] }
func (r snpReport) masked() bool       { return bytes.Equal(r.chipID(), make([]byte, 64)) }
func (r snpReport) signedByVCEK() bool { return binary.LittleEndian.Uint32(r[0x48:])>>2&7 == 0 } // SIGNING_KEY

// snpLine is a product line, by the name that the KDS has for it.
type snpLine struct {
	name string
	fmc  bool // Turin's TCB layout, and a chip id of eight bytes
}

var (
	snpMilan = snpLine{name: "Milan"}
	snpGenoa = snpLine{name: "Genoa"}
	snpTurin = snpLine{name: "Turin", fmc: true}
)

// lines are the product lines that the chip can be of. Reports before version 3
// do not say; Turin writes none of those.
func (r snpReport) lines() []snpLine {
	if r.version() < 3 {
		return []snpLine{snpMilan, snpGenoa}
	}
	switch family, model := r[0x188], r[0x189]; {
	case family == 0x19 && model <= 0x0f:
		return []snpLine{snpMilan}
	case family == 0x19 && (model&0xf0 == 0x10 || model&0xf0 == 0xa0): // Genoa; Bergamo, Siena
		return []snpLine{snpGenoa}
	case family == 0x1a && model <= 0x1f:
		return []snpLine{snpTurin}
	}
	return nil
}

// hwid is the chip's id as certificates and the KDS have it.
func (r snpReport) hwid(l snpLine) []byte {
	if l.fmc {
		return r.chipID()[:8]
	}
	return r.chipID()
}

// snpTCB is a TCB version, component by component.
type snpTCB struct{ fmc, bl, tee, snp, ucode int }

// levels decodes the reported TCB (publication 56860, section 2.2).
func (r snpReport) levels(l snpLine) snpTCB {
	b := r.tcb()
	if l.fmc {
		return snpTCB{fmc: int(b[0]), bl: int(b[1]), tee: int(b[2]), snp: int(b[3]), ucode: int(b[7])}
	}
	return snpTCB{bl: int(b[0]), tee: int(b[1]), snp: int(b[6]), ucode: int(b[7])}
}

// AMD's extensions of a VCEK certificate (publication 57230, section 3.1).
var amdExtensions = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1}

func (r snpReport) fits(der []byte) error {
	lines := r.lines()
	if len(lines) == 0 {
		return errors.New("the report names a processor that this agent does not know")
	}
	var err error
	for _, l := range lines {
		if err = r.fitsLine(der, l); err == nil {
			return nil
		}
	}
	return err
}

// fitsLine says whether a certificate is that of the VCEK which signed the
// report: of its chip and at its reported TCB. Whether AMD issued it is for the
// server to decide.
func (r snpReport) fitsLine(der []byte, l snpLine) error {
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("it is no certificate: %w", err)
	}
	found := map[string][]byte{}
	for _, x := range c.Extensions {
		if n := len(amdExtensions); len(x.Id) > n && x.Id[:n].Equal(amdExtensions) {
			found[x.Id[n:].String()] = x.Value
		}
	}
	id := found["4"]
	var tagged []byte // AMD writes the id without a tag; the specification has one
	if rest, err := asn1.Unmarshal(id, &tagged); err == nil && len(rest) == 0 {
		id = tagged
	}
	if !bytes.Equal(id, r.hwid(l)) {
		return errors.New("it is the certificate of another chip")
	}
	var t snpTCB
	wanted := map[string]*int{"3.1": &t.bl, "3.2": &t.tee, "3.3": &t.snp, "3.8": &t.ucode}
	if l.fmc {
		wanted["3.9"] = &t.fmc
	}
	for n, into := range wanted {
		if rest, err := asn1.Unmarshal(found[n], into); err != nil || len(rest) != 0 {
			return fmt.Errorf("its extension %s.%s cannot be read", amdExtensions, n)
		}
	}
	if want := r.levels(l); t != want {
		return fmt.Errorf("it is the certificate of another TCB: %+v, want %+v", t, want)
	}
	return nil
}
