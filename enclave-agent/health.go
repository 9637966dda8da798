package agent

import (
	"slices"
	"sync"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/assay-project/assay/attest"
)

// The services that the agent reports through the gRPC health protocol on its
// socket. SERVING is good everywhere. Of several trust domains, the first two are good
// where one is, and the others where all are.
const (
	HealthOverall  = ""         // a workload gets an SVID now
	HealthIdentity = "identity" // at least one live SVID is held
	HealthClock    = "clock"    // the wall clock agrees with the server's time
	HealthServer   = "server"   // the last attestation reached the server and was answered
	HealthPolicy   = "policy"   // the last attestation was not denied by policy
)

// HealthTEE begins the name of a service that tells the kind of TEE that the
// agent attests with: "tee/aws-nitro".
const HealthTEE = "tee/"

// HealthTrustDomain begins the name of a service for each trust domain, which is good
// where a workload gets an SVID of it now: "trust-domain/example.org".
const HealthTrustDomain = "trust-domain/"

// healthState keeps the health service up to date.
type healthState struct {
	server *health.Server

	mu   sync.Mutex
	said map[string][]healthpb.HealthCheckResponse_ServingStatus // by service, of each member
	n    int
}

func newHealthState(tee attest.Platform) *healthState {
	h := &healthState{server: health.NewServer(), said: map[string][]healthpb.HealthCheckResponse_ServingStatus{}}
	h.server.SetServingStatus(HealthTEE+string(tee), healthpb.HealthCheckResponse_SERVING)
	return h
}

// memberHealth is what one member says of its trust domain.
type memberHealth struct {
	all   *healthState
	index int
	td    spiffeid.TrustDomain
}

func (h *healthState) member(td spiffeid.TrustDomain) *memberHealth {
	m := &memberHealth{all: h, index: h.n, td: td}
	h.n++
	for _, s := range []string{HealthOverall, HealthIdentity} {
		h.say(m, s, healthpb.HealthCheckResponse_NOT_SERVING)
	}
	for _, s := range []string{HealthClock, HealthServer, HealthPolicy} {
		h.say(m, s, healthpb.HealthCheckResponse_UNKNOWN)
	}
	return m
}

// say takes one member's word, and reports what follows from all.
func (h *healthState) say(m *memberHealth, service string, now healthpb.HealthCheckResponse_ServingStatus) {
	h.mu.Lock()
	defer h.mu.Unlock()
	said := h.said[service]
	for len(said) <= m.index {
		said = append(said, healthpb.HealthCheckResponse_UNKNOWN)
	}
	said[m.index] = now
	h.said[service] = said
	h.server.SetServingStatus(service, together(service, said))
	if service == HealthOverall {
		h.server.SetServingStatus(HealthTrustDomain+m.td.Name(), now)
	}
}

func together(service string, said []healthpb.HealthCheckResponse_ServingStatus) healthpb.HealthCheckResponse_ServingStatus {
	const good, bad = healthpb.HealthCheckResponse_SERVING, healthpb.HealthCheckResponse_NOT_SERVING
	anyGood, anyBad := slices.Contains(said, good), slices.Contains(said, bad)
	switch one := service == HealthOverall || service == HealthIdentity; {
	case one && anyGood:
		return good
	case anyBad:
		return bad
	case slices.Contains(said, healthpb.HealthCheckResponse_UNKNOWN):
		return healthpb.HealthCheckResponse_UNKNOWN
	}
	return good
}

func (m *memberHealth) set(service string, good bool) {
	st := healthpb.HealthCheckResponse_NOT_SERVING
	if good {
		st = healthpb.HealthCheckResponse_SERVING
	}
	m.all.say(m, service, st)
}

func (m *memberHealth) succeeded() {
	m.set(HealthServer, true)
	m.set(HealthPolicy, true)
}

func (m *memberHealth) failed(err error) {
	switch attest.KindOf(err) {
	case attest.Denied:
		m.set(HealthServer, true)
		m.set(HealthPolicy, false)
	case attest.Unavailable, attest.Internal, attest.Malformed, attest.Untrusted, attest.Stale:
		m.set(HealthServer, false)
	}
}
