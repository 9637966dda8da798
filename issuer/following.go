package issuer

import (
	"github.com/assay-project/assay/issuer/store"
)

// follow tells the parts that remember something when another server has changed
// it. What each does without the news is its own: bans are asked for every few
// seconds and fail closed, authorities are read again now and then, and a policy or
// an inventory is as old as the last word of the database.
func (s *Server) follow() {
	e := s.events
	if e == nil {
		return
	}
	e.Soon("authorities and servers", s.ca.Reload, store.TopicAuthorities, store.TopicMembers, store.TopicDocuments, store.TopicTrustDomains)
	e.Soon("policy", s.policy.Follow, store.TopicPolicies)
	e.Now(store.TopicBans, func(string) { s.BansChanged() })
	e.Lost(s.BansChanged)
	if s.federation != nil {
		e.Soon("federation", s.federation.Reload, store.TopicFederations)
	}
	if s.tpms != nil {
		e.Now(store.TopicInventory, func(string) { s.tpms.Changed() })
		e.Soon("inventory of TPMs", s.tpms.Reload, store.TopicInventory)
		e.Now(store.TopicBindings, s.tpms.Rebound)
		e.Lost(func() {
			s.tpms.Changed()
			s.tpms.Rebound("")
		})
	}
}
