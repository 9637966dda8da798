package policy

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifiers"
)

// ErrSpent is returned when a Grant that [Bundle.Authorize] did not make, or
// that was already used, is used.
var ErrSpent = errors.New("policy: not a grant, or already used")

var errDenied = errors.New("denied by policy")

// Identity is one identity that a workload earns.
type Identity struct {
	SPIFFEID       string
	X509TTL        time.Duration
	MaxEvidenceAge time.Duration
	JWT            *JWT              // nil where the policy allows no JWT-SVIDs
	Attributes     map[string]string // travel in the attestation result
	Selectors      []Selector        // of the processes that get it; none means all
	// KeysOnDisk permits that the agent writes key and tokens to a disk, where somebody
	// asks it to. It is the agent that obeys: it was measured.
	KeysOnDisk bool
	// Hint is what the identity is for, in the operator's word: workloads that have
	// several tell them apart by it. "" is none.
	Hint string
}

// JWT is what the policy says of JWT-SVIDs for an identity.
type JWT struct {
	TTL       time.Duration
	Audiences []string // a JWT-SVID may be minted for these only; at least one
	AWSTags   []string // attributes of the identity that become AWS session tags
}

// Issue gives one key one identity.
type Issue struct {
	Key      int // index into the challenge's Keys
	Identity Identity
	// NotAfter is the latest end of any SVID: the earliest of the identity's
	// TTL, the end of the policy values that carried the decision, and the
	// evidence's time plus MaxEvidenceAge; in whole seconds. A CA caps it
	// further.
	NotAfter time.Time
}

// Grant is the right to have one attestation's SVIDs signed. Only
// [Bundle.Authorize] makes one. Copies share one spent flag, and the zero value
// was never good.
type Grant struct{ g *grant }

type grant struct {
	spent    atomic.Bool
	verified *verifiers.Verified
	decision Decision
	issues   []Issue
	more     int
	publish  []string
}

// Authorize decides on verified evidence. It uses the Verified up, whatever it
// decides. The error is verifiers.ErrSpent, or a [*Denied] that holds the
// decision; a grant and an error are never both returned.
//
// Keys are given identities in this order: a key that asks for a SPIFFE ID gets
// that one, and if policy does not grant it the whole request is denied; then
// each key that asks for none gets the next identity in policy order that no
// key asked for. Keys left over get nothing; identities left over are counted
// by [Grant.More].
func (b *Bundle) Authorize(v *verifiers.Verified, at time.Time) (*Grant, error) {
	if v == nil {
		return nil, verifiers.ErrSpent
	}
	held := *v // shares the spent flag; whatever the caller does to v, this stays
	if err := held.Spend(); err != nil {
		return nil, err
	}
	claims, ch := held.Claims(), held.Challenge()
	d, w := b.evaluate(&claims, at)
	deny := func(reason, detail string) (*Grant, error) {
		d.Outcome, d.Reason, d.Detail = Refused, reason, detail
		d.Workload, d.ValidUntil, d.Ownership = "", nil, false
		return nil, &Denied{Decision: d}
	}
	if ch.TrustDomain != b.trustDomain {
		return deny(ReasonTrustDomain, fmt.Sprintf("the challenge is of %.255q, the bundle of %q", ch.TrustDomain, b.trustDomain))
	}
	if b.offline {
		return deny(ReasonOffline, "the bundle was changed to explain what it would decide: it grants nothing")
	}
	if w == nil {
		return nil, &Denied{Decision: d}
	}
	if len(w.identities) == 0 {
		return deny(ReasonNoIdentity, "workload "+w.name+" issues nothing")
	}
	ids := make([]string, len(w.identities))
	for i, id := range w.identities {
		s, err := id.template.expand(&claims)
		if err == nil {
			err = checkID(s, b.trustDomain)
		}
		if err != nil {
			return deny(ReasonTemplate, err.Error())
		}
		ids[i] = s
	}
	keyOf, reason, detail := assign(ch.Keys, ids)
	if reason != "" {
		return deny(reason, detail)
	}
	g := &grant{verified: &held, publish: w.publish}
	for i, id := range w.identities {
		if keyOf[i] < 0 {
			g.more++
			continue
		}
		end, reason := notAfter(id, &held, d.ValidUntil, at)
		if !end.After(at) {
			return deny(reason, fmt.Sprintf("an SVID for %s would end at %s", ids[i], stamp(end)))
		}
		g.issues = append(g.issues, Issue{Key: keyOf[i], NotAfter: end, Identity: Identity{
			SPIFFEID: ids[i], X509TTL: id.x509TTL, MaxEvidenceAge: id.maxEvidenceAge, JWT: id.jwt, Attributes: id.attributes, Selectors: id.selectors, KeysOnDisk: id.keysOnDisk, Hint: id.hint,
		}})
	}
	slices.SortFunc(g.issues, func(a, b Issue) int { return a.Key - b.Key })
	g.decision = d
	return &Grant{g}, nil
}

// assign gives each identity the index of its key, or -1.
func assign(keys []attest.BoundKey, ids []string) (keyOf []int, reason, detail string) {
	keyOf = make([]int, len(ids))
	for i := range keyOf {
		keyOf[i] = -1
	}
	seen := make(map[[32]byte]int, len(keys))
	for k, key := range keys {
		sum := sha256.Sum256(key.SPKI)
		if before, dup := seen[sum]; dup {
			return nil, ReasonKeyTwice, fmt.Sprintf("keys %d and %d are the same", before, k)
		}
		seen[sum] = k
		if key.RequestedID == "" {
			continue
		}
		i := slices.Index(ids, key.RequestedID)
		if i < 0 {
			return nil, ReasonNotGranted, fmt.Sprintf("key %d asks for %.*q", k, MaxIDLength, key.RequestedID)
		}
		if keyOf[i] >= 0 {
			return nil, ReasonRequestedTwice, fmt.Sprintf("keys %d and %d both ask for %s", keyOf[i], k, ids[i])
		}
		keyOf[i] = k
	}
	next := 0
	for k, key := range keys {
		if key.RequestedID != "" {
			continue
		}
		for next < len(ids) && keyOf[next] >= 0 {
			next++
		}
		if next == len(ids) {
			break
		}
		keyOf[next] = k
	}
	return keyOf, "", ""
}

// notAfter computes the end of an SVID, and the reason to give where that is
// not in the future. Evidence that claims to be from the future, within what
// its verifier tolerates, counts as made when it was verified.
func notAfter(id *identity, v *verifiers.Verified, until *time.Time, at time.Time) (time.Time, string) {
	end, reason := at.Add(id.x509TTL), ReasonPolicyExpired
	if until != nil && until.Before(end) {
		end = *until
	}
	made := v.Claims().EvidenceTime()
	if made.IsZero() || made.After(v.At()) {
		made = v.At()
	}
	if limit := made.Add(id.maxEvidenceAge); limit.Before(end) {
		end, reason = limit, ReasonEvidenceTooOld
	}
	return end.UTC().Truncate(time.Second), reason
}

// Spend uses the Grant up. It returns ErrSpent the second time, and for a zero
// value. The accessors go on working.
func (g *Grant) Spend() error {
	if g == nil || g.g == nil || !g.g.spent.CompareAndSwap(false, true) {
		return ErrSpent
	}
	return nil
}

// inner returns the grant's content; that of a zero Grant is empty.
func (g *Grant) inner() *grant {
	if g == nil || g.g == nil {
		return &grant{}
	}
	return g.g
}

// Claims returns the verified claims. They share maps and slices with the
// Grant: do not change them.
func (g *Grant) Claims() attest.Claims { return g.inner().verified.Claims() }

// Challenge returns the challenge that the evidence answered; its keys are
// those that may be certified.
func (g *Grant) Challenge() attest.Challenge { return g.inner().verified.Challenge() }

// Evidence returns the evidence as it was received.
func (g *Grant) Evidence() attest.Evidence { return g.inner().verified.Evidence() }

// EvidenceDigest is SHA-256 of the evidence body.
func (g *Grant) EvidenceDigest() [32]byte { return g.inner().verified.EvidenceDigest() }

// VerifiedAt is the server's time of the verification.
func (g *Grant) VerifiedAt() time.Time { return g.inner().verified.At() }

// Decision returns the decision, with every rule. It shares slices with the
// Grant: do not change them.
func (g *Grant) Decision() Decision { return g.inner().decision }

// Issues returns what to issue, by key, in the order of the keys. The caller
// owns the result.
func (g *Grant) Issues() []Issue {
	out := slices.Clone(g.inner().issues)
	for i := range out {
		id := &out[i].Identity
		id.Attributes = maps.Clone(id.Attributes)
		id.Selectors = slices.Clone(id.Selectors)
		if id.JWT != nil {
			id.JWT = &JWT{TTL: id.JWT.TTL, Audiences: slices.Clone(id.JWT.Audiences), AWSTags: slices.Clone(id.JWT.AWSTags)}
		}
	}
	return out
}

// More is the number of granted identities for which there was no key.
func (g *Grant) More() int { return g.inner().more }

// Publish names the claims that the attestation results show, in policy order.
func (g *Grant) Publish() []string { return slices.Clone(g.inner().publish) }
