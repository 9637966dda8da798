package policy

import (
	"fmt"
	"slices"
	"strings"
)

// Expressions compare text, and the same value can be written in several ways: a
// digest in upper case, a Turin chip with the zeros of its report. What is written
// in another way than claims are read is never equal to one, so that
// `snp.chip_id != 'AB…'`, meant to ban a chip, would always hold. It is refused
// wherever it is compared.

// comparison is how an expression compares a claim with text.
type comparison int

const (
	equals comparison = iota
	contains
	startsWith
	endsWith
)

// String completes "snp.measurement … "41AA"".
func (c comparison) String() string {
	return [...]string{"is never", "never contains", "never begins with", "never ends with"}[c]
}

// spelling is implemented by the kinds whose claims are text of one spelling only.
type spelling interface {
	// unspelt says what claims look like where none ever compares with the text, or
	// is empty.
	unspelt(s string, how comparison) string
}

// hexadecimal is a spelling in hex.
type hexadecimal interface {
	spelling
	// lengths are those of the text, in characters.
	lengths() []int
}

// never says what a claim of the kind looks like, where it never compares with
// the text.
func never(k kind, s string, how comparison) string {
	if sp, ok := k.(spelling); ok {
		return sp.unspelt(s, how)
	}
	return ""
}

func (k digest) lengths() []int     { return []int{2 * k.n} }
func (k identifier) lengths() []int { return []int{2 * k.n} }
func (chipID) lengths() []int       { return []int{2 * turinLength, 2 * chipLength} }
func (registerList) lengths() []int { return register{}.lengths() }

func (register) lengths() []int {
	var out []int
	for _, b := range banks {
		out = append(out, 2*b.n)
	}
	return out
}

func (k digest) unspelt(s string, how comparison) string       { return unspeltHex(k, s, how) }
func (k identifier) unspelt(s string, how comparison) string   { return unspeltHex(k, s, how) }
func (k register) unspelt(s string, how comparison) string     { return unspeltHex(k, s, how) }
func (k registerList) unspelt(s string, how comparison) string { return unspeltHex(k, s, how) }

// unspelt knows that a Turin chip is read as its 8 bytes, without the zeros that
// fill the report's field.
func (k chipID) unspelt(s string, how comparison) string {
	const short = 2 * turinLength
	zeros := func(s string) bool { return strings.Trim(s, "0") == "" }
	bare := fmt.Sprintf("a Turin chip is read as %d characters, without the zeros behind them", short)
	if hint := unspeltHex(k, s, how); hint != "" {
		return hint
	}
	switch how {
	case equals:
		if len(s) > short && zeros(s[short:]) && !zeros(s) || len(s) == short && zeros(s) {
			return bare
		}
	case startsWith:
		if len(s) > short && zeros(s[short:]) {
			return bare
		}
	case contains, endsWith:
		if s != "" && zeros(s) || len(s) > short && zeros(s[short:]) {
			return bare
		}
	}
	return ""
}

func unspeltHex(k hexadecimal, s string, how comparison) string {
	lengths := k.lengths()
	fits := slices.Contains(lengths, len(s))
	if how != equals {
		fits = len(s) <= slices.Max(lengths)
	}
	if fits && strings.Trim(s, "0123456789abcdef") == "" {
		return ""
	}
	want := make([]string, len(lengths))
	for i, n := range lengths {
		want[i] = fmt.Sprint(n)
	}
	return "it is " + strings.Join(want, " or ") + " characters of hex, in lower case"
}

func (k enum) unspelt(s string, how comparison) string {
	words := strings.Split(k.words, "|")
	compare := map[comparison]func(word, s string) bool{
		equals:     func(word, s string) bool { return word == s },
		contains:   strings.Contains,
		startsWith: strings.HasPrefix,
		endsWith:   strings.HasSuffix,
	}[how]
	if slices.ContainsFunc(words, func(word string) bool { return compare(word, s) }) {
		return ""
	}
	return "it is one of " + strings.Join(words, ", ")
}
