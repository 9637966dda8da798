package issuer

import (
	"context"
	"encoding/base64"
	"time"

	"google.golang.org/grpc"
)

// SetChallengeTTL shortens how long an answer is waited for.
func (s *Server) SetChallengeTTL(d time.Duration) { s.challengeTTL = d }

// SetClosingGrace shortens how long after its SVID a connection is closed. It
// counts for connections that are opened later.
func (s *Server) SetClosingGrace(d time.Duration) { s.closingGrace.Store(int64(d)) }

// AllJudgedForTest reports whether every watching agent has been judged by the
// policy in force.
func (s *Server) AllJudgedForTest() bool {
	return len(s.watchers.unjudged(s.policy.Current().Digest())) == 0
}

// WatchForTest has an agent watch, without a stream.
func (s *Server) WatchForTest(serial, spiffeID string) (leave func()) {
	_, leave = s.watchers.join(serial, spiffeID, "")
	s.judgeSoon()
	return leave
}

// HoldTurnsForTest takes every place that the trust domain may have now.
func (s *Server) HoldTurnsForTest() (release func()) {
	var ends []func()
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // whoever would have to wait is told so
	for {
		end, err := s.front.Load().turns.take(ctx, s.line.Load(), 0)
		if err != nil {
			return func() {
				for _, end := range ends {
					end()
				}
			}
		}
		ends = append(ends, end)
	}
}

// SlowTurnsForTest is what the turns of late are taken to have lasted.
func (s *Server) SlowTurnsForTest(mean time.Duration) {
	t := s.front.Load().turns
	t.mu.Lock()
	defer t.mu.Unlock()
	t.mean = mean
}

// WaitingForTest is how many attestations wait for their turn.
func (s *Server) WaitingForTest() int { return s.waiting() }

// ForgetBansForTest makes what is known of bans too old to serve by, until it is
// read again.
func (s *Server) ForgetBansForTest() {
	s.bans.reading.Lock()
	defer s.bans.reading.Unlock()
	old := *s.bans.current.Load()
	old.readAt = old.readAt.Add(-2 * banStaleness)
	s.bans.current.Store(&old)
}

// MethodForTest is a method of an admin service.
type MethodForTest struct {
	Name                         string
	ClientStreams, ServerStreams bool
}

// FlushAuditForTest ends a minute of the administrators' record.
func (s *Server) FlushAuditForTest() { s.audit.flush(context.Background()) }

// AdminMethodsForTest lists what is registered, in no order.
func AdminMethodsForTest(s *Server) (out []MethodForTest) {
	g := grpc.NewServer()
	registerAdmin(g, s)
	for name, info := range g.GetServiceInfo() {
		for _, m := range info.Methods {
			out = append(out, MethodForTest{"/" + name + "/" + m.Name, m.IsClientStream, m.IsServerStream})
		}
	}
	return out
}

// RolesForTest says who may call what.
func RolesForTest() map[string]Role {
	out := map[string]Role{}
	for name, r := range methodRules() {
		out[name] = r.role
	}
	return out
}

// MoveCursorForTest is a cursor with the place of one in the list of another.
func MoveCursorForTest(place, list string) string {
	p, err := base64.RawURLEncoding.DecodeString(place)
	if err != nil {
		return ""
	}
	l, err := base64.RawURLEncoding.DecodeString(list)
	if err != nil {
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(append(l[:cursorHead:cursorHead], p[cursorHead:]...))
}
