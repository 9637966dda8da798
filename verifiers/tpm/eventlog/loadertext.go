package eventlog

import (
	"bytes"
	"slices"
	"strings"
)

// What boot loaders measure as text. The firmware has left by then, so anybody may
// have extended these registers: boot loaders that measure something else, and root
// on the machine, afterwards. It cannot take away what was measured. So a claim
// holds only if nothing in the register contradicts it, and every event in it can be
// read.

// Labels that GRUB puts before a text in the log, and does not hash. What they say
// is not believed: a command that fails is measured all the same, so a label would
// let a command pass for a command line.
var labels = []string{"grub_cmd: ", "kernel_cmdline: ", "module_cmdline: ", "grub_cmd ", "grub_kernel_cmdline ", ""}

// text is what an event hashed, if that is text in the log: behind one of GRUB's
// labels, with or without a zero at its end; or the load options that systemd-boot
// measures in UTF-16, the last byte of which old versions keep from the log.
func (b *boot) text(e *event) (text string, options, ok bool) {
	if len(e.data) > maxText {
		return "", false, false
	}
	for _, l := range labels {
		rest, found := bytes.CutPrefix(e.data, []byte(l))
		if !found {
			continue
		}
		short := bytes.TrimSuffix(rest, []byte{0})
		if claimable(string(short)) && (b.is(e, short) || len(short) != len(rest) && b.is(e, rest)) {
			return string(short), false, true
		}
	}
	for _, missing := range [][]byte{nil, {0}} {
		all := slices.Concat(e.data, missing)
		if s, good := utf16Text(all); good && claimable(s) && b.is(e, all) {
			return s, true, true
		}
	}
	return "", false, false
}

// loaderText returns what GRUB ran, and the kernel's command line. embedded is the
// digest of the one that a unified kernel image carries, or nil: a text that is
// another may have been extended after the image had started with its own.
func (b *boot) loaderText(embedded []byte) (commands []string, commandLine string) {
	commands, fromGRUB, options, readable := b.texts(pcrGRUBText)
	more, _, moreOptions, moreReadable := b.texts(pcrOptions)
	if !readable || !moreReadable || len(more) > 0 {
		return commands, ""
	}
	// systemd-boot and systemd-stub may both measure the same options.
	lines := slices.Concat(options, moreOptions)
	if fromGRUB {
		line, ok := grubLine(commands)
		if !ok {
			return commands, ""
		}
		lines = append(lines, line)
	}
	if lines = slices.Compact(lines); len(lines) != 1 || embedded != nil && !b.carries(embedded, lines[0]) {
		return commands, ""
	}
	return commands, lines[0]
}

// carries reports whether a section of text is this line, ended as tools end it.
func (b *boot) carries(section []byte, line string) bool {
	for _, end := range []string{"", "\n", "\x00", "\n\x00"} {
		if bytes.Equal(section, sum(b.bank, []byte(line), []byte(end))) {
			return true
		}
	}
	return false
}

// texts are those of a register: commands, and load options. It is not readable when
// an event in it is no text, or there is too much.
func (b *boot) texts(pcr int) (commands []string, grub bool, options []string, readable bool) {
	size := 0
	for _, e := range b.events(pcr) {
		s, isOptions, ok := b.text(e)
		if size += len(s); !ok || size > maxText || len(commands)+len(options) == maxCommands {
			return nil, false, nil, false
		}
		if isOptions {
			options = append(options, s)
		} else {
			commands = append(commands, s)
		}
	}
	return commands, len(commands) > 0, options, true
}

// grubLine finds the kernel's command line among GRUB's texts. GRUB measures the
// command `linux LINE`, and then LINE, which begins with the kernel's path. It must
// have done so once, and all else must be harmless: nothing else that starts or loads
// something, nor another text that could be a command line. In its rescue shell, GRUB
// measures that and no command; it begins with a path, or with a block list.
func grubLine(texts []string) (string, bool) {
	line, found, after := "", false, -1
	for i, s := range texts {
		if i == after {
			continue
		}
		switch word, rest, _ := strings.Cut(s, " "); word {
		case "linux", "linuxefi", "linux16":
			if found || i+1 == len(texts) || unquoted(rest) != unquoted(texts[i+1]) {
				return "", false
			}
			line, found, after = texts[i+1], true, i+1
		default:
			if !harmless(s) {
				return "", false
			}
		}
	}
	return line, found && line != ""
}

// unquoted is text without what GRUB's shell takes off a command's words, and its
// command line has again. Two lines that differ in nothing else are the same: the
// claim is the one that GRUB measured as the command line.
func unquoted(s string) string {
	return strings.Join(strings.Fields(strings.Map(func(r rune) rune {
		if r == '"' || r == '\'' || r == '\\' {
			return -1
		}
		return r
	}, s)), " ")
}
