package agent

import (
	"strconv"
	"strings"
)

// clipAt is how much of a stranger's text an error or a log line carries.
const clipAt = 80

// clipMessageAt is how much of one that may be ours: gRPC hands the errors of a
// connection on as text.
const clipMessageAt = 1024

// clip makes text from elsewhere fit for an error or a log line: bounded, and
// without control characters.
func clip(s string) string { return clipTo(s, clipAt) }

func clipTo(s string, n int) string {
	long := len(s) > n
	if long {
		s = strings.ToValidUTF8(s[:n], "") // not half a character
	}
	if strings.ContainsFunc(s, func(r rune) bool { return !strconv.IsPrint(r) }) {
		s = strings.Trim(strconv.QuoteToASCII(s), `"`)
	}
	if long {
		s += "…"
	}
	return s
}
