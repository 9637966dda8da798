package eventlog

import (
	"regexp"
	"slices"
	"strings"
)

// grubHarmless are words that a GRUB configuration begins its commands with, and
// that start no system: commands of GRUB's, and functions of the configurations
// that distributions generate (what a function runs is measured too). It is a list
// of what may stand beside a command line, and not of what may not: GRUB has dozens
// of commands that start, load or patch something (chainloader, multiboot,
// legacy_kernel, acpi, write_dword, …), modules add others, and `exit` and `rmmod`
// hand on to what is not measured here.
var grubHarmless = []string{
	".", "[", "background_color", "background_image", "blscfg", "boot", "break", "cat", "clear", "configfile", "continue", "cpuid", "cryptomount", "decrement", "echo",
	"export", "false", "fwsetup", "gfxmode", "gptpriority", "halt", "hwmatch", "increment", "initrd", "initrd16", "initrdefi", "initrdfail", "insmod", "keystatus",
	"list_env", "load_env", "load_video", "loadfont", "loopback", "ls", "menuentry", "normal", "password", "password_pbkdf2", "play", "probe", "reboot", "recordfail",
	"regexp", "return", "save_env", "savedefault", "search", "search.file", "search.fs_label", "search.fs_uuid", "serial", "set", "setparams", "shift", "sleep",
	"smbios", "source", "submenu", "terminal_input", "terminal_output", "terminfo", "test", "true", "unset", "videoinfo",
}

var (
	grubAssignment = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*=`)
	grubModule     = regexp.MustCompile(`^[A-Za-z0-9_]+$`)
)

// harmless reports whether a text of GRUB's can stand beside the claim of a command
// line. What is not known cannot, nor a module from a place of the sender's choice:
// it is code.
func harmless(text string) bool {
	text = strings.TrimPrefix(text, "! ")
	word, rest, _ := strings.Cut(text, " ")
	if grubAssignment.MatchString(word) {
		return true
	}
	if word == "insmod" && !grubModule.MatchString(rest) {
		return false
	}
	return slices.Contains(grubHarmless, word)
}
