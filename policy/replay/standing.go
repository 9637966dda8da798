package replay

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/policy"
)

// Undecided is the outcome of a standing that only the server's secret tells.
const Undecided = "undecided"

// Standing is what a policy makes of an environment.
type Standing struct {
	Policy  string    `json:"policy"` // "name@revision"
	At      time.Time `json:"at"`     // the time that it is for
	Outcome string    `json:"outcome"`
	Reason  string    `json:"reason"`
	// Workload is the one that grants; empty otherwise.
	Workload  string   `json:"workload"`
	SPIFFEIDs []string `json:"spiffe_ids"` // sorted
	// Known is false where only what was issued is known, and not what the policy
	// would have: lifetimes, attributes, audiences, further identities.
	Known bool `json:"known"`

	steady      *time.Time // before then the entitlement depends on no time; nil: never
	detail      string
	entitlement policy.Entitlement // its identities sorted
	order       []string           // of the identities in the policy
	decision    func() (policy.Decision, error)
}

// forget drops what is large.
func (s *Standing) forget() { s.entitlement, s.decision = policy.Entitlement{}, nil }

func policyVersion(name string, revision uint64) string {
	return name + "@" + strconv.FormatUint(revision, 10)
}

// judged is what a policy says at a time.
func judged(b *policy.Bundle, c attest.Claims, at time.Time) Standing {
	d, e := b.Judge(c, at)
	order := idsOf(e)
	slices.SortFunc(e.Identities, func(a, b policy.Entitled) int { return strings.Compare(a.SPIFFEID, b.SPIFFEID) })
	s := Standing{
		Policy: b.Version(), At: at.UTC(), Outcome: d.Outcome, Reason: d.Reason, Workload: d.Workload, Known: true, detail: d.Detail,
		entitlement: e, order: order, SPIFFEIDs: idsOf(e), decision: func() (policy.Decision, error) { return d, nil },
	}
	if d.ValidUntil != nil {
		s.steady = steady(*d.ValidUntil, e)
	}
	switch {
	case undecided(d):
		s.Outcome = Undecided
	case d.Outcome == policy.Granted && e.Denied():
		// What Authorize would find: there is nothing left to issue.
		s.Outcome, s.Reason, s.Workload = policy.Refused, policy.ReasonPolicyExpired, ""
	}
	return s
}

// steady is the time from which on identities end with what they rest on, before
// their own lifetime has passed.
func steady(until time.Time, e policy.Entitlement) *time.Time {
	var longest time.Duration
	for _, id := range e.Identities {
		longest = max(longest, min(id.X509TTL, id.MaxEvidenceAge))
	}
	until = until.Add(-longest)
	return &until
}

// undecided reports whether the secret of rollouts might make another decision.
func undecided(d policy.Decision) bool {
	if d.Reason == policy.ReasonUndecided {
		return true
	}
	if d.Reason != policy.ReasonAmbiguous {
		return false
	}
	granting := 0
	for _, w := range d.Workloads {
		if w.Matched && w.Mode != policy.Audit {
			granting++
		}
	}
	return granting < 2 // the others only might
}

// recorded is what the server decided. With the policy of then, b, it is known in
// whole, as far as that policy comes to the same again; b may be nil.
func recorded(r *Record, b *policy.Bundle) Standing {
	t := r.Then
	s := Standing{
		Policy: t.Policy.String(), At: t.At.UTC(), Outcome: t.Outcome, Reason: t.Reason, Workload: t.Workload,
		SPIFFEIDs: slices.Sorted(slices.Values(t.SPIFFEIDs)), decision: t.Decision,
	}
	if t.Outcome != policy.Granted {
		s.Workload, s.SPIFFEIDs, s.Known = "", []string{}, true
		workload := t.matched()
		if workload == "" {
			return s
		}
		// The policy granted; the request was not for what it granted.
		s.Outcome, s.Workload, s.Known = policy.Granted, workload, false
	}
	if s.SPIFFEIDs == nil {
		s.SPIFFEIDs = []string{}
	}
	if b == nil {
		return s
	}
	if b.HasRollout() {
		b = b.AssumeRollout(true) // as it was then, if it comes to the same
	}
	again := judged(b, r.Claims, t.At)
	if again.Outcome != s.Outcome || again.Workload != s.Workload || !subset(s.SPIFFEIDs, again.SPIFFEIDs) {
		return s // the record counts
	}
	again.Policy, again.Reason, again.decision = s.Policy, s.Reason, s.decision
	return again
}

// requests are the reasons of denials that are the request's, not the policy's.
var requests = []string{
	policy.ReasonNotGranted, policy.ReasonRequestedTwice, policy.ReasonKeyTwice, policy.ReasonEvidenceTooOld, policy.ReasonTrustDomain,
}

// matched is the workload that matched although the request was denied, or empty.
func (t *Then) matched() string {
	if !slices.Contains(requests, t.Reason) || t.Decision == nil {
		return ""
	}
	d, err := t.Decision()
	if err != nil {
		return ""
	}
	found := ""
	for _, w := range d.Workloads {
		if w.Matched && w.Mode != policy.Audit {
			if found != "" {
				return "" // ambiguous all the same
			}
			found = w.Name
		}
	}
	return found
}

func idsOf(e policy.Entitlement) []string {
	out := make([]string, len(e.Identities))
	for i, id := range e.Identities {
		out[i] = id.SPIFFEID
	}
	return out
}

// subset is for sorted lists.
func subset(of, all []string) bool {
	for _, s := range of {
		if _, ok := slices.BinarySearch(all, s); !ok {
			return false
		}
	}
	return true
}
