package main

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/internal/vectors"
)

// snpManifest is what MANIFEST.json says must come of a recorded report.
type snpManifest struct {
	Verifies    bool         `json:"verifies"`
	Version     uint32       `json:"version"`
	SigningKey  string       `json:"signing_key"`
	Debug       bool         `json:"policy_debug"`
	MigrateMA   bool         `json:"policy_migrate_ma"`
	VMPL        uint32       `json:"vmpl"`
	GuestSVN    uint32       `json:"guest_svn"`
	Measurement attest.Bytes `json:"measurement"`
	ReportData  attest.Bytes `json:"report_data"`
	HostData    attest.Bytes `json:"host_data"`
	IDKey       attest.Bytes `json:"id_key_digest"`
	ChipID      attest.Bytes `json:"chip_id"`
	ReportID    attest.Bytes `json:"report_id"`
	CSPID       string       `json:"csp_id"`
	Product     string       `json:"kds_product"` // "Milan-B0"
	TCB         struct {
		FMC        *uint8 `json:"fmc"`
		Bootloader uint8  `json:"bootloader"`
		TEE        uint8  `json:"tee"`
		SNP        uint8  `json:"snp"`
		Microcode  uint8  `json:"microcode"`
	} `json:"tcb"`
}

type snpRecording struct {
	vectors.Vector
	want   snpManifest
	report string // file
	leaf   string // file
}

func snpRecordings(t *testing.T) []snpRecording {
	t.Helper()
	var out []snpRecording
	for _, tee := range []string{"sevsnp", "azure"} {
		for _, v := range vectors.Load(t, tee) {
			if v.VerificationTime == nil {
				continue // trust anchors
			}
			r := snpRecording{Vector: v}
			var both struct {
				Verifies bool         `json:"verifies"`
				SNP      *snpManifest `json:"snp"`
			}
			check(t, json.Unmarshal(v.Expect, &both))
			check(t, json.Unmarshal(v.Expect, &r.want))
			if both.SNP != nil {
				r.want, r.want.Verifies = *both.SNP, both.Verifies
			}
			for _, f := range v.Files {
				switch path.Base(f) {
				case "report.bin", "snp_report.bin":
					r.report = v.Path(f)
				case "vcek.der", "vlek.der":
					r.leaf = v.Path(f)
				}
			}
			if r.report == "" {
				continue // TDX
			}
			if r.leaf == "" {
				t.Fatalf("%s: no endorsement", v.Name)
			}
			out = append(out, r)
		}
	}
	if len(out) < 27 {
		t.Fatalf("only %d recordings", len(out))
	}
	return out
}

func (r snpRecording) verify(t *testing.T, stdin []byte, args ...string) (ran, verdict) {
	t.Helper()
	got := assay(t, stdin, append([]string{"evidence", "verify", "--tee", "amd-sev-snp", "--at", r.VerificationTime.Format(time.RFC3339Nano), "--output", "json"}, args...)...)
	var v verdict
	got.decode(t, &v)
	return got, v
}

// snpRefusals names, for each recording that must be refused, the check.
var snpRefusals = map[string]string{"sevsnp/constellation-vlek-altered-v2": "report_signature"}

func TestEveryRecordedReportEndsAsTheManifestSays(t *testing.T) {
	for _, r := range snpRecordings(t) {
		t.Run(r.Name, func(t *testing.T) {
			t.Parallel()
			got, v := r.verify(t, nil, "--endorsement", r.leaf, r.report)
			if want, refused := snpRefusals[r.Name]; refused || !r.want.Verifies {
				if r.want.Verifies || got.code != cli.Untrusted || v.Verified || v.Claims != nil || v.Check == nil || *v.Check != want {
					t.Fatalf("exit code %d, want %d by %q:\n%s", got.code, cli.Untrusted, want, got.stdout)
				}
				return
			}
			if got.code != cli.OK || !v.Verified || v.Kind != nil || v.Check != nil || v.Error != nil || v.Decision != nil || v.Claims == nil || v.Claims.SNP == nil || v.Claims.Simulated {
				t.Fatalf("exit code %d, want 0 and verified:\n%s", got.code, got.stdout)
			}
			if v.TEE != attest.AMDSEVSNP || v.Binding != "unchecked" || v.Nonce != "unchecked" || v.Revocation != "not_checked" || len(v.Unused) != 0 {
				t.Errorf("the verdict is not that of a plain verification:\n%s", got.stdout)
			}
			if diff := cmp.Diff(r.want.claims(), pick(v.Claims.SNP)); diff != "" {
				t.Errorf("claims (-manifest +got):\n%s", diff)
			}
			warnings := 0
			for text, is := range map[string]bool{"debug evidence:": r.want.Debug, "migratable evidence:": r.want.MigrateMA, "evidence of VMPL ": r.want.VMPL != 0} {
				if strings.Contains(got.stderr, "warning: "+text) != is {
					t.Errorf("%s is %v, standard error %q", text, is, got.stderr)
				}
				if is {
					warnings++
				}
			}
			if len(v.Warnings) != warnings {
				t.Errorf("warnings %q", v.Warnings)
			}
		})
	}
}

// claims renders what the manifest says as claims, and pick leaves of claims
// what the manifest says.
func (m snpManifest) claims() attest.SNP {
	product, _, _ := strings.Cut(strings.ToLower(m.Product), "-")
	return attest.SNP{
		Version: m.Version, Product: product, SigningKey: strings.ToLower(m.SigningKey), CSPID: m.CSPID,
		Measurement: m.Measurement, HostData: m.HostData, ReportData: m.ReportData, IDKeyDigest: m.IDKey,
		ChipID: m.ChipID, ReportID: m.ReportID, GuestSVN: m.GuestSVN, VMPL: m.VMPL,
		Policy:      attest.SNPPolicy{Debug: m.Debug, MigrateMA: m.MigrateMA},
		ReportedTCB: attest.TCB{FMC: m.TCB.FMC, Bootloader: m.TCB.Bootloader, TEE: m.TCB.TEE, SNP: m.TCB.SNP, Microcode: m.TCB.Microcode},
	}
}

func pick(s *attest.SNP) attest.SNP {
	return attest.SNP{
		Version: s.Version, Product: s.Product, SigningKey: s.SigningKey, CSPID: s.CSPID,
		Measurement: s.Measurement, HostData: s.HostData, ReportData: s.ReportData, IDKeyDigest: s.IDKeyDigest,
		ChipID: s.ChipID, ReportID: s.ReportID, GuestSVN: s.GuestSVN, VMPL: s.VMPL,
		Policy:      attest.SNPPolicy{Debug: s.Policy.Debug, MigrateMA: s.Policy.MigrateMA},
		ReportedTCB: s.ReportedTCB,
	}
}

func TestRecordedReportsVerifyInEveryFormAndWithEveryCertificateThatLiesBesideThem(t *testing.T) {
	for _, r := range snpRecordings(t) {
		if !r.want.Verifies {
			continue
		}
		t.Run(r.Name, func(t *testing.T) {
			t.Parallel()
			report, err := os.ReadFile(r.report)
			check(t, err)
			forms := map[string]string{
				"hex":    hex.EncodeToString(report) + "\n",
				"base64": wrap(base64.StdEncoding.EncodeToString(report)),
				"url":    base64.RawURLEncoding.EncodeToString(report),
			}
			for _, f := range r.Files {
				if path.Base(f) == "hcl_report.bin" {
					b, err := os.ReadFile(r.Path(f))
					check(t, err)
					forms["the vTPM's"] = string(b)
				}
			}
			for name, form := range forms {
				if got, v := r.verify(t, []byte(form), "--endorsement", r.leaf, "-"); got.code != cli.OK || v.Claims == nil || v.Claims.SNP.ReportID.String() != r.want.ReportID.String() {
					t.Errorf("%s: exit code %d\n%s", name, got.code, got.stdout)
				}
			}
			// All that lies beside it, the right one last: what does not belong is
			// listed, the chain's own certificates are not.
			var args, foreign []string
			for _, f := range r.Files {
				if base := path.Base(f); strings.HasPrefix(base, "vcek-invalid") || base == "ask.pem" || base == "certchain.pem" {
					args = append(args, "--endorsement", r.Path(f))
					if strings.HasPrefix(base, "vcek-invalid") {
						foreign = append(foreign, r.Path(f))
					}
				}
			}
			got, v := r.verify(t, nil, append(args, "--endorsement", r.leaf, r.report)...)
			if got.code != cli.OK {
				t.Fatalf("exit code %d\n%s", got.code, got.stdout)
			}
			for _, f := range foreign {
				if !slices.Contains(v.Unused, f) {
					t.Errorf("%s is not listed in unused: %q", f, v.Unused)
				}
			}
			if slices.Contains(v.Unused, r.leaf) {
				t.Errorf("the endorsement is called unused: %q", v.Unused)
			}
		})
	}
}

func TestARecordedReportWithoutItsEndorsementIsUntrusted(t *testing.T) {
	for _, r := range snpRecordings(t) {
		got, v := r.verify(t, nil, r.report)
		if got.code != cli.Untrusted || v.Check == nil || *v.Check != "endorsement_missing" {
			t.Errorf("%s: exit code %d\n%s", r.Name, got.code, got.stdout)
		}
		// The hint says where AMD has it, as far as the report tells.
		want := "certificate table"
		if r.want.SigningKey == "VCEK" {
			line, _, _ := strings.Cut(r.want.Product, "-")
			id := r.want.ChipID
			if line == "Turin" {
				id = id[:8]
			}
			want = fmt.Sprintf("https://kdsintf.amd.com/vcek/v1/%s/%s?", line, id)
			if fmc := r.want.TCB.FMC; fmc != nil {
				want += fmt.Sprintf("fmcSPL=%02d&", *fmc)
			}
			want += fmt.Sprintf("blSPL=%02d&teeSPL=%02d&snpSPL=%02d&ucodeSPL=%02d", r.want.TCB.Bootloader, r.want.TCB.TEE, r.want.TCB.SNP, r.want.TCB.Microcode)
		}
		if v.Hint == nil || !strings.Contains(*v.Hint, want) {
			t.Errorf("%s: hint %v, want %s in it", r.Name, v.Hint, want)
		}
	}
}

func TestARequiredCRLThatIsMissingIsNamed(t *testing.T) {
	for _, r := range snpRecordings(t) {
		if !r.want.Verifies {
			continue
		}
		got, v := r.verify(t, nil, "--require-crl", "--endorsement", r.leaf, r.report)
		line, _, _ := strings.Cut(r.want.Product, "-")
		want := fmt.Sprintf("https://kdsintf.amd.com/%s/v1/%s/crl", strings.ToLower(r.want.SigningKey), line)
		if got.code != cli.Untrusted || v.Check == nil || *v.Check != "crl_missing" || v.Revocation != "failed" || v.Hint == nil || !strings.Contains(*v.Hint, want) {
			t.Errorf("%s: exit code %d, want %s in the hint\n%s", r.Name, got.code, want, got.stdout)
		}
	}
}

func TestAMDsOwnRootsGivenByNameAreStillTheHardwareRoots(t *testing.T) {
	for _, r := range snpRecordings(t) {
		if r.Name != "sevsnp/ms-azure-milan-v3" {
			continue
		}
		roots := filepath.Join(vectors.Dir(t), "sevsnp", "roots", "ask_ark_milan.pem")
		got, v := r.verify(t, nil, "--roots", roots, "--endorsement", r.leaf, r.report)
		if got.code != cli.OK || !v.Verified || v.Claims.Simulated {
			t.Fatalf("exit code %d\n%s", got.code, got.stdout)
		}
		return
	}
	t.Fatal("the recording is gone")
}

func TestInspectShowsEveryRecordedReportAndNeverCallsItVerified(t *testing.T) {
	for _, r := range snpRecordings(t) {
		got := assay(t, nil, "evidence", "inspect", "--tee", "amd-sev-snp", r.report)
		if got.code != cli.OK || !strings.HasPrefix(got.stdout, "NOT VERIFIED: ") || strings.Count(got.stdout, "VERIFIED") != 1 || !strings.Contains(got.stdout, r.want.Measurement.String()) {
			t.Fatalf("%s: exit code %d:\n%s%s", r.Name, got.code, got.stdout, got.stderr)
		}
		var j struct {
			Verified   *bool
			Unverified struct {
				Measurement  attest.Bytes
				VMPL         uint32
				Endorsements []any
			}
		}
		assay(t, nil, "evidence", "inspect", "--tee", "amd-sev-snp", "--output", "json", r.report).decode(t, &j)
		if j.Verified == nil || *j.Verified || j.Unverified.Measurement.String() != r.want.Measurement.String() || j.Unverified.VMPL != r.want.VMPL || j.Unverified.Endorsements == nil {
			t.Errorf("%s: JSON %+v", r.Name, j)
		}
	}
}
