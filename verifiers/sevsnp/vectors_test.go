package sevsnp_test

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	testdata "github.com/google/go-sev-guest/verify/testdata"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/vectors"
	"github.com/assay-project/assay/verifiers/sevsnp"
)

// expectation is what the manifest says of a recorded report.
type expectation struct {
	Verifies     bool   `json:"verifies"`
	Version      uint32 `json:"version"`
	SigningKey   string `json:"signing_key"`
	Policy       string `json:"policy"`
	VMPL         uint32 `json:"vmpl"`
	GuestSVN     uint32 `json:"guest_svn"`
	Measurement  string `json:"measurement"`
	ReportData   string `json:"report_data"`
	HostData     string `json:"host_data"`
	IDKey        string `json:"id_key_digest"`
	AuthorKey    string `json:"author_key_digest"`
	FamilyID     string `json:"family_id"`
	ImageID      string `json:"image_id"`
	ChipID       string `json:"chip_id"`
	ReportID     string `json:"report_id"`
	PlatformInfo string `json:"platform_info"`
	ReportedTCB  string `json:"reported_tcb"`
	CurrentTCB   string `json:"current_tcb"`
	CommittedTCB string `json:"committed_tcb"`
	LaunchTCB    string `json:"launch_tcb"`
	CSPID        string `json:"csp_id"`
	Product      string `json:"kds_product"`
	TCB          struct {
		FMC        *uint8 `json:"fmc"`
		Bootloader uint8  `json:"bootloader"`
		TEE        uint8  `json:"tee"`
		SNP        uint8  `json:"snp"`
		Microcode  uint8  `json:"microcode"`
	} `json:"tcb"`
}

// recording is one recorded report with its endorsement.
type recording struct {
	name   string
	vector vectors.Vector
	body   []byte
	leaf   []byte
	at     time.Time
	want   expectation
}

func (r recording) evidence() attest.Evidence { return evidence(r.body, r.leaf) }

// recordings loads every recorded report, or skips the test loudly.
func recordings(t testing.TB) []recording {
	t.Helper()
	var out []recording
	for _, v := range vectors.Load(t, "sevsnp") {
		if v.VerificationTime == nil {
			continue // the roots
		}
		r := recording{name: path.Base(v.Name), vector: v, body: v.Read(t, "report.bin"), at: *v.VerificationTime}
		if err := json.Unmarshal(v.Expect, &r.want); err != nil {
			t.Fatalf("%s: %v", v.Name, err)
		}
		out = append(out, r)
	}
	for _, v := range vectors.Load(t, "azure") {
		if !slices.ContainsFunc(v.Files, func(f string) bool { return path.Base(f) == "snp_report.bin" }) {
			continue // TDX, roots
		}
		r := recording{name: path.Base(v.Name), vector: v, body: v.Read(t, "snp_report.bin"), at: *v.VerificationTime}
		var both struct {
			Verifies bool        `json:"verifies"`
			SNP      expectation `json:"snp"`
		}
		if err := json.Unmarshal(v.Expect, &both); err != nil {
			t.Fatalf("%s: %v", v.Name, err)
		}
		r.want, r.want.Verifies = both.SNP, both.Verifies
		out = append(out, r)
	}
	for i, r := range out {
		out[i].leaf = r.vector.Read(t, strings.ToLower(r.want.SigningKey)+".der")
	}
	if len(out) < 27 {
		t.Fatalf("%d recorded reports, expected at least 27", len(out))
	}
	return out
}

// named finds one recording.
func named(t testing.TB, name string) recording {
	t.Helper()
	for _, r := range recordings(t) {
		if r.name == name {
			return r
		}
	}
	t.Fatalf("no recording is named %s", name)
	return recording{}
}

// refusedRecordings are the recordings that must not verify, with the check
// that each must end in.
var refusedRecordings = map[string]string{
	"constellation-vlek-altered-v2": sevsnp.CheckReportSignature,
}

func TestRecordedReportsVerifyAsTheManifestSays(t *testing.T) {
	v := hardware(t)
	for _, r := range recordings(t) {
		t.Run(r.name, func(t *testing.T) {
			got, err := v.Authenticate(t.Context(), r.evidence(), r.at)
			if check, refused := refusedRecordings[r.name]; refused {
				if r.want.Verifies {
					t.Error("the manifest says that it verifies")
				}
				wantRefusal(t, got, err, check)
				return
			}
			if !r.want.Verifies {
				t.Fatal("the manifest says that it does not verify, and this test names no check for it")
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(r.claims(t, got), got); diff != "" {
				t.Errorf("claims (-manifest +got):\n%s", diff)
			}
		})
	}
}

// claims renders the manifest's expectation as claims. What the manifest leaves
// out (firmware versions, the migration agent's report id, mitigation vectors) is
// read here from the report's own bytes.
func (r recording) claims(t *testing.T, got *attest.Claims) *attest.Claims {
	t.Helper()
	w := r.want
	fmc := w.TCB.FMC != nil
	platform, policy := number(t, w.PlatformInfo), number(t, w.Policy)
	s := &attest.SNP{
		Version: w.Version, SigningKey: strings.ToLower(w.SigningKey), CSPID: w.CSPID, Revocation: sevsnp.RevocationNotChecked,
		Measurement: unhex(t, w.Measurement), HostData: unhex(t, w.HostData), ReportData: unhex(t, w.ReportData),
		GuestSVN: w.GuestSVN, VMPL: w.VMPL,
		IDKeyDigest: unhex(t, w.IDKey), AuthorKeyDigest: unhex(t, w.AuthorKey), FamilyID: unhex(t, w.FamilyID), ImageID: unhex(t, w.ImageID),
		ReportID: unhex(t, w.ReportID), ChipID: unhex(t, w.ChipID), ReportIDMA: r.body[0x160:0x180],
		ReportedTCB: tcbOf(number(t, w.ReportedTCB), fmc), CurrentTCB: tcbOf(number(t, w.CurrentTCB), fmc),
		CommittedTCB: tcbOf(number(t, w.CommittedTCB), fmc), LaunchTCB: tcbOf(number(t, w.LaunchTCB), fmc),
		CurrentFirmware:   attest.Firmware{Build: r.body[0x1e8], Minor: r.body[0x1e9], Major: r.body[0x1ea]},
		CommittedFirmware: attest.Firmware{Build: r.body[0x1ec], Minor: r.body[0x1ed], Major: r.body[0x1ee]},
		Policy: attest.SNPPolicy{
			ABIMajor: uint8(policy >> 8), ABIMinor: uint8(policy),
			SMT: policy>>16&1 == 1, MigrateMA: policy>>18&1 == 1, Debug: policy>>19&1 == 1, SingleSocket: policy>>20&1 == 1, CXLAllow: policy>>21&1 == 1,
			MemAES256XTS: policy>>22&1 == 1, RAPLDis: policy>>23&1 == 1, CiphertextHiding: policy>>24&1 == 1, PageSwapDisable: policy>>25&1 == 1,
		},
		Platform: attest.SNPPlatform{
			SMT: platform&1 != 0, TSME: platform&2 != 0, ECC: platform&4 != 0, RAPLDis: platform&8 != 0, CiphertextHiding: platform&16 != 0, AliasCheck: platform&32 != 0,
		},
	}
	s.Product, _, _ = strings.Cut(strings.ToLower(w.Product), "-")
	s.Provisional = w.CommittedTCB != w.CurrentTCB || s.CurrentFirmware != s.CommittedFirmware
	if w.Version >= 5 {
		l, c := binary.LittleEndian.Uint64(r.body[0x1f8:]), binary.LittleEndian.Uint64(r.body[0x200:])
		s.LaunchMitigations, s.CurrentMitigations = &l, &c
	}
	want := attest.TCB{FMC: w.TCB.FMC, Bootloader: w.TCB.Bootloader, TEE: w.TCB.TEE, SNP: w.TCB.SNP, Microcode: w.TCB.Microcode}
	if diff := cmp.Diff(want, got.SNP.ReportedTCB); diff != "" {
		t.Errorf("components of the reported TCB (-manifest +got):\n%s", diff)
	}
	return &attest.Claims{Platform: attest.AMDSEVSNP, SNP: s}
}

// tcbOf decodes a TCB number of the manifest: written apart from the verifier's
// own decoder on purpose.
func tcbOf(n uint64, fmc bool) attest.TCB {
	part := func(i int) uint8 { return uint8(n >> (8 * i)) }
	if fmc {
		f := part(0)
		return attest.TCB{FMC: &f, Bootloader: part(1), TEE: part(2), SNP: part(3), Microcode: part(7)}
	}
	return attest.TCB{Bootloader: part(0), TEE: part(1), SNP: part(6), Microcode: part(7)}
}

func number(t testing.TB, s string) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(s, 0, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func unhex(t testing.TB, s string) attest.Bytes {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// moduleReport is the report of a real Milan chip in go-sev-guest's module: it is
// there without recordings too.
func moduleReport() (attest.Evidence, time.Time) {
	return evidence(testdata.AttestationBytes, testdata.VcekBytes), time.Date(2022, 9, 25, 0, 55, 28, 0, time.UTC)
}

func TestTheReportInTheLibrarysModuleVerifies(t *testing.T) {
	ev, at := moduleReport()
	got, err := hardware(t).Authenticate(t.Context(), ev, at)
	if err != nil {
		t.Fatal(err)
	}
	want := attest.TCB{Bootloader: 2, SNP: 5, Microcode: 0x44}
	if got.SNP.Product != sevsnp.Milan || got.SNP.SigningKey != sevsnp.VCEK || !got.SNP.Policy.Debug || got.SNP.ReportedTCB != want || got.Simulated {
		t.Errorf("%+v", got.SNP)
	}
	if !got.Debug() {
		t.Error("a guest in debug mode does not say so")
	}
}

func TestARecordedReportIsStaleOutsideItsChain(t *testing.T) {
	ev, at := moduleReport()
	v := hardware(t)
	if _, err := v.Authenticate(t.Context(), ev, at); err != nil {
		t.Fatal(err)
	}
	for _, at := range []time.Time{at.AddDate(-1, 0, 0), at.AddDate(8, 0, 0), at.AddDate(40, 0, 0)} {
		got, err := v.Authenticate(t.Context(), ev, at)
		wantRefusal(t, got, err, sevsnp.CheckChainValidity)
	}
}

// The chains that hosts and services hand out come along whole, and nothing of
// them is left over.
func TestRecordedChainsComeAlong(t *testing.T) {
	n := 0
	for _, r := range recordings(t) {
		if _, refused := refusedRecordings[r.name]; refused {
			continue
		}
		for _, f := range r.vector.Files {
			if path.Ext(f) != ".pem" || strings.HasSuffix(f, "ak.pub.pem") {
				continue
			}
			n++
			chain, err := sevsnp.ParseEndorsements(r.vector.Read(t, path.Base(f)))
			if err != nil {
				t.Fatalf("%s: %v", f, err)
			}
			_, unused, err := hardware(t).AuthenticateWithUse(t.Context(), evidence(r.body, append(chain, r.leaf)...), r.at)
			if err != nil {
				t.Fatalf("%s: %v", f, err)
			}
			for _, i := range unused { // the leaf may be there twice
				if i != len(chain) {
					t.Errorf("%s: certificate %d is unused", f, i)
				}
			}
		}
	}
	if n < 8 {
		t.Errorf("%d chains", n)
	}
}

func TestRecordedEndorsementsOfOthersAreRefused(t *testing.T) {
	for _, file := range []string{"vcek-invalid-legacy.der", "vcek-invalid-new.der"} { // for another chip and TCB, and not AMD's
		r := named(t, "trustee-milan-v2-azure")
		bad := r.vector.Read(t, file)
		got, err := hardware(t).Authenticate(t.Context(), evidence(r.body, bad), r.at)
		wantRefusal(t, got, err, sevsnp.CheckTCBCertificate)
		accept(t, hardware(t), evidence(r.body, bad, r.leaf), r.at)
	}
	r := named(t, "virtee-milan-v2")
	turin := r.vector.Read(t, "unrelated-vcek_turin.der")
	got, err := hardware(t).Authenticate(t.Context(), evidence(r.body, turin), r.at)
	wantRefusal(t, got, err, sevsnp.CheckTCBCertificate)
	if _, unused, err := hardware(t).AuthenticateWithUse(t.Context(), evidence(r.body, turin, r.leaf), r.at); err != nil || !slices.Equal(unused, []int{0}) {
		t.Errorf("unused %v, %v", unused, err)
	}
}
