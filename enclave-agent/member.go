package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/sync/errgroup"

	"github.com/assay-project/assay/attest"
)

// Membership is a trust domain that the agent attests to.
type Membership struct {
	TrustDomain    spiffeid.TrustDomain
	Server         string         // host:port of the attestation service
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
	if _, _, err := net.SplitHostPort(of.Server); err != nil {
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

// member is the agent in one trust domain: whom it believes there, whose time that
// is, what it holds, and when it attests again. Nothing of one member reaches
// another; what they share is the device.
type member struct {
	of     Membership
	cfg    Config    // what is the same in every trust domain
	holder KeyHolder // nil for keys in memory
	log    *slog.Logger
	time   *timekeeper
	server *serverTrust
	state  *state
	tokens *minter
	plan   *schedule
	health *healthState
	ids    []string // one for each key of the next attestation; used by the renewal alone
}

func newMember(of Membership, cfg Config, holder KeyHolder, health *healthState) (*member, error) {
	if err := of.check(); err != nil {
		return nil, err
	}
	m := &member{of: of, cfg: cfg, holder: holder, log: cfg.Log, time: &timekeeper{clock: cfg.Clock}, plan: newSchedule(), health: health, ids: []string{""}}
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
	m.state = newState(m.time.now)
	m.tokens = newMinter(m.time.now, m.log, m.state.denial, m.dial)
	return m, nil
}

// dial prepares a connection to the server; certificate is nil, or says which SVID
// to show.
func (m *member) dial(certificate func() *tls.Certificate) (*link, error) {
	return m.server.dial(m.of.Server, m.cfg.Dial, certificate)
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
