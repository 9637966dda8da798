package agent

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
)

// A host that cuts the watch keeps the server's word from the agent; a token that is
// refused tells as much.
func TestAnAgentWhoseTokenIsRefusedForItsSVIDAttestsAgain(t *testing.T) {
	t.Parallel()
	s := newFaultyServer(t)
	m := newMints(t, s)
	s.unwatched = status.Error(codes.Unavailable, "cut")
	s.start()
	a, _ := runAgent(t, s.config(t))
	before := served(t, a)
	_, c := callAgent(t, a)
	m.fail(status.Error(codes.Unauthenticated, "not a live SVID of this trust domain"))
	if _, err := fetchToken(c, "", "reports"); status.Code(err) != codes.Unavailable {
		t.Errorf("the workload hears %v", err)
	}
	eventuallyWithin(t, 10*time.Second, "the agent attests", func() bool { return served(t, a) != before })
	m.fail(nil)
	if _, err := fetchToken(c, "", "reports"); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestAnAgentWhoseWatchIsRefusedForItsSVIDAttestsAgain(t *testing.T) {
	t.Parallel()
	s := newFaultyServer(t)
	s.unwatched = status.Error(codes.Unauthenticated, "not a live SVID of this trust domain")
	s.start()
	a, _ := runAgent(t, s.config(t))
	before := served(t, a)
	eventuallyWithin(t, 10*time.Second, "the agent attests", func() bool { return served(t, a) != before })
}

// A server that turns away what it has just issued is asked later and later.
func TestAServerThatTakesNoneOfItsSVIDsIsNotAskedWithoutEnd(t *testing.T) {
	t.Parallel()
	s := newFaultyServer(t)
	s.start()
	a, _ := runAgent(t, s.config(t))
	served(t, a)
	m, now := a.members[0], a.members[0].time.now()
	own := m.state.renewable()
	m.turnedAway(own)
	if at := m.plan.next(); at.After(now.Add(2 * time.Second)) {
		t.Errorf("the first time it attests at %s, not at once", at)
	}
	m.plan.set(now.Add(time.Hour), time.Time{})
	m.turnedAway(own)
	if at := m.plan.next(); !at.Equal(now.Add(time.Hour)) {
		t.Error("twice for one SVID")
	}
	var last time.Duration
	for range 12 {
		own.turnedAway.Store(false)
		m.turnedAway(own)
		m.away.mu.Lock()
		last = max(last, m.away.wait)
		m.away.mu.Unlock()
	}
	if last < 5*time.Second {
		t.Errorf("after twelve times it waits %s at most", last)
	}
	m.turnedAway(&svid{}) // one that was renewed meanwhile says nothing
}

// Reattest events without end lead to as many attestations as one, and to no more
// lines in the log.
func TestAWatchThatFloodsIsEnded(t *testing.T) {
	t.Parallel()
	s := newFaultyServer(t)
	s.events = make(chan *assayv1.WatchEvent)
	s.start()
	cfg := s.config(t)
	var logs lockedBuffer
	cfg.Log = slog.New(slog.NewTextHandler(&logs, nil))
	a, _ := runAgent(t, cfg)
	served(t, a)
	sent := 0
	for end := time.After(3 * time.Second); ; {
		select {
		case s.events <- &assayv1.WatchEvent{Event: &assayv1.WatchEvent_Reattest{Reattest: &assayv1.Reattest{Reason: assayv1.Reattest_REASON_BANNED}}}:
			sent++
			continue
		case <-end:
		}
		break
	}
	eventually(t, "the watch was opened again", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.watching > 1 })
	lines := strings.Count(logs.String(), "the server asks for a new attestation")
	if sent < maxEvents || lines == 0 || lines > 10 || !strings.Contains(logs.String(), "floods the watch") {
		t.Errorf("%d events, %d lines, %d attestations", sent, lines, len(s.heard()))
	}
}

// Of bundles one a second is taken, the last one.
func TestBundlesOfAWatchAreTakenOnceASecond(t *testing.T) {
	t.Parallel()
	s := newFaultyServer(t)
	s.start()
	cfg := s.config(t)
	var logs lockedBuffer
	cfg.Log = slog.New(slog.NewTextHandler(&logs, nil))
	a, _ := runAgent(t, cfg)
	served(t, a)
	eventually(t, "the agent watches", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.watching > 0 })
	for seq := uint64(100); seq < 150; seq++ {
		b := s.bundle()
		b.Sequence, b.Revision = seq, seq
		s.events <- &assayv1.WatchEvent{Event: &assayv1.WatchEvent_Bundle{Bundle: b}}
	}
	eventually(t, "the last bundle is there", func() bool { now, _, err := a.members[0].state.view(); return err == nil && now.bundle.revision == 149 })
	if n := strings.Count(logs.String(), "new trust bundle"); n > 4 {
		t.Errorf("%d of 50 bundles were taken", n)
	}
}
