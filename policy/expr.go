package policy

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	celparser "cel.dev/cel-go/parser"

	"github.com/assay-project/assay/internal/strictyaml"
)

// An expression is shown as a rule of this name and operator.
const exprRule = "expr"

// expression is one compiled expr: CEL (https://cel.dev) over the claims of one
// platform, checked to yield true or false. It narrows what match admits, and
// never stands for a rule: it is no ownership predicate, pins nothing, and is not
// asked when workloads are told apart.
//
// It is compiled once for all workloads with the same source, and is safe for
// concurrent use.
type expression struct {
	source   string
	program  cel.Program
	reads    []*variable // in the order of their names' first appearance
	constant string      // "true" or "false" where it is that for all claims
	patterns int         // size of its regular expressions, see measurePattern

	// parts are what stands between its outermost &&, if any does.
	parts func() []*expression
}

// placed is an expression at its place in one workload.
type placed struct {
	*expression
	position string
}

// expression compiles the key expr, if the workload has it.
func (p *parser) expression(w *workload, n *strictyaml.Node) {
	v := n.Get(exprRule)
	if v == nil || p.doc.Full() { // the file is refused, and no further problem is listed
		return
	}
	source, ok := p.doc.Text(v)
	if !ok {
		return
	}
	x, err := p.exprsOf(w.tee)
	if err != nil { // a fault of this package: nothing is admitted for it
		p.doc.Report(v, err.Error(), "")
		return
	}
	e, known := x.done[source]
	if !known {
		if p.exprSize += len(source); p.exprSize > maxExprTotal {
			p.doc.Report(v, fmt.Sprintf("the bundle's expressions have more than %d bytes altogether", maxExprTotal), "workloads may share one expression; what differs from workload to workload is better told by match")
			return
		}
		var found []exprProblem
		if e, found = x.compile(source); len(found) > 0 {
			for _, f := range found {
				line, col := p.doc.Within(v, f.offset)
				p.doc.ReportAt(line, col, f.msg, f.hint)
			}
			return
		}
		if p.patterns.size += e.patterns; p.patterns.size > maxPatternsRanges {
			p.doc.Report(v, "the regular expressions of this bundle are too large together", "compare with == and in, or repeat smaller classes, such as [a-z]")
			return
		}
		x.done[source] = e
	}
	w.expr = &placed{e, p.position(n.Key(exprRule))}
	if e.constant != "" {
		msg := "the expression is always " + e.constant + ", whatever the claims"
		if e.constant == "false" {
			msg += ": the workload never matches"
		}
		p.warn(v, CodeConstantExpression, msg, "an expression is for what match cannot say: "+w.tee.root+".… names the claims")
	}
}

// exprsOf is the environment of a platform, made when the first expression needs
// it.
func (p *parser) exprsOf(t *tee) (*exprs, error) {
	if x := p.exprs[t]; x != nil {
		return x, nil
	}
	x, err := newExprs(t)
	if err == nil {
		p.exprs[t] = x
	}
	return x, err
}

// exprProblem is a mistake in an expression.
type exprProblem struct {
	offset    int // in characters
	msg, hint string
}

// compile checks and compiles a source.
func (x *exprs) compile(source string) (out *expression, found []exprProblem) {
	defer func() { // the compiler is a large one, and files come from the network
		if r := recover(); r != nil {
			out, found = nil, []exprProblem{{0, fmt.Sprintf("the expression cannot be compiled: %v", r), ""}}
		}
	}()
	at := func(offset int, msg, hint string) (*expression, []exprProblem) {
		return nil, []exprProblem{{offset, msg, hint}}
	}
	switch n := utf8.RuneCountInString(source); {
	case strings.TrimSpace(source) == "":
		return at(0, "the expression is empty", "for example "+x.example())
	case n > maxExprSize:
		return at(0, fmt.Sprintf("the expression is too long: %d characters, at most %d", n, maxExprSize), "what is this long is better told by match and reference sets")
	}
	checked, issues := x.env.Compile(source)
	if errs := issues.Errors(); len(errs) > 0 { // Err would draw them all, at length
		return nil, x.problems(source, errs)
	}
	if t := checked.OutputType(); !t.IsExactType(types.BoolType) {
		return at(0, fmt.Sprintf("the expression yields %s, not true or false", t), "compare it with something")
	}
	found, patterns := x.lint(checked)
	if len(found) > 0 {
		return nil, found
	}
	estimate, err := x.env.EstimateCost(checked, x)
	if err != nil {
		return at(0, "the cost of the expression cannot be bounded: "+err.Error(), "")
	}
	if estimate.Max > maxExprCost {
		return at(0, fmt.Sprintf("the expression may cost up to %d, at most %d is allowed", estimate.Max, maxExprCost), "regular expressions over long text, and all or exists over long lists, cost most")
	}
	program, err := x.env.Program(checked, cel.CostLimit(maxExprCost), cel.EvalOptions(cel.OptOptimize))
	if err != nil {
		return at(0, "the expression cannot be compiled: "+err.Error(), "")
	}
	out = &expression{source: source, program: program, reads: x.reads(checked), constant: x.constant(checked), patterns: patterns}
	out.parts = sync.OnceValue(func() []*expression { return x.parts(checked) })
	return out, nil
}

// maxParts bounds the parts that a failure is traced to.
const maxParts = 16

// parts compiles what stands between the outermost && of an expression, if any
// does, so that a failure can be traced to one. It is called when the first one
// is explained.
func (x *exprs) parts(checked *cel.Ast) (out []*expression) {
	defer func() {
		if recover() != nil {
			out = nil // it is only a hint
		}
	}()
	native := checked.NativeRep()
	var divide func(e ast.Expr) bool
	divide = func(e ast.Expr) bool {
		if e.Kind() == ast.CallKind && e.AsCall().FunctionName() == operators.LogicalAnd {
			return !slices.ContainsFunc(e.AsCall().Args(), func(arg ast.Expr) bool { return !divide(arg) })
		}
		source, err := celparser.Unparse(e, native.SourceInfo())
		if err != nil || len(out) == maxParts {
			return false
		}
		part, issues := x.env.Compile(source)
		if len(issues.Errors()) > 0 {
			return false
		}
		program, err := x.env.Program(part, cel.CostLimit(maxExprCost))
		if err != nil {
			return false
		}
		out = append(out, &expression{source: source, program: program})
		return true
	}
	if !divide(native.Expr()) || len(out) < 2 {
		return nil
	}
	return out
}

// example is an expression over the platform's first claims.
func (x *exprs) example() string {
	names := x.names()
	return fmt.Sprintf("%s == …", names[0])
}

func (x *exprs) names() []string {
	out := make([]string, 0, len(x.vars))
	for name := range x.vars {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

// functions names what expressions can call, for hints.
const functions = "size, contains, startsWith, endsWith, matches, all, exists, exists_one"

// problems puts CEL's errors in their places.
func (x *exprs) problems(source string, errs []*cel.Error) []exprProblem {
	var out []exprProblem
	for _, e := range errs[:min(len(errs), 8)] {
		p := exprProblem{offset: offsetOf(source, e.Location.Line(), e.Location.Column())}
		if name, ok := strings.CutPrefix(e.Message, "undeclared reference to '"); ok {
			name, _, _ = strings.Cut(name, "'")
			p = x.undeclared([]rune(source), p.offset, name)
		} else {
			p.msg = "the expression is not valid: " + tidy(e.Message)
			if strings.Contains(e.Message, "no matching overload") && strings.Contains(e.Message, "string") {
				p.hint = "text is compared with ==, !=, in, contains, startsWith, endsWith and matches; it has no order, and is not joined"
			}
		}
		if !slices.ContainsFunc(out, func(o exprProblem) bool { return o.offset == p.offset }) {
			out = append(out, p)
		}
	}
	return out
}

// undeclared explains a name or function that does not exist.
func (x *exprs) undeclared(source []rune, at int, name string) exprProblem {
	inName := func(r rune) bool {
		return r == '_' || r == '.' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
	}
	if at < len(source) && source[at] == '(' {
		for at > 0 && inName(source[at-1]) && source[at-1] != '.' {
			at--
		}
		return exprProblem{at, fmt.Sprintf("expressions have no function %q", clip(name)), "they have " + functions}
	}
	// The place is inside the dotted name, of which the first word is unknown.
	from, to := min(at, len(source)), min(at, len(source))
	for from > 0 && inName(source[from-1]) {
		from--
	}
	for to < len(source) && inName(source[to]) {
		to++
	}
	if to > from {
		name = string(source[from:to])
	}
	all := x.names()
	root, _, _ := strings.Cut(all[0], ".")
	hint := "names of claims begin with " + root + "."
	if near := strictyaml.Nearest(name, all); near != "" {
		hint = fmt.Sprintf("did you mean %s? %s", near, hint)
	}
	return exprProblem{from, fmt.Sprintf("expressions know no %q here", clip(name)), hint}
}

var celOperator = regexp.MustCompile(`'(?:_?([^_'a-z ]+)_?|@(in))'`)

// tidy makes CEL's messages one short line.
func tidy(msg string) string {
	msg = strings.Join(strings.Fields(msg), " ")
	msg = strings.TrimSuffix(msg, " (in container '')")
	msg, _, _ = strings.Cut(msg, " expecting ")
	msg = strings.ReplaceAll(msg, "'<EOF>'", "the end")
	return truncate(celOperator.ReplaceAllString(msg, "$1$2"), 200)
}

// offsetOf is a place by line (from 1) and column (from 0), in characters.
func offsetOf(source string, line, col int) int {
	at := 0
	for i, l := range strings.Split(source, "\n") {
		if i == line-1 {
			return at + max(min(col, utf8.RuneCountInString(l)), 0)
		}
		at += utf8.RuneCountInString(l) + 1
	}
	return 0
}

// shorten cuts text that decisions show.
func shorten(s string) string { return truncate(s, maxShown) }

func truncate(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	return string([]rune(s)[:n]) + "…"
}
