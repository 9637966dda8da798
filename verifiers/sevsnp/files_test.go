package sevsnp_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-sev-guest/abi"
	"google.golang.org/protobuf/proto"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifiers/sevsnp"
)

// GUIDs of the certificate table, as in AMD 56421.
const (
	guidARK  = "c0b406a4a803495297433fb6014cd0ae"
	guidASK  = "4ab7b379bbac4fe4a02f05aef327c782"
	guidVCEK = "63da758de6644564adc5f4b93be8accd"
	guidVLEK = "a8074bc2a25a483eaae639c045a0b8a1"
	guidCRL  = "92f81bc358114d3d97ffd19f88dc67ea"
)

// hostTable is the certificate table of a host that holds everything.
func hostTable(t testing.TB, w *world, m minted, list []byte) []byte {
	t.Helper()
	l := w.lines[sevsnp.Milan]
	return certTable(
		tableEntry{unhex(t, guidARK), l.ark.Raw}, tableEntry{unhex(t, guidASK), certPEM(l.ask)}, tableEntry{unhex(t, guidVCEK), m.leaf},
		tableEntry{unhex(t, "00112233445566778899aabbccddeeff"), []byte("a vendor's own")}, tableEntry{unhex(t, guidCRL), list},
	)
}

func TestACertificateTableIsSplitIntoItsItems(t *testing.T) {
	w := newWorld(t, fakeOrg, sharedKeys())
	m, l, list := w.mint(t, order{}), w.lines[sevsnp.Milan], w.crl(t, crlOrder{})
	got, err := sevsnp.ParseCertTable(hostTable(t, w, m, list))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([][]byte{l.ark.Raw, l.ask.Raw, m.leaf, list}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for name, b := range map[string][]byte{
		"no table": nil, "no entries": make([]byte, 24), "an empty entry": certTable(tableEntry{unhex(t, guidVCEK), nil}),
		"an empty entry that lies nowhere": append(unhex(t, guidVCEK), make([]byte, 8+24)...), "zeros": make([]byte, 4096),
	} {
		if got, err := sevsnp.ParseCertTable(b); err != nil || len(got) != 0 {
			t.Errorf("%s: %d items, %v", name, len(got), err)
		}
	}
	vlek := certTable(tableEntry{unhex(t, guidVLEK), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: m.leaf})})
	if got, err := sevsnp.ParseCertTable(append(vlek, make([]byte, 500)...)); err != nil || len(got) != 1 || !bytes.Equal(got[0], m.leaf) {
		t.Errorf("PEM with zeros behind the table: %d items, %v", len(got), err)
	}
}

func TestTheRecordedCertificateTableVerifiesItsReport(t *testing.T) {
	r := named(t, "veraison-tsm-genoa-v3")
	items, err := sevsnp.ParseCertTable(r.vector.Read(t, "auxblob.bin"))
	if err != nil {
		t.Fatal(err)
	}
	if len(items) != 3 || !slices.ContainsFunc(items, func(b []byte) bool { return bytes.Equal(b, r.leaf) }) {
		t.Fatalf("%d items", len(items))
	}
	got, unused, err := hardware(t).AuthenticateWithUse(t.Context(), evidence(r.body, items...), r.at)
	if err != nil || len(unused) != 0 {
		t.Fatalf("unused %v, %v", unused, err)
	}
	if got.SNP.Product != sevsnp.Genoa {
		t.Errorf("product %q", got.SNP.Product)
	}
	body, more, err := sevsnp.Normalize(slices.Concat(r.body, r.vector.Read(t, "auxblob.bin")))
	if err != nil || !bytes.Equal(body, r.body) || len(more) != 3 {
		t.Errorf("as an extended report: %d items, %v", len(more), err)
	}
}

func TestWhatDoesNotBelongIsNamed(t *testing.T) {
	w := newWorld(t, fakeOrg, sharedKeys())
	m, l := w.mint(t, order{}), w.lines[sevsnp.Milan]
	other := w.mint(t, order{product: sevsnp.Genoa})
	ev := evidence(m.body, []byte("garbage"), other.leaf, l.ark.Raw, w.crl(t, crlOrder{product: sevsnp.Genoa}), l.asvk.Raw, m.leaf, l.ask.Raw, w.crl(t, crlOrder{}))
	v := w.verifier(t)
	for _, temperature := range []string{"cold", "warm"} {
		got, unused, err := v.AuthenticateWithUse(t.Context(), ev, epoch)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]int{0, 1, 3, 4}, unused); diff != "" {
			t.Errorf("%s (-want +got):\n%s", temperature, diff)
		}
		if got.SNP.Revocation != sevsnp.RevocationOK {
			t.Errorf("%s: revocation %q", temperature, got.SNP.Revocation)
		}
	}
	if got, unused, err := v.AuthenticateWithUse(t.Context(), evidence(m.body), epoch); err == nil || got != nil || unused != nil {
		t.Error("something beside an error")
	}
}

// wrapped are the forms in which a report lies in files.
func wrapped(t testing.TB, body []byte) map[string][]byte {
	t.Helper()
	lines := hex.EncodeToString(body)
	return map[string][]byte{
		"binary": body, "hex": []byte(lines), "0x": []byte("0x" + strings.ToUpper(lines)), "hex in lines": []byte(lines[:100] + "\r\n" + lines[100:] + "\n"),
		"base64": []byte(base64.StdEncoding.EncodeToString(body) + "\n"), "base64url": []byte(base64.RawURLEncoding.EncodeToString(body)),
		"HCL report": slices.Concat([]byte("HCLA"), make([]byte, 28), body, []byte("runtime data")),
	}
}

func TestAReportIsFoundInEveryForm(t *testing.T) {
	w := newWorld(t, fakeOrg, sharedKeys())
	m := w.mint(t, order{})
	for name, raw := range wrapped(t, m.body) {
		body, more, err := sevsnp.Normalize(raw)
		if err != nil || !bytes.Equal(body, m.body) || len(more) != 0 {
			t.Errorf("%s: %d bytes, %d endorsements, %v", name, len(body), len(more), err)
		}
	}
	extended := slices.Concat(m.body, hostTable(t, w, m, w.crl(t, crlOrder{})))
	for name, raw := range map[string][]byte{"binary": extended, "hex": []byte(hex.EncodeToString(extended)), "base64": []byte(base64.StdEncoding.EncodeToString(extended))} {
		body, more, err := sevsnp.Normalize(raw)
		if err != nil || len(more) != 4 {
			t.Fatalf("extended, %s: %d endorsements, %v", name, len(more), err)
		}
		accept(t, w.verifier(t, sevsnp.WithRevocation(sevsnp.RevocationPolicy{Require: true})), evidence(body, more...), epoch)
	}
	a, err := abi.ReportCertsToProto(extended)
	if err != nil {
		t.Fatal(err)
	}
	message, err := proto.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	body, more, err := sevsnp.Normalize(message)
	if err != nil || !bytes.Equal(body, m.body) {
		t.Fatalf("the library's message: %v", err)
	}
	accept(t, w.verifier(t), evidence(body, more...), epoch)
}

func TestTheRecordedHCLReportsHoldTheirReport(t *testing.T) {
	n := 0
	for _, r := range recordings(t) {
		if !slices.ContainsFunc(r.vector.Files, func(f string) bool { return strings.HasSuffix(f, "/hcl_report.bin") }) {
			continue
		}
		n++
		body, _, err := sevsnp.Normalize(r.vector.Read(t, "hcl_report.bin"))
		if err != nil || !bytes.Equal(body, r.body) {
			t.Errorf("%s: %v", r.name, err)
		}
	}
	if n < 5 {
		t.Errorf("%d HCL reports", n)
	}
}

func TestInspectShowsAReportWithoutBelievingIt(t *testing.T) {
	w := newWorld(t, fakeOrg, sharedKeys())
	m := w.mint(t, order{product: sevsnp.Turin, version: 5})
	u, err := sevsnp.Inspect(m.body)
	if err != nil || u.Malformed != nil {
		t.Fatal(err, u)
	}
	want := accept(t, w.verifier(t), m.evidence(), epoch).SNP
	if u.Product != sevsnp.Turin || u.SigningKey != sevsnp.VCEK || u.ReportedTCB.String() != want.ReportedTCB.String() || !bytes.Equal(u.Measurement, want.Measurement) ||
		*u.LaunchMitigations != *want.LaunchMitigations || u.CPUID == "" || u.Policy != want.Policy {
		t.Errorf("%+v", u)
	}
	none := slices.Clone(m.body)
	none[0x48] = 7 << 2
	if u, err := sevsnp.Inspect(none); err != nil || u.SigningKey != "none" || attest.CheckOf(u.Malformed) != sevsnp.CheckReportSigningKey {
		t.Errorf("signed by none: %+v, %v", u, err)
	}
	reserved := slices.Clone(m.body)
	reserved[0x38+4] = 1
	if u, err := sevsnp.Inspect(reserved); err != nil || attest.CheckOf(u.Malformed) != sevsnp.CheckReportReserved {
		t.Errorf("a reserved byte of Turin's TCB: %+v, %v", u, err)
	}
	if u, err := sevsnp.Inspect(m.body[1:]); u != nil || attest.CheckOf(err) != sevsnp.CheckSize {
		t.Errorf("a byte short: %v, %v", u, err)
	}
}

func TestInspectShowsEndorsementsWithoutBelievingThem(t *testing.T) {
	w := newWorld(t, fakeOrg, sharedKeys())
	m := w.mint(t, order{})
	for name, c := range map[string]struct {
		der      []byte
		kind     string
		problems bool
	}{
		"VCEK": {m.leaf, "vcek", false}, "VLEK": {w.mint(t, order{kind: sevsnp.VLEK}).leaf, "vlek", false}, "ASK": {w.lines[sevsnp.Milan].ask.Raw, "ca", false},
		"CRL": {w.crl(t, crlOrder{}), "crl", false}, "garbage": {[]byte("garbage"), "unknown", true}, "a CRL's head": {[]byte{0x30, 5, 0x30, 3, 2, 1, 1}, "unknown", true},
		"a VCEK without bl": {w.mint(t, order{extensions: replaced(amdOID(3, 1), nil)}).leaf, "vcek", true},
	} {
		u := sevsnp.InspectEndorsement(c.der)
		if u.Type != c.kind || (u.Problem != "") != c.problems || len(u.SHA256) != 32 {
			t.Errorf("%s: %+v", name, u)
		}
	}
	if u := sevsnp.InspectEndorsement(m.leaf); u.Extensions == nil || u.Extensions.ProductName != "Milan-B0" || u.Extensions.TCB.Microcode != 219 {
		t.Errorf("%+v", u.Extensions)
	}
}

func TestEndorsementsAreReadFromFiles(t *testing.T) {
	w := newWorld(t, fakeOrg, sharedKeys())
	l, list := w.lines[sevsnp.Milan], w.crl(t, crlOrder{})
	both := slices.Concat([]byte("\n"), certPEM(l.ask), pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: list}))
	for name, c := range map[string]struct {
		file []byte
		want [][]byte
	}{"DER": {l.ark.Raw, [][]byte{l.ark.Raw}}, "PEM": {both, [][]byte{l.ask.Raw, list}}} {
		got, err := sevsnp.ParseEndorsements(c.file)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	for name, file := range map[string]string{
		"nothing": "", "a sentence": "no certificate", "a key": "-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n",
		"an empty block": "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n", "text behind it": string(certPEM(l.ask)) + "and more",
	} {
		got, err := sevsnp.ParseEndorsements([]byte(file))
		if got != nil || attest.CheckOf(err) != sevsnp.CheckEncoding {
			t.Errorf("%s: %d items, %v", name, len(got), err)
		}
	}
}
