package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/enclave-agent/sds"
)

// startAgent runs the site's agent, until it has an identity.
func (s *site) startAgent() *exec.Cmd {
	s.t.Helper()
	c := s.agent("run", "--data-dir", s.path("agent"))
	s.start("agent", c)
	s.until("an identity", func() bool { return s.agent("healthcheck", "--data-dir", s.path("agent")).Run() == nil })
	return c
}

// fleetOfNames is as many identities as one image can have, each another one with a
// revision.
const fleetOfNames = 16

func manyIdentities(revision int) string {
	var b strings.Builder
	for i := range fleetOfNames {
		_, _ = fmt.Fprintf(&b, "\n      - spiffe_id: \"spiffe://{td}/orders/%d\"\n        attributes: {release: \"%d\"}", i, revision)
	}
	return b.String() + "\n"
}

// serials are the certificates of secrets, each with its own key.
func serials(t *testing.T, secrets map[string]*tlsv3.Secret) map[string]string {
	t.Helper()
	out := map[string]string{}
	for name, s := range secrets {
		c := s.GetTlsCertificate()
		if c == nil {
			continue
		}
		pair, err := tls.X509KeyPair(c.GetCertificateChain().GetInlineBytes(), c.GetPrivateKey().GetInlineBytes())
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if name != sds.Default && pair.Leaf.URIs[0].String() != name {
			t.Fatalf("%s is the certificate of %s", name, pair.Leaf.URIs[0])
		}
		out[name] = pair.Leaf.SerialNumber.String()
	}
	return out
}

// worldStream is a stream of Envoy's that asks for some names as they are ("state of
// the world").
type worldStream struct {
	t     *testing.T
	names []string
	c     secretv3.SecretDiscoveryService_StreamSecretsClient
	last  *discovery.DiscoveryResponse
}

// ask sends the names, with Envoy's word on the last answer.
func (w *worldStream) ask(refusal *rpcstatus.Status) {
	w.t.Helper()
	r := &discovery.DiscoveryRequest{Node: &core.Node{Id: "envoy-1", Cluster: "shop"}, TypeUrl: sds.TypeURL, ResourceNames: w.names, VersionInfo: w.last.GetVersionInfo(), ResponseNonce: w.last.GetNonce(), ErrorDetail: refusal}
	if err := w.c.Send(r); err != nil {
		w.t.Fatal(err)
	}
}

func (w *worldStream) hear() map[string]*tlsv3.Secret {
	w.t.Helper()
	var err error
	if w.last, err = w.c.Recv(); err != nil {
		w.t.Fatal(err)
	}
	out := map[string]*tlsv3.Secret{}
	for _, a := range w.last.GetResources() {
		s := &tlsv3.Secret{}
		if err := a.UnmarshalTo(s); err != nil {
			w.t.Fatal(err)
		}
		if err := s.ValidateAll(); err != nil { // Envoy's own rules
			w.t.Fatal(err)
		}
		out[s.GetName()] = s
	}
	return out
}

// deltaStream is one that asks for what changed.
type deltaStream struct {
	t        *testing.T
	c        secretv3.SecretDiscoveryService_DeltaSecretsClient
	has      map[string]*tlsv3.Secret
	versions map[string]string
}

// hear takes an answer and accepts it, or refuses it.
func (d *deltaStream) hear(refusal *rpcstatus.Status) (came, went []string) {
	d.t.Helper()
	m, err := d.c.Recv()
	if err != nil {
		d.t.Fatal(err)
	}
	for _, r := range m.GetResources() {
		s := &tlsv3.Secret{}
		if err := r.GetResource().UnmarshalTo(s); err != nil {
			d.t.Fatal(err)
		}
		came = append(came, r.GetName())
		d.has[r.GetName()], d.versions[r.GetName()] = s, r.GetVersion()
	}
	for _, n := range m.GetRemovedResources() {
		delete(d.has, n)
		delete(d.versions, n)
	}
	if err := d.c.Send(&discovery.DeltaDiscoveryRequest{TypeUrl: sds.TypeURL, ResponseNonce: m.GetNonce(), ErrorDetail: refusal}); err != nil {
		d.t.Fatal(err)
	}
	return came, m.GetRemovedResources()
}

// Many secrets over the socket of an agent's process, a stream for each as Envoy has
// it, one for all, and one for what changes: each hears of each renewal once, whether it
// liked the last one or not; and after a restart of the agent those that come back get
// what they do not have.
func TestEnvoysStreamsFollowARealAgent(t *testing.T) {
	s := newSite(t)
	s.grant(2, manyIdentities(2))
	agent := s.startAgent()
	conn, err := grpc.NewClient("unix:"+s.path("agent/agent.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	client := secretv3.NewSecretDiscoveryServiceClient(conn)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var names []string
	for i := range fleetOfNames {
		names = append(names, fmt.Sprintf("spiffe://simulated.example.org/orders/%d", i))
	}
	whole := append(slices.Clone(names), "default", "ALL", "ROOTCA")

	complete := func() { // an agent that begins asks for one, and hears how many there are
		t.Helper()
		s.until("all identities", func() bool {
			r, err := client.FetchSecrets(ctx, &discovery.DiscoveryRequest{ResourceNames: names})
			return err == nil && len(r.GetResources()) == len(names)
		})
	}
	complete()
	world := func(names ...string) *worldStream {
		t.Helper()
		c, err := client.StreamSecrets(ctx, grpc.WaitForReady(true))
		if err != nil {
			t.Fatal(err)
		}
		w := &worldStream{t: t, names: names, c: c}
		w.ask(nil)
		return w
	}
	delta := func(versions map[string]string) *deltaStream {
		t.Helper()
		c, err := client.DeltaSecrets(ctx, grpc.WaitForReady(true))
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Send(&discovery.DeltaDiscoveryRequest{Node: &core.Node{Id: "envoy-1"}, TypeUrl: sds.TypeURL, ResourceNamesSubscribe: whole, InitialResourceVersions: versions}); err != nil {
			t.Fatal(err)
		}
		return &deltaStream{t: t, c: c, has: map[string]*tlsv3.Secret{}, versions: maps.Clone(versions)}
	}

	single := map[string]*worldStream{}
	for _, n := range whole {
		single[n] = world(n)
	}
	all := world(whole...)
	held := map[string]*tlsv3.Secret{}
	for n, w := range single {
		got := w.hear()
		if len(got) != 1 || got[n] == nil {
			t.Fatalf("%s: %v", n, got)
		}
		held[n] = got[n]
		w.ask(nil)
	}
	if got := all.hear(); len(got) != len(whole) || !maps.Equal(serials(t, got), serials(t, held)) {
		t.Fatalf("one stream for all has %d secrets, or others", len(got))
	}
	all.ask(nil)
	d := delta(map[string]string{})
	if came, went := d.hear(nil); len(came) != len(whole) || len(went) != 0 || !maps.Equal(serials(t, d.has), serials(t, held)) {
		t.Fatalf("by delta %d came, %d went", len(came), len(went))
	}

	refusal := &rpcstatus.Status{Code: int32(codes.InvalidArgument), Message: "Failed to load certificate chain"}
	for revision := 3; revision <= 5; revision++ {
		s.grant(revision, manyIdentities(revision))
		now := map[string]*tlsv3.Secret{}
		for n, w := range single {
			if n == "ALL" || n == "ROOTCA" {
				continue // did not change, and so has nothing to say
			}
			now[n] = w.hear()[n]
			if revision == 3 {
				w.ask(refusal)
			} else {
				w.ask(nil)
			}
		}
		got := serials(t, now)
		for n, serial := range serials(t, held) {
			if got[n] == serial {
				t.Errorf("revision %d: %s did not change", revision, n)
			}
		}
		if x := serials(t, all.hear()); !maps.Equal(x, got) {
			t.Errorf("revision %d: one stream for all has others", revision)
		}
		all.ask(nil)
		word := refusal
		if revision > 3 {
			word = nil
		}
		if came, went := d.hear(word); len(came) != fleetOfNames+1 || len(went) != 0 || !maps.Equal(serials(t, d.has), got) {
			t.Errorf("revision %d: by delta %d came, %d went, want those that changed alone", revision, len(came), len(went))
		}
		held = now
	}
	if n := strings.Count(s.log["agent"].String(), "Envoy does not accept"); n != len(names)+2 {
		t.Errorf("the log tells of %d refusals, want one of each stream", n)
	}
	if strings.Contains(s.log["agent"].String(), "PRIVATE KEY") {
		t.Error("the log has a key")
	}

	// The agent is restarted.
	if err := agent.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if _, err := all.c.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("the agent's end is %v", err)
	}
	if err := agent.Wait(); err != nil {
		t.Errorf("the agent: %v", err)
	}
	s.startAgent()
	complete()
	back := world(whole...)
	after := back.hear()
	if len(after) != len(whole) {
		t.Errorf("after a restart %d secrets", len(after))
	}
	x := delta(d.versions)
	if came, went := x.hear(nil); len(came) != fleetOfNames+1 || slices.Contains(came, "ALL") || slices.Contains(came, "ROOTCA") || len(went) != 0 || !maps.Equal(serials(t, x.has), serials(t, after)) {
		t.Errorf("one that comes back hears of %v, want the new certificates and no bundle", came)
	}
	if bytes.Contains(after["ALL"].GetValidationContext().GetCustomValidatorConfig().GetTypedConfig().GetValue(), []byte("PRIVATE KEY")) {
		t.Error("a bundle has a key")
	}
}
