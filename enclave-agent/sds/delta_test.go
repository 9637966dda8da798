package sds_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"github.com/google/go-cmp/cmp"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/enclave-agent/sds"
)

// deltaEnvoy is a client that asks for changes as Envoy does, and keeps what it has.
type deltaEnvoy struct {
	t      *testing.T
	stream secretv3.SecretDiscoveryService_DeltaSecretsClient
	last   *discovery.DeltaDiscoveryResponse
	has    map[string]*tlsv3.Secret
	known  map[string]string
}

func openDelta(t *testing.T, h *held) *deltaEnvoy {
	t.Helper()
	stream, err := serve(t, h).DeltaSecrets(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return &deltaEnvoy{t: t, stream: stream, has: map[string]*tlsv3.Secret{}, known: map[string]string{}}
}

func (e *deltaEnvoy) send(r *discovery.DeltaDiscoveryRequest) {
	e.t.Helper()
	r.TypeUrl, r.Node = sds.TypeURL, &core.Node{Id: "envoy-1"}
	if err := e.stream.Send(r); err != nil {
		e.t.Fatal(err)
	}
}

func (e *deltaEnvoy) subscribe(names ...string) {
	e.t.Helper()
	e.send(&discovery.DeltaDiscoveryRequest{ResourceNamesSubscribe: names})
}

func (e *deltaEnvoy) accept() {
	e.t.Helper()
	e.send(&discovery.DeltaDiscoveryRequest{ResponseNonce: e.last.GetNonce()})
}

// hear waits for an answer, and says what changed by it.
func (e *deltaEnvoy) hear() (came, went []string) {
	e.t.Helper()
	var err error
	if e.last, err = e.stream.Recv(); err != nil {
		e.t.Fatal(err)
	}
	for _, r := range e.last.GetResources() {
		s := &tlsv3.Secret{}
		if err := r.GetResource().UnmarshalTo(s); err != nil || s.GetName() != r.GetName() || r.GetVersion() == "" {
			e.t.Fatalf("%s %s: %v", r.GetName(), r.GetVersion(), err)
		}
		if err := s.ValidateAll(); err != nil {
			e.t.Fatalf("Envoy's own rules: %v", err)
		}
		came = append(came, r.GetName())
		e.has[r.GetName()], e.known[r.GetName()] = s, r.GetVersion()
	}
	for _, n := range e.last.GetRemovedResources() {
		delete(e.has, n)
		delete(e.known, n)
	}
	return came, e.last.GetRemovedResources()
}

func (e *deltaEnvoy) hears(came, went []string) {
	e.t.Helper()
	c, w := e.hear()
	if diff := cmp.Diff(came, c); diff != "" {
		e.t.Fatalf("what came (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(went, w); diff != "" {
		e.t.Fatalf("what went (-want +got):\n%s", diff)
	}
}

// changed is s with the SVIDs of some names made anew.
func changed(t *testing.T, s *sds.Secrets, ids ...string) *sds.Secrets {
	t.Helper()
	out := *s
	out.SVIDs = slices.Clone(s.SVIDs)
	for i, v := range out.SVIDs {
		if slices.Contains(ids, v.ID) {
			out.SVIDs[i], _ = made(t, v.ID)
		}
	}
	return &out
}

const idA, idB, idC = "spiffe://example.org/a", "spiffe://example.org/b", "spiffe://example.org/c"

func TestByDeltaEnvoyHearsOfWhatChangedAlone(t *testing.T) {
	first := secretsOf(t, idA, idB)
	h := holding(first)
	e := openDelta(t, h)
	e.subscribe(idA, idB, "ROOTCA")
	e.hears([]string{"ROOTCA", idA, idB}, nil)
	if !bytes.Equal(leaf(t, e.has[idB]), first.SVIDs[1].Chain[0].Raw) {
		t.Error("another certificate")
	}
	e.accept()
	second := changed(t, first, idB)
	h.set(second, nil)
	e.hears([]string{idB}, nil)
	if !bytes.Equal(leaf(t, e.has[idB]), second.SVIDs[1].Chain[0].Raw) {
		t.Error("not the renewal")
	}
	// While an answer is under way others wait for Envoy's word, and come together.
	third := changed(t, second, idB)
	h.set(third, nil)
	fourth := changed(t, third, idA)
	h.set(fourth, nil)
	e.accept()
	e.hears([]string{idA, idB}, nil)
	if !bytes.Equal(leaf(t, e.has[idA]), fourth.SVIDs[0].Chain[0].Raw) || !bytes.Equal(leaf(t, e.has[idB]), fourth.SVIDs[1].Chain[0].Raw) {
		t.Error("not the latest")
	}
}

// Envoy opens a port without its secret when it hears that there is none; so a name
// that was never there is waited for, and only what it has can go.
func TestByDeltaWhatIsNotThereComesLaterAndWhatGoesIsSaid(t *testing.T) {
	h := holding(secretsOf(t, idA))
	e := openDelta(t, h)
	e.subscribe(idC)
	e.subscribe(idA)
	e.hears([]string{idA}, nil)
	e.accept()
	both := secretsOf(t, idA, idC)
	both.SVIDs[0] = h.now.SVIDs[0]
	h.set(both, nil)
	e.hears([]string{idC}, nil)
	e.accept()
	h.set(&sds.Secrets{TrustDomain: both.TrustDomain, SVIDs: both.SVIDs[1:], Bundles: both.Bundles}, nil)
	e.hears(nil, []string{idA})
}

func TestByDeltaSubscriptionsComeAndGo(t *testing.T) {
	first := secretsOf(t, idA, idB)
	h := holding(first)
	e := openDelta(t, h)
	e.subscribe(idA)
	e.hears([]string{idA}, nil)
	e.accept()
	e.subscribe(idB)
	e.hears([]string{idB}, nil)
	e.send(&discovery.DeltaDiscoveryRequest{ResponseNonce: e.last.GetNonce(), ResourceNamesUnsubscribe: []string{idA, "spiffe://example.org/never"}})
	h.set(changed(t, first, idA, idB), nil)
	e.hears([]string{idB}, nil)
	e.accept()
	e.subscribe(idB) // again: it is told again
	e.hears([]string{idB}, nil)
}

func TestByDeltaAllThereIsCanBeAskedFor(t *testing.T) {
	all := []string{"spiffe://example.org", idA, idB, "spiffe://other.example.net"}
	for name, names := range map[string][]string{"by no name": nil, "by a star": {"*"}} {
		first := secretsOf(t, idA, idB)
		h := holding(first)
		e := openDelta(t, h)
		e.subscribe(names...)
		e.hears(all, nil)
		e.accept()
		more := secretsOf(t, idC)
		more.SVIDs = append(slices.Clone(first.SVIDs), more.SVIDs...)
		more.Bundles = first.Bundles
		h.set(more, nil)
		if came, _ := e.hear(); !slices.Equal(came, []string{idC}) {
			t.Errorf("%s: %v came", name, came)
		}
	}
	// A star can be taken back.
	h := holding(secretsOf(t, idA, idB))
	e := openDelta(t, h)
	e.subscribe("*", idA)
	e.hears(all, nil)
	e.send(&discovery.DeltaDiscoveryRequest{ResponseNonce: e.last.GetNonce(), ResourceNamesUnsubscribe: []string{"*"}})
	e.hears(nil, []string{"spiffe://example.org", idB, "spiffe://other.example.net"})
}

func TestByDeltaARefusedAnswerIsNotSentAgainAndIsLoggedOnce(t *testing.T) {
	var log lockedText
	first := secretsOf(t, idA)
	h := holding(first)
	client := serveWith(t, h, slog.New(slog.NewTextHandler(&log, nil)))
	stream, err := client.DeltaSecrets(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	e := &deltaEnvoy{t: t, stream: stream, has: map[string]*tlsv3.Secret{}, known: map[string]string{}}
	e.subscribe(idA)
	e.hears([]string{idA}, nil)
	for range 20 {
		e.send(&discovery.DeltaDiscoveryRequest{ResponseNonce: e.last.GetNonce(), ErrorDetail: &rpcstatus.Status{Code: int32(codes.InvalidArgument), Message: "cannot load\nit"}})
	}
	second := changed(t, first, idA)
	h.set(second, nil)
	e.hears([]string{idA}, nil)
	if !bytes.Equal(leaf(t, e.has[idA]), second.SVIDs[0].Chain[0].Raw) {
		t.Error("not the renewal")
	}
	for i := range 20 {
		e.send(&discovery.DeltaDiscoveryRequest{ResponseNonce: e.last.GetNonce(), ErrorDetail: &rpcstatus.Status{Message: fmt.Sprint("another reason: ", i)}})
	}
	e.subscribe("ROOTCA") // answered after all of these were heard
	e.hears([]string{"ROOTCA"}, nil)
	if n := strings.Count(log.String(), "does not accept"); n != 8 || strings.Count(log.String(), "cannot load") != 1 {
		t.Errorf("the log tells of %d refusals:\n%s", n, log.String())
	}
}

// An Envoy that connects again says what it has, and is told what it has not.
func TestByDeltaAnEnvoyThatComesBackIsToldTheDifference(t *testing.T) {
	first := secretsOf(t, idA, idB, idC)
	h := holding(first)
	e := openDelta(t, h)
	e.subscribe(idA, idB, idC)
	e.hears([]string{idA, idB, idC}, nil)
	known := maps.Clone(e.known)

	second := changed(t, first, idB)
	second.SVIDs = second.SVIDs[:2]
	h.set(second, nil)
	again := openDelta(t, h)
	again.send(&discovery.DeltaDiscoveryRequest{ResourceNamesSubscribe: []string{idA, idB, idC}, InitialResourceVersions: known})
	again.hears([]string{idB}, []string{idC})
}

func TestByDeltaQuestionsWithoutMeasureAreRefused(t *testing.T) {
	h := holding(secretsOf(t, idA))
	many := func(from, n int) (out []string) {
		for i := range n {
			out = append(out, fmt.Sprint("spiffe://example.org/", from+i))
		}
		return out
	}
	versions := map[string]string{}
	for _, n := range many(0, 257) {
		versions[n] = "1"
	}
	for name, ask := range map[string][]*discovery.DeltaDiscoveryRequest{
		"another type":          {{TypeUrl: "type.googleapis.com/envoy.config.cluster.v3.Cluster"}},
		"many names":            {{ResourceNamesSubscribe: many(0, 257)}},
		"many names by and by":  {{ResourceNamesSubscribe: many(0, 256)}, {ResourceNamesSubscribe: many(256, 1)}},
		"many names to forget":  {{ResourceNamesUnsubscribe: many(0, 257)}},
		"many names of before":  {{InitialResourceVersions: versions}},
		"a long name":           {{ResourceNamesSubscribe: []string{strings.Repeat("a", 2049)}}},
		"a long name of before": {{InitialResourceVersions: map[string]string{strings.Repeat("a", 2049): "1"}}},
		"a name of none":        {{ResourceNamesSubscribe: []string{""}}},
	} {
		d, err := serve(t, h).DeltaSecrets(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range ask {
			_ = d.Send(r)
		}
		if _, err := d.Recv(); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestByDeltaWhoMayHaveNothingIsDeniedAlsoInTheMiddle(t *testing.T) {
	h := holding(secretsOf(t, idA))
	e := openDelta(t, h)
	e.subscribe(idA)
	e.hears([]string{idA}, nil)
	h.set(nil, status.Error(codes.PermissionDenied, "no identity issued"))
	if _, err := e.stream.Recv(); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a caller who lost everything: %v", err)
	}
}
