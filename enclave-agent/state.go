package agent

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/attest"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
)

// svid is one identity that the agent holds.
type svid struct {
	id       spiffeid.ID
	chain    []*x509.Certificate // leaf first
	chainDER []byte              // the same, concatenated
	key      crypto.Signer
	keyDER   []byte // PKCS#8
	// selectors are what a process must show before it is handed this identity;
	// none means every process.
	selectors []*assayv1.Selector
	// keysOnDisk says that policy permits key and tokens on a disk.
	keysOnDisk bool
	hint       string      // what it is for, in the operator's word; "" is none
	turnedAway atomic.Bool // the server has said that it does not take it
}

func (s *svid) notAfter() time.Time { return s.chain[0].NotAfter }

// live reports whether the SVID may be used at the time.
func (s *svid) live(at time.Time) bool { return at.Before(s.notAfter()) }

// certificate is the SVID for a TLS handshake.
func (s *svid) certificate() *tls.Certificate {
	c := &tls.Certificate{PrivateKey: s.key, Leaf: s.chain[0]}
	for _, x := range s.chain {
		c.Certificate = append(c.Certificate, x.Raw)
	}
	return c
}

// trustBundle is a checked TrustBundle of the server, or that of a foreign trust
// domain within it.
type trustBundle struct {
	td          spiffeid.TrustDomain
	authorities []*x509.Certificate // of a foreign one perhaps none
	der         []byte              // the authorities, concatenated
	jwt         *jwtAuthorities
	sequence    uint64

	// Of the agent's own trust domain alone.
	revision     uint64         // of all of it; 0 from a server of before
	verifierKeys []byte         // signed document, for relying parties; not checked here
	denyList     []byte         // likewise
	federated    []*trustBundle // by trust domain: each speaks for its own, and is merged with none
	dropped      []string       // why foreign bundles were left out
}

// newer reports whether the bundle is to take the place of the one held: whether
// anything of it changed, and nothing goes back. Servers of before count their own
// authorities alone.
func (b *trustBundle) newer(held *trustBundle) bool {
	switch {
	case held == nil:
		return true
	case b.revision == 0 || held.revision == 0:
		return b.sequence > held.sequence || b.sequence == held.sequence && b.revision > held.revision
	}
	return b.revision > held.revision && b.sequence >= held.sequence
}

// older reports whether the bundle comes from a server that lags behind. One of a
// version before, beside newer ones, knows nothing of foreign bundles: they stay.
func (b *trustBundle) older(held *trustBundle) bool {
	if held == nil {
		return false
	}
	return b.sequence < held.sequence || b.sequence == held.sequence && b.revision < held.revision || b.revision != 0 && b.revision < held.revision
}

func (b *trustBundle) pool() *x509.CertPool {
	p := x509.NewCertPool()
	for _, c := range b.authorities {
		p.AddCert(c)
	}
	return p
}

// errNoIdentity means that there is nothing to serve: no SVID was issued yet,
// or the last one expired.
var errNoIdentity = errors.New("this agent holds no identity")

// snapshot is what is served of one trust domain, at one moment. It never changes.
type snapshot struct {
	version uint64
	svids   []*svid
	bundle  *trustBundle
}

// state is everything the agent holds of one trust domain. The renewal writes it, the
// Workload API reads it, and nothing else is shared between them.
//
// Invariants: a snapshot has at least one SVID, each live when it was made, and a
// bundle; a bundle is replaced by an older one only by an attestation, whose SVIDs the
// one held does not vouch for, or when it was kept too long; while halted nothing is
// handed out. Which caller may have which of the SVIDs is for the gatekeeper to say.
type state struct {
	now func() time.Time

	mu      sync.Mutex
	version uint64
	svids   []*svid
	retired []*svid // renewed, and live: their keys in hardware still sign
	bundle  *trustBundle
	halted  error     // why nothing is served although there is something
	denied  *Refusal  // the server's last word, where that is a denial
	waiting bool      // what is held is not served yet: the rest comes at once
	hints   []string  // of those that were served last
	granted []*svid   // by the last attestation, without keys
	behind  time.Time // since when attestations bring older bundles than the one held; zero: they do not
	snap    *snapshot
	changed *signal
}

func newState(now func() time.Time, changed *signal) *state {
	return &state{now: now, changed: changed}
}

// view returns what may be served now, or why nothing may be: errNoIdentity or
// the reason of a halt. The channel is closed at the next change.
func (s *state) view() (*snapshot, <-chan struct{}, error) {
	changed := s.changed.next()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire()
	switch {
	case s.halted != nil:
		return nil, changed, s.halted
	case s.snap == nil:
		return nil, changed, errNoIdentity
	}
	return s.snap, changed, nil
}

// maxBehind is how long a bundle is kept that every attestation calls too new. Servers
// lag for seconds; one that was false, or was restored from a backup since, would
// otherwise be believed for as long as the agent lives.
const maxBehind = time.Hour

// older is what became of a bundle that is older than the one held.
type older int

const (
	notOlder older = iota
	leftOut        // the one held is kept
	taken          // all the same: that one does not vouch for the SVIDs, or has been kept too long
)

// adopt replaces the identities. A bundle that is older than the one held comes
// from a server that lags behind; the newer one is kept as long as it still vouches
// for the new SVIDs, and for [maxBehind].
func (s *state) adopt(svids []*svid, b *trustBundle) (was older) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := s.now()
	switch {
	case !b.older(s.bundle):
		s.bundle, s.behind = b, time.Time{}
	case verifySVIDs(svids, s.bundle, at) != nil, !s.behind.IsZero() && at.Sub(s.behind) >= maxBehind:
		was = taken
		s.bundle, s.behind = b, time.Time{}
	default:
		was = leftOut
		if s.behind.IsZero() {
			s.behind = at
		}
	}
	s.retire(s.svids)
	s.svids, s.denied, s.granted = svids, nil, nil
	for _, v := range svids {
		s.granted = append(s.granted, &svid{id: v.id, chain: v.chain, selectors: v.selectors, hint: v.hint})
	}
	s.publish()
	return was
}

// await keeps what will be held from being served until [state.serve]: the first
// attestation tells how many identities there are, and the second one brings them. It
// reports whether nothing was served before.
func (s *state) await() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.snap != nil {
		return false
	}
	s.waiting = true
	return true
}

// serve ends the waiting.
func (s *state) serve() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting {
		s.waiting = false
		s.publish()
	}
}

// lastHints are the hints of what was served last.
func (s *state) lastHints() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hints
}

// ended are the identities that the last attestation brought, and that are over.
func (s *state) ended() (out []*svid) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := s.now()
	for _, v := range s.granted {
		if !v.live(at) {
			out = append(out, v)
		}
	}
	return out
}

// deny remembers that the server denies this agent its identities: by policy, or by a
// ban, which sounds the same. What is held is served until it ends. That a server
// cannot be reached says nothing, and changes nothing. It reports whether it is a
// denial.
func (s *state) deny(err error) bool {
	var r *Refusal
	if !errors.As(err, &r) || r.Kind != attest.Denied {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.denied = r
	return true
}

// denial is the denial that was the server's last word, or nil.
func (s *state) denial() *Refusal {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.denied
}

// maxRetired bounds the renewed SVIDs that are kept, in generations of
// [attest.MaxKeys].
const maxRetired = 4 * attest.MaxKeys

// retire keeps those whose keys are in hardware: somebody may be in the middle of
// a handshake with one, and cannot have taken the key along.
func (s *state) retire(old []*svid) {
	kept := slices.Clone(s.retired) // somebody may read the present one
	for _, v := range old {
		if isResident(v.key) {
			kept = append(kept, v)
		}
	}
	s.retired = kept[max(0, len(kept)-maxRetired):]
}

// adoptBundle replaces the bundle by a newer one. It reports whether it was
// newer, and whether every SVID held still chains to it.
func (s *state) adoptBundle(b *trustBundle) (newer, vouches bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !b.newer(s.bundle) {
		return false, true
	}
	s.bundle = b
	s.publish()
	return true, verifySVIDs(s.svids, b, s.now()) == nil
}

func (s *state) bundleHeld() *trustBundle {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bundle
}

// halt stops serving for a reason; nil resumes. It reports whether that is a
// change.
func (s *state) halt(why error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if (why == nil) == (s.halted == nil) {
		return false
	}
	s.halted = why
	s.changed.fire()
	return true
}

// tick lets expired SVIDs go, and tells those who wait.
func (s *state) tick() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire()
}

// renewable returns the live SVID that lasts longest, or nil: its key proves a
// renewal, and it authenticates a watch.
func (s *state) renewable() *svid {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire()
	var best *svid
	for _, v := range s.svids {
		if best == nil || v.notAfter().After(best.notAfter()) {
			best = v
		}
	}
	return best
}

// watchable is the SVID to watch with, or nil: while others are to come at once, the
// one that is held will have been renewed.
func (s *state) watchable() *svid {
	s.mu.Lock()
	waiting := s.waiting
	s.mu.Unlock()
	if waiting {
		return nil
	}
	return s.renewable()
}

// held are the identities that are held, also while nothing is served.
func (s *state) held() []*svid {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire()
	return s.svids
}

// dropResident lets those SVIDs go whose keys were in hardware that lost them.
func (s *state) dropResident() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.svids = slices.DeleteFunc(slices.Clone(s.svids), func(v *svid) bool { return isResident(v.key) })
	s.retired = nil
	s.publish()
}

// expire drops SVIDs that are past their NotAfter.
func (s *state) expire() {
	at := s.now()
	s.retired = slices.DeleteFunc(slices.Clone(s.retired), func(v *svid) bool { return !v.live(at) })
	kept := make([]*svid, 0, len(s.svids))
	for _, v := range s.svids {
		if v.live(at) {
			kept = append(kept, v)
		}
	}
	if len(kept) != len(s.svids) {
		s.svids = kept
		s.publish()
	}
}

// publish makes the next snapshot of what is held.
func (s *state) publish() {
	s.version++
	s.snap = nil
	if len(s.svids) > 0 && s.bundle != nil && !s.waiting {
		s.snap = &snapshot{version: s.version, svids: s.svids, bundle: s.bundle}
		s.hints = nil
		for _, v := range s.svids {
			if v.hint != "" {
				s.hints = append(s.hints, v.hint)
			}
		}
	}
	s.changed.fire()
}
