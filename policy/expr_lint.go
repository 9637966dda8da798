package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/overloads"
)

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
