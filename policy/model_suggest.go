package policy

import (
	"encoding/hex"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/assay-project/assay/attest"
)

var exprTokens = regexp.MustCompile(`"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|\b[0-9]+\b`)

// maxSuggested bounds the values that one expression suggests for a claim.
const maxSuggested = 96

// Suggest yields values of a claim at which the outcome of the expression is
// likely to turn: those that it names, and those beside them.
func (x *ModelExpr) Suggest(c ModelClaim) []Value {
	var words []string
	numbers := []uint64{0, 1}
	for _, t := range exprTokens.FindAllString(x.Source, 64) {
		if t[0] == '"' || t[0] == '\'' {
			s, err := strconv.Unquote(`"` + strings.ReplaceAll(t[1:len(t)-1], `"`, `\"`) + `"`)
			if err != nil {
				s = t[1 : len(t)-1]
			}
			words = append(words, s)
			numbers = append(numbers, uint64(len(s)))
		} else if n, err := strconv.ParseUint(t, 10, 63); err == nil {
			numbers = append(numbers, n, n+1)
			if n > 0 {
				numbers = append(numbers, n-1)
			}
		}
	}
	slices.Sort(numbers)
	numbers = slices.Compact(numbers)
	k := Constraint{Claim: c}
	var out []value
	add := func(v value) {
		if len(out) < maxSuggested && k.valid(v) && !slices.Contains(out, v) {
			out = append(out, v)
		}
	}
	switch c.f.kind.(type) {
	case number:
		for _, n := range numbers {
			if n <= math.MaxUint32 {
				add(numeral(uint32(n)))
			}
		}
	case text, enum:
		for _, w := range words {
			for _, s := range append([]string{w, w + "x", "x" + w, "x" + w + "x"}, examples(w)...) {
				add(value(s))
			}
		}
	case bitfield:
		add(flags(0))
		add(flags(math.MaxUint64))
		var all uint64
		for _, n := range numbers {
			if n < 64 {
				add(flags(1 << n))
				all |= 1 << n
				add(flags(all))
			}
		}
	case tcb:
		for _, product := range snpProducts {
			for _, base := range []byte{255, 0} {
				n := len(tcbComponents(product))
				raw := []byte(product + "\x00" + strings.Repeat(string([]byte{base}), n))
				add(value(raw))
				for i := range n {
					for _, v := range numbers {
						if v <= 255 {
							one := slices.Clone(raw)
							one[len(product)+1+i] = byte(v)
							add(value(one))
						}
					}
				}
			}
		}
	case firmware:
		for _, a := range numbers {
			for i := range 3 {
				one := []byte{1, 55, 0}
				if a <= 255 {
					one[i] = byte(a)
					add(value(one))
				}
			}
		}
	case registerList:
		for _, bank := range banks {
			var all []attest.Bytes
			for _, w := range words {
				if b, err := hex.DecodeString(w); err == nil && len(b) == bank.n {
					all = append(all, b)
				}
			}
			all = append(all, attest.Bytes(fresh(bank.n, 0)))
			for i := range all {
				one, _ := digests(all[i : i+1])
				upTo, _ := digests(all[:i+1])
				add(one)
				add(upTo)
			}
		}
	default:
		for _, n := range k.lengths() {
			for _, w := range words {
				for _, s := range []string{w + strings.Repeat("5", max(2*n-len(w), 0)), strings.Repeat("5", max(2*n-len(w), 0)) + w} {
					if b, err := hex.DecodeString(s); err == nil && len(b) == n {
						add(value(b))
					}
				}
			}
			// Two claims that are compared have the same value, or another.
			add(fresh(n, 0))
			add(fresh(n, 1))
		}
	}
	return out
}
