package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/attest"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
)

// Waits between watches. A server that does not answer watches costs nothing
// but the wait until an SVID's own renewal.
const (
	watchBase   = 500 * time.Millisecond
	watchCap    = time.Minute
	watchStable = time.Minute // a watch that lasted this long was a good one
)

// maxWithin bounds the window over which a server spreads renewals, one hour.
const maxWithin = time.Hour

// watch listens for the server's word that this agent should attest again, and
// for changes of the bundle. It needs a live SVID; it never ends before ctx.
func (m *member) watch(ctx context.Context) error {
	var pause backoff
	for {
		own, err := m.waitForIdentity(ctx)
		if err != nil {
			return nil // the agent is stopping
		}
		began := m.time.clock.Boot()
		_, err = guard(func() (struct{}, error) { return struct{}{}, m.watchOnce(ctx, own) })
		if ctx.Err() != nil {
			return nil
		}
		if m.time.clock.Boot()-began >= watchStable {
			pause.reset()
		}
		wait := pause.next(watchBase, watchCap)
		if status.Code(err) == codes.Unimplemented {
			wait = watchCap
		}
		m.log.Debug("watch ended", "error", errorText(err), "retry_in", wait.Round(time.Millisecond).String())
		if sleep(ctx, wait) != nil {
			return nil
		}
	}
}

// waitForIdentity blocks until there is a live SVID to authenticate with.
func (m *member) waitForIdentity(ctx context.Context) (*svid, error) {
	for {
		_, changed, _ := m.state.view() // a halt does not keep the agent from talking to its server
		if own := m.state.renewable(); own != nil {
			return own, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-changed:
		}
	}
}

// watchOnce holds one watch, on a connection of its own that shows the SVID.
// Renewals do not disturb it: the server ends it with the SVID it began with.
func (m *member) watchOnce(ctx context.Context, own *svid) error {
	cert := own.certificate()
	l, err := m.dial(func() *tls.Certificate { return cert })
	if err != nil {
		return err
	}
	defer func() { _ = l.Close() }()
	stream, err := assayv1.NewAttestationClient(l).Watch(ctx, &assayv1.WatchRequest{})
	if err != nil {
		return err
	}
	for {
		ev, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		if err := m.heed(ev); err != nil {
			return err
		}
	}
}

// heed acts on one event.
func (m *member) heed(ev *assayv1.WatchEvent) error {
	switch e := ev.GetEvent().(type) {
	case *assayv1.WatchEvent_Reattest:
		within := min(max(time.Duration(min(e.Reattest.GetWithinMs(), maxWithin.Milliseconds()))*time.Millisecond, 0), maxWithin)
		now := m.time.now()
		m.plan.advance(between(now, now.Add(within)))
		m.tokens.forget() // whatever changed: the server is asked about the next one
		m.log.Info("the server asks for a new attestation", "reason", e.Reattest.GetReason().String(), "within", within.String())
	case *assayv1.WatchEvent_Bundle:
		b, err := checkBundle(e.Bundle, m.of.TrustDomain)
		if err == nil {
			err = m.fits(m.state.held(), b)
		}
		if err != nil {
			m.log.Warn("the server sent a trust bundle that is not accepted", "check", attest.CheckOf(err), "error", err.Error())
			return err
		}
		newer, vouches := m.state.adoptBundle(b)
		if newer {
			m.log.Info("new trust bundle", "sequence", b.sequence, "revision", b.revision, "authorities", len(b.authorities), "federated", len(b.federated))
			m.warnOfDropped(b)
		}
		if !vouches {
			// An authority is gone that signed what this agent holds.
			m.plan.advance(m.time.now())
		}
	default:
		m.log.Debug("the server sent an event that this version does not know")
	}
	return nil
}

// warnOfDropped tells of foreign bundles that this agent cannot read.
func (m *member) warnOfDropped(b *trustBundle) {
	for _, why := range b.dropped {
		m.log.Warn("a foreign trust bundle cannot be read; that trust domain is not trusted", "why", why)
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return clip(err.Error())
}
