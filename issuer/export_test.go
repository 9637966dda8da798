package issuer

import "time"

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
	_, leave = s.watchers.join(serial, spiffeID)
	s.judgeSoon()
	return leave
}
