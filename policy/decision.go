package policy

import (
	"cmp"
	"slices"
	"time"

	"github.com/assay-project/assay/attest"
)

// The outcomes of a decision.
const (
	Granted = "granted"
	Refused = "denied"
)

// The reasons of a decision. Evaluate ends in one of the first eight; the others
// come from Authorize, which also knows the challenge.
const (
	ReasonGranted        = "granted"                  // exactly one enforced workload matches
	ReasonNoMatch        = "no_match"                 // no workload matches
	ReasonAuditOnly      = "audit_only"               // only workloads in mode audit match
	ReasonAmbiguous      = "ambiguous"                // several workloads that would grant match
	ReasonNotInRollout   = "not_in_rollout"           // a workload matches, and its rollout does not admit this environment yet
	ReasonUndecided      = "rollout_undecided"        // likewise, and the server's secret is not at hand to tell
	ReasonTooDear        = "expressions_too_dear"     // the expressions of the workloads that come into question cost too much together
	ReasonNoWorkload     = "no_workload_for_tee"      // the bundle has none for the platform
	ReasonTrustDomain    = "other_trust_domain"       // the challenge is of another trust domain than the bundle
	ReasonNotGranted     = "requested_id_not_granted" // a requested SPIFFE ID is not among the granted
	ReasonRequestedTwice = "requested_id_twice"       // two keys ask for one SPIFFE ID
	ReasonKeyTwice       = "key_twice"                // one key is offered for two SVIDs
	ReasonEvidenceTooOld = "evidence_too_old"         // max_evidence_age has passed
	ReasonPolicyExpired  = "policy_expired"           // what matched ends within this second
	ReasonTemplate       = "template"                 // an ID could not be formed: a fault of this package
	ReasonNoIdentity     = "no_identity"              // the workload issues nothing
	ReasonOffline        = "evaluate_only"            // the bundle was changed for an explanation, and must not grant
)

// An ownership waiver is shown as a rule of this name and operator.
const (
	waiverRule = "ownership"
	waiverOp   = "waiver"
)

// Decision is what a policy says about one set of claims, with the reasons. Its
// JSON is stable and documented in docs/spec/policy.md; the ledger stores it.
type Decision struct {
	Bundle   string       `json:"bundle"`
	Revision uint64       `json:"revision"`
	Digest   attest.Bytes `json:"digest"` // SHA-256 of the bundle's bytes
	At       time.Time    `json:"at"`     // the time that the decision is for, UTC
	Outcome  string       `json:"outcome"`
	Reason   string       `json:"reason"`
	// Detail explains the reason in words; empty where the reason says it all.
	Detail string `json:"detail,omitempty"`
	// Workload is the one that grants; empty in a denial.
	Workload string `json:"workload,omitempty"`
	// ValidUntil is the last moment at which the same claims would still be
	// granted, where a reference value or waiver that carried them has an end.
	ValidUntil *time.Time `json:"valid_until,omitempty"`
	// Ownership is true when the granting workload has an ownership predicate.
	Ownership bool `json:"ownership"`
	// Workloads of the platform, in the order of the file: all of them from
	// [Bundle.Explain]; from [Bundle.Evaluate] those that matter.
	Workloads []WorkloadResult `json:"workloads"`
	// Omitted is the number of workloads of the platform that are not listed. None
	// of them matches, unless MaxExplained that are listed do, or their texts are
	// [MaxDecisionText].
	Omitted int `json:"omitted,omitempty"`
}

// WorkloadResult is the evaluation of one workload.
type WorkloadResult struct {
	Name    string       `json:"name"`
	Mode    string       `json:"mode"`
	Matched bool         `json:"matched"`
	Rules   []RuleResult `json:"rules"`
}

// RuleResult is the evaluation of one rule.
type RuleResult struct {
	Rule     string `json:"rule"`     // the claim: "pcr0", "debug"; or "ownership" for a waiver
	Op       string `json:"op"`       // "eq", "in", "every", "gte", "lte", "bits"; "waiver"
	Expected string `json:"expected"` // in words, byte strings in hex
	Got      string `json:"got"`      // likewise; "missing" for a claim that is not there
	Holds    bool   `json:"holds"`
	Implicit bool   `json:"implicit,omitempty"` // added by the compiler
	Position string `json:"position"`           // "file:line:col"
	Hint     string `json:"hint,omitempty"`     // what a failure usually means
}

// Pinned names the claims that the granting workload holds to approved values
// (eq, in, every) or to a floor (gte), in the order of its rules; implicit rules are not
// among them. It is empty for a denial.
func (d Decision) Pinned() []string {
	var out []string
	for _, w := range d.Workloads {
		if d.Workload == "" || w.Name != d.Workload {
			continue
		}
		for _, r := range w.Rules {
			if !r.Implicit && (r.Op == "eq" || r.Op == "in" || r.Op == "gte" || r.Op == "every") {
				out = append(out, r.Rule)
			}
		}
	}
	return out
}

// Failures is the number of rules that do not hold.
func (w WorkloadResult) Failures() int {
	n := 0
	for _, r := range w.Rules {
		if !r.Holds {
			n++
		}
	}
	return n
}

// NearestFirst returns the workloads by how near they came to a match: those
// first of whose written claims the largest share holds, then those with fewer
// failures, then as in the file. Implicit rules and waivers say nothing about
// which workload this was meant to be.
func (d Decision) NearestFirst() []WorkloadResult {
	return nearestFirst(d.Workloads)
}

func nearestFirst(ws []WorkloadResult) []WorkloadResult {
	type ranked struct {
		w *WorkloadResult
		nearness
	}
	all := make([]ranked, len(ws))
	for i := range ws {
		all[i] = ranked{&ws[i], ws[i].nearness()}
	}
	slices.SortStableFunc(all, func(a, b ranked) int { return a.compare(b.nearness) })
	out := make([]WorkloadResult, len(ws))
	for i, r := range all {
		out[i] = *r.w
	}
	return out
}

// nearness says how near a workload came to a match.
type nearness struct {
	holding, written int // of the claims that the policy writes
	failed           int // of all rules
}

func (n *nearness) count(holds, written bool) {
	if written {
		n.written++
	}
	switch {
	case !holds:
		n.failed++
	case written:
		n.holding++
	}
}

// compare is below zero where n is nearer than o.
func (n nearness) compare(o nearness) int {
	return cmp.Or(cmp.Compare(o.holding*n.written, n.holding*o.written), cmp.Compare(n.failed, o.failed))
}

func (w *WorkloadResult) nearness() (n nearness) {
	for _, r := range w.Rules {
		n.count(r.Holds, !r.Implicit && r.Op != waiverOp && r.Op != rolloutRule)
	}
	return n
}

// Denied is a denial by policy: an error that holds the decision. It is of kind
// [attest.Denied], check "policy", for attest.KindOf and errors.As.
type Denied struct{ Decision Decision }

// Error says why in one line.
func (d *Denied) Error() string {
	s := "denied by policy " + d.Decision.Bundle + ": " + d.Decision.Reason
	if d.Decision.Detail != "" {
		s += ": " + d.Decision.Detail
	}
	return s
}

// Unwrap yields the denial as attesters are told of it: without the reason, so
// that a denial is never a policy oracle.
func (d *Denied) Unwrap() error {
	return &attest.Error{Kind: attest.Denied, Check: "policy", Err: errDenied}
}
