package policy_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/strictyaml"
	"github.com/assay-project/assay/policy"
)

// tpmBase is a small policy for TPMs that grants; tests change one thing.
const tpmBase = `version: 1
bundle: prod
revision: 7
trust_domain: simulated.example.org
workloads:
  - name: store
    tee: tpm2
    mode: enforce
    match:
      pcr4: {eq: "$loader/32$"}
      pcr7: {eq: "$keys/32$"}
      ek: {in: ["$ek/32$"]}
    issue: [{spiffe_id: "spiffe://{td}/store"}]
`

// tpmClaims are claims of a machine that tpmBase grants.
func tpmClaims(changes ...func(*attest.TPM)) attest.Claims {
	on := true
	t := &attest.TPM{
		Bank: "sha256", PCRs: map[int]attest.Bytes{}, ExtraData: sized("binding", 32),
		EK: sized("ek", 32), EKInventory: "rack-4", EKCertificate: &attest.EKCertificate{Manufacturer: "id:49465800", Model: "SLB9670", Version: "id:0755", Issuer: "a root"},
		AK: sized("ak", 34), AKTrust: attest.AKActivated,
		Cloud: &attest.CloudInstance{Provider: "gce", ProjectID: "payments-prod", ProjectNumber: 8_123_456_789_012, Zone: "europe-west1-b", InstanceID: "4711", InstanceName: "vm-1"},
		Clock: &attest.TPMClock{ResetCount: 12, RestartCount: 3, Firmware: 7<<48 | 85<<32 | 4555<<16}, Safe: true,
		KeyResidency: attest.ResidentTPM,
		Boot: &attest.MeasuredBoot{
			Replayed: []int{0, 4, 7, 8, 9, 11}, SecureBoot: &on, Firmware: "EDK II 2024.02", CommandLine: "root=/dev/vda1 ro",
			Loaders:   []attest.Bytes{sized("shim", 32), sized("grub", 32)},
			GRUBFiles: []attest.Bytes{sized("kernel", 32), sized("initrd", 32)},
			Unified:   map[string]attest.Bytes{".linux": sized("uki", 32), "initrd": sized("uki initrd", 32)},
			Keys:      map[string]attest.Bytes{"PK": sized("PK", 32), "KEK": sized("KEK", 32), "db": sized("db", 32), "dbx": sized("dbx", 32)},
		},
	}
	for i := range 16 {
		t.PCRs[i] = sized(fmt.Sprint("pcr", i), 32)
	}
	t.PCRs[4], t.PCRs[7] = sized("loader", 32), sized("keys", 32)
	for _, change := range changes {
		change(t)
	}
	return attest.Claims{Platform: attest.TPM2, Simulated: true, TPM: t}
}

func tpmAudit(matches ...string) string {
	return strings.ReplaceAll(workloadsOf("audit", matches...), "aws-nitro", "tpm2")
}

func tpmEnforce(matches ...string) string {
	return strings.ReplaceAll(workloadsOf("enforce", matches...), "aws-nitro", "tpm2")
}

func sha384(t *attest.TPM) {
	t.Bank = "sha384"
	for i := range 16 {
		t.PCRs[i] = sized(fmt.Sprint("pcr", i), 48)
	}
}

func withoutLog(t *attest.TPM)  { t.Boot = nil }
func withoutCert(t *attest.TPM) { t.EKCertificate = nil }
func onPremises(t *attest.TPM)  { t.Cloud = nil }

func TestAMachineWithATPMOfOursIsGranted(t *testing.T) {
	d := decide(t, tpmBase, tpmClaims(), noon)
	if d.Outcome != policy.Granted || !d.Ownership || !slices.Equal(d.Pinned(), []string{"pcr4", "pcr7", "ek"}) {
		t.Errorf("%s, ownership %t, pinned %v: %s", d.Outcome, d.Ownership, d.Pinned(), d.Detail)
	}
}

// Each case evaluates one rule, in a workload that has no other, over a machine
// that is otherwise good.
func TestEachTPMRule(t *testing.T) {
	hex := func(name string) string { return sized(name, 32).String() }
	zero := strings.Repeat("0", 64)
	for _, c := range []struct {
		rule     string
		change   func(*attest.TPM)
		holds    bool
		expected string
		got      string
		hint     string
	}{
		{`pcr0: {eq: "$pcr0/32$"}`, nil, true, hex("pcr0"), hex("pcr0"), ""},
		{`pcr15: {in: ["$a/32$", "$pcr15/32$"]}`, nil, true, "one of " + hex("a") + ", " + hex("pcr15"), hex("pcr15") + ", entry 2", ""},
		{`pcr4: {eq: "$other/32$"}`, nil, false, hex("other"), hex("loader"), "another boot loader"},
		{`pcr7: {eq: "$other/32$"}`, nil, false, "", hex("keys"), "secure boot is off, or has other keys"},
		{`pcr0: {eq: "$pcr0/32$"}`, func(t *attest.TPM) { delete(t.PCRs, 0) }, false, "", "missing", "the quote has no PCR0"},
		{`pcr0: {eq: "$pcr0/32$"}`, func(t *attest.TPM) { t.PCRs[0] = make(attest.Bytes, 32) }, false, "", zero, "nothing was measured into PCR0"},
		{`pcr0: {eq: "$pcr0/32$"}`, func(t *attest.TPM) { t.PCRs[0] = t.PCRs[0][:31] }, false, "", "missing", ""},
		{`pcr0: {eq: "$pcr0/32$"}`, func(t *attest.TPM) { t.Bank = "" }, false, "", "missing", ""},
		{`pcr0: {eq: "$pcr0/32$"}`, func(t *attest.TPM) { t.Bank = "sha384" }, false, "", "missing", ""},
		{`pcr0: {eq: "$pcr0/48$"}`, sha384, true, "", sized("pcr0", 48).String(), ""},
		{`pcr0: {eq: "$pcr0/32$"}`, sha384, false, "", sized("pcr0", 48).String(), "the quote is over the bank sha384, and the rule's values are of sha256: they have another length and never match"},
		{`pcr0: {in: ["$pcr0/48$"]}`, nil, false, "", hex("pcr0"), "the quote is over the bank sha256, and the rule's values are of sha384"},
		{`pcr0: {in: ["$a/32$", "$pcr0/48$"]}`, sha384, true, "", sized("pcr0", 48).String() + ", entry 2", ""},
		{`pcr0: {in: ["$a/32$", "$a/48$"]}`, sha384, false, "", "", "other firmware"},
		{`bank: {eq: sha256}`, nil, true, "sha256", "sha256", ""},
		{`bank: {in: [sha384]}`, nil, false, "one of sha384", "sha256", "tpm.pcr_bank"},
		{`ek: {eq: "$ek/32$"}`, nil, true, hex("ek"), hex("ek"), ""},
		{`ek: {eq: "$other/32$"}`, nil, false, "", hex("ek"), "another machine"},
		{`ek: {eq: "$ek/32$"}`, func(t *attest.TPM) { t.EK = nil }, false, "", "missing", "no endorsement key came"},
		{`ek: {eq: "$ek/32$"}`, func(t *attest.TPM) { t.EK = t.EK[:31] }, false, "", "missing", ""},
		{`ek_inventory: {eq: rack-4}`, nil, true, "rack-4", "rack-4", ""},
		{`ek_inventory: {in: [rack-5]}`, nil, false, "one of rack-5", "rack-4", "another group"},
		{`ek_inventory: {eq: rack-4}`, func(t *attest.TPM) { t.EKInventory = "" }, false, "", "missing", "assay ek add"},
		{`ek_certified: {eq: true}`, nil, true, "true", "true", ""},
		{`ek_certified: {eq: true}`, withoutCert, false, "true", "false", "pinned manufacturer's root"},
		{`manufacturer: {eq: "id:49465800"}`, nil, true, "", "id:49465800", ""},
		{`manufacturer: {in: ["id:53544D20"]}`, nil, false, "", "id:49465800", "another make"},
		{`manufacturer: {eq: "id:49465800"}`, withoutCert, false, "", "missing", "certificate under a pinned manufacturer's root"},
		{`model: {eq: SLB9670}`, nil, true, "", "SLB9670", ""},
		{`model: {eq: SLB9670}`, withoutCert, false, "", "missing", ""},
		{`version: {eq: "id:0755"}`, nil, true, "", "id:0755", ""},
		{`version: {eq: "id:0756"}`, nil, false, "", "id:0755", "another make or version"},
		{`ak_trust: {eq: activated}`, nil, true, "", "activated", ""},
		{`ak_trust: {eq: certificate}`, nil, false, "", "activated", ""},
		{`ak_trust: {in: [activated, certificate]}`, func(t *attest.TPM) { t.AKTrust = attest.AKOperator }, false, "", "operator", "in an attestation it is activated"},
		{`ak_trust: {eq: activated}`, func(t *attest.TPM) { t.AKTrust = "" }, false, "", "missing", "nothing vouches"},
		{`cloud.provider: {eq: gce}`, nil, true, "", "gce", ""},
		{`cloud.provider: {eq: azure}`, nil, false, "", "gce", "another cloud's"},
		{`cloud.project_id: {eq: payments-prod}`, nil, true, "", "payments-prod", ""},
		{`cloud.project_id: {eq: payments-dev}`, nil, false, "", "payments-prod", "another project"},
		{`cloud.project_id: {eq: payments-prod}`, onPremises, false, "", "missing", "only a cloud vendor's certificate"},
		{`cloud.project_number: {eq: "8123456789012"}`, nil, true, "", "8123456789012", ""},
		{`cloud.project_number: {eq: "0"}`, func(t *attest.TPM) { t.Cloud.ProjectNumber = 0 }, false, "", "missing", ""},
		{`cloud.zone: {in: [europe-west1-b]}`, nil, true, "", "europe-west1-b, entry 1", ""},
		{`cloud.zone: {eq: us-east1-a}`, nil, false, "", "europe-west1-b", "another zone"},
		{`cloud.instance_id: {eq: "4711"}`, nil, true, "", "4711", ""},
		{`cloud.instance_id: {eq: "4712"}`, nil, false, "", "4711", "another machine"},
		{`cloud.instance_name: {eq: vm-1}`, nil, true, "", "vm-1", ""},
		{`cloud.instance_name: {eq: vm-2}`, nil, false, "", "vm-1", "another name"},
		{`key_residency: {eq: tpm}`, nil, true, "", "tpm", ""},
		{`key_residency: {eq: tpm}`, func(t *attest.TPM) { t.KeyResidency = attest.ResidentSoftware }, false, "tpm", "software", "in the memory of the measured agent"},
		{`key_residency: {eq: software}`, func(t *attest.TPM) { t.KeyResidency = "" }, false, "", "missing", ""},
		{`tpm_cleared: {eq: false}`, nil, true, "", "false", ""},
		{`tpm_cleared: {eq: false}`, func(t *attest.TPM) { t.Cleared = true }, false, "", "true", "cleared since it was last seen"},
		{`safe: {eq: true}`, nil, true, "", "true", ""},
		{`safe: {eq: true}`, func(t *attest.TPM) { t.Safe = false }, false, "", "false", "70 minutes"},
		{`clock.firmware: {eq: "7.85.4555.0"}`, nil, true, "7.85.4555.0", "7.85.4555.0", ""},
		{`clock.firmware: {gte: "7.9.0.0"}`, nil, true, "at least 7.9.0.0", "7.85.4555.0", ""},
		{`clock.firmware: {gte: "7.85.4555.1"}`, nil, false, "", "7.85.4555.0", "another version of its firmware"},
		{`clock.firmware: {gte: "1.0.0.0"}`, func(t *attest.TPM) { t.Clock = nil }, false, "", "missing", "endorsement hierarchy"},
		{`clock.reset_count: {gte: 12}`, nil, true, "at least 12", "12", ""},
		{`clock.reset_count: {lte: 11}`, nil, false, "at most 11", "12", "started more or fewer"},
		{`clock.restart_count: {eq: 3}`, nil, true, "3", "3", ""},
		{`clock.restart_count: {in: [1, 2]}`, nil, false, "", "3", "suspended"},

		{`secure_boot: {eq: true}`, nil, true, "true", "true", ""},
		{`secure_boot: {eq: true}`, func(t *attest.TPM) { *t.Boot.SecureBoot = false }, false, "true", "false", "secure boot"},
		{`secure_boot: {eq: false}`, func(t *attest.TPM) { t.Boot.SecureBoot = nil }, false, "", "missing", "no event log came"},
		{`boot.firmware: {eq: "EDK II 2024.02"}`, nil, true, "", "EDK II 2024.02", ""},
		{`boot.firmware: {eq: "EDK II 2024.05"}`, nil, false, "", "EDK II 2024.02", "other firmware"},
		{`boot.loaders: {every: ["$shim/32$", "$grub/32$", "$old/32$"]}`, nil, true, "each one of " + hex("shim") + ", " + hex("grub") + ", " + hex("old"), hex("shim") + ", " + hex("grub"), ""},
		{`boot.loaders: {every: ["$shim/32$"]}`, nil, false, "", "number 2 is not accepted: " + hex("grub"), "another boot loader"},
		{`boot.loaders: {every: ["$shim/48$"]}`, nil, false, "", "number 1 is not accepted: " + hex("shim") + "; number 2 is not accepted: " + hex("grub"), "the rule's values are of sha384"},
		{`boot.loaders: {every: ["$shim/32$"]}`, func(t *attest.TPM) { t.Boot.Loaders = nil }, false, "", "missing", "no event log"},
		{`boot.loaders: {every: ["$shim/32$"]}`, func(t *attest.TPM) { t.Boot.Loaders = []attest.Bytes{sized("shim", 31)} }, false, "", "missing", ""},
		{`boot.loaders: {every: [{value: "$shim/32$"}, {value: "$grub/32$", not_after: 2027-01-20T11:00:00Z, note: "old"}]}`, nil, false, "", "number 2 is not accepted: " + hex("grub") + `, entry 2 ("old", until 2027-01-20T11:00:00Z): no longer valid`, "was accepted until"},
		{`boot.command_line: {eq: "root=/dev/vda1 ro"}`, nil, true, "", "root=/dev/vda1 ro", ""},
		{`boot.command_line: {eq: "root=/dev/vda1 ro"}`, func(t *attest.TPM) { t.Boot.CommandLine += " init=/bin/sh" }, false, "", "root=/dev/vda1 ro init=/bin/sh", "another command line"},
		{`boot.grub_files: {every: ["$kernel/32$", "$initrd/32$"]}`, nil, true, "", hex("kernel") + ", " + hex("initrd"), ""},
		{`boot.grub_files: {every: ["$kernel/32$"]}`, nil, false, "", "number 2 is not accepted: " + hex("initrd"), "GRUB or the kernel's EFI stub read another file"},
		{`boot.unified.linux: {eq: "$uki/32$"}`, nil, true, "", hex("uki"), ""},
		{`boot.unified.initrd: {in: ["$uki initrd/32$"]}`, nil, true, "", "", ""},
		{`boot.unified.initrd: {in: ["$x/32$"]}`, nil, false, "", "", "another section initrd"},
		{`boot.unified.cmdline: {eq: "$x/32$"}`, nil, false, "", "missing", "no event log"},
		{`boot.keys.db: {eq: "$db/32$"}`, nil, true, "", hex("db"), ""},
		{`boot.keys.pk: {eq: "$KEK/32$"}`, nil, false, "", hex("PK"), "the variable PK differs"},
	} {
		claims := tpmClaims()
		if c.change != nil {
			claims = tpmClaims(c.change)
		}
		name, _, _ := strings.Cut(c.rule, ":")
		r := only(t, decide(t, tpmAudit(c.rule), claims, noon), "w0", name)
		if r.Holds != c.holds || c.expected != "" && r.Expected != c.expected || c.got != "" && r.Got != c.got || !strings.Contains(r.Hint, c.hint) || r.Holds && r.Hint != "" || r.Implicit {
			t.Errorf("%s:\n got %+v\nwant holds %t, expected %q, got %q, hint %q", c.rule, r, c.holds, c.expected, c.got, c.hint)
		}
	}
}

// Every claim that the reference lists fails its rule where there are no claims
// at all; of zero claims only what false means holds; and what only an event log
// says fails without one.
func TestAMissingTPMClaimNeverMatches(t *testing.T) {
	rules := []string{
		`bank: {in: [sha256, sha384]}`, `ek: {eq: "$a/32$"}`, `ek_inventory: {eq: a}`, `ek_certified: {eq: false}`, `manufacturer: {eq: a}`, `model: {eq: a}`, `version: {eq: a}`,
		`ak_trust: {in: [activated, certificate]}`, `cloud.provider: {in: [gce, azure]}`, `cloud.project_id: {eq: a}`, `cloud.project_number: {eq: "1"}`, `cloud.zone: {eq: a}`, `cloud.instance_id: {eq: a}`, `cloud.instance_name: {eq: a}`,
		`key_residency: {in: [tpm, software]}`, `tpm_cleared: {eq: false}`, `safe: {eq: false}`, `clock.firmware: {gte: "0.0.0.1"}`, `clock.reset_count: {lte: 9}`, `clock.restart_count: {lte: 9}`,
		`secure_boot: {eq: false}`, `boot.firmware: {eq: a}`, `boot.loaders: {every: ["$a/32$"]}`, `boot.command_line: {eq: a}`, `boot.grub_files: {every: ["$a/32$"]}`,
	}
	for i := range 16 {
		rules = append(rules, fmt.Sprintf(`pcr%d: {in: ["$a/32$", "$a/48$"]}`, i))
	}
	for _, s := range []string{"unified.linux", "unified.osrel", "unified.cmdline", "unified.initrd", "unified.ucode", "unified.splash", "unified.dtb", "unified.uname", "unified.sbat", "unified.pcrpkey", "keys.pk", "keys.kek", "keys.db", "keys.dbx"} {
		rules = append(rules, "boot."+s+`: {eq: "$a/32$"}`)
	}
	doc := reference(t)
	for _, rule := range rules {
		name, _, _ := strings.Cut(rule, ":")
		register := strings.HasPrefix(name, "pcr")
		if !register && !strings.Contains(doc, "`"+name+"`") {
			t.Errorf("docs/spec/policy.md does not name the claim %s", name)
		}
		b := parse(t, tpmAudit(rule))
		if r := only(t, b.Evaluate(attest.Claims{Platform: attest.TPM2}, noon), "w0", name); r.Holds || r.Got != "missing" {
			t.Errorf("%s without claims: %+v", rule, r)
		}
		zero := name == "ek_certified" || name == "tpm_cleared" || name == "safe"
		if r := only(t, b.Evaluate(attest.Claims{Platform: attest.TPM2, TPM: &attest.TPM{}}, noon), "w0", name); r.Holds != zero {
			t.Errorf("%s over zero claims: %+v", rule, r)
		}
		if name == "secure_boot" || strings.HasPrefix(name, "boot.") {
			if r := only(t, b.Evaluate(tpmClaims(withoutLog), noon), "w0", name); r.Holds || r.Got != "missing" || !strings.Contains(r.Hint, "no event log") {
				t.Errorf("%s without an event log: %+v", rule, r)
			}
		}
	}
	if want := policy.ClaimsForTest(attest.TPM2); len(rules) != len(want) {
		t.Errorf("%d claims tested, the language has %d: %v", len(rules), len(want), want)
	}
}

// Each case makes one change to a good policy, and must get exactly one error.
func TestEachTPMMistakeHasItsOwnError(t *testing.T) {
	const pcr4 = `pcr4: {eq: "$loader/32$"}`
	const ek = `ek: {in: ["$ek/32$"]}`
	cases := []struct{ name, from, to, want string }{
		{"register of SHA-1", "$loader/32$", "$loader/20$", "10:18: want 32 bytes in hex (64 characters, bank sha256) or 48 (96 characters, bank sha384), got 20 bytes"},
		{"register of SHA-512", "$loader/32$", "$loader/64$", "got 64 bytes"},
		{"register as no hex", "$loader/32$", "grub", `got "grub"`},
		{"register all zero", "$loader/32$", strings.Repeat("0", 64), "10:18: an all-zero reference value is refused"},
		{"register all zero, SHA-384", "$loader/32$", strings.Repeat("0", 96), "10:18: an all-zero reference value is refused"},
		{"register 24", pcr4, `pcr24: {eq: "$a/32$"}`, `10:7: tpm2 has no claim "pcr24"`},
		{"register with a bound", pcr4, `pcr4: {gte: "$a/32$"}`, `pcr4 has no matcher "gte"`},
		{"of two banks", pcr4, `pcr4: {eq: "$loader/48$"}`, `workload "store" can never match: no report satisfies both its pcr4 and its pcr7`},
		{"of another bank than named", pcr4, pcr4 + "\n      bank: {eq: sha384}", `can never match: no report satisfies both its pcr4 and its bank`},
		{"loaders of another bank than named", pcr4, "boot.loaders: {every: [\"$a/48$\"]}\n      bank: {eq: sha256}", `can never match: no report satisfies both its boot.loaders and its bank`},
		{"a make without a certificate", pcr4, pcr4 + "\n      manufacturer: {eq: a}\n      ek_certified: {eq: false}", `can never match: no report satisfies both its manufacturer and its ek_certified`},
		{"unknown bank", pcr4, `bank: {eq: sha1}`, `want one of sha256, sha384, got "sha1"`},
		{"the AK", pcr4, `ak: {eq: "$a/34$"}`, `the claim "ak" cannot be matched`},
		{"the binding", pcr4, `extra_data: {eq: "$a/32$"}`, `the claim "extra_data" cannot be matched`},
		{"debug as on Nitro", pcr4, `debug: {eq: false}`, `the claim "debug" cannot be matched`},
		{"a chip", pcr4, `chip_id: {eq: "$a/64$"}`, `tpm2 has no claim "chip_id"`},
		{"the log as a whole", pcr4, `event_log: {eq: a}`, `the claim "event_log" cannot be matched`},
		{"secure boot below boot", pcr4, `boot.secure_boot: {eq: true}`, `the claim "boot.secure_boot" cannot be matched`},
		{"an operator's word", pcr4, `ak_trust: {eq: operator}`, `want one of activated, certificate, got "operator"`},
		{"loaders with in", pcr4, `boot.loaders: {in: ["$a/32$"]}`, `boot.loaders has no matcher "in"`},
		{"a register with every", pcr4, `pcr4: {every: ["$a/32$"]}`, `pcr4 has no matcher "every"`},
		{"every of one value", pcr4, `boot.loaders: {every: "$a/32$"}`, `unknown reference set`},
		{"every of nothing", pcr4, `boot.loaders: {every: []}`, "10:29: "},
		{"every twice", pcr4, `boot.loaders: {every: ["$a/32$", "$a/32$"]}`, "the value is listed twice"},
		{"every of zero", pcr4, `boot.loaders: {every: ["` + strings.Repeat("0", 64) + `"]}`, "an all-zero reference value is refused"},
		{"EK of SHA-384", ek, `ek: {in: ["$ek/48$"]}`, "want 32 bytes in hex (64 characters), got 48 bytes"},
		{"EK all zero", ek, `ek: {in: ["` + strings.Repeat("0", 64) + `"]}`, "an all-zero reference value is refused"},
		{"firmware of three parts", pcr4, `clock.firmware: {gte: "1.2.3"}`, `want a TPM's firmware version, got "1.2.3"`},
		{"firmware out of range", pcr4, `clock.firmware: {gte: "1.2.3.65536"}`, `want a TPM's firmware version, got "1.2.3.65536"`},
		{"firmware with a sign", pcr4, `clock.firmware: {gte: "1.2.+3.4"}`, `want a TPM's firmware version`},
		{"firmware all zero", pcr4, `clock.firmware: {gte: "0.0.0.0"}`, "an all-zero reference value is refused"},
		{"number as a number", pcr4, `cloud.project_number: {eq: 4711}`, "want text, got a number (4711)"},

		{"no ownership", "      " + ek + "\n", "", `6:11: workload "store" has no ownership predicate`},
		{"a make is no ownership", ek, `manufacturer: {eq: a}`, `has no ownership predicate`},
		{"a certified EK is no ownership", ek, `ek_certified: {eq: true}`, `has no ownership predicate`},
		{"an instance id is no ownership", ek, `cloud.instance_id: {eq: "4711"}`, `has no ownership predicate`},
		{"a zone is no ownership", ek, `cloud.zone: {eq: a}`, `has no ownership predicate`},
		{"a waiver beside an EK", "    match:", "    ownership: {none: a, owner: b, expires: 2027-06-30}\n    match:", "needs no ownership waiver: ek is an ownership predicate"},

		{"publish the EK", "    match:", "    publish: [ek]\n    match:", "9:15: ek is never published"},
		{"publish a loader", "    match:", "    publish: [boot.loaders]\n    match:", `9:15: "boot.loaders" is not a measurement of tpm2`},
		{"publish a section", "    match:", "    publish: [boot.unified.linux]\n    match:", `9:15: "boot.unified.linux" is not a measurement of tpm2`},
		{"publish register 16", "    match:", "    publish: [pcr16]\n    match:", `9:15: "pcr16" is not a measurement of tpm2`},
		{"template with the EK", "{td}/store", "{td}/{ek:16}", "ek must not be part of an identity"},
		{"template with a whole register", "{td}/store", "{td}/{pcr4}", "pcr4 needs a length"},
		{"template with too long a part", "{td}/store", "{td}/{pcr4:65}", `bad length "65" for pcr4`},
		{"template with an unpinned register", "{td}/store", "{td}/{pcr5:16}", "pcr5 cannot be expanded: the workload does not pin it"},
		{"template with a loader", "{td}/store", "{td}/{boot.loaders:16}", "boot.loaders cannot be expanded: only digests and ids of a fixed length can"},
	}
	for i := 16; i < 24; i++ {
		cases = append(cases, struct{ name, from, to, want string }{
			fmt.Sprint("register ", i), pcr4, fmt.Sprintf(`pcr%d: {eq: "$a/32$"}`, i), fmt.Sprintf(`10:7: the claim "pcr%d" cannot be matched`, i),
		})
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			b, err := policy.Parse("p.yaml", []byte(expand(change(t, tpmBase, c.from, c.to))))
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

func TestAResettableRegisterIsRefusedWithTheReason(t *testing.T) {
	_, err := policy.Parse("p.yaml", []byte(expand(change(t, tpmBase, "pcr4:", "pcr16:"))))
	if text := render(err); !strings.Contains(text, "any software can reset it while the machine runs") {
		t.Error(text)
	}
}

func TestWhatOwnsATPM(t *testing.T) {
	const ek = `ek: {in: ["$ek/32$"]}`
	for _, rule := range []string{ek, `ek: {eq: "$ek/32$"}`, `ek_inventory: {eq: rack-4}`, `ek_inventory: {in: [rack-4, rack-5]}`, `cloud.project_id: {eq: payments-prod}`, `cloud.project_number: {in: ["8123456789012"]}`} {
		if d := decide(t, change(t, tpmBase, ek, rule), tpmClaims(), noon); d.Outcome != policy.Granted || !d.Ownership {
			t.Errorf("%s: %s, ownership %t", rule, d.Outcome, d.Ownership)
		}
	}
	_, err := policy.Parse("p.yaml", []byte(expand(change(t, tpmBase, "      "+ek+"\n", ""))))
	for _, claim := range []string{"ek", "ek_inventory", "cloud.project_id", "cloud.project_number"} {
		if !strings.Contains(render(err), claim) {
			t.Errorf("the error does not name %s:\n%s", claim, render(err))
		}
	}
}

func TestTPMWarnings(t *testing.T) {
	const code = "      pcr4: {eq: \"$loader/32$\"}\n      pcr7: {eq: \"$keys/32$\"}\n"
	for _, c := range []struct{ name, from, to, want string }{
		{"none", "revision: 7", "revision: 8", ""},
		{"nothing of the boot", code, "", "workload store pins nothing of the boot"},
		{"the firmware alone", code, `      pcr0: {eq: "$pcr0/32$"}` + "\n", "workload store pins nothing of the boot"},
		{"secure boot alone", code, "      secure_boot: {eq: true}\n", "workload store pins nothing of the boot"},
		{"a command line alone", code, "      boot.command_line: {eq: a}\n", "workload store pins boot.command_line, and not which loaders ran"},
		{"secure boot's keys", code, `      pcr7: {eq: "$keys/32$"}` + "\n", ""},
		{"a unified image alone", code, `      pcr11: {eq: "$pcr11/32$"}` + "\n", "workload store pins pcr11, and not "},
		{"a unified image with its loader", "      pcr7: {eq: \"$keys/32$\"}\n", `      pcr11: {eq: "$pcr11/32$"}` + "\n", "workload store pins pcr11, and not with which command line"},
		{"a unified image with its loader and command line", "      pcr7: {eq: \"$keys/32$\"}\n", `      pcr11: {eq: "$pcr11/32$"}` + "\n" + `      pcr12: {eq: "$pcr12/32$"}` + "\n", ""},
		{"a unified image with its loader and secure boot", "      pcr7: {eq: \"$keys/32$\"}\n", `      pcr11: {eq: "$pcr11/32$"}` + "\n      secure_boot: {eq: true}\n", ""},
		{"its kernel alone", code, `      boot.unified.linux: {eq: "$uki/32$"}` + "\n      secure_boot: {eq: true}\n", "workload store pins boot.unified.linux, and not which loaders ran"},
		// Approved loaders in another order, and then what GRUB would have measured.
		{"loaders and a command line", code, `      boot.loaders: {every: ["$shim/32$"]}` + "\n      boot.command_line: {eq: a}\n", "workload store pins boot.command_line, and not which loaders ran"},
		{"secure boot's keys and a command line", code, `      pcr7: {eq: "$keys/32$"}` + "\n      boot.command_line: {eq: a}\n", "workload store pins boot.command_line, and not which loaders ran"},
		{"all that was started, and a command line", "    match:\n", "    match:\n      boot.command_line: {eq: a}\n", ""},
		{"loaders", code, `      boot.loaders: {every: ["$shim/32$"]}` + "\n", ""},
		{"GRUB's files alone", code, `      boot.grub_files: {every: ["$shim/32$"]}` + "\n", "workload store pins boot.grub_files, and not which loaders ran"},
		{"secure boot off", "    match:\n", "    match:\n      secure_boot: {eq: false}\n", "admits machines without secure boot"},
		{"secure boot on", "    match:\n", "    match:\n      secure_boot: {eq: true}\n", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := parse(t, change(t, tpmBase, c.from, c.to)).Warnings()
			switch {
			case c.want == "" && len(w) > 0:
				t.Errorf("got %s, want none", w.Render())
			case c.want != "" && (len(w) != 1 || !strings.Contains(w[0].Error(), c.want)):
				t.Errorf("got:\n%s\nwant one: %s", w.Render(), c.want)
			}
		})
	}
}

// What nothing vouches for matches nothing, whatever the policy names.
func TestTheImplicitTPMRule(t *testing.T) {
	for trust, granted := range map[string]bool{attest.AKActivated: true, attest.AKCertificate: true, attest.AKOperator: true, "": false, "hearsay": false} {
		d := decide(t, tpmBase, tpmClaims(func(t *attest.TPM) { t.AKTrust = trust }), noon)
		r := only(t, d, "store", "ak_trust")
		if got := d.Outcome == policy.Granted; got != granted || r.Holds != granted || !r.Implicit {
			t.Errorf("%q: %s, %+v", trust, d.Outcome, r)
		}
	}
	for _, r := range decide(t, tpmBase, tpmClaims(), noon).Workloads[0].Rules {
		if r.Implicit != (r.Rule == "ak_trust") {
			t.Errorf("%+v", r)
		}
	}
}

func TestTPMAmbiguityIsFoundBeforeProduction(t *testing.T) {
	const own = `, ek_inventory: {eq: a}`
	for _, c := range []struct {
		name, a, b string
		exclude    bool
	}{
		{"two loaders", `pcr4: {eq: "$a/32$"}`, `pcr4: {eq: "$b/32$"}`, true},
		{"loaders and keys", `pcr4: {eq: "$a/32$"}`, `pcr7: {eq: "$b/32$"}`, false},
		{"registers of two banks", `pcr4: {eq: "$a/32$"}`, `pcr7: {eq: "$b/48$"}`, true},
		{"registers of both banks", `pcr4: {in: ["$a/32$", "$a/48$"]}`, `pcr7: {eq: "$b/48$"}`, false},
		{"a bank and a register", `bank: {eq: sha384}`, `pcr7: {eq: "$b/32$"}`, true},
		{"disjoint loaders", `boot.loaders: {every: ["$a/32$", "$b/32$"]}`, `boot.loaders: {every: ["$c/32$"]}`, true},
		{"loaders in common", `boot.loaders: {every: ["$a/32$", "$b/32$"]}`, `boot.loaders: {every: ["$c/32$", "$b/32$"]}`, false},
		{"two groups", `ek_certified: {eq: true}`, `ek_certified: {eq: false}`, true},
		{"a make and no certificate", `manufacturer: {eq: a}`, `ek_certified: {eq: false}`, true},
		{"firmware floors", `clock.firmware: {gte: "2.0.0.0"}`, `clock.firmware: {in: ["1.9.9.9"]}`, true},
		{"residencies", `key_residency: {eq: tpm}`, `key_residency: {eq: software}`, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, order := range [][]string{{c.a + own, c.b + own}, {c.b + own, c.a + own}} {
				_, err := policy.Parse("p.yaml", []byte(expand(tpmEnforce(order...))))
				if got := err == nil; got != c.exclude {
					t.Errorf("exclude each other: %t, want %t: %v", got, c.exclude, err)
				}
			}
		})
	}
}

func TestAnEndOfOneLoaderEndsTheGrant(t *testing.T) {
	src := change(t, tpmBase, `pcr4: {eq: "$loader/32$"}`, `boot.loaders: {every: [{value: "$grub/32$", not_after: 2027-01-20T12:30:00Z}, {value: "$shim/32$", not_after: 2027-02-01T00:00:00Z}]}`)
	d := decide(t, src, tpmClaims(), noon)
	if want := noon.Add(30 * time.Minute); d.Outcome != policy.Granted || d.ValidUntil == nil || !d.ValidUntil.Equal(want) {
		t.Errorf("%s until %v, want %s", d.Outcome, d.ValidUntil, want)
	}
	if !slices.Contains(d.Pinned(), "boot.loaders") {
		t.Errorf("pinned: %v", d.Pinned())
	}
}

func TestATPMPublishesTheRegistersThatItPins(t *testing.T) {
	if d := cmp.Diff([]string{"pcr4", "pcr7"}, policy.PublishedForTest(parse(t, tpmBase), "store")); d != "" {
		t.Error(d)
	}
	b := parse(t, change(t, tpmBase, "    match:", "    publish: [pcr0]\n    match:"))
	if d := cmp.Diff([]string{"pcr0"}, policy.PublishedForTest(b, "store")); d != "" {
		t.Error(d)
	}
	none := parse(t, tpmAudit(`boot.unified.linux: {eq: "$a/32$"}`))
	if d := cmp.Diff([]string{}, policy.PublishedForTest(none, "w0")); d != "" {
		t.Error(d)
	}
}
