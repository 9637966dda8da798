package policy

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/overloads"
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
	if found := x.lint(checked); len(found) > 0 {
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
	out = &expression{source: source, program: program, reads: x.reads(checked), constant: x.constant(checked)}
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

// lint finds what compiles and cannot be meant.
func (x *exprs) lint(checked *cel.Ast) []exprProblem {
	var out []exprProblem
	native := checked.NativeRep()
	place := func(e ast.Expr) int {
		at := native.SourceInfo().GetStartLocation(e.ID())
		return offsetOf(checked.Source().Content(), at.Line(), at.Column())
	}
	ast.PreOrderVisit(native.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if e.Kind() != ast.CallKind {
			return
		}
		call := e.AsCall()
		switch call.FunctionName() {
		case overloads.Matches:
			if len(call.Args()) > 0 && literal(call.Args()[len(call.Args())-1]) == nil {
				out = append(out, exprProblem{place(call.Args()[len(call.Args())-1]), "a regular expression must be written in place", "one out of a claim would be an attester's choice"})
			}
		case operators.Equals, operators.NotEquals:
			for i, arg := range call.Args() {
				x.compared(native, call.Args()[1-i], arg, place, &out)
			}
		case operators.In:
			if list := call.Args()[1]; list.Kind() == ast.ListKind {
				for _, arg := range list.AsList().Elements() {
					x.compared(native, call.Args()[0], arg, place, &out)
				}
			}
		}
	}))
	slices.SortStableFunc(out, func(a, b exprProblem) int { return cmp.Compare(a.offset, b.offset) })
	return out
}

// compared finds text that a digest never is.
func (x *exprs) compared(native *ast.AST, claim, with ast.Expr, place func(ast.Expr) int, out *[]exprProblem) {
	ref, ok := native.ReferenceMap()[claim.ID()]
	if !ok || x.vars[ref.Name] == nil {
		return
	}
	s, ok := literal(with).(string)
	if !ok {
		return
	}
	hint := never(x.vars[ref.Name].field.kind, s)
	if hint == "" {
		return
	}
	*out = append(*out, exprProblem{place(with), fmt.Sprintf("%s is never %q", ref.Name, clip(s)), hint})
}

// never says what a claim of the kind looks like, where it never is the text.
func never(k kind, s string) string {
	var lengths []int
	switch k := k.(type) {
	case digest:
		lengths = []int{2 * k.n}
	case identifier:
		lengths = []int{2 * k.n}
	case chipID:
		lengths = []int{2 * chipLength, 2 * turinLength}
	case register:
		for _, b := range banks {
			lengths = append(lengths, 2*b.n)
		}
	case enum:
		if words := strings.Split(k.words, "|"); !slices.Contains(words, s) {
			return "it is one of " + strings.Join(words, ", ")
		}
		return ""
	default:
		return ""
	}
	if slices.Contains(lengths, len(s)) && strings.Trim(s, "0123456789abcdef") == "" {
		return ""
	}
	want := make([]string, len(lengths))
	for i, n := range lengths {
		want[i] = fmt.Sprint(n)
	}
	return "it is " + strings.Join(want, " or ") + " characters of hex, in lower case"
}

// literal is the value of a literal, or nil.
func literal(e ast.Expr) any {
	if e.Kind() != ast.LiteralKind {
		return nil
	}
	return e.AsLiteral().Value()
}

// reads lists the claims that an expression names.
func (x *exprs) reads(checked *cel.Ast) []*variable {
	var out []*variable
	native := checked.NativeRep()
	type named struct {
		at  int
		ref *variable
	}
	var all []named
	for id, ref := range native.ReferenceMap() {
		if v := x.vars[ref.Name]; v != nil {
			at := native.SourceInfo().GetStartLocation(id)
			all = append(all, named{offsetOf(checked.Source().Content(), at.Line(), at.Column()), v})
		}
	}
	slices.SortFunc(all, func(a, b named) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.ref.name, b.ref.name)) })
	for _, n := range all {
		if !slices.Contains(out, n.ref) {
			out = append(out, n.ref)
		}
	}
	return out
}

// constant is "true" or "false" where the expression is that for all claims, as
// far as folding constants shows.
func (x *exprs) constant(checked *cel.Ast) string {
	fold, err := cel.NewConstantFoldingOptimizer()
	if err != nil {
		return ""
	}
	opt, err := cel.NewStaticOptimizer(fold)
	if err != nil {
		return ""
	}
	folded, issues := opt.Optimize(x.env, checked)
	if len(issues.Errors()) > 0 {
		return ""
	}
	if b, ok := literal(folded.NativeRep().Expr()).(bool); ok {
		return fmt.Sprint(b)
	}
	return ""
}

// exprResult is the outcome of an expression over one set of claims.
type exprResult struct {
	holds     bool
	got, hint string
	input     map[string]any // what it read; nil where it could not
}

// expression evaluates an expression, once for all workloads that share it.
// Whatever goes wrong, it does not hold.
func (e *evaluation) expression(x *expression) exprResult {
	if r, ok := e.exprs[x]; ok {
		return r
	}
	r := e.eval(x)
	if e.exprs == nil {
		e.exprs = map[*expression]exprResult{}
	}
	e.exprs[x] = r
	return r
}

func (e *evaluation) eval(x *expression) exprResult {
	input := make(map[string]any, len(x.reads))
	var missing []string
	for _, v := range x.reads {
		c := e.claim(v.field)
		got, ok := any(nil), false
		if c.present {
			got, ok = v.read(c.value)
		}
		switch {
		case !ok:
			missing = append(missing, v.name)
		case sizeOf(got) > v.size:
			return exprResult{got: fmt.Sprintf("%s has %d characters or elements", v.name, sizeOf(got)), hint: fmt.Sprintf("expressions read at most %d: a longer one never matches", v.size)}
		default:
			input[v.name] = got
		}
	}
	if len(missing) > 0 {
		return exprResult{got: "missing: " + strings.Join(missing, ", "), hint: "an expression does not hold where a claim that it names is missing"}
	}
	var b strings.Builder
	for i, v := range x.reads {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(v.name + " = " + spell(input[v.name]))
	}
	if len(x.reads) == 0 {
		b.WriteString("it names no claim")
	}
	holds, err := x.run(input)
	if err != nil {
		return exprResult{got: b.String(), hint: "it cannot be evaluated: " + tidy(err.Error())}
	}
	return exprResult{holds: holds, got: b.String(), input: input}
}

// blame says which parts of an expression are false.
func (x *expression) blame(input map[string]any) string {
	var wrong []string
	for _, part := range x.parts() {
		if holds, err := part.run(input); err == nil && !holds {
			wrong = append(wrong, part.source)
		}
	}
	switch len(wrong) {
	case 0:
		return "the expression is false for these claims"
	case 1:
		return "this part is false: " + wrong[0]
	}
	return "these parts are false: " + strings.Join(wrong, "; ")
}

var errNotBool = errors.New("it yields neither true nor false")

func (x *expression) run(input map[string]any) (holds bool, err error) {
	defer func() {
		if r := recover(); r != nil {
			holds, err = false, fmt.Errorf("%v", r)
		}
	}()
	out, _, err := x.program.Eval(input)
	if err != nil {
		return false, err
	}
	b, ok := out.(types.Bool)
	if !ok {
		return false, errNotBool
	}
	return bool(b), nil
}

// exprRule shows the expression as a rule.
func (e *evaluation) exprRule(x *placed) RuleResult {
	r := e.expression(x.expression)
	if !r.holds && r.input != nil {
		r.hint = x.blame(r.input)
	}
	return RuleResult{Rule: exprRule, Op: exprRule, Expected: x.source, Got: r.got, Holds: r.holds, Hint: r.hint, Position: x.position}
}

func sizeOf(x any) int {
	switch x := x.(type) {
	case string:
		return len(x)
	case []string:
		return len(x)
	case []int64:
		return len(x)
	}
	return 1
}

func plain(x any) string { return strings.ReplaceAll(fmt.Sprint(x), " ", ", ") }

// shorten cuts text that decisions show.
func shorten(s string) string { return truncate(s, maxShown) }

func truncate(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	return string([]rune(s)[:n]) + "…"
}
