package eventlog

import (
	"bytes"
	"crypto"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/google/go-eventlog/tcg"

	"github.com/assay-project/assay/attest"
)

// Registers of the PC Client profile (PFP, section 2.3.4) and of what comes after
// the firmware: GRUB (its manual, "Measured Boot"), and systemd (systemd-stub(7),
// "TPM PCR Notes").
const (
	pcrFirmware   = 0
	pcrLoaders    = 4
	pcrSecureBoot = 7
	pcrGRUBText   = 8
	pcrFiles      = 9
	pcrUnified    = 11
	pcrOptions    = 12
)

// Limits of claims: a log that says more of one thing says nothing of it.
const (
	maxLoaders  = 64
	maxFiles    = 1024
	maxCommands = 1024
	maxText     = 64 << 10 // all commands together
)

// boot are registers whose events are known to be what the TPM was extended with.
type boot struct {
	bank       crypto.Hash
	registers  map[int]*replayed
	separators [3][]byte // digests of the separators; the last says that measuring failed
	actions    [2][]byte // digests of what the firmware notes when it starts an application
}

func newBoot(bank crypto.Hash) *boot {
	b := &boot{bank: bank, registers: make(map[int]*replayed)}
	for i, data := range [][]byte{{0, 0, 0, 0}, {0xff, 0xff, 0xff, 0xff}, {1, 0, 0, 0}} {
		b.separators[i] = sum(bank, data)
	}
	for i, text := range []string{tcg.CallingEFIApplication, tcg.ReturningFromEFIApplication} {
		b.actions[i] = sum(bank, []byte(text))
	}
	return b
}

// claims says what follows. Whatever is in doubt is left out: a policy never takes
// what is missing for a match.
func (b *boot) claims() *attest.MeasuredBoot {
	m := &attest.MeasuredBoot{Replayed: slices.Sorted(maps.Keys(b.registers))}
	if m.Replayed == nil {
		m.Replayed = []int{}
	}
	m.Firmware = b.firmware()
	m.SecureBoot, m.Keys = b.secureBoot()
	m.Loaders = b.loaders()
	m.Unified = b.unified()
	m.GRUBCommands, m.CommandLine = b.loaderText(m.Unified[".cmdline"])
	m.GRUBFiles = b.files()
	return m
}

// events are those of a replayed register, in order.
func (b *boot) events(pcr int) []*event {
	if r := b.registers[pcr]; r != nil {
		return r.events
	}
	return nil
}

// hashed reports whether an event's data are what its digest is of.
func (b *boot) hashed(e *event) bool { return b.is(e, e.data) }

// is reports whether an event's digest is of these parts.
func (b *boot) is(e *event, parts ...[]byte) bool {
	return bytes.Equal(e.digest(b.bank), sum(b.bank, parts...))
}

// separator says which of the separators an event's digest is, if any. Its type is
// not asked: who renames the separator could make what follows look like the
// firmware's.
func (b *boot) separator(e *event) (failed, ok bool) {
	d := e.digest(b.bank)
	for i, s := range b.separators {
		if bytes.Equal(d, s) {
			return i == 2, true
		}
	}
	return false, false
}

// before returns the firmware's part of a register: the events before the
// separator, after which anybody may extend it (PFP, section 2.3.4). There is none
// without a separator, or if that says that measuring failed.
func (b *boot) before(pcr int) []*event {
	events := b.events(pcr)
	for i, e := range events {
		failed, ok := b.separator(e)
		switch {
		case ok && failed, !ok && e.kind == tcg.Separator:
			return nil
		case ok:
			return events[:i]
		}
	}
	return nil
}

// GCE's firmware says in PCR 0 which confidential technology the machine runs
// with, in an event of 32 bytes with this signature.
const gceNonHostInfo = "GCE NonHostInfo\x00"

// gceVersion begins the S-CRTM version of that firmware.
const gceVersion = "GCE Virtual Firmware "

// firmware is the text of the one event that the log calls the S-CRTM's version.
// That name is not measured: the claim is that PCR 0 holds this text, once, in the
// firmware's part. Of GCE's firmware there is no claim without the technology: a
// sender could hide it by changing the event's data.
func (b *boot) firmware() string {
	version, versions := "", 0
	technology, told := "", false
	for _, e := range b.before(pcrFirmware) {
		switch {
		case e.kind == tcg.SCRTMVersion:
			versions++
			if b.hashed(e) {
				version = versionText(e.data)
			}
		case len(e.data) == 32 && bytes.HasPrefix(e.data, []byte(gceNonHostInfo)) && b.hashed(e):
			technology, told = gceTechnology(e.data[len(gceNonHostInfo)]), true
		}
	}
	switch {
	case versions != 1, version == "":
		return ""
	case strings.HasPrefix(version, gceVersion):
		if !told {
			return ""
		}
		return version + technology
	}
	return version
}

func gceTechnology(t byte) string {
	switch t {
	case 0:
		return ""
	case 1:
		return " (AMD SEV)"
	case 2:
		return " (AMD SEV-ES)"
	case 3:
		return " (Intel TDX)"
	case 4:
		return " (AMD SEV-SNP)"
	}
	return fmt.Sprintf(" (technology %d)", t)
}

// versionText reads an S-CRTM version: UTF-16, a GUID, or ASCII (PFP, section
// 10.4.1); of anything else it gives the bytes in hex, or
// their digest.
func versionText(data []byte) string {
	if zero(data) {
		return ""
	}
	if s, ok := utf16Text(data); ok && printable(s) {
		return s
	}
	if s := string(bytes.TrimSuffix(data, []byte{0})); printable(s) {
		return s
	}
	if len(data) == 16 {
		return guidText(data)
	}
	if len(data) <= 64 {
		return attest.Bytes(data).String()
	}
	return fmt.Sprintf("sha256:%x", sum(crypto.SHA256, data))
}

// loaders are the digests of the EFI applications that were started: of all that
// PCR 4 holds, but for separators and for the firmware's notes about booting. A log
// cannot hide one by giving it another type. The notes are short texts, and no image
// hashes to a short text.
func (b *boot) loaders() []attest.Bytes {
	var out []attest.Bytes
	for _, e := range b.events(pcrLoaders) {
		if _, ok := b.separator(e); ok || b.action(e) {
			continue
		}
		if len(out) == maxLoaders {
			return nil
		}
		out = append(out, bytes.Clone(e.digest(b.bank)))
	}
	return out
}

// action reports whether an event notes what the firmware is about to do.
func (b *boot) action(e *event) bool {
	d := e.digest(b.bank)
	for _, a := range b.actions {
		if bytes.Equal(a, d) {
			return true
		}
	}
	return len(e.data) <= 128 && printable(string(e.data)) && b.hashed(e)
}

// files are the digests in PCR 9. The names beside them are descriptions.
func (b *boot) files() []attest.Bytes {
	var out []attest.Bytes
	for _, e := range b.events(pcrFiles) {
		if len(out) == maxFiles {
			return nil
		}
		out = append(out, bytes.Clone(e.digest(b.bank)))
	}
	return out
}

// sections are those of a unified kernel image that systemd-stub measures, in its
// order; the last ones in any.
var sections = map[string]int{
	".linux": 1, ".osrel": 2, ".cmdline": 3, ".initrd": 4, ".ucode": 5, ".splash": 6, ".dtb": 7, ".uname": 8, ".sbat": 9, ".pcrpkey": 10,
	".profile": 11, ".dtbauto": 12, ".hwids": 12, ".efifw": 12,
}

// unified reads PCR 11 as systemd-stub extends it: for each section its name with a
// zero byte, and its contents; nothing else, each once, in order.
func (b *boot) unified() map[string]attest.Bytes {
	events := b.events(pcrUnified)
	if len(events) == 0 || len(events)%2 != 0 {
		return nil
	}
	out := make(map[string]attest.Bytes, len(events)/2)
	last := 0
	for i := 0; i < len(events); i += 2 {
		name := ""
		for s := range sections {
			if b.is(events[i], []byte(s), []byte{0}) {
				name = s
			}
		}
		if _, again := out[name]; name == "" || again || sections[name] < last {
			return nil
		}
		last = sections[name]
		out[name] = bytes.Clone(events[i+1].digest(b.bank))
	}
	return out
}

// printable holds for text in ASCII without controls, as firmware writes it.
func printable(s string) bool {
	return s != "" && strings.IndexFunc(s, func(r rune) bool { return r < 0x20 || r > 0x7e }) < 0
}

// claimable holds for text that a claim can hold without changing it.
func claimable(s string) bool { return s != "" && utf8.ValidString(s) && !strings.ContainsRune(s, 0) }
