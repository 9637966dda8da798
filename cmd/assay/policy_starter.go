package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/verifiers/sevsnp"
)

// starter is a policy with one workload that is being put together.
type starter struct {
	platform            attest.Platform
	from, image         string
	bundle, trustDomain string
	workload, id        string
	revision            uint64
	verified            bool
	sets                []starterSet
	rules               []starterRule
	owner               *starterRule
	waiver              string // the value of ownership:; "" for none
	chip                string
	remaining           []string
}

// starterSet is a reference set with one value. Its name is the workload's with
// this behind it.
type starterSet struct {
	name, value, note, source, about string
	dedicated                        bool
}

// starterRule is a line of match; @name in it is a set's whole name.
type starterRule struct{ text, about string }

func (s *starter) rule(text, about string) { s.rules = append(s.rules, starterRule{text, about}) }
func (s *starter) own(text, about string)  { s.owner, s.waiver = &starterRule{text, about}, "" }
func (s *starter) remains(what string)     { s.remaining = append(s.remaining, what) }

// pin adds a set with one value and the rule that uses it.
func (s *starter) pin(claim, set string, value attest.Bytes, note, source, about string) {
	if len(value) == 0 || zero(value) {
		s.remains("it has no " + claim + ", so that the policy says nothing of it")
		return
	}
	s.sets = append(s.sets, starterSet{name: set, value: value.String(), note: note, source: source, about: "Values of " + claim + " that are accepted: one for each release."})
	s.rule(claim+": {in: @"+set+"}", about)
}

// workloadName makes a workload's name of an image's.
func workloadName(image string) string {
	word, _, _ := strings.Cut(strings.ToLower(image), " ")
	out := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' {
			return r
		}
		return '-'
	}, word)
	if out = strings.Trim(out, "-"); out == "" || len(out) > 40 {
		return "workload"
	}
	return out
}

// ofImage writes rules about what was measured from files.
func (s *starter) ofImage(m *imageMeasured) {
	s.platform, s.image = m.platform, m.name
	note := strings.Trim(yamlString(m.name), `"`)
	source := strings.Trim(yamlString(m.file), `"`)
	if m.platform == attest.TPM2 {
		s.boot(m.values, m.boot, source)
		return
	}
	primary := m.primary()
	s.pin(primary, "images", m.values[primary], note, source, m.comments[primary])
	if v, ok := m.values["pcr8"]; ok {
		s.rule(`pcr8: {eq: "`+v.String()+`"}`, m.comments["pcr8"])
	}
	if m.platform == attest.AMDSEVSNP {
		s.remains("no floor is set for the firmware: add product and reported_tcb (docs/spec/policy.md), or write the policy from a report of such a machine")
	}
}

// ofClaims writes rules about an environment as it is.
func (s *starter) ofClaims(x *subject) error {
	s.platform, s.verified = x.claims.Platform, x.verified
	s.from = x.file + ": " + x.about()
	if !x.verified {
		s.remains("the values are NOT VERIFIED: whoever made " + x.file + " may have written them")
	}
	if p := x.claims.SNP; p != nil && p.Product != "" && !slices.Contains(sevsnp.Products(), p.Product) {
		return malformedClaims(fmt.Sprintf("there is no product %q", p.Product))
	}
	if p := x.claims.TPM; p != nil && p.Cloud != nil && p.Cloud.Provider != "gce" && p.Cloud.Provider != "azure" {
		return malformedClaims(fmt.Sprintf("there is no cloud %q", p.Cloud.Provider))
	}
	if x.claims.Debug() {
		return cli.Usagef("start it without debug mode, and take evidence again", "this environment runs in debug mode, in which nothing is worth measuring: no policy should name it")
	}
	source := strings.Trim(yamlString(x.file), `"`)
	switch c := x.claims; {
	case c.Nitro != nil:
		s.nitro(c.Nitro, source)
	case c.SNP != nil:
		if c.SNP.Policy.MigrateMA {
			return cli.Usagef("launch it with another guest policy", "this guest may be taken over by a migration agent of the host's choice: no policy should name it")
		}
		s.snp(c.SNP, source)
	case c.TPM != nil:
		s.tpm(c.TPM, source)
	}
	return nil
}

// whole reports what must be there for a policy to be written.
func (s *starter) whole() error {
	if len(s.sets) == 0 || len(s.rules) == 0 {
		return cli.Usagef("`assay evidence inspect` shows what is in it", "%s names no image: there is nothing that a policy could pin", s.from)
	}
	return nil
}

func (s *starter) nitro(c *attest.Nitro, source string) {
	s.pin("pcr0", "images", c.PCRs[0], "", source, "which image")
	if v := c.PCRs[8]; len(v) > 0 && !zero(v) {
		s.rule(`pcr8: {eq: "`+v.String()+`"}`, "who signed it")
	}
	switch role, instance := c.PCRs[3], c.PCRs[4]; {
	case len(role) > 0 && !zero(role):
		s.own(`pcr3: {eq: "`+role.String()+`"}`, "whose it is: enclaves of instances with this IAM role")
	case len(instance) > 0 && !zero(instance):
		s.own(`pcr4: {eq: "`+instance.String()+`"}`, "whose it is: enclaves of this one instance, which has no IAM role")
		s.remains("only this one instance may launch it: give the instances an IAM role, and name that with pcr3")
	}
}

func (s *starter) snp(c *attest.SNP, source string) {
	s.pin("measurement", "images", c.Measurement, "", source, "which image")
	if !zero(c.IDKeyDigest) && len(c.IDKeyDigest) > 0 {
		s.rule(`id_key_digest: {eq: "`+c.IDKeyDigest.String()+`"}`, "who signed it")
	}
	if c.GuestSVN > 0 {
		s.rule(fmt.Sprintf("guest_svn: {gte: %d}", c.GuestSVN), "the security version that the signer gave it")
	}
	if c.VMPL != 0 {
		s.rule(fmt.Sprintf("vmpl: {eq: %d}", c.VMPL), "reports come from this privilege level, and not from 0")
	}
	if t := c.ReportedTCB; c.Product != "" {
		s.rule("product: {eq: "+c.Product+"}", "on which processors")
		parts := []string{fmt.Sprintf("bl: %d", t.Bootloader), fmt.Sprintf("tee: %d", t.TEE), fmt.Sprintf("snp: %d", t.SNP), fmt.Sprintf("ucode: %d", t.Microcode)}
		all := int(t.Bootloader) + int(t.TEE) + int(t.SNP) + int(t.Microcode)
		if t.FMC != nil {
			parts, all = append([]string{fmt.Sprintf("fmc: %d", *t.FMC)}, parts...), all+int(*t.FMC)
		}
		if all > 0 {
			s.rule("reported_tcb: {gte: {"+c.Product+": {"+strings.Join(parts, ", ")+"}}}", "no firmware older than this machine's")
		}
	}
	const chipLength = 64 // bytes of CHIP_ID, of which Turin uses the first 8
	masked := len(c.ChipID) != chipLength || zero(c.ChipID)
	switch {
	case c.SigningKey == "vlek":
		s.rule("signing_key: {eq: vlek}", "a cloud provider's machines")
		if c.CSPID != "" {
			s.rule("csp_id: {eq: "+yamlString(c.CSPID)+"}", "which provider's")
		}
	case masked:
		s.rule("chip_id_masked: {eq: true}", "the host hides which machine it is")
	}
	if !masked {
		s.chip = c.ChipID.String()
		if c.Product == "turin" {
			s.chip = s.chip[:16]
		}
	}
}

func (s *starter) tpm(c *attest.TPM, source string) {
	values := map[string]attest.Bytes{}
	for i, v := range c.PCRs {
		if !zero(v) {
			values[fmt.Sprintf("pcr%d", i)] = v
		}
	}
	s.boot(values, c.Boot, source)
	switch {
	case len(c.EK) > 0:
		s.sets = append(s.sets, starterSet{name: "machines", value: c.EK.String(), source: source, about: "Endorsement keys of our machines' TPMs, SHA-256 of the key."})
		s.own("ek: {in: @machines}", "whose it is: machines with these TPMs")
	case c.Cloud != nil && c.Cloud.ProjectID != "":
		s.rule("cloud.provider: {eq: "+c.Cloud.Provider+"}", "in which cloud")
		s.own("cloud.project_id: {eq: "+yamlString(c.Cloud.ProjectID)+"}", "whose it is: machines that this project launched")
	}
}

// boot pins the registers of a boot that change with what is loaded, and no more:
// firmware settings are in PCR1, the disk's layout in PCR5.
func (s *starter) boot(values map[string]attest.Bytes, boot *attest.MeasuredBoot, source string) {
	about := map[string]string{
		"pcr4": "which boot loader and kernel", "pcr7": "secure boot and its keys",
		"pcr8": "which commands of GRUB and kernel command line", "pcr9": "which files GRUB read", "pcr11": "which unified kernel image",
	}
	want := []string{"pcr4", "pcr7", "pcr11"}
	if _, unified := values["pcr11"]; !unified {
		want = []string{"pcr4", "pcr7", "pcr8", "pcr9"}
	}
	for _, claim := range want {
		if v, ok := values[claim]; ok {
			s.pin(claim, claim, v, "", source, about[claim])
		}
	}
	if len(s.rules) == 0 { // a log or a quote of other registers: take what there is
		for _, claim := range slices.Sorted(maps.Keys(values)) {
			s.pin(claim, claim, values[claim], "", source, "measured at boot")
		}
	}
	if boot != nil && boot.SecureBoot != nil && *boot.SecureBoot {
		s.rule("secure_boot: {eq: true}", "as the boot log proves")
	}
}

// ownership says how a workload of each platform tells whose it is.
func (s *starter) ownershipHelp() (comment []string, remains string) {
	switch s.platform {
	case attest.AWSNitro:
		return []string{
			`pcr3: {eq: "…"}   # SHA-384 over 48 zero bytes and the ARN of the instances' IAM role,`,
			"                  # which `assay policy init --role ARN` works out",
		}, "say whose enclaves these are: --role ARN (or --instance ID) writes the rule"
	case attest.AMDSEVSNP:
		return []string{
			"chip_id: {in: our-machines}   # a reference set of chips with dedicated: true, where nobody",
			"                              # else's guests run; on shared machines write instead of mode",
			`                              #   ownership: {none: "REASON", owner: "WHO", expires: 2027-06-30}`,
		}, "say whose guests these are: --dedicated with a report names the machine; on a cloud's shared machines waive it with --no-owner REASON --owner WHO --expires DATE"
	case attest.TPM2:
	}
	return []string{
		"ek_inventory: {eq: \"web\"}   # TPMs that `assay ek add --group web` put into the server's inventory;",
		"                            # or ek, the endorsement key; or in a cloud cloud.project_id",
	}, "say whose machines these are: --ek-group GROUP, after `assay ek add`"
}

// text writes the policy.
func (s *starter) text(file string) string {
	var b strings.Builder
	line := func(format string, a ...any) { fmt.Fprintf(&b, format+"\n", a...) }
	line("# Which attested environments earn which SPIFFE identities.")
	line("# Written by `assay policy init` from %s.", oneLine(s.from))
	line("#   check it       assay policy check %s", oneLine(file))
	line("#   ask it         assay policy explain EVIDENCE --tee %s --policy %s", s.platform, oneLine(file))
	line("#   next release   assay policy add-reference %s --set %s --from IMAGE", oneLine(file), s.set(s.sets[0].name))
	line("# The language is in docs/spec/policy.md, a guide in docs/guides/policy.md.")
	line("version: 1")
	line("bundle: %s", yamlWord(s.bundle))
	line("revision: %d # grows with every change", s.revision)
	line("trust_domain: %s", yamlWord(s.trustDomain))
	line("")
	line("references:")
	for _, x := range s.sets {
		line("  # %s", x.about)
		line("  %s:", s.set(x.name))
		indent := "    "
		if x.dedicated {
			line("    dedicated: true")
			line("    values:")
			indent = "      "
		}
		entry := "value: \"" + x.value + "\""
		if x.note != "" {
			entry += ", note: " + yamlString(clipTo(x.note, 200))
		}
		if x.source != "" && x.source != "-" {
			entry += ", source: " + yamlString(clipTo(x.source, 200))
		}
		line("%s- {%s}", indent, entry)
	}
	line("")
	line("workloads:")
	line("  - name: %s", yamlWord(s.workload))
	line("    tee: %s", s.platform)
	s.writeMode(line)
	line("    # Every rule must hold. A claim that the evidence does not carry fails its rule.")
	line("    match:")
	for _, r := range s.rules {
		line("      %s # %s", s.named(r.text), oneLine(r.about))
	}
	s.writeOwner(line)
	line("    issue:")
	line("      - spiffe_id: %s", yamlString(s.id))
	line("        x509_ttl: 1h")
	return b.String()
}

func (s *starter) writeMode(line func(string, ...any)) {
	switch {
	case s.waiver != "":
		line("    mode: enforce # audit records what it would do, and grants nothing")
		line("    # Nothing here says whose environment it is: somebody answers for that, until a day.")
		line("    ownership: %s", s.waiver)
	case s.owner != nil:
		line("    mode: enforce # audit records what it would do, and grants nothing")
	default:
		line("    mode: audit # grants nothing: see below what is missing for enforce")
		_, remains := s.ownershipHelp()
		s.remains(remains + "; then make the mode enforce")
	}
}

func (s *starter) writeOwner(line func(string, ...any)) {
	switch {
	case s.owner != nil:
		line("      # What runs does not say whose it is: anybody can launch the same image.")
		line("      %s # %s", s.named(s.owner.text), oneLine(s.owner.about))
	case s.waiver == "":
		line("      # What runs does not say whose it is: anybody can launch the same image. For")
		line("      # mode: enforce add what only yours can show:")
		comment, _ := s.ownershipHelp()
		for _, c := range comment {
			line("      # %s", c)
		}
	}
}

// set is the whole name of a set.
func (s *starter) set(name string) string { return workloadName(s.workload) + "-" + name }

// named puts the whole names of sets into a rule.
func (s *starter) named(rule string) string {
	before, after, ok := strings.Cut(rule, "{in: @")
	if !ok {
		return rule
	}
	name, rest, _ := strings.Cut(after, "}")
	return before + "{in: " + s.set(name) + "}" + rest
}

// oneLine makes text safe for a comment.
func oneLine(t string) string { return strings.Trim(yamlString(t), `"`) }

// yamlWord writes a name as it is, where it is one, and quoted otherwise.
func yamlWord(t string) string {
	if strings.Trim(t, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-") == "" && t != "" && !slices.Contains([]string{"true", "false", "null", "yes", "no", "on", "off", "y", "n"}, strings.ToLower(t)) && t[0] != '-' {
		return t
	}
	if strings.Contains(t, ".") && strings.Trim(t, "abcdefghijklmnopqrstuvwxyz0123456789-.") == "" && strings.ContainsAny(t[:1], "abcdefghijklmnopqrstuvwxyz") {
		return t // a domain name
	}
	return yamlString(t)
}
