package agent

import (
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/assay-project/assay/attest"
)

// The services that the agent reports through the gRPC health protocol on its
// socket. SERVING is good everywhere.
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

// healthState keeps the health service up to date.
type healthState struct{ server *health.Server }

func newHealthState(tee attest.Platform) *healthState {
	h := &healthState{health.NewServer()}
	for _, s := range []string{HealthOverall, HealthIdentity} {
		h.set(s, false)
	}
	for _, s := range []string{HealthClock, HealthServer, HealthPolicy} {
		h.server.SetServingStatus(s, healthpb.HealthCheckResponse_UNKNOWN)
	}
	h.set(HealthTEE+string(tee), true)
	return h
}

func (h *healthState) set(service string, good bool) {
	st := healthpb.HealthCheckResponse_NOT_SERVING
	if good {
		st = healthpb.HealthCheckResponse_SERVING
	}
	h.server.SetServingStatus(service, st)
}

func (h *healthState) succeeded() {
	h.set(HealthServer, true)
	h.set(HealthPolicy, true)
}

func (h *healthState) failed(err error) {
	switch attest.KindOf(err) {
	case attest.Denied:
		h.set(HealthServer, true)
		h.set(HealthPolicy, false)
	case attest.Unavailable, attest.Internal, attest.Malformed, attest.Untrusted, attest.Stale:
		h.set(HealthServer, false)
	}
}
