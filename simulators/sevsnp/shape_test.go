package sevsnp

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/internal/vectors"

	"github.com/assay-project/assay/simulators/internal/certificate"
)

// shape is what certificates have in common that were made in one way:
// everything but keys, names, numbers and times.
type shape struct {
	Subject, Issuer []string // attribute type, string type and, where it is no name of ours, value
	Serial          string
	Algorithm       x509.SignatureAlgorithm
	Key             string
	Extensions      []string // with criticality and value's form, in order
	Days            int      // of validity
}

func shapeOf(t *testing.T, c *x509.Certificate) shape {
	t.Helper()
	s := shape{
		Serial: c.SerialNumber.String(), Algorithm: c.SignatureAlgorithm,
		Subject: nameShape(t, c.RawSubject), Issuer: nameShape(t, c.RawIssuer),
		Days: int(c.NotAfter.Sub(c.NotBefore).Hours()) / 24,
	}
	switch k := c.PublicKey.(type) {
	case *ecdsa.PublicKey:
		s.Key = k.Curve.Params().Name
	case *rsa.PublicKey:
		s.Key = fmt.Sprint("RSA ", k.N.BitLen(), " ", k.E)
	}
	for _, e := range c.Extensions {
		form := fmt.Sprintf("%d bytes", len(e.Value))
		switch {
		case e.Id.Equal(oidHWID):
		case e.Id.Equal(oidProductName):
			form = fmt.Sprintf("%x %s", e.Value[0], e.Value[2:])
		case e.Id.Equal(oidCSPID):
			form = fmt.Sprintf("%x %.3s", e.Value[0], e.Value[2:])
		case e.Id.Equal(certificate.OIDCRL):
			form = "one URI"
			if len(c.CRLDistributionPoints) != 1 || !strings.HasSuffix(c.CRLDistributionPoints[0], "/crl") {
				t.Errorf("CRL distribution points %v", c.CRLDistributionPoints)
			}
		case len(e.Value) > 0 && e.Value[0] == asn1.TagInteger: // the length is the number's
			form = "INTEGER"
			var n int
			if rest, err := asn1.Unmarshal(e.Value, &n); err != nil || len(rest) != 0 || n < 0 || n > 255 {
				t.Errorf("extension %v: %x", e.Id, e.Value)
			}
		}
		s.Extensions = append(s.Extensions, fmt.Sprint(e.Id, " critical=", e.Critical, " ", form))
	}
	return s
}

func nameShape(t *testing.T, der []byte) (out []string) {
	t.Helper()
	var seq []asn1.RawValue
	if _, err := asn1.Unmarshal(der, &seq); err != nil {
		t.Fatal(err)
	}
	for _, set := range seq {
		var a struct {
			Type  asn1.ObjectIdentifier
			Value asn1.RawValue
		}
		if _, err := asn1.Unmarshal(set.Bytes, &a); err != nil {
			t.Fatal(err)
		}
		v := string(a.Value.Bytes)
		if a.Type.String() == "2.5.4.10" || a.Type.String() == "2.5.4.11" {
			v = ""
		}
		out = append(out, fmt.Sprint(a.Type, " ", a.Value.Tag, " ", v))
	}
	return out
}

func vector(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(vectors.Dir(t), "sevsnp", filepath.FromSlash(name)))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestCertificatesHaveTheShapeOfRealOnes(t *testing.T) {
	a := testAuthority(t)
	for name, c := range map[string]struct {
		product Product
		key     SigningKey
	}{
		"ms-azure-milan-v3/vcek.der":               {Milan, VCEK},
		"aci-milan-v2/vcek.der":                    {Milan, VCEK},
		"ms-azure-genoa-v3/vcek.der":               {Genoa, VCEK},
		"oak-genoa-v5/vcek.der":                    {Genoa, VCEK},
		"attestation-rs-zen4c-v5/vcek.der":         {Siena, VCEK},
		"ms-azure-turin-v5/vcek.der":               {Turin, VCEK},
		"constellation-aws-vlek-milan-v3/vlek.der": {Milan, VLEK},
		"openanolis-aws-vlek-milan-v2/vlek.der":    {Milan, VLEK},
	} {
		t.Run(name, func(t *testing.T) {
			g := testGuest(t, testChip(t, a, c.product), Launch{SigningKey: c.key})
			got, want := shapeOf(t, parse(t, g.Endorsements()[0])), shapeOf(t, parse(t, vector(t, name)))
			// AMD counts years, leap days and all.
			if d := got.Days - want.Days; d < -2 || d > 2 {
				t.Errorf("%d days of validity, want %d", got.Days, want.Days)
			}
			got.Days = want.Days
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("real -, simulated +\n%s", d)
			}
		})
	}
}

func TestAuthoritiesHaveTheShapeOfAMDs(t *testing.T) {
	a := testAuthority(t)
	for file, c := range map[string]struct {
		product Product
		key     SigningKey
	}{
		"roots/ask_ark_milan.pem":      {Milan, VCEK},
		"roots/ask_ark_milan_vlek.pem": {Milan, VLEK},
		"roots/ask_ark_genoa.pem":      {Genoa, VCEK},
		"roots/ask_ark_genoa_vlek.pem": {Siena, VLEK},
		"roots/ask_ark_turin_vcek.pem": {Turin, VCEK},
		"roots/ask_ark_turin_vlek.pem": {Turin, VLEK},
	} {
		t.Run(file, func(t *testing.T) {
			ours := []*x509.Certificate{a.lines[c.product.Line()].intermediate(c.key).cert, a.Chain(c.product).ARK}
			rest := vector(t, file)
			for i := range ours {
				var block *pem.Block
				if block, rest = pem.Decode(rest); block == nil {
					t.Fatal("no certificate")
				}
				got, want := shapeOf(t, ours[i]), shapeOf(t, parse(t, block.Bytes))
				got.Days = want.Days         // ours live longer
				if want.Serial == "131074" { // Genoa's ASK is AMD's second
					want.Serial = "131073"
				}
				if d := cmp.Diff(want, got); d != "" {
					t.Errorf("AMD's -, simulated +\n%s", d)
				}
			}
		})
	}
}

// fieldsOf reads a report into the fields from which encode writes one, by
// offsets that are written down here once more: from publication 56860, and not
// from the constants that encode uses.
func fieldsOf(r []byte, p Product) fields {
	le := binary.LittleEndian
	f := fields{
		version: le.Uint32(r[0:]), guestSVN: le.Uint32(r[4:]), policy: le.Uint64(r[8:]), vmpl: le.Uint32(r[0x30:]),
		algorithm: le.Uint32(r[0x34:]), platform: le.Uint64(r[0x40:]), keyInfo: le.Uint32(r[0x48:]),
		familyID: [16]byte(r[0x10:]), imageID: [16]byte(r[0x20:]), reportData: [64]byte(r[0x50:]), measurement: [48]byte(r[0x90:]),
		hostData: [32]byte(r[0xc0:]), idKeyDigest: [48]byte(r[0xe0:]), authorKeyDigest: [48]byte(r[0x110:]),
		reportID: [32]byte(r[0x140:]), reportIDMA: [32]byte(r[0x160:]), cpuid: [3]byte(r[0x188:]), chipID: [64]byte(r[0x1a0:]),
		firmware:          Firmware{Build: r[0x1e8], Minor: r[0x1e9], Major: r[0x1ea]},
		committedFirmware: Firmware{Build: r[0x1ec], Minor: r[0x1ed], Major: r[0x1ee]},
		launchMitigation:  le.Uint64(r[0x1f8:]), currentMitigation: le.Uint64(r[0x200:]),
	}
	tcb := func(at int) TCB {
		b := r[at:]
		if p == Turin {
			return TCB{FMC: b[0], Bootloader: b[1], TEE: b[2], SNP: b[3], Microcode: b[7]}
		}
		return TCB{Bootloader: b[0], TEE: b[1], SNP: b[6], Microcode: b[7]}
	}
	f.current, f.reported, f.committed, f.launch = tcb(0x38), tcb(0x180), tcb(0x1e0), tcb(0x1f0)
	return f
}

func TestARealReportsFieldsEncodeToTheSameBytes(t *testing.T) {
	for name, p := range map[string]Product{
		"aci-milan-v2": Milan, "virtee-milan-v2": Milan, "gsg-milan-v2-debug": Milan, "ms-azure-milan-v3": Milan,
		"constellation-aws-vlek-milan-v3": Milan, "ms-azure-genoa-v3": Genoa, "oak-genoa-v5": Genoa,
		"attestation-rs-zen4c-v5": Siena, "ms-azure-turin-v5": Turin,
	} {
		real := vector(t, name+"/report.bin")
		f := fieldsOf(real, p)
		if got := f.encode(p); len(got) != len(real) || !bytes.Equal(got[:signedSize], real[:signedSize]) {
			t.Errorf("%s: the fields encode to other bytes", name)
		}
	}
}

// What a guest of ours says about its platform is what real hosts say.
func TestReportsHaveTheShapeOfRealOnes(t *testing.T) {
	a := testAuthority(t)
	for name, c := range map[string]struct {
		product Product
		launch  Launch
	}{
		"ms-azure-milan-v3":               {Milan, Launch{}},
		"cmc-milan-v2":                    {Milan, Launch{Version: 2, Platform: PlatformSMT}},
		"constellation-aws-vlek-milan-v3": {Milan, Launch{SigningKey: VLEK, Platform: DefaultPlatform | PlatformTSME}},
		"ms-azure-genoa-v3":               {Genoa, Launch{Platform: DefaultPlatform | PlatformTSME}},
		"oak-genoa-v5":                    {Genoa, Launch{Version: 5}},
		"attestation-rs-zen4c-v5":         {Siena, Launch{Version: 5}},
		"ms-azure-turin-v5":               {Turin, Launch{Platform: DefaultPlatform | 1<<6}},
	} {
		t.Run(name, func(t *testing.T) {
			real := vector(t, name+"/report.bin")
			ours := testReport(t, testGuest(t, testChip(t, a, c.product), c.launch))
			want, got := fieldsOf(real, c.product), fieldsOf(ours, c.product)
			if got.version != want.version || got.cpuid != want.cpuid || got.algorithm != want.algorithm || got.keyInfo != want.keyInfo ||
				got.reportIDMA != want.reportIDMA || got.platform != want.platform {
				t.Errorf("real %+v\nours %+v", want, got)
			}
			if zero := [64]byte{}; (got.chipID == zero) != (want.chipID == zero) ||
				slices.Equal(got.chipID[8:], zero[8:]) != slices.Equal(want.chipID[8:], zero[8:]) {
				t.Errorf("chip id %x, real %x", got.chipID, want.chipID)
			}
			if (got.launchMitigation == 0) != (want.launchMitigation == 0) {
				t.Errorf("mitigations %x, real %x", got.launchMitigation, want.launchMitigation)
			}
			for _, span := range [][2]int{{offSignatureR + 48, offSignatureS}, {offSignatureS + 48, ReportSize}} {
				if !bytes.Equal(ours[span[0]:span[1]], real[span[0]:span[1]]) {
					t.Errorf("the signature is not encoded as the real one, %x to %x", span[0], span[1])
				}
			}
		})
	}
}
