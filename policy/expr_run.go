package policy

import (
	"errors"
	"fmt"
	"strings"

	"cel.dev/cel-go/common/types"
)

// exprResult is the outcome of an expression over one set of claims.
type exprResult struct {
	holds     bool
	got, hint string
	input     map[string]any // what it read; nil where it could not
	cost      uint64         // in the units of CEL
	skipped   bool           // for what others cost
}

// spend evaluates an expression for the decision itself, while what all expressions
// of one may cost is not spent. Beyond that it does not hold: those of workloads that
// might grant deny the whole, see verdicts.
func (e *evaluation) spend(x *expression) (holds, spent bool) {
	if r, ok := e.exprs[x]; ok {
		return r.holds, !r.skipped
	}
	if e.spent >= maxExprsCost {
		e.remember(x, exprResult{skipped: true, got: "not evaluated", hint: "the expressions of this decision cost too much together: it and all after it do not hold"})
		return false, false
	}
	r := e.expression(x)
	e.spent += r.cost
	return r.holds, true
}

func (e *evaluation) remember(x *expression, r exprResult) {
	if e.exprs == nil {
		e.exprs = map[*expression]exprResult{}
	}
	e.exprs[x] = r
}

// expression evaluates an expression, once for all workloads that share it.
// Whatever goes wrong, it does not hold.
func (e *evaluation) expression(x *expression) exprResult {
	if r, ok := e.exprs[x]; ok {
		return r
	}
	r := e.eval(x)
	e.remember(x, r)
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
	holds, cost, err := x.run(input)
	if err != nil {
		return exprResult{got: b.String(), hint: "it cannot be evaluated: " + tidy(err.Error()), cost: cost}
	}
	return exprResult{holds: holds, got: b.String(), input: input, cost: cost}
}

// blame says which parts of an expression are false.
func (x *expression) blame(input map[string]any) string {
	var wrong []string
	for _, part := range x.parts() {
		if holds, _, err := part.run(input); err == nil && !holds {
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

// fixedCost is what one evaluation costs beside its operations, in their units.
const fixedCost = 20

func (x *expression) run(input map[string]any) (holds bool, cost uint64, err error) {
	cost = maxExprCost // of what fails
	defer func() {
		if r := recover(); r != nil {
			holds, err = false, fmt.Errorf("%v", r)
		}
	}()
	out, details, err := x.program.Eval(input)
	if details != nil {
		if spent := details.ActualCost(); spent != nil {
			cost = *spent + fixedCost
		}
	}
	if err != nil {
		return false, cost, err
	}
	b, ok := out.(types.Bool)
	if !ok {
		return false, cost, errNotBool
	}
	return bool(b), cost, nil
}

// exprRule shows the expression as a rule. What is evaluated for this alone is
// bounded like what decides.
func (e *evaluation) exprRule(x *placed) RuleResult {
	r, known := e.exprs[x.expression]
	switch {
	case known:
	case e.bounded && e.shown >= maxExprsCost:
		r = exprResult{skipped: true, got: "not evaluated", hint: "the expressions of this decision cost too much together; the other rules tell enough"}
	default:
		r = e.expression(x.expression)
		e.shown += r.cost
	}
	if !r.holds && r.input != nil {
		r.hint = "the expression is false for these claims"
		if !e.bounded || e.shown < maxExprsCost {
			e.shown += r.cost
			r.hint = x.blame(r.input)
		}
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
