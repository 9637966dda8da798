package agent

import (
	"strconv"
	"strings"
)

// clipAt is how much of a stranger's text an error or a log line carries.
const clipAt = 80

// clip makes text from elsewhere fit for an error or a log line: bounded, and
// without control characters.
func clip(s string) string {
	long := len(s) > clipAt
	if long {
		s = strings.ToValidUTF8(s[:clipAt], "") // not half a character
	}
	if strings.ContainsFunc(s, func(r rune) bool { return !strconv.IsPrint(r) }) {
		s = strings.Trim(strconv.QuoteToASCII(s), `"`)
	}
	if long {
		s += "…"
	}
	return s
}
