package policy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types"
)

// lint finds what compiles and cannot be meant, and adds up the regular
// expressions.
func (x *exprs) lint(checked *cel.Ast) (found []exprProblem, patterns int) {
	l := &exprLint{x: x, source: checked.Source().Content(), native: checked.NativeRep()}
	l.walk(l.native.Expr(), nil)
	slices.SortStableFunc(l.found, func(a, b exprProblem) int { return cmp.Compare(a.offset, b.offset) })
	l.found = slices.CompactFunc(l.found, func(a, b exprProblem) bool { return a.offset == b.offset })
	return l.found, l.patterns
}

// exprLint walks one expression.
type exprLint struct {
	x        *exprs
	source   string
	native   *ast.AST
	found    []exprProblem
	patterns int // size of the regular expressions, see measurePattern
}

func (l *exprLint) report(e ast.Expr, msg, hint string) {
	at := l.native.SourceInfo().GetStartLocation(e.ID())
	l.found = append(l.found, exprProblem{offsetOf(l.source, at.Line(), at.Column()), msg, hint})
}

// flow is where the text of an expression can come from: claims, and what is
// written in place.
type flow struct {
	claims []*variable
	texts  []ast.Expr
}

func (f flow) with(o flow) flow {
	return flow{slices.Concat(f.claims, o.claims), slices.Concat(f.texts, o.texts)}
}

// flows is what the variables of macros go over, by name.
type flows map[string]flow

// flow follows text through lists, their elements, and both branches of a
// condition. Nothing else in expressions makes text.
func (l *exprLint) flow(e ast.Expr, in flows) (out flow) {
	if ref, ok := l.native.ReferenceMap()[e.ID()]; ok && l.x.vars[ref.Name] != nil {
		return flow{claims: []*variable{l.x.vars[ref.Name]}}
	}
	switch e.Kind() {
	case ast.IdentKind:
		return in[e.AsIdent()]
	case ast.LiteralKind:
		if _, ok := literal(e).(string); ok {
			out.texts = []ast.Expr{e}
		}
	case ast.ListKind:
		for _, of := range e.AsList().Elements() {
			out = out.with(l.flow(of, in))
		}
	case ast.CallKind:
		args := e.AsCall().Args()
		switch e.AsCall().FunctionName() {
		case operators.Conditional:
			return l.flow(args[1], in).with(l.flow(args[2], in))
		case operators.Index:
			return l.flow(args[0], in)
		}
	default: // yields no text
	}
	return out
}

// walk looks at an expression and all that is in it.
func (l *exprLint) walk(e ast.Expr, in flows) {
	if !l.typed(e) {
		return
	}
	switch e.Kind() {
	case ast.CallKind:
		l.call(e.AsCall(), in)
		if e.AsCall().IsMemberFunction() {
			l.walk(e.AsCall().Target(), in)
		}
		for _, arg := range e.AsCall().Args() {
			l.walk(arg, in)
		}
	case ast.SelectKind:
		if _, claim := l.native.ReferenceMap()[e.ID()]; !claim { // a name with dots is a claim
			l.walk(e.AsSelect().Operand(), in)
		}
	case ast.ListKind:
		for _, of := range e.AsList().Elements() {
			l.walk(of, in)
		}
	case ast.ComprehensionKind:
		c := e.AsComprehension()
		l.walk(c.IterRange(), in)
		inner := maps.Clone(in)
		if inner == nil {
			inner = flows{}
		}
		delete(inner, c.AccuVar())
		inner[c.IterVar()] = l.flow(c.IterRange(), in)
		for _, part := range []ast.Expr{c.AccuInit(), c.LoopCondition(), c.LoopStep(), c.Result()} {
			l.walk(part, inner)
		}
	default: // has no parts
	}
}

// typed refuses whatever is neither true or false, a whole number, text nor a list of
// these. CEL's messages and maps hold values of any type, whose comparison
// nothing checks: a negated one would always hold.
func (l *exprLint) typed(e ast.Expr) bool {
	const hint = "expressions know true and false, whole numbers, text, and lists of these"
	switch e.Kind() {
	case ast.StructKind, ast.MapKind:
		l.report(e, "expressions have no messages and no maps", hint)
		return false
	default:
	}
	if t, ok := l.native.TypeMap()[e.ID()]; ok && !plainType(t) {
		l.report(e, fmt.Sprintf("expressions have no values of type %s", t), hint)
		return false
	}
	return true
}

func plainType(t *types.Type) bool {
	if t.Kind() == types.ListKind {
		return len(t.Parameters()) == 1 && plainType(t.Parameters()[0])
	}
	return t.IsExactType(types.BoolType) || t.IsExactType(types.IntType) || t.IsExactType(types.StringType)
}

// call looks at what a function compares.
func (l *exprLint) call(call ast.CallExpr, in flows) {
	args := call.Args()
	if call.IsMemberFunction() {
		args = slices.Concat([]ast.Expr{call.Target()}, args)
	}
	if len(args) != 2 {
		return
	}
	a, b := l.flow(args[0], in), l.flow(args[1], in)
	switch name := call.FunctionName(); name {
	case overloads.Matches:
		l.matches(a, args[1])
	case operators.Equals, operators.NotEquals, operators.In:
		l.compared(a.claims, b.texts, equals)
		l.compared(b.claims, a.texts, equals)
	case overloads.Contains, overloads.StartsWith, overloads.EndsWith:
		l.compared(a.claims, b.texts, map[string]comparison{overloads.Contains: contains, overloads.StartsWith: startsWith, overloads.EndsWith: endsWith}[name])
		l.reversed(a.texts, b.claims, name)
	}
}

// compared finds text that a claim never is, or never has in it: the comparison
// would always fail, and its negation always hold.
func (l *exprLint) compared(claims []*variable, texts []ast.Expr, how comparison) {
	for _, v := range claims {
		for _, with := range texts {
			s, ok := literal(with).(string)
			if !ok {
				continue
			}
			if hint := never(v.field.kind, s, how); hint != "" {
				l.report(with, fmt.Sprintf("%s %s %q", v.name, how, clip(s)), hint)
			}
		}
	}
}

// reversed finds claims that are looked for in text that is written in place: one
// digest in other spelling among them would never be found.
func (l *exprLint) reversed(texts []ast.Expr, claims []*variable, name string) {
	for _, v := range claims {
		if _, spelt := v.field.kind.(spelling); spelt && len(texts) > 0 {
			l.report(texts[0], fmt.Sprintf("%s looks for %s in text", name, v.name), "compare it whole: "+v.name+" in ['…', '…']")
			return
		}
	}
}

// matches finds regular expressions that are no good idea.
func (l *exprLint) matches(of flow, with ast.Expr) {
	s, ok := literal(with).(string)
	if !ok {
		l.report(with, "a regular expression must be written in place", "one out of a claim would be an attester's choice")
		return
	}
	for _, v := range of.claims {
		if _, spelt := v.field.kind.(hexadecimal); spelt {
			l.report(with, v.name+" is hex, and has no pattern: another spelling would never match", "compare it whole, or its beginning with startsWith")
			return
		}
	}
	size, err := measurePattern(s)
	switch {
	case err != nil:
		l.report(with, err.Error(), "the syntax is RE2's (https://github.com/google/re2/wiki/Syntax)")
	case size.ranges > maxPatternRanges:
		l.report(with, fmt.Sprintf("the regular expression is too large: its character classes have %d ends of ranges, at most %d", size.ranges, maxPatternRanges), "repeat smaller classes, such as [A-Za-z0-9]")
	default:
		l.patterns += size.ranges
	}
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
