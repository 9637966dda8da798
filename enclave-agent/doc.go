// Package agent is the program inside the TEE. It makes keys in memory, has
// the hardware vouch for them, trades the evidence for X.509-SVIDs at an Assay
// server, and hands those to the workload beside it through the SPIFFE
// Workload API.
//
//	a, err := agent.New(agent.Config{TrustDomain: td, Server: "10.0.0.1:8443", BootstrapRoots: roots, Attester: attester, Socket: "/run/assay/agent.sock"})
//	err = a.Run(ctx) // until ctx ends; never because a server is away
//
// The parts, and where to read about each:
//
//	attester.go detect.go  what the hardware is asked for, and which hardware it is
//	nitro.go snp.go tpm.go …
//	                       one kind of TEE each
//	server.go              which server is believed (the pinned bootstrap roots)
//	attestation.go         one attestation: Hello, Challenge, Evidence, Issued
//	exchange.go            a TPM's event log and second round in it
//	reply.go               what is checked in everything that a server says
//	clock.go               whose time it is
//	renew.go watch.go      when to attest again
//	state.go               what is held now; the one place that everything reads
//	workload.go socket.go  the Workload API and its socket
//	agentapi.go            assay.agent.v1 beside it; package agentclient is its client
//
// # Whom the agent believes
//
// The host below the TEE is the adversary: it owns the network, the disks and
// the wall clock. The agent believes its own memory, the TEE's device, and a
// server that proves its name under the bootstrap roots in the agent's measured
// configuration. Even of that server it checks every answer, so that a mistake
// there is an error here and never replaces identities that work.
//
// # What it keeps
//
// Private keys and SVIDs live in memory and are gone with the process; keys that
// live in a TPM are sealed for it, and gone with its reset or the process. There
// is nothing to persist: an agent that starts again attests again.
package agent
