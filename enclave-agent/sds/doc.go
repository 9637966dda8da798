// Package sds serves an agent's identities to Envoy: its Secret Discovery Service,
// version 3, on the socket of the Workload API.
//
// The names that Envoy asks for:
//
//	default              the first SVID that the caller may have, with its key
//	spiffe://TD/PATH     the SVID of that name
//	ROOTCA               the bundle of that SVID's trust domain
//	spiffe://TD          the bundle of that trust domain: one that the agent is in, or
//	                     that is federated with
//	ALL                  every bundle, each for its own trust domain alone: a
//	                     validator of Envoy's that checks SPIFFE IDs
//
// Both ways of xDS are spoken: "state of the world", the way Envoy asks by default,
// and "delta". A stream answers at once, and again whenever what was asked for changes.
// A name that the caller may not have is left out of the answer, and comes when it
// may: an Envoy that hears that there is no such secret opens its port without it.
//
// What an Envoy of another process gets is decided as for every caller, by what
// the kernel says of that process.
package sds
