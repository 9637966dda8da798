package policy

import (
	"regexp/syntax"
	"slices"
)

// maxExamples bounds the texts that are tried for one regular expression.
const maxExamples = 48

// examples are texts that a regular expression matches, and texts beside them:
// each with a character more, before and behind.
func examples(source string) []string {
	tree, err := syntax.Parse(source, syntax.Perl)
	if err != nil {
		return nil
	}
	out := sample(tree.Simplify(), 0)
	for _, s := range slices.Clone(out[:min(len(out), 4)]) {
		out = append(out, s+"x", "x"+s, s+"-other")
		if len(s) > 1 {
			out = append(out, s[:len(s)-1], s[1:])
		}
	}
	return out
}

// sample yields texts that an expression matches: a few of each choice that it
// leaves.
func sample(t *syntax.Regexp, depth int) []string {
	if depth > 64 {
		return []string{""}
	}
	sub := func(i int) []string { return sample(t.Sub[i], depth+1) }
	var out []string
	switch t.Op {
	case syntax.OpLiteral:
		return []string{string(t.Rune)}
	case syntax.OpCharClass:
		for i := 0; i+1 < len(t.Rune); i += 2 {
			for _, r := range []rune{t.Rune[i], t.Rune[i+1], 'a', 'z', '0', '9'} {
				if r >= t.Rune[i] && r <= t.Rune[i+1] && r >= ' ' && r <= '~' && !slices.Contains(out, string(r)) {
					out = append(out, string(r))
				}
			}
		}
	case syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		return []string{"a", "0", "-"}
	case syntax.OpCapture, syntax.OpPlus:
		out = sub(0)
		if t.Op == syntax.OpPlus {
			for _, s := range slices.Clone(out[:min(len(out), 4)]) {
				out = append(out, s+s)
			}
		}
	case syntax.OpStar, syntax.OpQuest:
		out = append([]string{""}, sub(0)...)
	case syntax.OpRepeat:
		one := sub(0)
		for _, s := range one[:min(len(one), 4)] {
			all := ""
			for range t.Min {
				all += s
			}
			out = append(out, all)
			if t.Max > t.Min || t.Max < 0 {
				out = append(out, all+s)
			}
		}
	case syntax.OpAlternate:
		for i := range t.Sub {
			out = append(out, sub(i)...)
		}
	case syntax.OpConcat:
		out = []string{""}
		for i := range t.Sub {
			var next []string
			for _, tail := range sub(i) {
				for _, head := range out {
					if len(next) < maxExamples {
						next = append(next, head+tail)
					}
				}
			}
			out = next
		}
	default:
		return []string{""}
	}
	return out[:min(len(out), maxExamples)]
}
