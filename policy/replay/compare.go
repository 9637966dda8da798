package replay

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/policy"
)

// Change is what a draft means to an environment.
type Change string

// The changes. Whoever has a SPIFFE ID before and not after loses, whatever else
// is granted; whoever has one after and not before gains.
const (
	Loses     Change = "loses"
	Gains     Change = "gains"
	Exchanges Change = "exchanges" // loses one and gains another
	Changes   Change = "changes"   // keeps all SPIFFE IDs, and something about them differs
	Undecides Change = "undecided" // only the server's secret tells
	Keeps     Change = "keeps"
	Denied    Change = "denied"   // before and after
	Admitted  Change = "admitted" // nobody recorded what was decided before
	Refused   Change = "refused"  // likewise
)

// AllChanges lists the changes, those first that need a look.
var AllChanges = [...]Change{Loses, Exchanges, Gains, Changes, Undecides, Keeps, Denied, Admitted, Refused}

// Transition is what becomes of one environment.
type Transition struct {
	Change Change    `json:"change"`
	Before *Standing `json:"before"` // nil: nobody recorded it, and nothing was compared with
	After  Standing  `json:"after"`
	Lost   []string  `json:"lost"`   // SPIFFE IDs
	Gained []string  `json:"gained"` // likewise
	// Differences are what differs in the identities that are kept.
	Differences []Difference `json:"differences"`
	// Why are the rules that decide it.
	Why []Why `json:"why"`
}

// Difference is one property of an identity that differs.
type Difference struct {
	SPIFFEID string `json:"spiffe_id"` // empty for what is of the whole
	Property string `json:"property"`  // "x509_ttl", "jwt_audiences", …
	Before   string `json:"before"`
	After    string `json:"after"`
}

// Why is one workload that does not grant, and the rules that keep it from it.
type Why struct {
	Policy   string              `json:"policy"` // "name@revision": whose workload it is
	Workload string              `json:"workload"`
	Note     string              `json:"note"`  // in words, where the rules do not say it all
	Rules    []policy.RuleResult `json:"rules"` // those that do not hold
}

// Compare says what becomes of one record.
func (o *Options) Compare(r *Record) Transition {
	at, againstAt := o.At, o.AgainstAt
	if o.AtRecorded {
		at, againstAt = r.moment(), r.moment()
	}
	t := Transition{After: judged(o.Draft, r.Claims, at), Lost: []string{}, Gained: []string{}, Differences: []Difference{}, Why: []Why{}}
	switch {
	case o.Against != nil:
		s := judged(o.Against, r.Claims, againstAt)
		t.Before = &s
	case r.Then != nil:
		var then *policy.Bundle
		if o.Policies != nil && (r.Then.Outcome == policy.Granted || slices.Contains(requests, r.Then.Reason)) {
			then = o.Policies(r.Then.Policy)
		}
		s := recorded(r, then)
		t.Before = &s
	}
	t.conclude()
	o.explain(&t, r, at, againstAt)
	// What was compared is not kept: there are many transitions.
	t.After.forget()
	if t.Before != nil {
		t.Before.forget()
	}
	return t
}

// moment is when the record was decided, or made.
func (r *Record) moment() time.Time {
	if r.Then != nil && !r.Then.At.IsZero() {
		return r.Then.At
	}
	return r.Time
}

// conclude finds the change and the differences.
func (t *Transition) conclude() {
	before, after := t.Before, &t.After
	switch {
	case after.Outcome == Undecided, before != nil && before.Outcome == Undecided:
		t.Change = Undecides
		return
	case before == nil && after.Outcome == policy.Granted:
		t.Change = Admitted
		return
	case before == nil:
		t.Change = Refused
		return
	case before.Outcome != policy.Granted && after.Outcome != policy.Granted:
		t.Change = Denied
		return
	}
	t.Lost = without(before.SPIFFEIDs, after.SPIFFEIDs)
	if before.Known {
		t.Gained = without(after.SPIFFEIDs, before.SPIFFEIDs)
	}
	if before.Known && before.Outcome == after.Outcome {
		t.Differences = differences(before, after)
	}
	switch {
	case before.Outcome != policy.Granted:
		t.Change = Gains
	case after.Outcome != policy.Granted:
		t.Change = Loses // also where it is not known what was granted
	case len(t.Lost) > 0 && len(t.Gained) > 0:
		t.Change = Exchanges
	case len(t.Lost) > 0:
		t.Change = Loses
	case len(t.Gained) > 0:
		t.Change = Gains
	case len(t.Differences) > 0:
		t.Change = Changes
	default:
		t.Change = Keeps
	}
}

// without is what of a sorted list is not in the other.
func without(a, b []string) []string {
	out := []string{}
	for _, s := range a {
		if _, ok := slices.BinarySearch(b, s); !ok {
			out = append(out, s)
		}
	}
	return out
}

// differences compares the identities that both have, and what relying parties
// see of the whole.
func differences(before, after *Standing) []Difference {
	out := []Difference{}
	x, y := &before.entitlement, &after.entitlement
	for i := range x.Identities {
		a := &x.Identities[i]
		j, ok := slices.BinarySearch(after.SPIFFEIDs, a.SPIFFEID)
		if !ok {
			continue
		}
		b := &y.Identities[j]
		add := func(property, before, after string) {
			if before != after {
				out = append(out, Difference{a.SPIFFEID, property, before, after})
			}
		}
		add("x509_ttl", a.X509TTL.String(), b.X509TTL.String())
		add("max_evidence_age", a.MaxEvidenceAge.String(), b.MaxEvidenceAge.String())
		if a.X509TTL == b.X509TTL && a.MaxEvidenceAge == b.MaxEvidenceAge {
			// The same, and ends earlier for a reference value or a waiver that ends.
			add("lifetime", lifetime(a, before.At), lifetime(b, after.At))
		}
		aj, bj := orNone(a.JWT), orNone(b.JWT)
		add("jwt_ttl", aj.TTL.String(), bj.TTL.String())
		add("jwt_audiences", list(aj.Audiences), list(bj.Audiences))
		add("attributes", pairs(a.Attributes), pairs(b.Attributes))
		add("selectors", selectors(a.Selectors), selectors(b.Selectors))
		add("key_residency", policy.KeyResidency(a.KeysOnDisk), policy.KeyResidency(b.KeysOnDisk))
		add("hint", cmp.Or(a.Hint, "none"), cmp.Or(b.Hint, "none"))
	}
	whole := func(property, before, after string) {
		if before != after {
			out = append(out, Difference{"", property, before, after})
		}
	}
	if slices.Equal(before.SPIFFEIDs, after.SPIFFEIDs) { // a key that asks for none gets another
		whole("order", list(before.order), list(after.order))
	}
	whole("publish", list(x.Publish), list(y.Publish))
	whole("pinned", list(x.Pinned), list(y.Pinned))
	whole("ownership", fmt.Sprint(x.Ownership), fmt.Sprint(y.Ownership))
	return out
}

// lifetime is how long an SVID lasts that is issued at that time, in whole
// seconds: ends are.
func lifetime(e *policy.Entitled, at time.Time) string {
	return e.NotAfter.Sub(at.Truncate(time.Second)).String()
}

func orNone(j *policy.JWT) policy.JWT {
	if j == nil {
		return policy.JWT{}
	}
	return *j
}

func list(s []string) string {
	if len(s) == 0 {
		return "none"
	}
	return strings.Join(s, ", ")
}

func pairs(m map[string]string) string {
	out := make([]string, 0, len(m))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, fmt.Sprintf("%s=%q", k, m[k]))
	}
	return list(out)
}

func selectors(ss []policy.Selector) string {
	out := make([]string, len(ss))
	for i, s := range ss {
		out[i] = s.Type + ":" + s.Value
	}
	return list(out)
}

// explain finds the rules that decide a transition.
func (o *Options) explain(t *Transition, r *Record, at, againstAt time.Time) {
	before, after := t.Before, &t.After
	switch t.Change {
	case Loses, Exchanges:
		if before.Workload == "" || before.Workload == after.Workload {
			return
		}
		// Why the workload that granted does not any more.
		t.Why = append(t.Why, why(o.Draft, r.Claims, at, before.Workload, after))
	case Gains:
		switch {
		case before.Workload == after.Workload:
		case o.Against != nil:
			t.Why = append(t.Why, why(o.Against, r.Claims, againstAt, after.Workload, before))
		default:
			t.Why = append(t.Why, recordedWhy(before, after.Workload))
		}
	case Undecides, Denied, Refused:
		if after.Outcome == policy.Granted {
			after = before // it is the other that is undecided
		}
		t.Why = append(t.Why, nearest(after))
	case Keeps, Changes, Admitted:
	}
}

// why says why a workload of a bundle does not grant.
func why(b *policy.Bundle, c attest.Claims, at time.Time, name string, s *Standing) Why {
	w, ok := b.ExplainWorkload(c, at, name)
	if !ok {
		out := nearest(s)
		out.Note = fmt.Sprintf("%s has no workload %s", b.Version(), name)
		return out
	}
	out := Why{Policy: b.Version(), Workload: name, Rules: failing(w)}
	if len(out.Rules) == 0 {
		out.Note = s.words()
	}
	return out
}

// recordedWhy says why, then, the workload did not grant that would by the draft;
// or the nearest, where there was none of that name.
func recordedWhy(s *Standing, name string) Why {
	if s.decision == nil {
		return Why{Policy: s.Policy, Note: s.words(), Rules: []policy.RuleResult{}}
	}
	d, err := s.decision()
	if err != nil {
		return Why{Policy: s.Policy, Note: "the decision of then cannot be read: " + err.Error(), Rules: []policy.RuleResult{}}
	}
	for _, w := range d.Workloads {
		if w.Name != name {
			continue
		}
		out := Why{Policy: s.Policy, Workload: name, Rules: failing(w)}
		if len(out.Rules) == 0 {
			out.Note = s.words()
		}
		return out
	}
	return nearest(s)
}

// nearest is the workload that came nearest to a match.
func nearest(s *Standing) Why {
	out := Why{Policy: s.Policy, Note: s.words(), Rules: []policy.RuleResult{}}
	if s.decision == nil {
		return out
	}
	d, err := s.decision()
	if err != nil || len(d.Workloads) == 0 {
		return out
	}
	near := d.NearestFirst()[0]
	if rules := failing(near); len(rules) > 0 {
		out.Workload, out.Rules = near.Name, rules
		if s.Reason == policy.ReasonNoMatch {
			out.Note = "" // the rules say it
		}
	}
	return out
}

// words is why a standing is what it is.
func (s *Standing) words() string {
	if s.detail != "" {
		return s.Reason + ": " + s.detail
	}
	return s.Reason
}

func failing(w policy.WorkloadResult) []policy.RuleResult {
	out := []policy.RuleResult{}
	for _, r := range w.Rules {
		if !r.Holds {
			out = append(out, r)
		}
	}
	return out
}
