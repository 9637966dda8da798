package issuer

import "time"

// SetChallengeTTL shortens how long an answer is waited for.
func (s *Server) SetChallengeTTL(d time.Duration) { s.challengeTTL = d }
