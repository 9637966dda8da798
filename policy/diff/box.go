package diff

import (
	"cmp"
	"slices"
	"time"

	"github.com/assay-project/assay/policy"
)

// literal is one thing that a workload demands: a test over a claim, frozen at a
// moment; an expression; or a draw below a share.
type literal struct {
	test policy.ModelTest
	key  string // of the test
	expr *policy.ModelExpr
	draw string // the workload that draws, with its bundle
	most uint64 // its share
}

// region is what a workload admits at one moment: the union of conjunctions.
type region [][]literal

// box is a conjunction of literals and of negated ones.
type box struct {
	cons  []con // by claim
	exprs []wanted
	draws []span
}

type con struct {
	claim     policy.ModelClaim
	must, not []literal
}

type wanted struct {
	expr  *policy.ModelExpr
	holds bool
}

// span is from lo, up to and not including hi.
type span struct {
	key    string
	lo, hi uint64
}

const fullShare = 100 * 100

// narrow is the box with one literal more, or with its negation; false where no
// claims are left, as far as one claim alone can tell.
func (b *box) narrow(l literal, holds bool, at time.Time) (*box, bool) {
	switch {
	case l.expr != nil:
		i := slices.IndexFunc(b.exprs, func(w wanted) bool { return w.expr.Source == l.expr.Source })
		if i >= 0 {
			return b, b.exprs[i].holds == holds
		}
		out := *b
		out.exprs = append(slices.Clone(b.exprs), wanted{l.expr, holds})
		return &out, true
	case l.draw != "":
		s := span{l.draw, 0, l.most}
		if !holds {
			s.lo, s.hi = l.most, fullShare
		}
		out := *b
		out.draws = slices.Clone(b.draws)
		i := slices.IndexFunc(out.draws, func(o span) bool { return o.key == s.key })
		if i < 0 {
			out.draws = append(out.draws, s)
			return &out, s.lo < s.hi
		}
		o := &out.draws[i]
		o.lo, o.hi = max(o.lo, s.lo), min(o.hi, s.hi)
		return &out, o.lo < o.hi
	}
	c := con{claim: l.test.Claim}
	i := slices.IndexFunc(b.cons, func(o con) bool { return o.claim == c.claim })
	if i >= 0 {
		c = b.cons[i]
	}
	same := func(o literal) bool { return o.key == l.key }
	switch must, not := slices.ContainsFunc(c.must, same), slices.ContainsFunc(c.not, same); {
	case must && holds || not && !holds:
		return b, true
	case must || not:
		return nil, false
	case holds:
		c.must = append(slices.Clone(c.must), l)
	default:
		c.not = append(slices.Clone(c.not), l)
	}
	k := c.constraint()
	if ok, known := k.Possible(at); !ok && known {
		return nil, false
	}
	out := *b
	out.cons = slices.Clone(b.cons)
	if i >= 0 {
		out.cons[i] = c
	} else {
		out.cons = append(out.cons, c)
		slices.SortFunc(out.cons, func(x, y con) int { return cmp.Compare(x.claim.Index(), y.claim.Index()) })
	}
	return &out, true
}

func (c con) constraint() policy.Constraint {
	k := policy.Constraint{Claim: c.claim}
	for _, l := range c.must {
		k.Must = append(k.Must, l.test)
	}
	for _, l := range c.not {
		k.Not = append(k.Not, l.test)
	}
	return k
}

func (b *box) constraints() []policy.Constraint {
	out := make([]policy.Constraint, len(b.cons))
	for i, c := range b.cons {
		out[i] = c.constraint()
	}
	return out
}

// work counts what a comparison costs, and ends it.
type work struct{ left int }

func (w *work) spend() bool {
	w.left--
	return w.left > 0
}

// within is the part of the box that lies in a region: boxes that may overlap.
func (b *box) within(r region, at time.Time, w *work) (out []*box) {
	for _, all := range r {
		if in := b.all(all, at, w); in != nil {
			out = append(out, in)
		}
	}
	return out
}

func (b *box) all(literals []literal, at time.Time, w *work) *box {
	in := b
	for _, l := range literals {
		var ok bool
		if !w.spend() {
			return nil
		}
		if in, ok = in.narrow(l, true, at); !ok {
			return nil
		}
	}
	return in
}

// outside is the part of the boxes that lies in none of a region.
func outside(boxes []*box, r region, at time.Time, w *work) []*box {
	for _, all := range r {
		var next []*box
		for _, b := range boxes {
			if b.all(all, at, w) == nil {
				if w.left <= 0 {
					return nil
				}
				next = append(next, b)
				continue
			}
			cur := b
			for _, l := range all {
				if !w.spend() {
					return nil
				}
				if beside, ok := cur.narrow(l, false, at); ok {
					next = append(next, beside)
				}
				cur, _ = cur.narrow(l, true, at) // it is: the whole conjunction meets the box
			}
		}
		boxes = next
	}
	return boxes
}
