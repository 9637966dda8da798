package policy

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/assay-project/assay/attest"
)

// snp is what the language knows of AMD SEV-SNP guests. Names are those of the
// attestation report (AMD publication 56860, section 7.3), bits under policy.
// (the guest policy) and platform. (PLATFORM_INFO).
//
// Whoever launches a guest chooses everything about it but the machine, so no
// claim tells whose guest it is, except the chip where its owner declares that
// nobody else's guests run on it.
var snp = newTEE(tee{
	platform: attest.AMDSEVSNP,
	model:    snpModel,
	fields:   snpFields(),

	claims:       "measurement, host_data, id_key_digest, author_key_digest, family_id, image_id, product, signing_key, csp_id, guest_svn, vmpl, version, policy.*, platform.*, the TCBs, firmware versions and mitigations, provisional, revocation, chip_id, chip_id_masked",
	measurements: "measurement, id_key_digest and author_key_digest",
	describe:     snpDescriptions(),
	instead: map[string]string{
		"report_data":      "the protocol's binding is in it, and is checked before policy",
		"report_id":        "it is new at each launch: ban an instance on the server",
		"report_id_ma":     "it is new at each launch: use policy.migrate_ma",
		"policy.abi_major": "that the firmware is at least the policy's ABI is checked before policy: use current_firmware",
		"policy.abi_minor": "that the firmware is at least the policy's ABI is checked before policy: use current_firmware",
		"debug":            "the name is policy.debug",
		"tcb":              "name one of reported_tcb, committed_tcb, current_tcb, launch_tcb",
	},
	root:  "snp",
	index: []string{"measurement", "chip_id", "id_key_digest", "author_key_digest", "host_data"},
	implicit: []implicitRule{
		{claim: "policy.debug", values: []value{no}},
		{claim: "policy.migrate_ma", values: []value{no}},
		{claim: "vmpl", values: []value{numeral(0)}},
		{claim: "chip_id_masked", values: []value{no, maskedVLEK}, want: "false, unless a VLEK signed"},
	},
	implies:   snpImplies,
	published: []string{"measurement"},
	private: map[string]string{
		"host_data":    "HOST_DATA is what the host chose to say, often the hash of something that can be guessed",
		"chip_id":      "it names the machine",
		"report_id":    "it names the instance",
		"report_id_ma": "it names the instance",
	},
	owners: "chip_id with in over a reference set that says dedicated: true (all that the launcher chooses or can repeat is no ownership: measurement, id_key_digest, author_key_digest, host_data, family_id, image_id, csp_id; nor is a chip that others share)",
	launcher: map[string]string{
		"host_data": "whoever launches a guest chooses it",
		"family_id": "whoever writes the id block chooses it",
		"image_id":  "whoever writes the id block chooses it",
	},
	device: "/dev/sev-guest and /sys/kernel/config/tsm",
	lint:   lintSNP,
})

// snpFields lists the claims in the order of the reference.
func snpFields() []*field {
	digests := []*field{
		snpBytes("measurement", digest{48}, func(s *attest.SNP) attest.Bytes { return s.Measurement },
			"another image: another firmware, kernel, initrd, command line or number of virtual CPUs, or another build of one of them", "the report carries no measurement"),
		snpBytes("host_data", digest{32}, func(s *attest.SNP) attest.Bytes { return s.HostData },
			"the host launched the guest with other data", "the host launched the guest without data"),
		snpBytes("id_key_digest", digest{48}, func(s *attest.SNP) attest.Bytes { return s.IDKeyDigest },
			"the image was signed with another id key", "the guest was launched without an id block: its image is not signed"),
		snpBytes("author_key_digest", digest{48}, func(s *attest.SNP) attest.Bytes { return s.AuthorKeyDigest },
			"the id key was signed with another author key", "the guest was launched without an author key"),
		snpBytes("family_id", identifier{16}, func(s *attest.SNP) attest.Bytes { return s.FamilyID },
			"the id block names another family", "the guest was launched without an id block, or it names no family"),
		snpBytes("image_id", identifier{16}, func(s *attest.SNP) attest.Bytes { return s.ImageID },
			"the id block names another image", "the guest was launched without an id block, or it names no image"),
	}
	return append(digests, append(snpFacts(), snpVersions()...)...)
}

// snpField makes a field that is there whenever get says so.
func snpField(name string, k kind, get func(s *attest.SNP) (value, bool), hint func(got value, ok bool) string) *field {
	return &field{
		name: name, kind: k, hint: hint,
		get: func(c *attest.Claims) (value, bool) {
			if c.SNP == nil {
				return "", false
			}
			return get(c.SNP)
		},
	}
}

// snpBytes makes a field of fixed length; one of another length is missing.
func snpBytes(name string, k kind, get func(s *attest.SNP) attest.Bytes, other, zero string) *field {
	n := 0
	switch k := k.(type) {
	case digest:
		n = k.n
	case identifier:
		n = k.n
	}
	return snpField(name, k, func(s *attest.SNP) (value, bool) {
		b := get(s)
		return value(b), len(b) == n
	}, func(got value, ok bool) string {
		if !ok || allZero([]byte(got)) {
			return "an all-zero " + name + " never matches: " + zero
		}
		return other
	})
}

// always is the hint of a field that needs only one.
func always(text string) func(value, bool) string {
	return func(value, bool) string { return text }
}

// when is the hint for one value.
func when(v value, text string) func(value, bool) string {
	return func(got value, ok bool) string {
		if ok && got == v {
			return text
		}
		return ""
	}
}

func snpWord(name string, k kind, get func(s *attest.SNP) string, hint func(value, bool) string) *field {
	return snpField(name, k, func(s *attest.SNP) (value, bool) { v := get(s); return value(v), v != "" }, hint)
}

func snpBit(name string, get func(s *attest.SNP) bool, hint func(value, bool) string) *field {
	return snpField(name, boolean{}, func(s *attest.SNP) (value, bool) { return truth(get(s)), true }, hint)
}

// snpFacts are who signed, where, and how the guest was launched.
func snpFacts() []*field {
	guestPolicy := always("the launcher chose this guest policy: launch with another one")
	host := always("a setting of the host's firmware")
	chip := snpField("chip_id", chipID{}, func(s *attest.SNP) (value, bool) { return value(s.ChipID), len(s.ChipID) == chipLength },
		func(got value, ok bool) string {
			if !ok || allZero([]byte(got)) {
				return "the host masks its chip id: a masked chip id never matches"
			}
			return "the guest runs on another machine"
		})
	chip.owner = func(t test) bool { s := t.values(); return s != nil && s.dedicated }
	return []*field{
		snpWord("product", enum{strings.Join(snpProducts, "|")}, func(s *attest.SNP) string { return s.Product }, always("the guest runs on a machine of another product line")),
		snpWord("signing_key", enum{"vcek|vlek"}, func(s *attest.SNP) string { return s.SigningKey }, always("vcek is the chip's own key, vlek one that AMD gives to a cloud provider")),
		snpWord("csp_id", text{256}, func(s *attest.SNP) string { return s.CSPID }, func(_ value, ok bool) string {
			if !ok {
				return "only reports that a VLEK signed name a cloud provider"
			}
			return "the machine is another cloud provider's"
		}),
		snpField("guest_svn", number{0, 1<<32 - 1}, func(s *attest.SNP) (value, bool) { return numeral(s.GuestSVN), true }, always("the security version that the image's id block states")),
		snpField("vmpl", number{0, snpLevels - 1}, func(s *attest.SNP) (value, bool) { return numeral(s.VMPL), true },
			always("privilege level 0 is the most privileged; under a paravisor or SVSM, and often on AWS, reports come from another: name vmpl to accept it")),
		snpField("version", number{2, 5}, func(s *attest.SNP) (value, bool) { return numeral(s.Version), s.Version != 0 }, always("the host's firmware decides on the version of reports")),

		snpBit("policy.debug", func(s *attest.SNP) bool { return s.Policy.Debug },
			when(yes, "the guest was launched with a policy that allows debugging: the host can read and write its memory")),
		snpBit("policy.migrate_ma", func(s *attest.SNP) bool { return s.Policy.MigrateMA },
			when(yes, "the guest was launched with a policy that allows a migration agent, which the host chooses, to move it")),
		snpBit("policy.smt", func(s *attest.SNP) bool { return s.Policy.SMT }, guestPolicy),
		snpBit("policy.single_socket", func(s *attest.SNP) bool { return s.Policy.SingleSocket }, guestPolicy),
		snpBit("policy.cxl_allow", func(s *attest.SNP) bool { return s.Policy.CXLAllow }, guestPolicy),
		snpBit("policy.mem_aes_256_xts", func(s *attest.SNP) bool { return s.Policy.MemAES256XTS }, guestPolicy),
		snpBit("policy.rapl_dis", func(s *attest.SNP) bool { return s.Policy.RAPLDis }, guestPolicy),
		snpBit("policy.ciphertext_hiding", func(s *attest.SNP) bool { return s.Policy.CiphertextHiding }, guestPolicy),
		snpBit("policy.page_swap_disable", func(s *attest.SNP) bool { return s.Policy.PageSwapDisable }, guestPolicy),

		snpBit("platform.smt", func(s *attest.SNP) bool { return s.Platform.SMT }, host),
		snpBit("platform.tsme", func(s *attest.SNP) bool { return s.Platform.TSME }, host),
		snpBit("platform.ecc", func(s *attest.SNP) bool { return s.Platform.ECC }, host),
		snpBit("platform.rapl_dis", func(s *attest.SNP) bool { return s.Platform.RAPLDis }, host),
		snpBit("platform.ciphertext_hiding", func(s *attest.SNP) bool { return s.Platform.CiphertextHiding }, host),
		snpBit("platform.alias_check", func(s *attest.SNP) bool { return s.Platform.AliasCheck },
			when(no, "the firmware has not checked that memory modules tell the truth about their size (CVE-2024-21944)")),

		snpBit("provisional", func(s *attest.SNP) bool { return s.Provisional },
			when(yes, "the host runs firmware that it has not committed: it could still go back to the older one")),
		snpWord("revocation", enum{"ok|grace|not_checked"}, func(s *attest.SNP) string { return s.Revocation }, func(got value, ok bool) string {
			switch {
			case ok && got == "grace":
				return "the newest revocation list has expired, and the operator's grace let it pass: look after the server's collateral"
			case ok && got == "not_checked":
				return "the server has no revocation list for this product line: look after its collateral"
			}
			return ""
		}),
		chip,
		snpField("chip_id_masked", masking{}, masked, func(got value, ok bool) string {
			if !ok || got != no {
				return "the host masks its chip id (MASK_CHIP_ID): name chip_id_masked to accept it"
			}
			return ""
		}),
	}
}

// snpVersions are the versions of firmware and microcode.
func snpVersions() []*field {
	var out []*field
	for _, x := range []struct {
		name string
		get  func(s *attest.SNP) attest.TCB
	}{
		{"current_tcb", func(s *attest.SNP) attest.TCB { return s.CurrentTCB }},
		{"reported_tcb", func(s *attest.SNP) attest.TCB { return s.ReportedTCB }},
		{"committed_tcb", func(s *attest.SNP) attest.TCB { return s.CommittedTCB }},
		{"launch_tcb", func(s *attest.SNP) attest.TCB { return s.LaunchTCB }},
	} {
		out = append(out, snpField(x.name, tcb{}, func(s *attest.SNP) (value, bool) { return tcbValue(s.Product, x.get(s)) },
			always("the report has no TCB in the layout of its product line")))
	}
	for _, x := range []struct {
		name string
		get  func(s *attest.SNP) attest.Firmware
	}{
		{"current_firmware", func(s *attest.SNP) attest.Firmware { return s.CurrentFirmware }},
		{"committed_firmware", func(s *attest.SNP) attest.Firmware { return s.CommittedFirmware }},
	} {
		out = append(out, snpField(x.name, firmware{}, func(s *attest.SNP) (value, bool) { return release(x.get(s)), true },
			always("the host runs another version of the SNP firmware")))
	}
	for _, x := range []struct {
		name string
		get  func(s *attest.SNP) *uint64
	}{
		{"launch_mitigations", func(s *attest.SNP) *uint64 { return s.LaunchMitigations }},
		{"current_mitigations", func(s *attest.SNP) *uint64 { return s.CurrentMitigations }},
	} {
		out = append(out, snpField(x.name, bitfield{}, func(s *attest.SNP) (value, bool) {
			if m := x.get(s); m != nil {
				return flags(*m), true
			}
			return "", false
		}, always("reports have mitigation vectors from version 5 on: an older one never matches")))
	}
	return out
}

// snpImplies says how claims depend on each other.
func snpImplies(w *workload) []fact {
	var out []fact
	add := func(because *field, claim string, t test) {
		out = append(out, fact{because: because, claim: w.tee.byName[claim], test: t})
	}
	one := func(v value) test { return newSet("", true, []entry{{value: v, text: string(v)}}) }
	for _, r := range w.rules {
		switch r.field.name {
		case "chip_id":
			add(r.field, "chip_id_masked", one(no))
		case "csp_id":
			add(r.field, "signing_key", one("vlek"))
		case "launch_mitigations", "current_mitigations":
			add(r.field, "version", &bound{value: numeral(5), text: "5"})
		}
		if t, ok := r.test.(*tcbFloor); ok {
			add(r.field, "product", t.products())
			out[len(out)-1].firm = true // see verdict.strict
		}
	}
	return out
}

// lintSNP finds what only this platform knows.
func lintSNP(w *workload, p *parser) {
	for _, x := range []struct {
		claim string
		code  Code
		why   string
	}{
		{"policy.debug", CodeDebugAllowed, "the host can read and write their memory: never where real secrets are"},
		{"policy.migrate_ma", CodeMigrationAllowed, "an agent of the host's choice can take over their memory"},
	} {
		if r := w.find(x.claim); r != nil && admits(r, yes) {
			p.warn(w.key, x.code, fmt.Sprintf("workload %s admits guests with %s", w.name, x.claim), x.why)
		}
	}
	if r := w.find("vmpl"); levels(r) > 1 {
		p.warn(cmp.Or(r.at, w.key), CodeEvidenceOracle, "workload "+w.name+" admits several privilege levels: software at the least of them has evidence made that is as good as the others'", "pin the level at which the agent runs: vmpl: {eq: 1}")
	}
	if w.find("measurement") == nil && w.find("id_key_digest") == nil && w.find("author_key_digest") == nil {
		p.warn(w.key, CodeNoImage, "workload "+w.name+" pins no image: any code on the same machines matches", "add measurement (the image) or id_key_digest (who signed it)")
	}
	floor := false
	if r := w.find("reported_tcb"); r != nil {
		t, ok := r.test.(*tcbFloor)
		floor = ok && !t.upper
	}
	if !floor {
		hint := "add reported_tcb: {gte: {PRODUCT: {…}}}"
		if w.find("current_tcb") != nil || w.find("committed_tcb") != nil || w.find("launch_tcb") != nil {
			hint = "a key that leaked from older firmware can sign any current, committed or launch TCB, but is itself derived from the reported one: " + hint
		}
		p.warn(w.key, CodeNoFloor, "workload "+w.name+" has no floor for reported_tcb: firmware with known holes matches", hint)
	}
}

// snpLevels is the number of privilege levels of a guest.
const snpLevels = uint32(4)

// levels counts the privilege levels that a rule over vmpl admits.
func levels(r *rule) int {
	n := 0
	for i := range snpLevels {
		if s := r.test.values(); s != nil && s.lists(numeral(i)) {
			n++
		} else if o, ok := r.test.(open); ok && o.admits(numeral(i)) {
			n++
		}
	}
	return n
}
