package svid

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/attest"
)

// Requirement is one thing that a relying party asks of an attested SVID, over
// and above that it holds. Requirements add up: all must be satisfied. The zero
// Requirement is satisfied by nothing.
type Requirement struct {
	check     func(a *Attested, at time.Time) error
	tier      bool           // it speaks of the status
	simulated bool           // it accepts simulation
	domain    bool           // it names the trust domains that may pass
	anyID     bool           // it says that every name may
	maxAge    *time.Duration // of the evidence
}

// satisfies runs every requirement, and the two that are always there.
func (a *Attested) satisfies(at time.Time, require []Requirement) error {
	var tier, simulated bool
	for _, q := range require {
		tier = tier || q.tier
		simulated = simulated || q.simulated
	}
	if a.Result.Simulated && !simulated {
		err := fail(attest.Denied, "simulated", "%s was attested by a simulator, not by hardware", a.ID)
		err.Hint = "only where a simulator is meant to be accepted: require Simulated (on the command line --allow-simulated)"
		return err
	}
	if !tier {
		require = append([]Requirement{MinTier(None)}, require...)
	}
	for _, q := range require {
		if q.check == nil {
			return fail(attest.Internal, "requirement", "an empty requirement")
		}
		if err := q.check(a, at); err != nil {
			return err
		}
	}
	return nil
}

// Require is a requirement of the caller's own. An error that check returns is
// reported as Denied under the given name.
func Require(name string, check func(a *Attested, at time.Time) error) Requirement {
	if check == nil {
		return Requirement{}
	}
	return Requirement{check: func(a *Attested, at time.Time) error {
		if err := check(a, at); err != nil {
			return fail(attest.Denied, name, "%w", err)
		}
		return nil
	}}
}

// Simulated accepts a simulated result too. It does not demand one.
func Simulated() Requirement {
	return Requirement{simulated: true, check: func(*Attested, time.Time) error { return nil }}
}

// ID demands one of these SPIFFE IDs. Check: "id".
func ID(ids ...spiffeid.ID) Requirement {
	return Requirement{domain: true, check: func(a *Attested, _ time.Time) error {
		for _, id := range ids {
			if a.ID == id && !id.IsZero() {
				return nil
			}
		}
		return mismatch(attest.Denied, "id", "another SPIFFE ID", fmt.Sprint(ids), a.ID.String())
	}}
}

// MemberOf demands a SPIFFE ID of one of these trust domains. Check: "member_of".
func MemberOf(tds ...spiffeid.TrustDomain) Requirement {
	return Requirement{domain: true, check: func(a *Attested, _ time.Time) error {
		for _, td := range tds {
			if !td.IsZero() && a.ID.MemberOf(td) {
				return nil
			}
		}
		return mismatch(attest.Denied, "member_of", "another trust domain", fmt.Sprint(tds), a.ID.TrustDomain().Name())
	}}
}

// AnyID demands nothing of the name: whoever is attested in a trust domain whose
// verifier root is pinned may pass. It says to [TLS.Client] that this is meant.
func AnyID() Requirement {
	return Requirement{anyID: true, check: func(*Attested, time.Time) error { return nil }}
}

// Tee demands one of these platforms. Check: "tee".
func Tee(platforms ...attest.Platform) Requirement {
	return Requirement{check: func(a *Attested, _ time.Time) error {
		for _, p := range platforms {
			if a.Result.Platform == p {
				return nil
			}
		}
		return mismatch(attest.Denied, "tee", "another platform", fmt.Sprint(platforms), string(a.Result.Platform))
	}}
}

// PCR demands that a platform configuration register has one of these values,
// which are digests in binary: 48 bytes of a Nitro Enclave, 32 or 48 of a TPM, by
// its bank. The registers of the two mean different things: demand a [Tee] too.
// Check: "pcr0", and so on.
func PCR[V ~[]byte](index int, values ...V) Requirement {
	return Measurement(pcrName(index), values...)
}

// Measurement demands that the named measurement was published and has one of
// these values, compared at full length. Its name is the check. A value that is
// empty or all zero never matches.
func Measurement[V ~[]byte](name string, values ...V) Requirement {
	want := make([]attest.Bytes, 0, len(values))
	for _, v := range values {
		if !allZero(v) {
			want = append(want, bytes.Clone(v))
		}
	}
	return Requirement{check: func(a *Attested, _ time.Time) error {
		got, ok := a.Result.Measurements[name]
		if !ok {
			err := fail(attest.Denied, name, "the result does not hold this measurement")
			err.Hint = "the policy chooses what is published, under publish:"
			return err
		}
		for _, w := range want {
			if bytes.Equal(got, w) {
				return nil
			}
		}
		return mismatch(attest.Denied, name, "another measurement", oneOf(want), got.String())
	}}
}

func oneOf(values []attest.Bytes) string {
	var s []string
	for i, v := range values {
		if i == 3 {
			s = append(s, fmt.Sprintf("%d more", len(values)-i))
			break
		}
		s = append(s, v.String())
	}
	if len(s) == 0 {
		return "no value: this requirement can never be satisfied"
	}
	return strings.Join(s, " or ")
}

// MinTier demands a status of this tier or a better one: affirming > warning >
// none > contraindicated. Without it, all but contraindicated is accepted; with
// MinTier(Contraindicated), that too. Check: "tier".
func MinTier(least Tier) Requirement {
	return Requirement{tier: true, check: func(a *Attested, _ time.Time) error {
		if !a.Result.Status.AtLeast(least) {
			err := mismatch(attest.Denied, "tier", "the status is not good enough", least.String()+" or better", "")
			err.Got = fmt.Sprintf("%s %s", a.Result.Status, reasons(a.Result.Vector, least)) // our words: whole
			return err
		}
		return nil
	}}
}

// reasons lists the entries of a vector that fall short.
func reasons(v Vector, least Tier) string {
	var s []string
	for i, c := range v {
		if t := c.Tier(); t != None && !t.AtLeast(least) {
			s = append(s, fmt.Sprintf("%s %d: %s", Aspect(i), c, c.Meaning(Aspect(i))))
		}
	}
	return "(" + strings.Join(s, "; ") + ")"
}

// MinAspect demands that one entry of the vector is of this tier or a better
// one. An entry that makes no claim is None. Check: the aspect's name.
func MinAspect(aspect Aspect, least Tier) Requirement {
	return Requirement{check: func(a *Attested, _ time.Time) error {
		if aspect < 0 || aspect >= aspects {
			return fail(attest.Internal, "requirement", "there is no %s", aspect)
		}
		if t := a.Result.Vector[aspect].Tier(); !t.AtLeast(least) {
			return mismatch(attest.Denied, aspect.String(), "the claim is not good enough", least.String()+" or better", t.String())
		}
		return nil
	}}
}

// Owned demands that the policy had proof of who launched the workload, not
// only of what was launched: anybody can boot your image. It is
// MinAspect(InstanceIdentity, Affirming).
func Owned() Requirement { return MinAspect(InstanceIdentity, Affirming) }

// MaxAge demands that the evidence is no older than this. Check: "max_age",
// kind Stale.
func MaxAge(limit time.Duration) Requirement {
	return Requirement{maxAge: &limit, check: func(a *Attested, at time.Time) error {
		if age := a.Result.age(at); age > limit {
			err := mismatch(attest.Stale, "max_age", "the evidence is too old", limit.String()+" or less", age.Truncate(time.Second).String())
			err.Hint = "the peer's agent attests again when it renews"
			return err
		}
		return nil
	}}
}

// Policy demands one of these policies: "prod" at any revision, or "prod@7" at
// that one. Check: "policy".
func Policy(names ...string) Requirement {
	return Requirement{check: func(a *Attested, _ time.Time) error {
		for _, n := range names {
			if n != "" && (n == a.Result.Policy || n == policyName(a.Result.Policy)) {
				return nil
			}
		}
		return mismatch(attest.Denied, "policy", "admitted under another policy", strings.Join(names, " or "), a.Result.Policy)
	}}
}

// Attribute demands that the policy gave the workload this attribute. Check:
// "attribute".
func Attribute(key, value string) Requirement {
	return Require("attribute", func(a *Attested, _ time.Time) error {
		got, ok := a.Result.Attributes[key]
		switch {
		case !ok:
			return fmt.Errorf("the result does not hold attribute %q", key)
		case got != value:
			return errors.New("attribute " + key + " is " + fmt.Sprintf("%q, want %q", got, value))
		}
		return nil
	})
}
