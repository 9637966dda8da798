package policy

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/assay-project/assay/attest"
)

// Judge is [Bundle.Evaluate] and [Bundle.Entitlement] in one: the decision about
// claims at a time, and what it would give. It is pure.
func (b *Bundle) Judge(c attest.Claims, at time.Time) (Decision, Entitlement) {
	d, w := b.evaluate(&c, at)
	return d, b.entitlement(&c, at, d, w)
}

// ExplainWorkload evaluates one workload by its name, every rule of it. It is
// false for a workload that the bundle does not have for the platform of the
// claims.
func (b *Bundle) ExplainWorkload(c attest.Claims, at time.Time, name string) (WorkloadResult, bool) {
	for _, w := range b.byTEE[c.Platform] {
		if w.name == name {
			out, _ := b.evaluation(&c, at).workload(w, make([]RuleResult, 0, w.results()))
			return out, true
		}
	}
	return WorkloadResult{}, false
}

// Fingerprint is the same for two sets of claims exactly when no policy can tell
// them apart, nor a rollout: it covers the platform, every claim that a policy
// can name, and the instance. What evidence carries beside that (nonce, binding,
// the time at which it was made) is new each time an environment attests.
func Fingerprint(c attest.Claims) [32]byte {
	h := sha256.New()
	buf := make([]byte, 0, 512)
	put := func(s string) {
		buf = binary.BigEndian.AppendUint32(buf[:0], uint32(len(s))) // claims are far shorter
		buf = append(buf, s...)
		_, _ = h.Write(buf) // a hash never fails
	}
	put("assay/v1 claims")
	put(string(c.Platform))
	put(string(c.Instance()))
	if t := teeFor(c.Platform); t != nil {
		for _, f := range t.fields {
			if v, ok := f.get(&c); ok {
				put(f.name)
				put(string(v))
			}
		}
	}
	return [32]byte(h.Sum(nil))
}

// CheckClaims is nil for claims that a verifier can have made: exactly the
// platform's own are there, and they say whose they are. Those of a file or a
// database may be anything.
func CheckClaims(c attest.Claims) error {
	there := map[attest.Platform]bool{attest.AWSNitro: c.Nitro != nil, attest.AMDSEVSNP: c.SNP != nil, attest.TPM2: c.TPM != nil}
	if own, known := there[c.Platform]; !known {
		return fmt.Errorf("claims of %.40q: no platform that this version knows", string(c.Platform))
	} else if !own {
		return fmt.Errorf("claims of %s that hold none", c.Platform)
	}
	for p, is := range there {
		if is && p != c.Platform {
			return fmt.Errorf("claims of %s that hold some of %s", c.Platform, p)
		}
	}
	if c.Instance() == "" {
		return fmt.Errorf("claims of %s that name no instance", c.Platform)
	}
	return nil
}
