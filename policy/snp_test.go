package policy_test

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
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

func TestSNPPublishesTheMeasurementAlone(t *testing.T) {
	if d := cmp.Diff([]string{"measurement"}, policy.PublishedForTest(parse(t, snpBase), "ledger")); d != "" {
		t.Error(d)
	}
	b := parse(t, change(t, snpBase, "    match:", "    publish: [id_key_digest, measurement, author_key_digest]\n    match:"))
	if d := cmp.Diff([]string{"id_key_digest", "measurement", "author_key_digest"}, policy.PublishedForTest(b, "ledger")); d != "" {
		t.Error(d)
	}
}
