package diff

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/assay-project/assay/policy"
)

// Options of a comparison.
type Options struct {
	// From is the moment from which on policies are compared; what is past
	// differs for nobody. It must be set.
	From time.Time
	// Progress is told how many of the workloads are compared; may be nil.
	Progress func(done, total int)
}

// Bounds of the work for one workload.
const (
	maxWork    = 400_000 // literals that are looked at
	maxCells   = 2000    // stretches of time
	maxPerKind = 12      // differences that are listed
)

// secret is what rollouts draw with here: the server's is not at hand, and which
// hardware is drawn is not what a policy says.
var secret = bytes.Repeat([]byte("diff"), policy.SecretSize/4)

type comparison struct {
	a, b   *side
	opts   Options
	report *Report
	keys   map[policy.ModelTest]string
}

// Compare says in what two policies differ. An error is a fault of this program: a
// counterexample on which the two do not differ.
func Compare(ctx context.Context, a, b *policy.Bundle, opts Options) (*Report, error) {
	c := &comparison{opts: opts, keys: map[policy.ModelTest]string{}}
	for _, x := range []**policy.Bundle{&a, &b} {
		with, err := (*x).WithSecret(secret)
		if err != nil {
			return nil, err
		}
		*x = with
	}
	describe := func(b *policy.Bundle) Policy {
		d := b.Digest()
		return Policy{Policy: b.Version(), Digest: d[:]}
	}
	c.a, c.b = newSide("A", a), newSide("B", b)
	c.report = &Report{
		A: describe(a), B: describe(b), From: opts.From.UTC(),
		Widenings: []Difference{}, Narrowings: []Difference{}, Changes: []Change{}, Undecided: []Undecided{},
	}
	total, done := len(c.a.all)+len(c.b.all), 0
	for _, x := range []struct{ mine, other *side }{{c.b, c.a}, {c.a, c.b}} {
		for _, w := range x.mine.all {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			if err := c.workload(w, x.mine, x.other); err != nil {
				return nil, err
			}
			if done++; opts.Progress != nil {
				opts.Progress(done, total)
			}
		}
	}
	return c.report, nil
}

// workload finds what a workload of mine admits that the other policy does not
// admit, and, once, what both admit and grant differently.
func (c *comparison) workload(w *policy.ModelWorkload, mine, other *side) error {
	p := &part{comparison: c, w: w, mine: mine, other: other, work: &work{left: maxWork}}
	p.rivals, p.others = mine.candidates(w), other.candidates(w)
	moments := breaks(w)
	for _, o := range slices.Concat(p.rivals, p.others) {
		moments = append(moments, breaks(o)...)
	}
	moments = slices.DeleteFunc(moments, func(t time.Time) bool { return !t.After(c.opts.From) })
	moments = append(moments, c.opts.From)
	slices.SortFunc(moments, time.Time.Compare)
	moments = slices.CompactFunc(moments, time.Time.Equal)
	if len(p.rivals) == 0 && len(p.others) == 1 && c.matchKey(w, mine) == c.matchKey(p.others[0], other) {
		// The same demands: neither admits what the other refuses, at any time.
		p.same = true
		what, expand := grants(p.others[0], w, p.others[0].Pinned, w.Pinned)
		if mine.name != "B" || len(what) == 0 && !expand {
			return nil
		}
		p.once = !expand
	}
	if len(moments) > maxCells && !p.once {
		p.undecided(fmt.Sprintf("too large: windows divide time into %d stretches", len(moments)), nil)
		return nil
	}
	for i, at := range moments {
		p.at, p.until = at.UTC(), nil
		if i+1 < len(moments) {
			end := moments[i+1].UTC()
			p.until = &end
		}
		before := len(p.report.Changes)
		if err := p.cell(); err != nil {
			return err
		}
		if p.once && len(p.report.Changes) > before {
			last := &p.report.Changes[before]
			last.Until = nil
			return nil // what they grant differs in the same way as long as they grant
		}
		if p.work.left <= 0 {
			p.undecided("too large: the workload overlaps with others in too many ways", nil)
			return nil
		}
	}
	return nil
}

// matchKey is the same for workloads that are written to demand the same.
func (c *comparison) matchKey(w *policy.ModelWorkload, s *side) string {
	key := func(t policy.ModelTest) string {
		k, ok := c.keys[t]
		if !ok {
			k = t.Key()
			c.keys[t] = k
		}
		return k
	}
	var all []string
	for _, r := range w.Rules {
		k := []string{key(r.ModelTest)}
		for _, x := range r.Waivers {
			var when []string
			for _, t := range x.When {
				when = append(when, key(t))
			}
			slices.Sort(when)
			k = append(k, "waived until "+x.Expires.String()+strings.Join(when, "\x01"))
		}
		slices.Sort(k[1:])
		all = append(all, strings.Join(k, "\x02"))
	}
	slices.Sort(all)
	if w.Expr != nil {
		all = append(all, "expr "+w.Expr.Source)
	}
	if w.Mode == policy.Rollout {
		all = append(all, fmt.Sprintf("draw %s/%s %d", s.bundle.Name(), w.Name, w.Rollout))
	}
	return strings.Join(append(all, "until "+w.Expires.String()), "\x03")
}

// part is the comparison of one workload, at one moment after the other.
type part struct {
	*comparison
	w              *policy.ModelWorkload
	mine, other    *side
	rivals, others []*policy.ModelWorkload
	same           bool // the workload demands what its one counterpart does
	once           bool // and what both grant does not depend on claims
	work           *work
	at             time.Time
	until          *time.Time
	told           map[string]bool
	listed         int
}

func (p *part) undecided(why string, what []string) {
	if p.told == nil {
		p.told = map[string]bool{}
	}
	if key := why + strings.Join(what, "\n"); !p.told[key] {
		p.told[key] = true
		if what == nil {
			what = []string{}
		}
		p.report.Undecided = append(p.report.Undecided, Undecided{TEE: p.w.Platform, Workload: p.w.Name, In: p.mine.name, Why: why, What: what})
	}
}

// cell compares at one moment.
func (p *part) cell() error {
	f := &freezer{at: p.at, done: map[policy.ModelTest]literal{}}
	regions := map[*policy.ModelWorkload]region{}
	get := func(s *side, w *policy.ModelWorkload) bool {
		r, ok := s.region(w, f)
		regions[w] = r
		return ok
	}
	ok := get(p.mine, p.w)
	for _, r := range p.rivals {
		ok = get(p.mine, r) && ok
	}
	for _, o := range p.others {
		ok = get(p.other, o) && ok
	}
	if !ok {
		p.undecided("too large: waivers let a workload match in too many ways", nil)
		return nil
	}
	rest := (&box{}).within(regions[p.w], p.at, p.work)
	rest = disjoint(rest, regions[p.w], p.at, p.work)
	for _, r := range p.rivals {
		rest = outside(rest, regions[r], p.at, p.work) // ambiguous: denied
	}
	if p.same {
		return p.both(rest, p.others[0])
	}
	for i, o := range p.others {
		var common []*box
		for _, b := range rest {
			common = append(common, b.within(regions[o], p.at, p.work)...)
		}
		rest = outside(rest, regions[o], p.at, p.work)
		// What two others match, the other policy denies as ambiguous.
		for _, next := range p.others[i+1:] {
			for _, b := range common {
				for _, twice := range b.within(regions[next], p.at, p.work) {
					if err := p.differs(twice, fmt.Sprintf("both %s and %s match", o.Name, next.Name)); err != nil {
						return err
					}
				}
			}
			common = outside(common, regions[next], p.at, p.work)
		}
		if err := p.both(common, o); err != nil {
			return err
		}
	}
	for _, b := range rest {
		if err := p.differs(b, ""); err != nil {
			return err
		}
	}
	return nil
}

// disjoint makes the ways of one workload not overlap. With one way they do not.
func disjoint(boxes []*box, r region, at time.Time, w *work) []*box {
	if len(r) < 2 {
		return boxes
	}
	var out []*box
	for i := range r {
		in := (&box{}).within(r[i:i+1], at, w)
		out = append(out, outside(in, r[:i], at, w)...)
	}
	return out
}

// differs reports the claims of a box, which mine admits and the other refuses.
func (p *part) differs(b *box, ambiguous string) error {
	what := b.words(p.at)
	if ambiguous != "" {
		what = append(what, ambiguous)
	}
	list := &p.report.Narrowings
	if p.mine.name == "B" {
		list = &p.report.Widenings
	}
	key := b.about() + ambiguous
	// The same difference in the stretch of time before goes on.
	for i := len(*list) - 1; i >= 0 && (*list)[i].Workload == p.w.Name && (*list)[i].TEE == p.w.Platform; i-- {
		if d := &(*list)[i]; d.key == key && d.Until != nil && d.Until.Equal(p.at) && slices.Equal(d.words, what) {
			d.Until = p.until
			return nil
		}
	}
	claims, is, why := p.claims(p.w.Platform, b, p.at)
	switch is {
	case none:
		return nil
	case unknown:
		p.undecided(why, what)
		return nil
	case some:
	}
	mine, other := p.mine.bundle.Evaluate(claims, p.at), p.other.bundle.Evaluate(claims, p.at)
	if mine.Outcome != policy.Granted || other.Outcome == policy.Granted {
		return fmt.Errorf("diff: a fault of this program: of workload %s, %s says %s (%s) and %s says %s (%s) to a counterexample: %s", p.w.Name,
			p.mine.name, mine.Outcome, mine.Detail, p.other.name, other.Outcome, other.Detail, strings.Join(what, "; "))
	}
	if p.listed++; p.listed > maxPerKind {
		if p.listed == maxPerKind+1 {
			p.undecided(fmt.Sprintf("more than %d differences: the others are not listed", maxPerKind), nil)
		}
		return nil
	}
	said := what
	if len(said) == 0 {
		said = p.instead(b, other)
	}
	*list = append(*list, Difference{
		words: what, TEE: p.w.Platform, Workload: p.w.Name, What: said, Why: reason(other), From: p.at, Until: p.until, At: p.at, Claims: claims, key: key,
	})
	return nil
}

// instead says what is admitted where no workload of the other policy comes near:
// the claims that fail the one that comes nearest.
func (p *part) instead(b *box, d policy.Decision) []string {
	near := d.NearestFirst()
	if len(near) == 0 {
		return []string{"the other policy has no workload for this TEE"}
	}
	out := []string{}
	for _, r := range near[0].Rules {
		i := slices.IndexFunc(b.cons, func(c con) bool { return c.claim.Name() == r.Rule })
		if r.Holds || i < 0 {
			continue
		}
		k := b.cons[i].constraint()
		out = append(out, r.Rule+" is "+named(k, p.at))
	}
	if len(out) == 0 {
		out = append(out, "nothing of the other policy admits it")
	}
	return out
}

// named writes the values that meet a constraint, as far as they are few.
func named(k policy.Constraint, at time.Time) string {
	var vs []string
	all := k.Candidates(at)
	for _, v := range all[:min(len(all), maxNamed)] {
		vs = append(vs, k.Claim.Format(v))
	}
	if more := len(all) - len(vs); more > 0 {
		vs = append(vs, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(vs, ", ")
}

func reason(d policy.Decision) string {
	if d.Detail != "" {
		return d.Reason + ": " + d.Detail
	}
	return d.Reason
}

// about names the claims that keep the box out of the other policy.
func (b *box) about() string {
	var out []string
	for _, c := range b.cons {
		if len(c.not) > 0 {
			out = append(out, c.claim.Name())
		}
	}
	return strings.Join(out, " ")
}

// maxNamed bounds the values that are written down of one claim.
const maxNamed = 3

// words say what a box has that others have not.
func (b *box) words(at time.Time) []string {
	out := []string{}
	for _, c := range b.cons {
		if len(c.not) == 0 {
			continue
		}
		name := c.claim.Name()
		finite := slices.IndexFunc(c.must, func(l literal) bool { return l.test.Size() > 0 && l.test.Values() != nil })
		if finite >= 0 {
			out = append(out, name+" is "+named(c.constraint(), at))
			continue
		}
		var must, not []string
		for _, l := range c.must {
			must = append(must, l.test.Expected())
		}
		for _, l := range c.not {
			not = append(not, l.test.Expected())
		}
		s := name + " is anything but " + strings.Join(not, ", and not ")
		if len(must) > 0 {
			s = name + " is " + strings.Join(must, " and ") + ", but not " + strings.Join(not, ", and not ")
		}
		out = append(out, s)
	}
	for _, w := range b.exprs {
		if !w.holds {
			out = append(out, "the expression does not hold: "+w.expr.Source)
		}
	}
	for _, s := range b.draws {
		if s.lo > 0 {
			out = append(out, fmt.Sprintf("the rollout of %s draws from %s up to %s", s.workload(), percent(s.lo), percent(s.hi)))
		}
	}
	return out
}

func percent(n uint64) string { return fmt.Sprintf("%g%%", float64(n)/100) }

func (s span) bundle() string   { name, _, _ := strings.Cut(s.key, "/"); return name }
func (s span) workload() string { _, name, _ := strings.Cut(s.key, "/"); return name }
