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
