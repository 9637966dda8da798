package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/attest"
	agent "github.com/assay-project/assay/enclave-agent"
)

func healthcheckCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "healthcheck",
		Short: "Say whether the running agent serves an identity",
		Long: `healthcheck asks the running agent through its socket.

Exit codes: 0 a workload gets an SVID now; 5 the wall clock departs from the
server's time, so nothing is served; 6 there is no identity, and policy denied
the last attestation; 7 there is no identity, or no agent. It is good while any
identity is; those that have ended meanwhile are listed.`,
		Example: "  assay-agent healthcheck\n  assay-agent healthcheck --output json",
		Args:    cobra.NoArgs,
	}
	return asking(c, func(ctx context.Context, path, output string) error {
		h, err := askHealth(ctx, path)
		if err != nil {
			return err
		}
		if err := h.write(c.OutOrStdout(), output); err != nil {
			return err
		}
		return h.verdict()
	})
}

// health is what the agent says of itself: "good", "bad" or "unknown". Of several trust
// domains, serving and identity are good where one is, the others where all are.
type health struct {
	Serving  string `json:"serving"`  // a workload gets an SVID now
	Identity string `json:"identity"` // a live SVID is held
	Clock    string `json:"clock"`    // the wall clock agrees with the server's time
	Server   string `json:"server"`   // the last attestation was answered
	Policy   string `json:"policy"`   // the last attestation was not denied by policy
	TEE      string `json:"tee"`      // the kind of TEE that it attests with: "aws-nitro"
	// By trust domain, whether a workload gets an SVID of it now.
	TrustDomains map[string]string `json:"trust_domains"`
	// The identities that the last attestation brought and that have ended, of those
	// that this user may know of.
	Ended []string `json:"ended"`
}

func askHealth(ctx context.Context, path string) (health, error) {
	conn, err := dialAgent(path)
	if err != nil {
		return health{}, err
	}
	defer func() { _ = conn.Close() }()
	all, err := healthpb.NewHealthClient(conn).List(ctx, &healthpb.HealthListRequest{})
	if err != nil {
		return health{}, noAgent(path, err)
	}
	h := health{TEE: "unknown", TrustDomains: map[string]string{}}
	for service, s := range all.GetStatuses() {
		if tee, ok := strings.CutPrefix(service, agent.HealthTEE); ok {
			h.TEE = tee
		}
		if td, ok := strings.CutPrefix(service, agent.HealthTrustDomain); ok {
			h.TrustDomains[td] = word(s.GetStatus())
		}
	}
	for service, into := range map[string]*string{
		agent.HealthOverall: &h.Serving, agent.HealthIdentity: &h.Identity, agent.HealthClock: &h.Clock,
		agent.HealthServer: &h.Server, agent.HealthPolicy: &h.Policy,
	} {
		*into = word(all.GetStatuses()[service].GetStatus())
	}
	h.Ended = []string{}
	if s, err := askStatus(ctx, path); err == nil { // an agent of before tells no status
		h.Ended = s.ended(time.Now())
	}
	return h, nil
}

func word(s healthpb.HealthCheckResponse_ServingStatus) string {
	switch s {
	case healthpb.HealthCheckResponse_SERVING:
		return "good"
	case healthpb.HealthCheckResponse_NOT_SERVING:
		return "bad"
	case healthpb.HealthCheckResponse_UNKNOWN, healthpb.HealthCheckResponse_SERVICE_UNKNOWN:
	}
	return "unknown"
}

func (h health) write(w io.Writer, output string) error {
	if output == "json" {
		return json.NewEncoder(w).Encode(h)
	}
	several := ""
	if len(h.TrustDomains) > 1 {
		for _, td := range slices.Sorted(maps.Keys(h.TrustDomains)) {
			several += fmt.Sprintf("  %s  %s\n", td, h.TrustDomains[td])
		}
	}
	ended := ""
	for _, id := range h.Ended {
		ended += fmt.Sprintf("  %s  ended\n", id)
	}
	_, err := fmt.Fprintf(w, "serving   %s\n%sidentity  %s\n%sclock     %s\nserver    %s\npolicy    %s\ntee       %s\n", h.Serving, several, h.Identity, ended, h.Clock, h.Server, h.Policy, h.TEE)
	return err
}

// verdict is the error whose kind is the exit code.
func (h health) verdict() error {
	switch {
	case h.Serving == "good":
		return nil
	case h.Clock == "bad":
		return clockError()
	case h.Policy == "bad":
		return &attest.Error{Kind: attest.Denied, Check: "policy", Err: errors.New("policy denied the last attestation"), Hint: "the agent's log has the reference for `assay ledger show`, and so has `assay-agent status`"}
	}
	return &attest.Error{Kind: attest.Unavailable, Check: "identity", Err: errors.New("the agent holds no identity"), Hint: "the agent's log says why, and so does `assay-agent status`"}
}

func clockError() error {
	return &attest.Error{Kind: attest.Stale, Check: "clock", Err: errors.New("the wall clock departs from the server's time, so nothing is served"), Hint: "set this machine's clock; the agent resumes by itself"}
}

func dialAgent(path string) (*grpc.ClientConn, error) {
	return grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials())) // a unix socket of this machine
}

func noAgent(path string, err error) error {
	said, hint := strings.TrimSpace(status.Convert(err).Message()), "start it with `assay-agent run`, or name its socket with --socket"
	if strings.Contains(said, "permission denied") {
		hint = "this user may not open the socket, or not enter its directory: socket_mode and socket_group in the agent's configuration"
	}
	return &attest.Error{Kind: attest.Unavailable, Check: "socket", Err: fmt.Errorf("no agent answers on %s: %s", path, said), Hint: hint}
}
