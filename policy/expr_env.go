package policy

import (
	"fmt"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/env"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types"
)

// Bounds of expressions. A policy's author is trusted, but may err; claims are
// an attester's choice. Cost is in the units of CEL: about one for each operation,
// and a tenth for each character that is looked at.
const (
	maxExprSize   = 4096    // characters
	maxExprTotal  = 2 << 20 // bytes of all different expressions of a bundle
	maxExprNodes  = 2000    // after macros are expanded
	maxExprDepth  = 48      // parentheses and operators within each other
	maxExprNested = 2       // all and exists within each other
	maxExprRegex  = 1000    // instructions of a compiled regular expression
	maxExprCost   = 10000   // the most that an expression may cost, estimated and spent
	maxExprsCost  = 100_000 // the most that all expressions of a decision may cost
	maxListed     = 128     // elements of a claim that is a list
	maxShown      = 200     // characters of one claim in a decision
)

// variable is what expressions can read of a claim: all of it, or a component.
type variable struct {
	name string // "snp.guest_svn", "snp.reported_tcb.bl"
	kind *cel.Type
	size int // the most characters or elements it has
	// read yields the value as CEL has it; false where this claim lacks the component.
	read func(v value) (any, bool)

	field *field
}

// readable is implemented by the kinds whose claims expressions can read.
type readable interface {
	// variables lists what can be read of a claim; name is its own with the
	// platform's prefix.
	variables(name string) []variable
}

// exprs is the environment of one platform's expressions: its claims as typed
// variables, and the functions of CEL that are cheap and mean what they seem to.
// Left out are the clock (there is none in CEL, but timestamps), conversions,
// concatenation, comparison of text by order (versions are no text), and the
// macros that build lists.
type exprs struct {
	env  *cel.Env
	vars map[string]*variable
	done map[string]*expression // by source
}

// newExprs derives the environment from the platform's table.
func newExprs(t *tee) (*exprs, error) {
	out := &exprs{vars: map[string]*variable{}, done: map[string]*expression{}}
	opts := []cel.EnvOption{
		cel.StdLib(cel.StdLibSubset(exprLibrary())),
		cel.HomogeneousAggregateLiterals(),
		cel.EnableMacroCallTracking(), // to write parts of an expression again
		cel.ParserExpressionSizeLimit(maxExprSize),
		cel.ParserRecursionLimit(maxExprDepth),
		cel.ExpressionNodeLimit(maxExprNodes),
		cel.RegexProgramSizeLimit(maxExprRegex),
		cel.ASTValidators(cel.ValidateRegexLiterals(), cel.ValidateHomogeneousAggregateLiterals(), cel.ValidateComprehensionNestingLimit(maxExprNested)),
	}
	for _, f := range t.fields {
		k, ok := f.kind.(readable)
		if !ok {
			continue
		}
		for _, v := range k.variables(t.root + "." + f.name) {
			v.field = f
			out.vars[v.name] = &v
			opts = append(opts, cel.Variable(v.name, v.kind))
		}
	}
	var err error
	if out.env, err = cel.NewCustomEnv(opts...); err != nil {
		return nil, fmt.Errorf("policy: the expressions of %s: %w", t.platform, err)
	}
	return out, nil
}

// exprLibrary is the part of CEL's standard library that expressions have.
func exprLibrary() *env.LibrarySubset {
	all := func(name string) *env.Function { return &env.Function{Name: name} }
	only := func(name string, ids ...string) *env.Function {
		f := all(name)
		for _, id := range ids {
			f.Overloads = append(f.Overloads, &env.Overload{ID: id})
		}
		return f
	}
	return &env.LibrarySubset{
		IncludeMacros: []string{operators.All, operators.Exists, operators.ExistsOne},
		IncludeFunctions: []*env.Function{
			all(operators.LogicalAnd), all(operators.LogicalOr), all(operators.LogicalNot), all(operators.Conditional),
			all(operators.NotStrictlyFalse), all(operators.Equals), all(operators.NotEquals),
			only(operators.Less, overloads.LessInt64), only(operators.LessEquals, overloads.LessEqualsInt64),
			only(operators.Greater, overloads.GreaterInt64), only(operators.GreaterEquals, overloads.GreaterEqualsInt64),
			only(operators.Add, overloads.AddInt64), only(operators.Subtract, overloads.SubtractInt64),
			only(operators.Multiply, overloads.MultiplyInt64), only(operators.Divide, overloads.DivideInt64),
			only(operators.Modulo, overloads.ModuloInt64), only(operators.Negate, overloads.NegateInt64),
			only(operators.In, overloads.InList), only(operators.Index, overloads.IndexList),
			only(overloads.Size, overloads.SizeString, overloads.SizeList, overloads.SizeStringInst, overloads.SizeListInst),
			all(overloads.Contains), all(overloads.StartsWith), all(overloads.EndsWith), all(overloads.Matches),
		},
	}
}

// The estimate of an expression's cost knows how long claims can be.

// EstimateCallCost leaves the cost of functions to CEL.
func (x *exprs) EstimateCallCost(string, string, *cost.AstNode, []cost.AstNode) *cost.CallEstimate {
	return nil
}

// EstimateSize is the length of a claim, or of an element of one.
func (x *exprs) EstimateSize(n cost.AstNode) *cost.SizeEstimate {
	path := n.Path()
	if len(path) == 0 {
		return nil
	}
	name, _, element := strings.Cut(strings.Join(path, "."), ".@")
	v := x.vars[name]
	switch {
	case v == nil:
		return nil
	case element && n.Type().Kind() != types.ListKind:
		return &cost.SizeEstimate{Min: 0, Max: 2 * 64} // an element is a digest or a number
	}
	return &cost.SizeEstimate{Min: 0, Max: uint64(v.size)}
}
