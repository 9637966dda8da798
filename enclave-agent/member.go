package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/sync/errgroup"

	"github.com/assay-project/assay/attest"
	attested "github.com/assay-project/assay/svid"
)

// Membership is a trust domain that the agent attests to.
type Membership struct {
	TrustDomain    spiffeid.TrustDomain
	Server         string         // host:port of the attestation service, or vsock:CID:PORT
	BootstrapRoots BootstrapRoots // pinned: the current one and the next
	Identities     []spiffeid.ID  // the names to ask for; none is all that policy grants, in its order
}

// check says what is wrong with a membership.
func (of Membership) check() error {
	switch {
	case of.TrustDomain.IsZero():
		return errors.New("no trust domain")
	case len(of.Identities) > attest.MaxKeys:
		return fmt.Errorf("%d identities, at most %d", len(of.Identities), attest.MaxKeys)
	}
	if err := CheckServer(of.Server); err != nil {
		return fmt.Errorf("server address: %w", err)
	}
	if td, err := of.BootstrapRoots.TrustDomain(); err == nil && td != of.TrustDomain {
		return fmt.Errorf("the bootstrap root is that of trust domain %s, not of %s", td, of.TrustDomain)
	}
	for _, id := range of.Identities {
		if id.TrustDomain() != of.TrustDomain {
			return fmt.Errorf("%s is not in the trust domain %s", id, of.TrustDomain)
		}
	}
	return nil
}

// Simulated reports whether the trust domain stands for no hardware, by its name.
func (of Membership) Simulated() bool {
	return strings.HasPrefix(of.TrustDomain.Name(), attested.SimulatedPrefix)
}

// member is the agent in one trust domain: whom it believes there, whose time that
// is, what it holds, and when it attests again. Nothing of one member reaches
// another; what they share is the device, which takes one request at a time.
type member struct {
	of     Membership
	agent  *Agent    // for what is the same in every trust domain
	alone  bool      // there is no other trust domain
	room   int       // how many bytes of messages to workloads are this member's
	holder KeyHolder // nil for keys in memory
	log    *slog.Logger
	time   *timekeeper
	server *serverTrust
	state  *state
	tokens *minter
	plan   *schedule
	health *memberHealth
	past   history
	away   turnings
	ids    []string // one for each key of the next attestation; used by the renewal alone
}

// newMember makes one of n members.
func newMember(of Membership, a *Agent, n int) (*member, error) {
	if err := of.check(); err != nil {
		return nil, err
	}
	m := &member{
		of: of, agent: a, alone: n == 1, room: maxServed / n, log: a.log, time: &timekeeper{clock: a.cfg.Clock, floor: of.BootstrapRoots.Made()},
		plan: newSchedule(), health: a.health.member(of.TrustDomain), ids: []string{""},
	}
	if a.cfg.NotBefore.After(m.time.floor) {
		m.time.floor = a.cfg.NotBefore
	}
	if !m.alone {
		m.log = a.log.With("trust_domain", of.TrustDomain.Name())
	}
	if len(of.Identities) > 0 {
		m.ids = nil
	}
	for _, id := range of.Identities {
		m.ids = append(m.ids, id.String())
	}
	var err error
	if m.server, err = newServerTrust(of.TrustDomain, of.BootstrapRoots, m.time.now); err != nil {
		return nil, err
	}
	m.state = newState(m.time.now, a.changed)
	m.tokens = newMinter(m.time.now, m.log, m.denied, m.turnedAway, m.dial)
	return m, nil
}

// dial prepares a connection to the server; certificate is nil, or says which SVID
// to show.
func (m *member) dial(certificate func() *tls.Certificate) (*link, error) {
	return m.server.dial(m.of.Server, m.agent.cfg.Dial, certificate)
}

// run keeps the identities fresh until ctx ends.
func (m *member) run(ctx context.Context, g *errgroup.Group) {
	g.Go(func() error { return m.renewal(ctx) })
	g.Go(func() error { return m.watch(ctx) })
	g.Go(func() error { return m.forgetTokens(ctx) })
}

// tick looks at the clocks, and lets go of what expired.
func (m *member) tick() {
	m.watchClock()
	m.state.tick()
	m.reportHealth()
}

// reportHealth says whether a workload would get an SVID now.
func (m *member) reportHealth() {
	_, _, err := m.state.view()
	m.health.set(HealthOverall, err == nil)
	m.health.set(HealthIdentity, m.state.renewable() != nil)
}

// errClock is the reason of a halt: certificates would be checked by a clock
// that cannot be right.
var errClock = fmt.Errorf("the wall clock departs from the server's time by more than %s", MaxDeparture)

// watchClock stops serving when the wall clock departs from the agent's time,
// and resumes when it is back. Departing, the agent asks a server for the time
// again by attesting: it may be its own notion that fell behind.
func (m *member) watchClock() {
	by, tooFar := m.time.departure()
	m.health.set(HealthClock, !tooFar)
	var why error
	if tooFar {
		why = errClock
	}
	if !m.state.halt(why) {
		return
	}
	if tooFar {
		m.log.Error("the wall clock departs from the server's time: serving stops", "ahead_by", by.Round(time.Millisecond).String(), "limit", MaxDeparture.String())
		m.plan.advance(m.time.now())
	} else {
		m.log.Info("the wall clock agrees with the server's time again: serving resumes")
	}
}
