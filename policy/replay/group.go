package replay

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/policy"
)

// Group is what comes to the same: one change, from one workload or reason to
// another, for the same rules.
type Group struct {
	Change Change `json:"change"`
	// Before and After are the workload that grants, or the reason of a denial;
	// Before is empty where nobody recorded it.
	Before string `json:"before"`
	After  string `json:"after"`
	// Distinct counts sets of claims that policies can tell apart, Attestations the
	// records that brought them, Instances who they are of.
	Distinct     uint64 `json:"distinct"`
	Attestations uint64 `json:"attestations"`
	Instances    uint64 `json:"instances"`
	// AtLeast says that there are more instances than memory was allowed for.
	AtLeast bool      `json:"at_least"`
	Newest  time.Time `json:"newest"`
	// Example is the newest record's reference, and what becomes of it.
	Example    string     `json:"example"`
	Transition Transition `json:"transition"`
	// Members are the instances, newest first: as many as were asked for.
	Members []Member `json:"members"`

	key     string
	members map[attest.Instance]*Member
}

// Member is one instance of a group.
type Member struct {
	Instance     attest.Instance `json:"instance"`
	Attestations uint64          `json:"attestations"`
	Newest       time.Time       `json:"newest"`
	Reference    string          `json:"reference"` // of the newest record
}

// key names the group of a transition. SPIFFE IDs and values are not part of it:
// they differ from one instance to the next.
func (t *Transition) key() string {
	var b strings.Builder
	add := func(s string) { b.WriteString(s); b.WriteByte(0) }
	add(string(t.Change))
	if t.Before != nil {
		add(t.Before.name())
	}
	add(t.After.name())
	if t.Before != nil && t.Before.Outcome == t.After.Outcome {
		add(strconv.Itoa(len(t.Lost)))
		add(strconv.Itoa(len(t.Gained)))
	}
	seen := ""
	for _, d := range t.Differences {
		if d.Property != seen {
			seen = d.Property
			add(d.Property)
		}
	}
	for _, w := range t.Why {
		add(w.Policy)
		add(w.Workload)
		for _, r := range w.Rules {
			add(r.Rule)
		}
	}
	return b.String()
}

// coarse is the key where there are more groups than memory is allowed for.
func (t *Transition) coarse() string {
	before := ""
	if t.Before != nil {
		before = t.Before.Outcome
	}
	return "\x00" + string(t.Change) + "\x00" + before + "\x00" + t.After.Outcome
}

// name is the workload that grants, or why none does.
func (s *Standing) name() string {
	if s.Workload != "" {
		return s.Workload
	}
	return s.Reason
}

// groups gathers what was found. It is used by one goroutine at a time.
type groups struct {
	o         *Options
	byKey     map[string]*Group
	instances int // members in all groups
	merged    bool
	partial   uint64 // of whom only what was issued is known
}

// fold adds what is known of one set of claims to its group.
func (g *groups) fold(s *seen) {
	key := s.t.key()
	x := g.byKey[key]
	if x == nil && len(g.byKey) >= g.o.MaxGroups {
		key, g.merged = s.t.coarse(), true
		x = g.byKey[key]
	}
	if x == nil {
		x = &Group{Change: s.t.Change, After: s.t.After.name(), key: key, members: map[attest.Instance]*Member{}}
		if s.t.Before != nil {
			x.Before = s.t.Before.name()
		}
		g.byKey[key] = x
	}
	x.Distinct++
	if b := s.t.Before; b != nil && !b.Known && s.t.After.Outcome == policy.Granted {
		g.partial++
	}
	x.Attestations += s.n
	if x.Example == "" || later(s.newest, s.reference, x.Newest, x.Example) {
		x.Newest, x.Example, x.Transition = s.newest, s.reference, *s.t
		x.After = s.t.After.name() // where groups were merged, that of the example
		if s.t.Before != nil {
			before := *s.t.Before
			if g.o.Against == nil { // judged once, for all records that say the same
				before.At = s.at.UTC()
			}
			x.Before, x.Transition.Before = before.name(), &before
		}
	}
	m := x.members[s.instance]
	if m == nil {
		if g.instances >= g.o.MaxInstances {
			x.AtLeast = true
			return
		}
		g.instances++
		m = &Member{Instance: s.instance}
		x.members[s.instance] = m
	}
	m.Attestations += s.n
	if m.Reference == "" || later(s.newest, s.reference, m.Newest, m.Reference) {
		m.Newest, m.Reference = s.newest, s.reference
	}
}

func later(at time.Time, reference string, than time.Time, other string) bool {
	if c := at.Compare(than); c != 0 {
		return c > 0
	}
	return reference > other
}

// sorted ends the gathering: the groups by change, then the largest first.
func (g *groups) sorted() []Group {
	out := make([]Group, 0, len(g.byKey))
	for _, x := range g.byKey {
		x.Instances = uint64(len(x.members))
		members := make([]Member, 0, len(x.members))
		for _, m := range x.members {
			members = append(members, *m)
		}
		slices.SortFunc(members, func(a, b Member) int {
			return cmp.Or(b.Newest.Compare(a.Newest), cmp.Compare(b.Reference, a.Reference), cmp.Compare(a.Instance, b.Instance))
		})
		if g.o.Members >= 0 && len(members) > g.o.Members {
			members = members[:g.o.Members:g.o.Members]
		}
		x.Members = slices.Clone(members)
		out = append(out, *x)
	}
	slices.SortFunc(out, func(a, b Group) int {
		return cmp.Or(cmp.Compare(a.Change.rank(), b.Change.rank()), cmp.Compare(b.Instances, a.Instances), cmp.Compare(b.Attestations, a.Attestations), cmp.Compare(a.key, b.key))
	})
	return out
}

func (c Change) rank() int { return slices.Index(AllChanges[:], c) }
