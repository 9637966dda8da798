package policy

import (
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"
	"time"

	"github.com/assay-project/assay/internal/strictyaml"
)

// Limits on regular expressions: of one, in bytes of source, instructions of the
// compiled program, and these with the ends of their character ranges; and of all
// in a bundle, likewise. RE2 programs run in time linear in text and program; what
// these bound is memory. Ranges count because a program can hold a copy of them
// for each instruction: \pL{900} has half a million.
const (
	maxPattern        = 256
	maxPatternProgram = 1000
	maxPatternRanges  = 20_000
	maxPatternsRanges = 1_000_000
)

// patterns are the regular expressions of one file, compiled once each.
type patterns struct {
	bySource map[string]*pattern
	size     int // of all, in instructions and ends of ranges
}

// regex compiles the operand of the matcher regex, which only free text has: a
// digest that half matches is another digest.
func (p *parser) regex(f *field, n *strictyaml.Node) (test, bool) {
	src, ok := p.doc.Text(n)
	if !ok {
		return nil, false
	}
	if known := p.patterns.bySource[src]; known != nil {
		p.lintPattern(f, n, known)
		return known, true
	}
	if len(src) > maxPattern {
		p.doc.Report(n, fmt.Sprintf("the regular expression is too long: %d bytes, at most %d", len(src), maxPattern), "list the values with in")
		return nil, false
	}
	if p.patterns.size > maxPatternsRanges {
		p.doc.Report(n, "the regular expressions of this bundle are too large together", "list the values with in")
		return nil, false
	}
	size, err := measurePattern(src)
	if err != nil {
		p.doc.Report(n, err.Error(), patternHint)
		return nil, false
	}
	tree, ranges := size.tree, size.ranges
	if empty(tree) {
		p.doc.Report(n, "the regular expression matches no text that a claim can have", patternHint)
		return nil, false
	}
	if size.steps > maxPatternProgram {
		p.doc.Report(n, fmt.Sprintf("the regular expression is too large: at most %d steps are compiled", maxPatternProgram), "repetitions count as often as they repeat")
		return nil, false
	}
	if ranges > maxPatternRanges {
		p.doc.Report(n, fmt.Sprintf("the regular expression is too large: its character classes have %d ends of ranges, at most %d", ranges, maxPatternRanges), "repeat smaller classes, such as [A-Za-z0-9]")
		return nil, false
	}
	if p.patterns.size += ranges; p.patterns.size > maxPatternsRanges {
		p.doc.Report(n, "the regular expressions of this bundle are too large together", "list the values with in")
		return nil, false
	}
	re, err := regexp.Compile(`\A(?:` + src + `)\z`)
	if err != nil {
		p.doc.Report(n, "not a regular expression: "+reason(err), patternHint)
		return nil, false
	}
	out := &pattern{source: src, re: re, always: everything(tree)}
	if bare, err := regexp.Compile(src); err == nil {
		out.prefix, _ = bare.LiteralPrefix()
	}
	if p.patterns.bySource == nil {
		p.patterns.bySource = map[string]*pattern{}
	}
	p.patterns.bySource[src] = out
	p.lintPattern(f, n, out)
	return out, true
}

const patternHint = "the syntax is RE2's (https://github.com/google/re2/wiki/Syntax); the whole text must match"

// patternSize is what a regular expression costs.
type patternSize struct {
	tree   *syntax.Regexp
	steps  int // instructions
	ranges int // and the ends of their character ranges
}

// measurePattern parses a regular expression alone: "a)|(b" is a mistake and no way
// out of anchors.
func measurePattern(src string) (patternSize, error) {
	tree, err := syntax.Parse(src, syntax.Perl)
	if err != nil {
		return patternSize{}, errors.New("not a regular expression: " + reason(err))
	}
	out := patternSize{tree: tree.Simplify()}
	prog, err := syntax.Compile(out.tree)
	if err != nil {
		return patternSize{}, errors.New("not a regular expression: " + reason(err))
	}
	out.steps, out.ranges = len(prog.Inst), len(prog.Inst)
	for i := range prog.Inst {
		out.ranges += len(prog.Inst[i].Rune)
	}
	return out, nil
}

func (p *parser) lintPattern(f *field, n *strictyaml.Node, t *pattern) {
	if t.always {
		p.warn(n, CodeAlwaysHolds, fmt.Sprintf("%s: {regex: %s} holds for every text: it demands nothing", f.name, t.source), "remove it, or choose another expression")
	}
}

// reason is what a regexp error says, without its prefix.
func reason(err error) string {
	var se *syntax.Error
	if errors.As(err, &se) {
		return fmt.Sprintf("%s: %s", se.Code, clip(se.Expr))
	}
	return strings.TrimPrefix(err.Error(), "error parsing regexp: ")
}

// empty reports whether an expression matches no text, or the empty one alone:
// a claim without text is missing.
func empty(t *syntax.Regexp) bool {
	switch t.Op {
	case syntax.OpNoMatch, syntax.OpEmptyMatch, syntax.OpBeginLine, syntax.OpEndLine, syntax.OpBeginText, syntax.OpEndText:
		return true
	case syntax.OpCharClass:
		return len(t.Rune) == 0
	case syntax.OpCapture, syntax.OpConcat, syntax.OpStar, syntax.OpPlus, syntax.OpQuest, syntax.OpRepeat, syntax.OpAlternate:
		for _, s := range t.Sub {
			if t.Op == syntax.OpConcat && (s.Op == syntax.OpNoMatch || s.Op == syntax.OpCharClass && len(s.Rune) == 0) {
				return true
			}
		}
		for _, s := range t.Sub {
			if !empty(s) {
				return false
			}
		}
		return true
	default:
		return false
	}
}

// everything reports whether an expression plainly matches every text of a
// line: .*, .+ and groups of these.
func everything(t *syntax.Regexp) bool {
	switch t.Op {
	case syntax.OpCapture:
		return everything(t.Sub[0])
	case syntax.OpStar, syntax.OpPlus:
		op := t.Sub[0].Op
		return op == syntax.OpAnyChar || op == syntax.OpAnyCharNotNL || everything(t.Sub[0])
	case syntax.OpAlternate:
		for _, s := range t.Sub {
			if everything(s) {
				return true
			}
		}
	case syntax.OpConcat:
		whole := false
		for _, s := range t.Sub {
			switch {
			case s.Op == syntax.OpBeginText || s.Op == syntax.OpEndText || s.Op == syntax.OpEmptyMatch:
			case everything(s) && (s.Op == syntax.OpStar || !whole):
				whole = true
			default:
				return false
			}
		}
		return whole
	default:
		return false
	}
	return false
}

// pattern is the test of the matcher regex: the whole text matches.
type pattern struct {
	source string
	re     *regexp.Regexp
	prefix string // with which every match begins
	always bool   // nothing is demanded
}

func (t *pattern) expected() string {
	return fmt.Sprintf("all of it matching the regular expression %q", t.source)
}
func (t *pattern) values() *set { return nil }

func (t *pattern) eval(v value, text string, _ time.Time) verdict {
	return verdict{holds: t.admits(v), got: text}
}

func (t *pattern) admits(v value) bool { return t.re.MatchString(string(v)) }

// excludes finds expressions whose matches begin differently. What else cannot
// match both is not known, and counts as possible.
func (t *pattern) excludes(o open) bool {
	other, ok := o.(*pattern)
	return ok && !strings.HasPrefix(t.prefix, other.prefix) && !strings.HasPrefix(other.prefix, t.prefix)
}
