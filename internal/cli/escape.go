package cli

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Escape makes text safe to print on a terminal and keeps it on one line:
// control characters, line breaks, invisible and reordering characters and
// bytes that are not UTF-8 are written as \xNN or \uNNNN. Everything else,
// letters of any script among it, stays as it is.
func Escape(s string) string { return escape(s, false) }

// EscapeLines is Escape for text of several lines: line feeds and tabs stay.
func EscapeLines(s string) string { return escape(s, true) }

func escape(s string, lines bool) string {
	if printable(s, lines) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n <= 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case safe(r, lines):
			b.WriteRune(r)
		case r < 0x80:
			fmt.Fprintf(&b, `\x%02x`, r)
		case r <= 0xffff:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			fmt.Fprintf(&b, `\U%08x`, r)
		}
		i += n
	}
	return b.String()
}

func printable(s string, lines bool) bool {
	if !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if !safe(r, lines) {
			return false
		}
	}
	return true
}

// safe holds for characters that show as what they are: unicode.IsPrint is
// false for controls, separators other than the space, and for the formatting
// characters (category Cf) with which text is reordered or hidden.
func safe(r rune, lines bool) bool {
	if lines && (r == '\n' || r == '\t') {
		return true
	}
	return unicode.IsPrint(r)
}
