package strictyaml

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// checkCharacters refuses bytes that are no UTF-8, and characters that make a
// file read differently from how it is parsed: line breaks that editors do not
// show as such (YAML 1.1 section 4.2 counts U+0085, U+2028 and U+2029 as
// breaks, and a lone CR), control characters, and the bidirectional controls
// with which a reviewed file can be made to look like another.
func (d *Document) checkCharacters() bool {
	ok := true
	d.ascii = make([]bool, len(d.lines))
	for i, line := range d.lines {
		if plainASCII(line) {
			d.ascii[i] = true
			continue
		}
		col := 0
		for rest := line; rest != ""; {
			r, n := utf8.DecodeRuneInString(rest)
			rest = rest[n:]
			col++
			what := ""
			if r == utf8.RuneError && n == 1 {
				what = "a byte that is not UTF-8"
			} else {
				what = forbidden(r)
			}
			if what != "" {
				ok = false
				d.report(i+1, col, what+" is not accepted", "")
			}
		}
	}
	// A %YAML or %TAG directive could only change what the rest means.
	for i, line := range d.lines {
		t := strings.TrimSpace(line)
		if strings.HasPrefix(line, "%") {
			ok = false
			d.report(i+1, 1, "YAML directives are not accepted", "remove the line")
		}
		if t != "" && !strings.HasPrefix(t, "#") && !strings.HasPrefix(t, "%") {
			break
		}
	}
	return ok
}

func plainASCII(s string) bool {
	for i := range len(s) {
		if c := s[i]; c != '\t' && (c < 0x20 || c > 0x7e) {
			return false
		}
	}
	return true
}

// forbidden names a character that is refused, or returns "".
func forbidden(r rune) string {
	switch {
	case r == '\t':
		return ""
	case r == '\r':
		return "a carriage return without a line feed"
	case r == 0xfeff:
		return "a byte order mark (U+FEFF)"
	case r == 0x2028 || r == 0x2029:
		return fmt.Sprintf("an invisible line break (U+%04X)", r)
	case unicode.Is(unicode.Bidi_Control, r):
		return fmt.Sprintf("an invisible character that reorders text (U+%04X)", r)
	case unicode.IsControl(r):
		return fmt.Sprintf("a control character (U+%04X)", r)
	}
	return ""
}
