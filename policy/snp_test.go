package policy_test

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/strictyaml"
	"github.com/assay-project/assay/policy"
)

// snpBase is a small policy for SEV-SNP that grants; tests change one thing.
const snpBase = `version: 1
bundle: prod
revision: 7
trust_domain: simulated.example.org
references:
  chips: {dedicated: true, values: ["$chip/64$", "$turin/8$"]}
workloads:
  - name: ledger
    tee: amd-sev-snp
    mode: enforce
    match:
      measurement: {eq: "$image$"}
      reported_tcb: {gte: {genoa: {bl: 9, tee: 0, snp: 23, ucode: 72}, turin: {fmc: 1, bl: 1, tee: 1, snp: 4, ucode: 81}}}
      chip_id: {in: chips}
    issue: [{spiffe_id: "spiffe://{td}/ledger"}]
`

func u8(n uint8) *uint8    { return &n }
func u64(n uint64) *uint64 { return &n }

// snpClaims are claims of a guest that snpBase grants.
func snpClaims(changes ...func(*attest.SNP)) attest.Claims {
	tcb := attest.TCB{Bootloader: 9, SNP: 23, Microcode: 72}
	fw := attest.Firmware{Major: 1, Minor: 55, Build: 29}
	s := &attest.SNP{
		Version: 5, Product: "genoa", SigningKey: "vcek",
		Measurement: sum("image"), HostData: sized("host", 32), ReportData: sized("binding", 64), GuestSVN: 4,
		IDKeyDigest: sum("id key"), AuthorKeyDigest: sum("author"), FamilyID: sized("family", 16), ImageID: sized("image", 16),
		Policy:     attest.SNPPolicy{ABIMajor: 1, ABIMinor: 51, SMT: true},
		CurrentTCB: tcb, ReportedTCB: tcb, CommittedTCB: tcb, LaunchTCB: tcb, CurrentFirmware: fw, CommittedFirmware: fw,
		LaunchMitigations: u64(0b1001), CurrentMitigations: u64(0b1001),
		ReportID: sized("report", 32), ReportIDMA: sized("ma", 32), ChipID: sized("chip", 64), Revocation: "ok",
	}
	for _, change := range changes {
		change(s)
	}
	return attest.Claims{Platform: attest.AMDSEVSNP, Simulated: true, SNP: s}
}

func turin(s *attest.SNP) {
	s.Product = "turin"
	s.ReportedTCB = attest.TCB{FMC: u8(1), Bootloader: 1, TEE: 1, SNP: 4, Microcode: 81}
	s.ChipID = append(sized("turin", 8), make([]byte, 56)...)
}

func vlek(s *attest.SNP) {
	s.SigningKey, s.CSPID, s.ChipID = "vlek", "CN=cc-us-east-2.amazonaws.com", make(attest.Bytes, 64)
}

func TestTheSNPDecisionAsJSON(t *testing.T) {
	src, err := os.ReadFile("testdata/snp.yaml")
	if err != nil {
		t.Fatal(err)
	}
	b, err := policy.Parse("snp.yaml", src)
	if err != nil {
		t.Fatal(render(err))
	}
	if w := b.Warnings(); len(w) > 0 {
		t.Errorf("the example has warnings:\n%s", w.Render())
	}
	raw := func(s string) attest.Bytes {
		out, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	release8 := func(s *attest.SNP) {
		s.Measurement = raw("9a1d7a3bc2c0ad92d8b9c9c5c1c1bfa5d1f5e1ad7b2a0c2d9ef4c52a3d8b9a01c2d3e4f5061728394a5b6c7d8e9fa0b1")
	}
	ours := func(s *attest.SNP) {
		release8(s)
		turin(s)
		s.ChipID = append(raw("8f1e2d3c4b5a6978"), make([]byte, 56)...)
	}
	cloud := func(s *attest.SNP) {
		release8(s)
		vlek(s)
		s.Product, s.VMPL = "milan", 1
		s.ReportedTCB = attest.TCB{Bootloader: 4, SNP: 24, Microcode: 219}
		s.IDKeyDigest = raw("7be15f6e7d8c9bb0a1f2e3d4c5b6a7988970615243342516071829304a5b6c7d8e9fa0b1c2d3e4f5061728394a5b6c7d")
	}
	for name, c := range map[string]attest.Claims{
		"granted":      snpClaims(ours),
		"cloud":        snpClaims(cloud),
		"old-firmware": snpClaims(ours, func(s *attest.SNP) { s.ReportedTCB.SNP, s.ReportedTCB.Microcode = 3, 80 }),
		"debug":        snpClaims(ours, func(s *attest.SNP) { s.Policy.Debug, s.Revocation, s.CurrentMitigations = true, "grace", nil }),
	} {
		t.Run(name, func(t *testing.T) {
			out, err := json.MarshalIndent(b.Explain(c, noon), "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			golden(t, "decision-snp-"+name+".json", string(out)+"\n")
		})
	}
}

func TestAGuestOnAMachineOfOursIsGranted(t *testing.T) {
	for name, c := range map[string]attest.Claims{"genoa": snpClaims(), "turin": snpClaims(turin)} {
		d := decide(t, snpBase, c, noon)
		if d.Outcome != policy.Granted || !d.Ownership || !slices.Equal(d.Pinned(), []string{"measurement", "reported_tcb", "chip_id"}) {
			t.Errorf("%s: %s, ownership %t, pinned %v: %s", name, d.Outcome, d.Ownership, d.Pinned(), d.Detail)
		}
	}
}

// Each case evaluates one rule, in a workload that has no other, over a guest
// that is otherwise good.
func TestEachSNPRule(t *testing.T) {
	img, id := hexOf("image"), hexOf("id key")
	genoa := "genoa: bl 9, tee 0, snp 23, ucode 72"
	for _, c := range []struct {
		rule     string
		change   func(*attest.SNP)
		holds    bool
		expected string
		got      string
		hint     string
	}{
		{`measurement: {eq: "$image$"}`, nil, true, img, img, ""},
		{`measurement: {in: ["$other$", "$image$"]}`, nil, true, "one of " + hexOf("other") + ", " + img, img + ", entry 2", ""},
		{`measurement: {eq: "$image$"}`, func(s *attest.SNP) { s.Measurement = sum("x") }, false, img, hexOf("x"), "another image"},
		{`measurement: {eq: "$image$"}`, func(s *attest.SNP) { s.Measurement = s.Measurement[:47] }, false, img, "missing", "an all-zero measurement never matches"},
		{`measurement: {eq: "$image$"}`, func(s *attest.SNP) { s.Measurement = append(s.Measurement, 0) }, false, img, "missing", ""},
		{`host_data: {eq: "$host/32$"}`, nil, true, sized("host", 32).String(), sized("host", 32).String(), ""},
		{`host_data: {eq: "$host/32$"}`, func(s *attest.SNP) { s.HostData = make(attest.Bytes, 32) }, false, sized("host", 32).String(), strings.Repeat("0", 64), "an all-zero host_data never matches: the host launched the guest without data"},
		{`id_key_digest: {eq: "$id key$"}`, nil, true, id, id, ""},
		{`id_key_digest: {eq: "$id key$"}`, func(s *attest.SNP) { s.IDKeyDigest = make(attest.Bytes, 48) }, false, id, strings.Repeat("0", 96), "without an id block"},
		{`author_key_digest: {in: ["$author$"]}`, nil, true, "one of " + hexOf("author"), hexOf("author") + ", entry 1", ""},
		{`author_key_digest: {in: ["$author$"]}`, func(s *attest.SNP) { s.AuthorKeyDigest = sum("y") }, false, "one of " + hexOf("author"), hexOf("y"), "another author key"},
		{`family_id: {eq: "$family/16$"}`, nil, true, sized("family", 16).String(), sized("family", 16).String(), ""},
		{`family_id: {eq: "$family/16$"}`, func(s *attest.SNP) { s.FamilyID = sized("z", 16) }, false, sized("family", 16).String(), sized("z", 16).String(), "another family"},
		{`image_id: {eq: "$image/16$"}`, nil, true, sized("image", 16).String(), sized("image", 16).String(), ""},
		{`image_id: {eq: "$image/16$"}`, func(s *attest.SNP) { s.ImageID = nil }, false, sized("image", 16).String(), "missing", "all-zero image_id"},

		{`product: {eq: genoa}`, nil, true, "genoa", "genoa", ""},
		{`product: {in: [milan, turin]}`, nil, false, "one of milan, turin", "genoa", "another product line"},
		{`product: {eq: genoa}`, func(s *attest.SNP) { s.Product = "" }, false, "genoa", "missing", ""},
		{`signing_key: {eq: vcek}`, nil, true, "vcek", "vcek", ""},
		{`signing_key: {in: [vlek]}`, nil, false, "one of vlek", "vcek", "AMD gives to a cloud provider"},
		{`csp_id: {eq: "CN=cc-us-east-2.amazonaws.com"}`, vlek, true, "CN=cc-us-east-2.amazonaws.com", "CN=cc-us-east-2.amazonaws.com", ""},
		{`csp_id: {in: [other]}`, vlek, false, "one of other", "CN=cc-us-east-2.amazonaws.com", "another cloud provider's"},
		{`csp_id: {eq: other}`, nil, false, "other", "missing", "only reports that a VLEK signed"},
		{`guest_svn: {eq: 4}`, nil, true, "4", "4", ""},
		{`guest_svn: {in: [3, {value: 4}]}`, nil, true, "one of 3, 4", "4, entry 2", ""},
		{`guest_svn: {gte: 4}`, nil, true, "at least 4", "4", ""},
		{`guest_svn: {gte: 5}`, nil, false, "at least 5", "4", "security version"},
		{`guest_svn: {gte: 256}`, func(s *attest.SNP) { s.GuestSVN = 1<<32 - 1 }, true, "at least 256", "4294967295", ""},
		{`guest_svn: {gte: 256}`, func(s *attest.SNP) { s.GuestSVN = 255 }, false, "at least 256", "255", ""},
		{`guest_svn: {lte: 4}`, nil, true, "at most 4", "4", ""},
		{`guest_svn: {lte: 3}`, nil, false, "at most 3", "4", ""},
		{`vmpl: {eq: 0}`, nil, true, "0", "0", ""},
		{`vmpl: {eq: 0}`, func(s *attest.SNP) { s.VMPL = 1 }, false, "0", "1", "often on AWS"},
		{`vmpl: {lte: 1}`, func(s *attest.SNP) { s.VMPL = 1 }, true, "at most 1", "1", ""},
		{`vmpl: {lte: 1}`, func(s *attest.SNP) { s.VMPL = 3 }, false, "at most 1", "3", ""},
		{`version: {gte: 3}`, nil, true, "at least 3", "5", ""},
		{`version: {gte: 3}`, func(s *attest.SNP) { s.Version = 2 }, false, "at least 3", "2", "version of reports"},
		{`version: {in: [2, 3]}`, nil, false, "one of 2, 3", "5", ""},
		{`version: {gte: 3}`, func(s *attest.SNP) { s.Version = 0 }, false, "at least 3", "missing", ""},

		{`provisional: {eq: false}`, nil, true, "false", "false", ""},
		{`provisional: {eq: false}`, func(s *attest.SNP) { s.Provisional = true }, false, "false", "true", "not committed"},
		{`revocation: {eq: ok}`, nil, true, "ok", "ok", ""},
		{`revocation: {in: [ok, grace]}`, func(s *attest.SNP) { s.Revocation = "grace" }, true, "one of ok, grace", "grace, entry 2", ""},
		{`revocation: {eq: ok}`, func(s *attest.SNP) { s.Revocation = "grace" }, false, "ok", "grace", "the operator's grace let it pass"},
		{`revocation: {eq: ok}`, func(s *attest.SNP) { s.Revocation = "not_checked" }, false, "ok", "not_checked", "no revocation list"},
		{`revocation: {eq: ok}`, func(s *attest.SNP) { s.Revocation = "" }, false, "ok", "missing", ""},
		{`chip_id: {eq: "$chip/64$"}`, nil, true, sized("chip", 64).String(), sized("chip", 64).String(), ""},
		{`chip_id: {eq: "$chip/64$"}`, func(s *attest.SNP) { s.ChipID = sized("x", 64) }, false, sized("chip", 64).String(), sized("x", 64).String(), "another machine"},
		{`chip_id: {eq: "$chip/64$"}`, func(s *attest.SNP) { s.ChipID = make(attest.Bytes, 64) }, false, sized("chip", 64).String(), strings.Repeat("0", 128), "a masked chip id never matches"},
		{`chip_id: {eq: "$chip/64$"}`, func(s *attest.SNP) { s.ChipID = nil }, false, sized("chip", 64).String(), "missing", ""},
		{`chip_id: {eq: "$turin/8$"}`, turin, true, sized("turin", 8).String(), sized("turin", 8).String(), ""},
		{`chip_id: {eq: "$chip/8$"}`, nil, false, sized("chip", 8).String(), sized("chip", 64).String(), "another machine"},
		{`chip_id_masked: {eq: false}`, nil, true, "false", "false", ""},
		{`chip_id_masked: {eq: false}`, func(s *attest.SNP) { s.ChipID = make(attest.Bytes, 64) }, false, "false", "true", "the host masks its chip id"},
		{`chip_id_masked: {eq: false}`, vlek, false, "false", "true, signed with a VLEK", "the host masks its chip id"},
		{`chip_id_masked: {eq: true}`, vlek, true, "true", "true, signed with a VLEK", ""},
		{`chip_id_masked: {eq: true}`, func(s *attest.SNP) { s.ChipID = make(attest.Bytes, 64) }, true, "true", "true", ""},
		{`chip_id_masked: {eq: true}`, nil, false, "true", "false", ""},
		{`chip_id_masked: {eq: true}`, func(s *attest.SNP) { s.ChipID = nil }, false, "true", "missing", ""},

		{`reported_tcb: {gte: {genoa: {bl: 9, tee: 0, snp: 23, ucode: 72}}}`, nil, true, "at least " + genoa, genoa, ""},
		{`reported_tcb: {gte: {genoa: {bl: 10, tee: 0, snp: 23, ucode: 72}}}`, nil, false, "at least genoa: bl 10, tee 0, snp 23, ucode 72", genoa, "genoa: bl 9 is below 10 (the secure processor's boot loader): the host's firmware is too old"},
		{`reported_tcb: {gte: {genoa: {bl: 9, tee: 1, snp: 23, ucode: 72}}}`, nil, false, "", genoa, "genoa: tee 0 is below 1"},
		{`reported_tcb: {gte: {genoa: {bl: 9, tee: 0, snp: 24, ucode: 72}}}`, nil, false, "", genoa, "genoa: snp 23 is below 24"},
		{`reported_tcb: {gte: {genoa: {bl: 0, tee: 0, snp: 0, ucode: 73}}}`, nil, false, "", genoa, "genoa: ucode 72 is below 73"},
		{`reported_tcb: {gte: {genoa: {bl: 10, tee: 0, snp: 0, ucode: 73}}}`, nil, false, "", genoa, "genoa: bl 9 is below 10 (the secure processor's boot loader), ucode 72 is below 73 (the CPU's microcode)"},
		{`reported_tcb: {gte: {milan: {bl: 1, tee: 0, snp: 1, ucode: 1}}}`, nil, false, "at least milan: bl 1, tee 0, snp 1, ucode 1", genoa, "the rule has no floor for genoa"},
		{`reported_tcb: {gte: {turin: {fmc: 2, bl: 1, tee: 1, snp: 4, ucode: 81}, milan: {bl: 1, tee: 0, snp: 1, ucode: 1}}}`, turin, false,
			"at least milan: bl 1, tee 0, snp 1, ucode 1; turin: fmc 2, bl 1, tee 1, snp 4, ucode 81", "turin: fmc 1, bl 1, tee 1, snp 4, ucode 81", "turin: fmc 1 is below 2"},
		{`reported_tcb: {gte: {turin: {fmc: 1, bl: 1, tee: 1, snp: 4, ucode: 81}}}`, turin, true, "", "turin: fmc 1, bl 1, tee 1, snp 4, ucode 81", ""},
		{`reported_tcb: {gte: {turin: {fmc: 1, bl: 1, tee: 1, snp: 4, ucode: 81}}}`, func(s *attest.SNP) { turin(s); s.ReportedTCB.FMC = nil }, false, "", "missing", "no TCB in the layout"},
		{`reported_tcb: {gte: {genoa: {bl: 9, tee: 0, snp: 23, ucode: 72}}}`, func(s *attest.SNP) { s.ReportedTCB.FMC = u8(9) }, false, "", "missing", "no TCB in the layout"},
		{`current_tcb: {gte: {genoa: {bl: 9, tee: 0, snp: 24, ucode: 72}}}`, func(s *attest.SNP) { s.CurrentTCB.SNP = 24 }, true, "", "genoa: bl 9, tee 0, snp 24, ucode 72", ""},
		{`current_tcb: {gte: {genoa: {bl: 9, tee: 0, snp: 24, ucode: 72}}}`, nil, false, "", genoa, "snp 23 is below 24"},
		{`committed_tcb: {gte: {genoa: {bl: 9, tee: 0, snp: 24, ucode: 72}}}`, func(s *attest.SNP) { s.CommittedTCB.SNP = 24 }, true, "", "", ""},
		{`committed_tcb: {gte: {genoa: {bl: 9, tee: 0, snp: 23, ucode: 72}}}`, func(s *attest.SNP) { s.CommittedTCB = attest.TCB{} }, false, "", "genoa: bl 0, tee 0, snp 0, ucode 0", "bl 0 is below 9"},
		{`launch_tcb: {gte: {genoa: {bl: 9, tee: 0, snp: 24, ucode: 72}}}`, func(s *attest.SNP) { s.LaunchTCB.SNP = 24 }, true, "", "", ""},
		{`launch_tcb: {gte: {genoa: {bl: 9, tee: 0, snp: 24, ucode: 72}}}`, nil, false, "", genoa, "snp 23 is below 24"},

		{`current_tcb: {lte: {genoa: {bl: 9, tee: 0, snp: 23, ucode: 72}}}`, nil, true, "at most genoa: bl 9, tee 0, snp 23, ucode 72", genoa, ""},
		{`current_tcb: {lte: {genoa: {bl: 9, tee: 0, snp: 22, ucode: 72}}}`, nil, false, "at most genoa: bl 9, tee 0, snp 22, ucode 72", genoa, "snp 23 is above 22 (the SNP firmware): the host's firmware is newer"},
		{`current_tcb: {lte: {genoa: {bl: 255, tee: 255, snp: 255, ucode: 71}}}`, nil, false, "", genoa, "72 is above 71"},
		{`current_tcb: {lte: {milan: {bl: 4, tee: 0, snp: 24, ucode: 219}}}`, nil, false, "", genoa, "the rule has no ceiling for genoa"},
		{`reported_tcb: {lte: {turin: {fmc: 0, bl: 9, tee: 9, snp: 9, ucode: 99}}}`, turin, false, "", "", "1 is above 0"},
		{`current_firmware: {lte: "1.55.29"}`, nil, true, "at most 1.55.29", "1.55.29", ""},
		{`current_firmware: {lte: "1.55.28"}`, nil, false, "at most 1.55.28", "1.55.29", "another version of the SNP firmware"},
		{`current_firmware: {gte: "1.55.29"}`, nil, true, "at least 1.55.29", "1.55.29", ""},
		{`current_firmware: {gte: "1.55.30"}`, nil, false, "at least 1.55.30", "1.55.29", "another version of the SNP firmware"},
		{`current_firmware: {gte: "1.9.200"}`, nil, true, "at least 1.9.200", "1.55.29", ""},
		{`current_firmware: {gte: "2.0.0"}`, nil, false, "at least 2.0.0", "1.55.29", ""},
		{`current_firmware: {in: ["1.55.28", "1.55.29"]}`, nil, true, "one of 1.55.28, 1.55.29", "1.55.29, entry 2", ""},
		{`committed_firmware: {eq: "1.55.29"}`, nil, true, "1.55.29", "1.55.29", ""},
		{`committed_firmware: {gte: "1.55.29"}`, func(s *attest.SNP) { s.CommittedFirmware.Build = 28 }, false, "", "1.55.28", ""},

		{`launch_mitigations: {bits: {set: [0, 3]}}`, nil, true, "bits 0, 3 set", "0x0000000000000009 (bits 0, 3)", ""},
		{`launch_mitigations: {bits: {set: [1, 3], clear: [0]}}`, nil, false, "bits 1, 3 set, bit 0 clear", "0x0000000000000009 (bits 0, 3)", "bit 1 should be set; bit 0 should be clear"},
		{`current_mitigations: {bits: {clear: [63]}}`, nil, true, "bit 63 clear", "0x0000000000000009 (bits 0, 3)", ""},
		{`current_mitigations: {bits: {set: [63]}}`, func(s *attest.SNP) { s.CurrentMitigations = u64(1 << 63) }, true, "bit 63 set", "0x8000000000000000 (bit 63)", ""},
		{`current_mitigations: {bits: {clear: [63]}}`, func(s *attest.SNP) { s.CurrentMitigations = nil }, false, "", "missing", "from version 5 on"},
		{`launch_mitigations: {bits: {clear: [63]}}`, func(s *attest.SNP) { s.LaunchMitigations = nil }, false, "", "missing", "from version 5 on"},
		{`launch_mitigations: {bits: {set: [0]}}`, func(s *attest.SNP) { s.LaunchMitigations = u64(0) }, false, "", "0x0000000000000000 (no bit)", "bit 0 should be set"},
	} {
		claims := snpClaims()
		if c.change != nil {
			claims = snpClaims(c.change)
		}
		name, _, _ := strings.Cut(c.rule, ":")
		r := only(t, decide(t, snpAudit(c.rule), claims, noon), "w0", name)
		if r.Holds != c.holds || c.expected != "" && r.Expected != c.expected || c.got != "" && r.Got != c.got || !strings.Contains(r.Hint, c.hint) || r.Holds && r.Hint != "" || r.Implicit {
			t.Errorf("%s:\n got %+v\nwant holds %t, expected %q, got %q, hint %q", c.rule, r, c.holds, c.expected, c.got, c.hint)
		}
	}
}

// snpAudit is a bundle with one audited workload for each match.
func snpAudit(matches ...string) string {
	return strings.ReplaceAll(workloadsOf("audit", matches...), "aws-nitro", "amd-sev-snp")
}

func snpEnforce(matches ...string) string {
	return strings.ReplaceAll(workloadsOf("enforce", matches...), "aws-nitro", "amd-sev-snp")
}

func TestEachSNPBitIsItsOwn(t *testing.T) {
	bits := map[string]func(*attest.SNP) *bool{
		"policy.debug":               func(s *attest.SNP) *bool { return &s.Policy.Debug },
		"policy.migrate_ma":          func(s *attest.SNP) *bool { return &s.Policy.MigrateMA },
		"policy.smt":                 func(s *attest.SNP) *bool { return &s.Policy.SMT },
		"policy.single_socket":       func(s *attest.SNP) *bool { return &s.Policy.SingleSocket },
		"policy.cxl_allow":           func(s *attest.SNP) *bool { return &s.Policy.CXLAllow },
		"policy.mem_aes_256_xts":     func(s *attest.SNP) *bool { return &s.Policy.MemAES256XTS },
		"policy.rapl_dis":            func(s *attest.SNP) *bool { return &s.Policy.RAPLDis },
		"policy.ciphertext_hiding":   func(s *attest.SNP) *bool { return &s.Policy.CiphertextHiding },
		"policy.page_swap_disable":   func(s *attest.SNP) *bool { return &s.Policy.PageSwapDisable },
		"platform.smt":               func(s *attest.SNP) *bool { return &s.Platform.SMT },
		"platform.tsme":              func(s *attest.SNP) *bool { return &s.Platform.TSME },
		"platform.ecc":               func(s *attest.SNP) *bool { return &s.Platform.ECC },
		"platform.rapl_dis":          func(s *attest.SNP) *bool { return &s.Platform.RAPLDis },
		"platform.ciphertext_hiding": func(s *attest.SNP) *bool { return &s.Platform.CiphertextHiding },
		"platform.alias_check":       func(s *attest.SNP) *bool { return &s.Platform.AliasCheck },
		"provisional":                func(s *attest.SNP) *bool { return &s.Provisional },
	}
	var rules []string
	for name := range bits {
		rules = append(rules, name+": {eq: true}")
	}
	b := parse(t, snpAudit(strings.Join(rules, ", ")))
	for name, bit := range bits {
		c := snpClaims(func(s *attest.SNP) {
			s.Policy, s.Platform, s.Provisional = attest.SNPPolicy{}, attest.SNPPlatform{}, false
			*bit(s) = true
		})
		var got []string
		for _, r := range b.Evaluate(c, noon).Workloads[0].Rules {
			if r.Holds && !r.Implicit {
				got = append(got, r.Rule)
			}
		}
		if !slices.Equal(got, []string{name}) {
			t.Errorf("with %s alone, the rules %v hold", name, got)
		}
	}
}

// Every claim that the reference lists fails its rule where there are no claims
// at all; of a zero report only what zero means holds.
func TestAMissingSNPClaimNeverMatches(t *testing.T) {
	rules := []string{
		`measurement: {eq: "$a$"}`, `host_data: {eq: "$a/32$"}`, `id_key_digest: {eq: "$a$"}`, `author_key_digest: {eq: "$a$"}`, `family_id: {eq: "$a/16$"}`, `image_id: {eq: "$a/16$"}`,
		`product: {in: [milan, genoa, turin]}`, `signing_key: {in: [vcek, vlek]}`, `csp_id: {eq: a}`, `guest_svn: {lte: 9}`, `vmpl: {lte: 2}`, `version: {lte: 4}`,
		`provisional: {eq: false}`, `revocation: {in: [ok, grace, not_checked]}`, `chip_id: {eq: "$a/64$"}`, `chip_id_masked: {eq: true}`,
		`current_firmware: {gte: "0.0.1"}`, `committed_firmware: {gte: "0.0.1"}`, `launch_mitigations: {bits: {clear: [1]}}`, `current_mitigations: {bits: {clear: [1]}}`,
	}
	for _, name := range []string{"current_tcb", "reported_tcb", "committed_tcb", "launch_tcb"} {
		rules = append(rules, name+`: {gte: {milan: {bl: 1, tee: 0, snp: 0, ucode: 0}, genoa: {bl: 1, tee: 0, snp: 0, ucode: 0}, turin: {fmc: 0, bl: 0, tee: 0, snp: 0, ucode: 1}}}`)
	}
	for _, name := range []string{"debug", "migrate_ma", "smt", "single_socket", "cxl_allow", "mem_aes_256_xts", "rapl_dis", "ciphertext_hiding", "page_swap_disable"} {
		rules = append(rules, "policy."+name+": {eq: false}")
	}
	for _, name := range []string{"smt", "tsme", "ecc", "rapl_dis", "ciphertext_hiding", "alias_check"} {
		rules = append(rules, "platform."+name+": {eq: false}")
	}
	doc := reference(t)
	for _, rule := range rules {
		name, _, _ := strings.Cut(rule, ":")
		if !strings.Contains(doc, "`"+name+"`") {
			t.Errorf("docs/spec/policy.md does not name the claim %s", name)
		}
		b := parse(t, snpAudit(rule))
		if r := only(t, b.Evaluate(attest.Claims{Platform: attest.AMDSEVSNP}, noon), "w0", name); r.Holds || r.Got != "missing" {
			t.Errorf("%s without claims: %+v", rule, r)
		}
		zero := strings.HasPrefix(name, "policy.") || strings.HasPrefix(name, "platform.") || name == "provisional" || name == "guest_svn" || name == "vmpl"
		if r := only(t, b.Evaluate(attest.Claims{Platform: attest.AMDSEVSNP, SNP: &attest.SNP{}}, noon), "w0", name); r.Holds != zero {
			t.Errorf("%s over a zero report: %+v", rule, r)
		}
	}
	if want := policy.ClaimsForTest(attest.AMDSEVSNP); len(rules) != len(want) {
		t.Errorf("%d claims tested, the language has %d: %v", len(rules), len(want), want)
	}
}

// Each case makes one change to a good policy, and must get exactly one error.
func TestEachSNPMistakeHasItsOwnError(t *testing.T) {
	const measurement = `measurement: {eq: "$image$"}`
	tcb := func(s string) string { return measurement + "\n      current_tcb: {gte: " + s + "}" }
	for _, c := range []struct{ name, from, to, want string }{
		{"measurement of SHA-256", `"$image$"`, `"$image/32$"`, "12:25: want 48 bytes in hex (96 characters), got 32 bytes"},
		{"measurement all zero", `"$image$"`, `"` + strings.Repeat("0", 96) + `"`, "12:25: an all-zero reference value is refused"},
		{"host data too long", measurement, `host_data: {eq: "$a$"}`, "12:23: want 32 bytes in hex (64 characters), got 48 bytes"},
		{"host data all zero", measurement, `host_data: {eq: "` + strings.Repeat("0", 64) + `"}`, "12:23: an all-zero reference value is refused"},
		{"id key all zero", measurement, `id_key_digest: {eq: "` + strings.Repeat("0", 96) + `"}`, "12:27: an all-zero reference value is refused"},
		{"author key too short", measurement, `author_key_digest: {eq: "$a/47$"}`, "12:31: want 48 bytes in hex (96 characters), got 47 bytes"},
		{"family too long", measurement, `family_id: {eq: "$a/17$"}`, "12:23: want 16 bytes in hex (32 characters), got 17 bytes"},
		{"family all zero", measurement, `family_id: {eq: "` + strings.Repeat("0", 32) + `"}`, "12:23: an all-zero reference value is refused"},
		{"image id as text", measurement, `image_id: {eq: "payments"}`, `12:22: want 16 bytes in hex (32 characters), got "payments"`},

		{"unknown product", measurement, `product: {eq: rome}`, `12:21: want one of milan, genoa, turin, got "rome"`},
		{"product in capitals", measurement, `product: {in: [Genoa]}`, `12:22: want one of milan, genoa, turin, got "Genoa"`},
		{"product, ordered", measurement, `product: {gte: genoa}`, `12:17: product has no matcher "gte"`},
		{"unknown signing key", measurement, `signing_key: {eq: none}`, `12:25: want one of vcek, vlek, got "none"`},
		{"unknown revocation", measurement, `revocation: {in: [ok, good]}`, `12:29: want one of ok, grace, not_checked, got "good"`},
		{"provider empty", measurement, `csp_id: {eq: ""}`, "12:20: want 1 to 256 printable ASCII characters"},
		{"provider not ASCII", measurement, `csp_id: {eq: "ü"}`, "12:20: want 1 to 256 printable ASCII characters"},
		{"svn too large", measurement, `guest_svn: {gte: 4294967296}`, "12:24: want a number from 0 to 4294967295, got 4294967296"},
		{"svn negative", measurement, `guest_svn: {gte: -1}`, "12:24: the number -1 is out of range"},
		{"svn as text", measurement, `guest_svn: {gte: "4"}`, `12:24: want a whole number, got "4"`},
		{"svn of nothing", measurement, `guest_svn: {gt: 4}`, `12:19: guest_svn has no matcher "gt"`},
		{"svn from and to", measurement, `guest_svn: {gte: 4, lte: 6}`, "12:18: want exactly one matcher, got 2"},
		{"svn twice", measurement, `guest_svn: {in: [4, 4]}`, "12:27: the value is listed twice"},
		{"vmpl of nothing", measurement, `vmpl: {eq: 4}`, "12:18: want a number from 0 to 3, got 4"},
		{"version of tomorrow", measurement, `version: {gte: 6}`, "12:22: want a number from 2 to 5, got 6"},
		{"bit as number", measurement, `policy.smt: {eq: 1}`, "12:24: want true or false, got a number (1)"},
		{"bit in a list", measurement, `platform.smt: {in: [true]}`, `12:22: platform.smt has no matcher "in"`},
		{"unknown bit", measurement, `policy.dbug: {eq: true}`, `12:7: amd-sev-snp has no claim "policy.dbug"`},
		{"bits as a mapping", measurement, `policy: {debug: false}`, `12:7: amd-sev-snp has no claim "policy"`},
		{"debug as on Nitro", measurement, `debug: {eq: false}`, `12:7: the claim "debug" cannot be matched`},
		{"a register", measurement, `pcr0: {eq: "$a$"}`, `12:7: amd-sev-snp has no claim "pcr0"`},
		{"report data", measurement, `report_data: {eq: "$a/64$"}`, `12:7: the claim "report_data" cannot be matched`},
		{"report id", measurement, `report_id: {eq: "$a/32$"}`, `12:7: the claim "report_id" cannot be matched`},
		{"masked as text", measurement, `chip_id_masked: {eq: "yes"}`, `12:28: want true or false, got "yes"`},
		{"masked in a list", measurement, `chip_id_masked: {in: [true]}`, `12:24: chip_id_masked has no matcher "in"`},

		{"chip too short", `"$turin/8$"`, `"$turin/7$"`, "got 7 bytes"},
		{"chip of 32 bytes", `"$chip/64$"`, `"$chip/32$"`, "want a chip id of 64 bytes in hex (128 characters), or of 8 (16 characters) for Turin, got 32 bytes"},
		{"chip as no hex", `"$chip/64$"`, `"rack 4"`, `got "rack 4"`},
		{"chip all zero", `"$chip/64$"`, `"` + strings.Repeat("0", 128) + `"`, "an all-zero reference value is refused"},
		{"Turin chip all zero", `"$turin/8$"`, `"` + strings.Repeat("0", 16) + `"`, "an all-zero reference value is refused"},
		{"one chip in two lengths", `"$chip/64$"`, `"$turin/8$` + strings.Repeat("0", 112) + `"`, "the value is listed twice"},

		{"floor without a product", measurement, tcb("{bl: 9, tee: 0, snp: 23, ucode: 72}"), "13:26: a TCB floor without a product"},
		{"floor without a product, one component", measurement, tcb("{snp: 23}"), "13:26: a TCB floor without a product"},
		{"floor of no product", measurement, tcb("{}"), "13:26: current_tcb has no floor: no product line would match"},
		{"floor as a number", measurement, tcb("3"), "13:26: want a TCB floor for each product line, got a number (3)"},
		{"floor of an unknown product", measurement, tcb("{rome: {bl: 9, tee: 0, snp: 23, ucode: 72}}"), `13:27: unknown product "rome"`},
		{"floor as a list", measurement, tcb("{genoa: [9, 0, 23, 72]}"), "13:34: want a mapping, got a list"},
		{"floor lacks a component", measurement, tcb("{genoa: {bl: 9, tee: 0, ucode: 72}}"), "13:34: the floor of genoa lacks snp"},
		{"floor with an unknown component", measurement, tcb("{genoa: {bl: 9, tee: 0, snp: 1, ucode: 72, microcode: 3}}"), `unknown key "microcode"`},
		{"floor of Turin without fmc", measurement, tcb("{turin: {bl: 1, tee: 1, snp: 4, ucode: 81}}"), "13:34: the floor of turin lacks fmc"},
		{"floor of Milan with fmc", measurement, tcb("{milan: {fmc: 1, bl: 1, tee: 1, snp: 4, ucode: 81}}"), "13:35: the TCB of milan has no fmc"},
		{"floor too large", measurement, tcb("{genoa: {bl: 9, tee: 0, snp: 256, ucode: 72}}"), "the number 256 is out of range"},
		{"floor negative", measurement, tcb("{genoa: {bl: 9, tee: 0, snp: -1, ucode: 72}}"), "the number -1 is out of range"},
		{"floor all zero", measurement, tcb("{genoa: {bl: 0, tee: 0, snp: 0, ucode: 0}}"), "13:34: the floor of genoa is all zero"},
		{"floor all zero, Turin", measurement, tcb("{turin: {fmc: 0, bl: 0, tee: 0, snp: 0, ucode: 0}}"), "13:34: the floor of turin is all zero"},
		{"ceiling without a product", measurement, "current_tcb: {lte: {snp: 23}}", "12:26: a TCB ceiling without a product"},
		{"ceiling of no product", measurement, "current_tcb: {lte: {}}", "12:26: current_tcb has no ceiling: no product line would match"},
		{"ceiling lacks a component", measurement, "current_tcb: {lte: {genoa: {bl: 9, tee: 0, snp: 1}}}", "the ceiling of genoa lacks ucode"},
		{"ceiling all 255", measurement, "current_tcb: {lte: {genoa: {bl: 255, tee: 255, snp: 255, ucode: 255}}}", "the ceiling of genoa is all 255"},
		{"TCB that is equal", measurement, "current_tcb: {eq: {genoa: {bl: 9, tee: 0, snp: 23, ucode: 72}}}", `12:21: current_tcb has no matcher "eq"`},

		{"firmware of two parts", measurement, `current_firmware: {gte: "1.55"}`, `12:31: want a firmware version, got "1.55"`},
		{"firmware as a number", measurement, `current_firmware: {gte: 1.55}`, "12:31: want text, got a number (1.55)"},
		{"firmware out of range", measurement, `current_firmware: {gte: "1.55.256"}`, `want a firmware version, got "1.55.256"`},
		{"firmware with a zero before", measurement, `current_firmware: {gte: "1.055.29"}`, `want a firmware version, got "1.055.29"`},
		{"firmware with a sign", measurement, `current_firmware: {gte: "1.+55.29"}`, `want a firmware version, got "1.+55.29"`},
		{"firmware all zero", measurement, `current_firmware: {gte: "0.0.0"}`, "12:31: an all-zero reference value is refused"},
		{"firmware with bits", measurement, `current_firmware: {bits: {set: [1]}}`, `current_firmware has no matcher "bits"`},

		{"bits as a list", measurement, `launch_mitigations: {bits: [0]}`, "12:34: want a mapping, got a list"},
		{"bits of nothing", measurement, `launch_mitigations: {bits: {}}`, "12:34: launch_mitigations names no bit"},
		{"bits of empty lists", measurement, `launch_mitigations: {bits: {set: [], clear: []}}`, "12:34: launch_mitigations names no bit"},
		{"bit 64", measurement, `launch_mitigations: {bits: {set: [64]}}`, "12:41: there is no bit 64"},
		{"bit -1", measurement, `launch_mitigations: {bits: {set: [-1]}}`, "the number -1 is out of range"},
		{"bit twice", measurement, `launch_mitigations: {bits: {set: [3, 3]}}`, "12:44: bit 3 is listed twice"},
		{"bit set and clear", measurement, `launch_mitigations: {bits: {set: [0, 3], clear: [3]}}`, "12:34: bit 3 cannot be both set and clear"},
		{"bits with an unknown key", measurement, `launch_mitigations: {bits: {set: [0], unset: [3]}}`, `unknown key "unset"`},
		{"bits as a mask", measurement, `launch_mitigations: {bits: {set: 9}}`, "12:40: want a list, got a number (9)"},
		{"bits that are equal", measurement, `launch_mitigations: {eq: 9}`, `launch_mitigations has no matcher "eq"`},

		{"no ownership", "      chip_id: {in: chips}\n", "", `8:11: workload "ledger" has no ownership predicate`},
		{"a chip in place is no ownership", "{in: chips}", `{in: ["$chip/64$"]}`, `8:11: workload "ledger" has no ownership predicate`},
		{"one chip is no ownership", "{in: chips}", `{eq: "$chip/64$"}`, `8:11: workload "ledger" has no ownership predicate`},
		{"shared chips are no ownership", "dedicated: true", "dedicated: false", `8:11: workload "ledger" has no ownership predicate`},
		{"a dedicated set of images is no ownership", "      chip_id: {in: chips}\n", "      host_data: {in: data}\n", `8:11: workload "ledger" has no ownership predicate`},
		{"a waiver beside a dedicated set", "    match:", "    ownership: {none: a, owner: b, expires: 2027-06-30}\n    match:", "needs no ownership waiver: chip_id is an ownership predicate"},

		{"publish the chip", "    match:", "    publish: [chip_id]\n    match:", "11:15: chip_id is never published"},
		{"publish the report id", "    match:", "    publish: [report_id]\n    match:", "11:15: report_id is never published"},
		{"publish the host data", "    match:", "    publish: [measurement, host_data]\n    match:", "11:28: host_data is never published"},
		{"publish a TCB", "    match:", "    publish: [reported_tcb]\n    match:", `11:15: "reported_tcb" is not a measurement of amd-sev-snp`},
		{"publish a register", "    match:", "    publish: [pcr0]\n    match:", `11:15: "pcr0" is not a measurement of amd-sev-snp`},
		{"publish the family", "    match:", "    publish: [family_id]\n    match:", `11:15: "family_id" is not a measurement of amd-sev-snp`},
		{"template with a chip", "{td}/ledger", "{td}/{chip_id:16}", "chip_id must not be part of an identity"},
		{"template with the report id", "{td}/ledger", "{td}/{report_id:16}", "report_id must not be part of an identity"},
		{"template with host data", "{td}/ledger", "{td}/{host_data:16}", "host_data must not be part of an identity"},
		{"template with a TCB", "{td}/ledger", "{td}/{reported_tcb}", "reported_tcb cannot be expanded: only digests and ids of a fixed length can"},
		{"template with a number", "{td}/ledger", "{td}/{guest_svn}", "guest_svn cannot be expanded: only digests and ids of a fixed length can"},
		{"template with an unpinned digest", "{td}/ledger", "{td}/{id_key_digest:16}", "id_key_digest cannot be expanded: the workload does not pin it"},

		{"product without its floor", measurement, measurement + "\n      product: {eq: milan}", `workload "ledger" can never match: no report satisfies both its reported_tcb and its product`},
		{"floors without a common product", measurement, tcb("{milan: {bl: 1, tee: 0, snp: 1, ucode: 1}}"), `can never match: no report satisfies both its current_tcb and its reported_tcb`},
		{"a masked chip of ours", measurement, measurement + "\n      chip_id_masked: {eq: true}", "can never match: no report satisfies both its chip_id and its chip_id_masked"},
		{"a provider without its key", measurement, measurement + "\n      csp_id: {eq: a}\n      signing_key: {eq: vcek}", "can never match: no report satisfies both its csp_id and its signing_key"},
		{"mitigations before their version", measurement, measurement + "\n      current_mitigations: {bits: {set: [0]}}\n      version: {lte: 4}", "can never match: no report satisfies both its current_mitigations and its version"},
		{"mitigations of listed versions", measurement, measurement + "\n      current_mitigations: {bits: {set: [0]}}\n      version: {in: [2, 3]}", "can never match: no report satisfies both its current_mitigations and its version"},
	} {
		t.Run(c.name, func(t *testing.T) {
			src := expand(change(t, strings.Replace(snpBase, "workloads:", "  data: {dedicated: true, values: [\"$data/32$\"]}\nworkloads:", 1), c.from, c.to))
			if !strings.Contains(c.to, "in: data") {
				src = expand(change(t, snpBase, c.from, c.to))
			} else {
				c.want = strings.Replace(c.want, "8:11", "9:11", 1)
			}
			b, err := policy.Parse("p.yaml", []byte(src))
			var errs strictyaml.Errors
			if !errors.As(err, &errs) || b != nil {
				t.Fatalf("accepted, want %q", c.want)
			}
			if len(errs) != 1 || !strings.Contains(errs[0].Error(), c.want) {
				t.Errorf("want one error with %q, got:\n%s", c.want, errs.Render())
			}
		})
	}
}

func TestTheOwnershipErrorSaysWhatDoesNotCount(t *testing.T) {
	_, err := policy.Parse("p.yaml", []byte(expand(change(t, snpBase, "      chip_id: {in: chips}\n", ""))))
	for _, claim := range []string{"chip_id", "dedicated: true", "measurement", "id_key_digest", "author_key_digest", "host_data", "family_id", "image_id", "csp_id"} {
		if !strings.Contains(render(err), claim) {
			t.Errorf("the error does not name %s:\n%s", claim, render(err))
		}
	}
}

func TestSNPWarnings(t *testing.T) {
	for _, c := range []struct{ name, from, to, want string }{
		{"none", "revision: 7", "revision: 8", ""},
		{"debug admitted", "    match:\n", "    match:\n      policy.debug: {eq: true}\n", "workload ledger admits guests with policy.debug"},
		{"migration admitted", "    match:\n", "    match:\n      policy.migrate_ma: {eq: true}\n", "workload ledger admits guests with policy.migrate_ma"},
		{"debug refused by name", "    match:\n", "    match:\n      policy.debug: {eq: false}\n", ""},
		{"no image", "      measurement: {eq: \"$image$\"}\n", "", "workload ledger pins no image"},
		{"the signer is enough", "measurement:", "id_key_digest:", ""},
		{"the author is enough", "measurement:", "author_key_digest:", ""},
		{"a ceiling is no floor", "reported_tcb: {gte: {genoa: {bl: 9, tee: 0, snp: 23, ucode: 72}, turin: {fmc: 1, bl: 1, tee: 1, snp: 4, ucode: 81}}}", "reported_tcb: {lte: {genoa: {bl: 9, tee: 0, snp: 23, ucode: 72}}}", "workload ledger has no floor for reported_tcb"},
		{"another TCB", "reported_tcb:", "current_tcb:", "workload ledger has no floor for reported_tcb"},
		{"a bound that is none", "    match:\n", "    match:\n      guest_svn: {gte: 0}\n", "guest_svn: {gte: 0} holds always"},
		{"an upper bound that is none", "    match:\n", "    match:\n      version: {lte: 5}\n", "version: {lte: 5} holds always"},
		{"a bound that is one", "    match:\n", "    match:\n      vmpl: {gte: 3}\n", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := parse(t, change(t, snpBase, c.from, c.to)).Warnings()
			switch {
			case c.want == "" && len(w) > 0:
				t.Errorf("got %s, want none", w.Render())
			case c.want != "" && (len(w) != 1 || !strings.Contains(w[0].Error(), c.want)):
				t.Errorf("got:\n%s\nwant one: %s", w.Render(), c.want)
			}
		})
	}
}

func TestTheImplicitSNPRules(t *testing.T) {
	implicit := []string{"policy.debug", "policy.migrate_ma", "vmpl", "chip_id_masked"}
	noChip := change(t, snpBase, "      chip_id: {in: chips}\n", "", "    match:\n", "    ownership: {none: \"a trial\", owner: ana, expires: 2027-06-30}\n    match:\n")
	for _, r := range decide(t, noChip, snpClaims(), noon).Workloads[0].Rules {
		if r.Implicit != slices.Contains(implicit, r.Rule) || r.Implicit && (!r.Holds || r.Op != "eq" || r.Position != "p.yaml:8:11") {
			t.Errorf("%+v", r)
		}
	}
	zero := make(attest.Bytes, 64)
	for _, c := range []struct {
		rule     string
		change   func(*attest.SNP)
		expected string
		hint     string
		named    string // the same, named
	}{
		{"policy.debug", func(s *attest.SNP) { s.Policy.Debug = true }, "false", "allows debugging", "policy.debug: {eq: true}"},
		{"policy.migrate_ma", func(s *attest.SNP) { s.Policy.MigrateMA = true }, "false", "migration agent", "policy.migrate_ma: {eq: true}"},
		{"vmpl", func(s *attest.SNP) { s.VMPL = 1 }, "0", "name vmpl to accept it", "vmpl: {in: [0, 1]}"},
		{"chip_id_masked", func(s *attest.SNP) { s.ChipID = zero }, "false, unless a VLEK signed", "name chip_id_masked to accept it", "chip_id_masked: {eq: true}"},
	} {
		d := decide(t, noChip, snpClaims(c.change), noon)
		r := only(t, d, "ledger", c.rule)
		if d.Reason != policy.ReasonNoMatch || r.Holds || !r.Implicit || r.Expected != c.expected || !strings.Contains(r.Hint, c.hint) {
			t.Errorf("%s: %s %+v", c.rule, d.Reason, r)
		}
		d = decide(t, change(t, noChip, "    match:\n", "    match:\n      "+c.named+"\n"), snpClaims(c.change), noon)
		if r := only(t, d, "ledger", c.rule); d.Outcome != policy.Granted || r.Implicit {
			t.Errorf("%s named: %s %+v", c.rule, d.Detail, r)
		}
	}
	d := decide(t, noChip, snpClaims(func(s *attest.SNP) { s.SigningKey, s.ChipID = "vlek", zero }), noon)
	if r := only(t, d, "ledger", "chip_id_masked"); d.Outcome != policy.Granted || r.Got != "true, signed with a VLEK" {
		t.Errorf("a VLEK names no chip: %s %+v", d.Detail, r)
	}
}

func TestSNPAmbiguityIsFoundBeforeProduction(t *testing.T) {
	const own = `, chip_id: {in: chips}`
	genoa, milan := `{genoa: {bl: 9, tee: 0, snp: 23, ucode: 72}}`, `{milan: {bl: 4, tee: 0, snp: 24, ucode: 219}}`
	for _, c := range []struct {
		name, a, b string
		exclude    bool
	}{
		{"nothing but the chip", `guest_svn: {gte: 1}`, `measurement: {eq: "$a$"}`, false},
		{"a floor and a value above", `guest_svn: {gte: 4}`, `guest_svn: {eq: 4}`, false},
		{"a floor and a value below", `guest_svn: {gte: 4}`, `guest_svn: {eq: 3}`, true},
		{"a floor and values on both sides", `guest_svn: {gte: 4}`, `guest_svn: {in: [3, 5]}`, false},
		{"a floor and values below", `guest_svn: {gte: 4}`, `guest_svn: {in: [1, 3]}`, true},
		{"two floors", `guest_svn: {gte: 4}`, `guest_svn: {gte: 9}`, false},
		{"two ceilings", `guest_svn: {lte: 4}`, `guest_svn: {lte: 9}`, false},
		{"ranges that touch", `guest_svn: {gte: 4}`, `guest_svn: {lte: 4}`, false},
		{"ranges that do not", `guest_svn: {gte: 5}`, `guest_svn: {lte: 4}`, true},
		{"numbers are no text", `guest_svn: {gte: 10}`, `guest_svn: {lte: 9}`, true},
		{"a floor of firmware", `current_firmware: {gte: "1.55.29"}`, `current_firmware: {in: ["1.9.200"]}`, true},
		{"a floor of firmware below", `current_firmware: {gte: "1.9.29"}`, `current_firmware: {in: ["1.55.2"]}`, false},
		{"floors of one product", `reported_tcb: {gte: ` + genoa + `}`, `reported_tcb: {gte: {genoa: {bl: 1, tee: 9, snp: 1, ucode: 1}}}`, false},
		{"floors of two products", `reported_tcb: {gte: ` + genoa + `}`, `reported_tcb: {gte: ` + milan + `}`, true},
		{"floors of two products, of two TCBs", `reported_tcb: {gte: ` + genoa + `}`, `current_tcb: {gte: ` + milan + `}`, true},
		{"a floor below a ceiling", `reported_tcb: {gte: ` + genoa + `}`, `reported_tcb: {lte: {genoa: {bl: 9, tee: 9, snp: 24, ucode: 72}}}`, false},
		{"a floor above a ceiling, in one component", `reported_tcb: {gte: ` + genoa + `}`, `reported_tcb: {lte: {genoa: {bl: 9, tee: 9, snp: 22, ucode: 99}}}`, true},
		{"a floor above a ceiling, in one of two products", `reported_tcb: {gte: {genoa: {bl: 9, tee: 0, snp: 23, ucode: 72}, milan: {bl: 1, tee: 0, snp: 1, ucode: 1}}}`, `reported_tcb: {lte: {genoa: {bl: 9, tee: 9, snp: 22, ucode: 99}, milan: {bl: 1, tee: 0, snp: 1, ucode: 1}}}`, false},
		{"two ceilings of one product", `reported_tcb: {lte: ` + genoa + `}`, `reported_tcb: {lte: {genoa: {bl: 1, tee: 9, snp: 1, ucode: 1}}}`, false},
		{"ceilings of two products", `reported_tcb: {lte: ` + genoa + `}`, `reported_tcb: {lte: ` + milan + `}`, true},
		{"a ceiling and another product", `reported_tcb: {lte: ` + genoa + `}`, `product: {in: [milan, turin]}`, true},
		{"a floor and a ceiling of firmware", `current_firmware: {gte: "1.55.29"}`, `current_firmware: {lte: "1.55.28"}`, true},
		{"a floor and its product", `reported_tcb: {gte: ` + genoa + `}`, `product: {in: [milan, genoa]}`, false},
		{"a floor and another product", `reported_tcb: {gte: ` + genoa + `}`, `product: {in: [milan, turin]}`, true},
		{"bits that agree", `launch_mitigations: {bits: {set: [0], clear: [1]}}`, `launch_mitigations: {bits: {set: [2], clear: [1]}}`, false},
		{"bits that do not", `launch_mitigations: {bits: {set: [0]}}`, `launch_mitigations: {bits: {set: [1], clear: [0]}}`, true},
		{"bits of two vectors", `launch_mitigations: {bits: {set: [0]}}`, `current_mitigations: {bits: {clear: [0]}}`, false},
		{"bits and an old version", `launch_mitigations: {bits: {set: [0]}}`, `version: {lte: 4}`, true},
		{"bits and their version", `launch_mitigations: {bits: {set: [0]}}`, `version: {gte: 4}`, false},
		{"a provider and the chip's key", `csp_id: {eq: a}`, `signing_key: {eq: vcek}`, true},
		{"two providers", `csp_id: {eq: a}`, `csp_id: {eq: b}`, true},
		{"two levels", `vmpl: {eq: 1}`, `vmpl: {eq: 2}`, true},
		{"a level and the implicit one", `vmpl: {gte: 1}`, `guest_svn: {eq: 1}`, true},
		{"a level that admits the implicit one", `vmpl: {lte: 1}`, `guest_svn: {eq: 1}`, false},
		{"debug and the implicit rule", `policy.debug: {eq: true}`, `guest_svn: {eq: 1}`, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, order := range [][]string{{c.a + own, c.b + own}, {c.b + own, c.a + own}} {
				src := change(t, snpEnforce(order...), "workloads:", "references:\n  chips: {dedicated: true, values: [\"$chip/64$\"]}\nworkloads:")
				_, err := policy.Parse("p.yaml", []byte(expand(src)))
				if got := err == nil; got != c.exclude {
					t.Errorf("exclude each other: %t, want %t: %v", got, c.exclude, err)
				}
				if err != nil && !strings.Contains(err.Error(), `workloads "w0" (line 8) and "w1" can match the same amd-sev-snp evidence`) {
					t.Errorf("got %v", err)
				}
			}
		})
	}
}

// Lint must agree with evaluation: whatever it lets pass is never ambiguous, and
// over independent claims whatever it refuses is.
func TestLintAndEvaluationAgreeOnSNPAmbiguity(t *testing.T) {
	parts := [][]string{
		{"", `guest_svn: {gte: 2}`, `guest_svn: {lte: 1}`, `guest_svn: {in: [1, {value: 3, not_after: 2027-01-10T00:00:00Z}]}`},
		{"", `current_mitigations: {bits: {set: [0]}}`, `current_mitigations: {bits: {clear: [0], set: [1]}}`},
		{"", `reported_tcb: {gte: {genoa: {bl: 2, tee: 0, snp: 0, ucode: 0}}}`, `reported_tcb: {gte: {genoa: {bl: 0, tee: 0, snp: 2, ucode: 0}, milan: {bl: 1, tee: 0, snp: 0, ucode: 0}}}`, `reported_tcb: {lte: {genoa: {bl: 1, tee: 9, snp: 1, ucode: 99}}}`, `product: {eq: milan}`},
	}
	var matches []string
	for _, a := range parts[0] {
		for _, b := range parts[1] {
			for _, c := range parts[2] {
				matches = append(matches, strings.Join(slices.DeleteFunc([]string{a, b, c, "chip_id: {in: chips}"}, func(s string) bool { return s == "" }), ", "))
			}
		}
	}
	var world []attest.Claims
	for svn := range uint32(4) {
		for mask := range uint64(4) {
			for _, product := range []string{"milan", "genoa"} {
				for _, level := range []attest.TCB{{}, {Bootloader: 2, SNP: 1}, {Bootloader: 1, SNP: 2}, {Bootloader: 3, SNP: 3}} {
					world = append(world, snpClaims(func(s *attest.SNP) {
						s.GuestSVN, s.CurrentMitigations, s.Product, s.ReportedTCB = svn, u64(mask), product, level
					}))
				}
			}
		}
	}
	times := []time.Time{time.Date(2027, 1, 10, 0, 0, 0, 0, time.UTC), time.Date(2027, 1, 11, 0, 0, 0, 0, time.UTC)}
	refused, passed := 0, 0
	for i, a := range matches {
		for _, b := range matches[i:] {
			src := expand(change(t, snpEnforce(a, b), "workloads:", "references:\n  chips: {dedicated: true, values: [\"$chip/64$\"]}\nworkloads:"))
			bundle, err := policy.Parse("p.yaml", []byte(src))
			lint := err != nil
			if lint {
				bundle = policy.UncheckedForTest(t, src)
				refused++
			} else {
				passed++
			}
			if ambiguous := slices.ContainsFunc(world, func(c attest.Claims) bool {
				return slices.ContainsFunc(times, func(at time.Time) bool { return bundle.Evaluate(c, at).Reason == policy.ReasonAmbiguous })
			}); lint != ambiguous {
				t.Fatalf("lint says %t, evaluation %t, of\n%s\n%s", lint, ambiguous, a, b)
			}
		}
	}
	if refused < 100 || passed < 100 {
		t.Errorf("%d refused, %d passed: the cases are too much alike", refused, passed)
	}
}

// A set of thousands of numbers that thousands of workloads share, beside as many
// bounds: comparing each pair anew would take more time than a test may.
func TestManyBoundsBesideOneLargeSetCompile(t *testing.T) {
	var numbers, workloads strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&numbers, "%d, ", i)
	}
	for i := range 500 {
		rule := fmt.Sprintf("guest_svn: {in: svns}, family_id: {eq: %q}", sized(fmt.Sprint(i), 16))
		if i%2 == 1 {
			rule = fmt.Sprintf("guest_svn: {gte: %d}, image_id: {eq: %q}", 5000+i, sized(fmt.Sprint(i), 16))
		}
		fmt.Fprintf(&workloads, "  - {name: w%d, tee: amd-sev-snp, mode: audit, match: {%s}}\n", i, rule)
	}
	src := "version: 1\nbundle: b\nrevision: 1\ntrust_domain: a.example\nreferences: {svns: [" + numbers.String() + "]}\nworkloads:\n" + workloads.String()
	src = strings.ReplaceAll(src, "mode: audit", "mode: enforce, ownership: {none: a, owner: b, expires: 2027-06-30}, issue: [{spiffe_id: \"spiffe://{td}/a\"}]")
	start := time.Now()
	_, err := policy.Parse("p.yaml", []byte(src))
	took := time.Since(start)
	if err != nil {
		t.Errorf("the workloads exclude each other: %.300s", render(err))
	}
	t.Log(took)
}

func TestSNPPublishesTheMeasurementAlone(t *testing.T) {
	if d := cmp.Diff([]string{"measurement"}, policy.PublishedForTest(parse(t, snpBase), "ledger")); d != "" {
		t.Error(d)
	}
	b := parse(t, change(t, snpBase, "    match:", "    publish: [id_key_digest, measurement, author_key_digest]\n    match:"))
	if d := cmp.Diff([]string{"id_key_digest", "measurement", "author_key_digest"}, policy.PublishedForTest(b, "ledger")); d != "" {
		t.Error(d)
	}
}
