package policy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/assay-project/assay/attest"
)

// tpm is what the language knows of machines with a TPM 2.0: the registers that
// only a reset can clear, whose TPM it is, and what its event log says of the
// boot. Names are those of the TCG.
//
// Registers and boot claims say what runs. Whose machine it runs on is said by
// the endorsement key, which its owner knows, or by a cloud's certificate for the
// attestation key, which names the project that launched the machine.
var tpm = newTEE(tee{
	platform: attest.TPM2,
	model:    tpmModel,
	fields:   tpmFields(),

	claims:       "pcr0 to pcr15, bank, ek, ek_inventory, ek_certified, manufacturer, model, version, ak_trust, cloud.*, clock.*, safe, tpm_cleared, key_residency, secure_boot, boot.*",
	measurements: "pcr0 to pcr15",
	describe:     tpmDescriptions(),
	instead:      tpmInstead(),
	implicit: []implicitRule{{
		// Whatever a verifier forgot: claims of an AK that nothing vouches for
		// match nothing. AKOperator exists in offline tools only.
		claim: "ak_trust", values: []value{attest.AKActivated, attest.AKCertificate, attest.AKOperator}, want: "something that vouches for the attestation key",
	}},
	root:        "tpm",
	index:       []string{"ek", "pcr11", "pcr4", "pcr9", "pcr8", "pcr7", "ek_inventory", "cloud.project_id"},
	implies:     tpmImplies,
	publishable: tpmPublished,
	private: map[string]string{
		"ek": "it names the machine for life",
	},
	owners: "ek or ek_inventory (whose TPM it is), or cloud.project_id or cloud.project_number (whose project launched the machine), with eq or in (what is measured is no ownership, nor is who made the TPM)",
	launcher: map[string]string{
		"cloud.instance_name": "whoever launches a machine names it",
		"cloud.zone":          "whoever launches a machine chooses where",
	},
	device: "/dev/tpmrm0 and /dev/tpm0",
	lint:   lintTPM,
	codes: []CodeInfo{
		{codeSecureBootOff, "machines without secure boot match"},
		{codeLoaderNotPinned, "a workload pins what a boot loader measured, and not which loaders ran"},
		{codeCommandLineOpen, "a workload pins a unified kernel image, and not its command line"},
		{codeResidencyContradiction, "keys may be written to a disk, of a workload that only keys in the TPM match"},
	},
})

// The codes of warnings that only this platform has.
const (
	codeSecureBootOff          Code = "secure-boot-off"
	codeLoaderNotPinned        Code = "loader-not-pinned"
	codeCommandLineOpen        Code = "command-line-open"
	codeResidencyContradiction Code = "residency-contradiction"
)

// tpmPCRs are the registers that only a reset of the machine clears.
const tpmPCRs = 16

func tpmInstead() map[string]string {
	out := map[string]string{
		"ak":         "it is made anew when the TPM's software wants it: use ek, which lasts",
		"extra_data": "the protocol's binding is in it, and is checked before policy",
		"certified":  "that they are keys of this attestation is checked before policy: use key_residency",
		"debug":      "a TPM knows of no debug mode: use secure_boot, the registers and boot.command_line",
		"event_log":  "that it replays is checked before policy: use boot.* or the registers",
		"boot":       "name one of boot.firmware, boot.loaders, boot.command_line, boot.grub_files, boot.unified.*, boot.keys.*",
		"cloud":      "name one of cloud.provider, cloud.project_id, cloud.project_number, cloud.zone, cloud.instance_id, cloud.instance_name",
		"clock":      "name one of clock.firmware, clock.reset_count, clock.restart_count",
		"firmware":   "boot.firmware is the machine's, clock.firmware the TPM's",

		"boot.secure_boot": "the name is secure_boot",
	}
	for i := tpmPCRs; i < 24; i++ {
		why := "software can reset it by locality while the machine runs (TCG PC Client Platform, section 4.6)"
		if i == 16 || i == 23 {
			why = "any software can reset it while the machine runs (TCG PC Client Platform, section 4.6)"
		}
		out["pcr"+strconv.Itoa(i)] = why + ", so that its value says nothing of the boot: use pcr0 to pcr15"
	}
	return out
}

// tpmFields lists the claims in the order of the reference.
func tpmFields() []*field {
	fields := make([]*field, 0, 64)
	for i := range tpmPCRs {
		fields = append(fields, tpmField("pcr"+strconv.Itoa(i), register{}, func(t *attest.TPM) (value, bool) {
			v, ok := t.PCRs[i]
			return value(v), ok && bankOf(len(v)) == t.Bank && t.Bank != ""
		}, func(got value, ok bool) string { return tpmHint(i, got, ok) }))
	}
	return slices.Concat(fields, tpmIdentity(), tpmState(), tpmBoot())
}

// tpmField makes a field that is there whenever get says so.
func tpmField(name string, k kind, get func(t *attest.TPM) (value, bool), hint func(got value, ok bool) string) *field {
	return &field{
		name: name, kind: k, hint: hint,
		get: func(c *attest.Claims) (value, bool) {
			if c.TPM == nil {
				return "", false
			}
			return get(c.TPM)
		},
	}
}

// tpmHint says what a register that fails its rule usually means.
func tpmHint(i int, got value, ok bool) string {
	n := strconv.Itoa(i)
	switch {
	case !ok:
		return "the quote has no PCR" + n + ": a missing register never matches"
	case allZero([]byte(got)):
		return "nothing was measured into PCR" + n + ": an all-zero register never matches"
	}
	switch i {
	case 0:
		return "other firmware, or another version of it"
	case 1:
		return "another configuration of the firmware"
	case 2, 3:
		return "other option ROMs or extension cards, or another configuration of them"
	case 4:
		return "another boot loader or kernel, or another build of one"
	case 5:
		return "another partition table or configuration of the boot loader"
	case 7:
		return "secure boot is off, or has other keys, or another of them vouched for what was loaded"
	case 8:
		return "other commands of GRUB or another kernel command line"
	case 9:
		return "other files that GRUB read, or another initrd"
	case 10:
		return "IMA measured other files: its value depends on their order"
	case 11:
		return "another unified kernel image, or another phase of the boot"
	case 12:
		return "another kernel command line, or other credentials or extensions"
	}
	return ""
}

// tpmWord is a field of text; an empty one is missing.
func tpmWord(name string, k kind, get func(t *attest.TPM) string, hint func(value, bool) string) *field {
	return tpmField(name, k, func(t *attest.TPM) (value, bool) { v := get(t); return value(v), v != "" }, hint)
}

// finite is the owner of claims of which a list of values is the owner's own.
func finite(t test) bool { return t.values() != nil }

// tpmIdentity are whose TPM it is, and what vouches for its keys.
func tpmIdentity() []*field {
	cert := func(get func(*attest.EKCertificate) string) func(t *attest.TPM) string {
		return func(t *attest.TPM) string {
			if t.EKCertificate == nil {
				return ""
			}
			return get(t.EKCertificate)
		}
	}
	cloud := func(name string, k kind, get func(*attest.CloudInstance) string, hint string) *field {
		return tpmWord("cloud."+name, k, func(t *attest.TPM) string {
			if t.Cloud == nil {
				return ""
			}
			return get(t.Cloud)
		}, func(_ value, ok bool) string {
			if !ok {
				return "only a cloud vendor's certificate for the attestation key names it"
			}
			return hint
		})
	}
	maker := func(_ value, ok bool) string {
		if !ok {
			return "only an endorsement key's certificate under a pinned manufacturer's root tells it"
		}
		return "the TPM is of another make or version"
	}
	ek := tpmField("ek", digest{32}, func(t *attest.TPM) (value, bool) { return value(t.EK), len(t.EK) == 32 }, func(_ value, ok bool) string {
		if !ok {
			return "no endorsement key came with the evidence: a cloud's certificate vouches for the attestation key alone"
		}
		return "another TPM, hence another machine"
	})
	group := tpmWord("ek_inventory", text{64}, func(t *attest.TPM) string { return t.EKInventory }, func(_ value, ok bool) string {
		if !ok {
			return "the TPM is not in the server's inventory: `assay ek add` puts it there"
		}
		return "the TPM is in another group of the inventory"
	})
	id := cloud("project_id", text{64}, func(c *attest.CloudInstance) string { return c.ProjectID }, "another project launched the machine")
	number := cloud("project_number", text{20}, func(c *attest.CloudInstance) string {
		if c.ProjectNumber == 0 {
			return ""
		}
		return strconv.FormatUint(c.ProjectNumber, 10)
	}, "another project launched the machine")
	for _, f := range []*field{ek, group, id, number} {
		f.owner = finite
	}
	provider := cloud("provider", enum{"gce|azure"}, func(c *attest.CloudInstance) string { return c.Provider }, "the machine is another cloud's")
	provider.names = true
	return []*field{
		tpmWord("bank", enum{"sha256|sha384"}, func(t *attest.TPM) string { return t.Bank }, always("the server demands the bank that its configuration names (tpm.pcr_bank), and refuses another")),
		ek, group,
		tpmField("ek_certified", boolean{}, func(t *attest.TPM) (value, bool) { return truth(t.EKCertificate != nil), true },
			when(no, "no certificate under a pinned manufacturer's root vouches for the endorsement key: only the operator's inventory or a cloud does")),
		tpmWord("manufacturer", text{64}, cert(func(c *attest.EKCertificate) string { return c.Manufacturer }), maker),
		tpmWord("model", text{64}, cert(func(c *attest.EKCertificate) string { return c.Model }), maker),
		tpmWord("version", text{64}, cert(func(c *attest.EKCertificate) string { return c.Version }), maker),
		tpmWord("ak_trust", enum{attest.AKActivated + "|" + attest.AKCertificate}, func(t *attest.TPM) string { return t.AKTrust }, func(got value, ok bool) string {
			switch {
			case !ok:
				return "nothing vouches for the attestation key"
			case got == attest.AKOperator:
				return "an operator named the attestation key: in an attestation it is activated, or certified by a cloud"
			}
			return ""
		}),
		provider, id, number,
		cloud("zone", text{64}, func(c *attest.CloudInstance) string { return c.Zone }, "the machine runs in another zone"),
		cloud("instance_id", text{128}, func(c *attest.CloudInstance) string { return c.InstanceID }, "another machine"),
		cloud("instance_name", text{128}, func(c *attest.CloudInstance) string { return c.InstanceName }, "a machine of another name"),
	}
}

// tpmState is the TPM's state, and where keys live.
func tpmState() []*field {
	clock := func(name string, k kind, get func(*attest.TPMClock) value, hint string) *field {
		return tpmField("clock."+name, k, func(t *attest.TPM) (value, bool) {
			if t.Clock == nil {
				return "", false
			}
			return get(t.Clock), true
		}, func(_ value, ok bool) string {
			if !ok {
				return "the TPM tells it only to attestation keys that are primaries of the endorsement hierarchy (TPM 2.0 Part 1, section 36.7)"
			}
			return hint
		})
	}
	count := number{0, 1<<32 - 1}
	return []*field{
		tpmWord("key_residency", enum{attest.ResidentTPM + "|" + attest.ResidentSoftware}, func(t *attest.TPM) string { return t.KeyResidency },
			when(attest.ResidentSoftware, "the keys are in the memory of the measured agent, not in the TPM: the agent's own key can be, a workload's cannot")),
		tpmField("tpm_cleared", boolean{}, func(t *attest.TPM) (value, bool) { return truth(t.Cleared), true },
			when(yes, "the TPM was cleared since it was last seen: who was at the machine?")),
		tpmField("safe", boolean{}, func(t *attest.TPM) (value, bool) { return truth(t.Safe), true },
			when(no, "after a power cut a TPM's clock is not safe for up to 70 minutes: healthy machines show this")),
		clock("firmware", tpmFirmware{}, func(c *attest.TPMClock) value { return tpmRelease(c.Firmware) }, "the TPM runs another version of its firmware"),
		clock("reset_count", count, func(c *attest.TPMClock) value { return numeral(c.ResetCount) }, "the machine was started more or fewer times since the TPM was cleared"),
		clock("restart_count", count, func(c *attest.TPMClock) value { return numeral(c.RestartCount) }, "the machine was suspended more or fewer times since it was started"),
	}
}

// noLog is the hint of what only an event log can say.
const noLog = "no event log came with the evidence, or what replays of it does not say this"

// unified are the sections of a unified kernel image that systemd-stub measures.
var unified = []string{"linux", "osrel", "cmdline", "initrd", "ucode", "splash", "dtb", "uname", "sbat", "pcrpkey"}

// tpmBoot are the claims out of the event log. Without one, all are missing.
func tpmBoot() []*field {
	boot := func(name string, k kind, get func(b *attest.MeasuredBoot) (value, bool), hint string) *field {
		return tpmField(name, k, func(t *attest.TPM) (value, bool) {
			if t.Boot == nil {
				return "", false
			}
			return get(t.Boot)
		}, func(_ value, ok bool) string {
			if !ok {
				return noLog
			}
			return hint
		})
	}
	digestOf := func(v attest.Bytes) (value, bool) { return value(v), bankOf(len(v)) != "" }
	fields := []*field{
		boot("secure_boot", boolean{}, func(b *attest.MeasuredBoot) (value, bool) {
			if b.SecureBoot == nil {
				return "", false
			}
			return truth(*b.SecureBoot), true
		}, "secure boot decides what may be loaded; it is off or on against what the rule wants"),
		boot("boot.firmware", text{256}, func(b *attest.MeasuredBoot) (value, bool) { return value(b.Firmware), b.Firmware != "" }, "the machine runs other firmware"),
		boot("boot.loaders", registerList{}, func(b *attest.MeasuredBoot) (value, bool) { return digests(b.Loaders) }, "another boot loader, kernel or EFI application was started"),
		boot("boot.command_line", text{2048}, func(b *attest.MeasuredBoot) (value, bool) { return value(b.CommandLine), b.CommandLine != "" }, "the kernel was started with another command line"),
		boot("boot.grub_files", registerList{}, func(b *attest.MeasuredBoot) (value, bool) { return digests(b.GRUBFiles) }, "GRUB or the kernel's EFI stub read another file"),
	}
	for _, section := range unified {
		fields = append(fields, boot("boot.unified."+section, register{boot: true}, func(b *attest.MeasuredBoot) (value, bool) {
			if v, ok := b.Unified["."+section]; ok {
				return digestOf(v)
			}
			return digestOf(b.Unified[section])
		}, "the unified kernel image has another section "+section))
	}
	for _, name := range []string{"PK", "KEK", "db", "dbx"} {
		fields = append(fields, boot("boot.keys."+strings.ToLower(name), identifier{32}, func(b *attest.MeasuredBoot) (value, bool) { v := b.Keys[name]; return value(v), len(v) == 32 },
			"secure boot has other keys: the variable "+name+" differs"))
	}
	return fields
}

// tpmPublished are the registers that a workload pins.
func tpmPublished(w *workload) []string {
	out := []string{}
	for _, r := range w.rules {
		if k, ok := r.field.kind.(register); ok && !k.boot {
			out = append(out, r.field.name)
		}
	}
	return out
}

// tpmImplies says how claims depend on each other: values have the length of
// one bank, and only a certificate names a make.
func tpmImplies(w *workload) []fact {
	var out []fact
	for _, r := range w.rules {
		var lengths []value
		switch t := r.test.(type) {
		case *every:
			lengths = t.of.banks()
		case *set:
			if _, ok := r.field.kind.(register); ok {
				lengths = t.banks()
			}
		}
		if len(lengths) > 0 {
			out = append(out, fact{because: r.field, claim: w.tee.byName["bank"], test: oneOf(lengths...)})
		}
		switch r.field.name {
		case "manufacturer", "model", "version":
			out = append(out, fact{because: r.field, claim: w.tee.byName["ek_certified"], test: oneOf(yes)})
		}
	}
	return out
}

func oneOf(values ...value) *set {
	var entries []entry
	for _, v := range values {
		entries = append(entries, entry{value: v, text: string(v)})
	}
	return newSet("", len(values) == 1, entries)
}

// banks names the banks whose length some value of the set has.
func (s *set) banks() []value {
	var out []value
	for _, b := range banks {
		if slices.ContainsFunc(s.entries, func(e entry) bool { return len(e.value) == b.n }) {
			out = append(out, value(b.name))
		}
	}
	return out
}

// lintTPM finds what only this platform knows.
func lintTPM(w *workload, p *parser) {
	lintLoader(w, p)
	lintCommandLine(w, p)
	lintResidency(w, p)
	if r := w.find("secure_boot"); r != nil && admits(r, no) {
		p.warn(w.key, codeSecureBootOff, fmt.Sprintf("workload %s admits machines without secure boot", w.name), "pcr7 then tells nothing of what was loaded: pin pcr4")
	}
}

// lintLoader warns of a workload that does not say what the firmware may start.
//
// The registers from 8 on are extended by what it started, and stay open to
// whatever runs later. A loader that measures nothing of its own leaves them to be
// extended to any value, and an approved kernel is such a loader: started by the
// firmware or by shim in GRUB's place, it reads a command line that nobody measures.
// So neither the keys of secure boot nor a list of approved loaders is enough: only
// PCR4 says which were started, in which order, and which of them was the last.
func lintLoader(w *workload, p *parser) {
	if w.find("pcr4") != nil {
		return
	}
	for _, r := range w.rules {
		if measuredByLoader(r.field.name) {
			p.warn(w.key, codeLoaderNotPinned, "workload "+w.name+" pins "+r.field.name+", and not which loaders ran: another one, or an approved one in another's place, leaves it to be extended to any value",
				"add pcr4: neither pcr7 nor boot.loaders says in which order they ran")
			return
		}
	}
	if w.find("pcr7") == nil && w.find("boot.loaders") == nil {
		p.warn(w.key, CodeNoImage, "workload "+w.name+" pins nothing of the boot: any operating system on the same machines matches",
			"add pcr4 (boot loader and kernel), pcr7 (whose keys secure boot demands) or boot.loaders")
	}
}

// measuredByLoader reports whether a claim is what a boot loader measured.
func measuredByLoader(name string) bool {
	n, isPCR := strings.CutPrefix(name, "pcr")
	i, err := strconv.Atoi(n)
	return isPCR && err == nil && i >= 8 || name == "boot.command_line" || name == "boot.grub_files" || strings.HasPrefix(name, "boot.unified.")
}

// lintCommandLine warns of a unified kernel image whose command line may be
// another: with secure boot off, systemd-stub prefers the one that it is started
// with, and measures it into PCR12.
func lintCommandLine(w *workload, p *parser) {
	secure := w.find("secure_boot")
	if w.find("pcr4") == nil || w.find("pcr12") != nil || w.find("boot.command_line") != nil || secure != nil && !admits(secure, no) {
		return
	}
	for _, r := range w.rules {
		if name := r.field.name; name == "pcr11" || strings.HasPrefix(name, "boot.unified.") {
			p.warn(w.key, codeCommandLineOpen, "workload "+w.name+" pins "+name+", and not with which command line its kernel ran: without secure boot it may be another than the image's",
				"add pcr12, boot.command_line or secure_boot: {eq: true}")
			return
		}
	}
}
