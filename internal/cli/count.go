package cli

import "fmt"

// Count writes a number with its noun: "1 entry", "2 entries", "0 bytes". The
// plural is the noun with an s, unless another is given.
func Count[N int | uint64](n N, noun string, plural ...string) string {
	switch {
	case n == 1:
	case len(plural) > 0:
		noun = plural[0]
	default:
		noun += "s"
	}
	return fmt.Sprintf("%d %s", n, noun)
}
