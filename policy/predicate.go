package policy

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/assay-project/assay/attest"
)

// Predicate is one expression over the claims of one platform, compiled and
// bounded as a workload's expr is: what a ban says of whom it hits. It is safe for
// concurrent use.
type Predicate struct {
	x        *expression
	platform attest.Platform
	fields   int
}

// CompilePredicate compiles an expression. The names that it reads say which
// platform it is about ("snp.guest_svn < 3"). The error is an *[attest.Error] of
// kind Malformed, check "expression", that says where the mistake is. An expression
// that is the same for all claims is one.
func CompilePredicate(source string) (*Predicate, error) {
	var first error
	for _, t := range predicateOrder(source) {
		x, err := newExprs(t)
		if err != nil {
			return nil, &attest.Error{Kind: attest.Internal, Check: exprRule, Err: err}
		}
		e, found := x.compile(source)
		if len(found) > 0 {
			if first == nil {
				first = mistake(source, found[0])
			}
			continue
		}
		switch {
		case e.constant != "":
			return nil, mistake(source, exprProblem{0, "the expression is always " + e.constant + ", whatever the claims", ""})
		case len(e.reads) == 0:
			return nil, mistake(source, exprProblem{0, "the expression names no claim", x.example()})
		}
		return &Predicate{x: e, platform: t.platform, fields: len(t.fields)}, nil
	}
	return nil, first
}

// predicateOrder lists the platforms, the one first whose claims the source seems
// to name: its mistakes are told.
func predicateOrder(source string) []*tee {
	var out, rest []*tee
	for _, t := range tees {
		if strings.Contains(source, t.root+".") {
			out = append(out, t)
		} else {
			rest = append(rest, t)
		}
	}
	return append(out, rest...)
}

func mistake(source string, p exprProblem) error {
	runes := []rune(source)
	at := min(p.offset, len(runes))
	err := errors.New(p.msg)
	if at > 0 {
		err = fmt.Errorf("at character %d (%s): %s", at+1, shorten(string(runes[at:])), p.msg)
	}
	return &attest.Error{Kind: attest.Malformed, Check: "expression", Err: err, Hint: p.hint}
}

// Platform is the one whose claims it is about.
func (p *Predicate) Platform() attest.Platform { return p.platform }

// String is its source.
func (p *Predicate) String() string { return p.x.source }

// Holds reports whether it is true of the claims; of another platform's it never
// is. An error says that it cannot be told: a claim that it names is missing, or
// too long, or it cannot be evaluated. What that means is for the caller: a grant
// is not given for it, and a ban is not escaped by it.
func (p *Predicate) Holds(c attest.Claims) (bool, error) {
	if c.Platform != p.platform {
		return false, nil
	}
	e := &evaluation{claims: &c, at: time.Time{}, read: make([]reading, p.fields)}
	r := e.eval(p.x)
	switch {
	case r.holds:
		return true, nil
	case r.input == nil:
		return false, fmt.Errorf("%s", r.got)
	}
	return false, nil
}
