package agent

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	bootstrap "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3" // what typed_config names
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
)

const envoyGuide = "../docs/guides/envoy.md"

// guideBootstrap is the configuration of the guide, as Envoy would read it.
func guideBootstrap(t *testing.T) *bootstrap.Bootstrap {
	t.Helper()
	text := string(must(os.ReadFile(envoyGuide)))
	_, rest, ok := strings.Cut(text, "```yaml\n")
	block, _, closed := strings.Cut(rest, "```\n")
	if !ok || !closed || strings.Count(text, "```yaml") != 1 {
		t.Fatal("the guide has not one configuration")
	}
	var tree any
	if err := yaml.Unmarshal([]byte(block), &tree); err != nil {
		t.Fatal(err)
	}
	b := &bootstrap.Bootstrap{}
	if err := protojson.Unmarshal(must(json.Marshal(tree)), b); err != nil { // unknown fields and types are errors
		t.Fatal(err)
	}
	return b
}

// visit calls f with every message below m, those packed into Any unpacked.
func visit(t *testing.T, m proto.Message, f func(proto.Message)) {
	t.Helper()
	if a, ok := m.(*anypb.Any); ok {
		inner, err := a.UnmarshalNew()
		if err != nil {
			t.Fatal(err)
		}
		visit(t, inner, f)
		return
	}
	f(m)
	m.ProtoReflect().Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case fd.IsMap() && fd.MapValue().Message() != nil:
			v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
				visit(t, v.Message().Interface(), f)
				return true
			})
		case fd.IsList() && fd.Message() != nil:
			for i := range v.List().Len() {
				visit(t, v.List().Get(i).Message().Interface(), f)
			}
		case !fd.IsMap() && !fd.IsList() && fd.Message() != nil:
			visit(t, v.Message().Interface(), f)
		}
		return true
	})
}

func TestTheConfigurationOfTheEnvoyGuideIsValid(t *testing.T) {
	t.Parallel()
	b := guideBootstrap(t)
	clusters := map[string]bool{}
	for _, c := range b.GetStaticResources().GetClusters() {
		clusters[c.GetName()] = true
	}
	contexts := 0
	visit(t, b, func(m proto.Message) {
		if v, ok := m.(interface{ ValidateAll() error }); ok { // Envoy's own rules
			if err := v.ValidateAll(); err != nil {
				t.Error(err)
			}
		}
		switch m := m.(type) {
		case *tlsv3.DownstreamTlsContext:
			if !m.GetRequireClientCertificate().GetValue() {
				t.Error("a listener that asks for no certificate")
			}
		case *tlsv3.CommonTlsContext:
			contexts++
			if m.GetTlsParams().GetTlsMinimumProtocolVersion() != tlsv3.TlsParameters_TLSv1_3 {
				t.Error("TLS below 1.3")
			}
			if len(m.GetCombinedValidationContext().GetDefaultValidationContext().GetMatchTypedSubjectAltNames()) == 0 {
				t.Error("peers are not named")
			}
		}
		if c, ok := m.(interface{ GetClusterName() string }); ok && c.GetClusterName() != "" && !clusters[c.GetClusterName()] {
			t.Errorf("no such cluster: %s", c.GetClusterName())
		}
	})
	if contexts != 2 {
		t.Errorf("%d TLS contexts, want one in and one out", contexts)
	}
}

// Every secret that the guide's Envoy asks for is served, by a client that sends what
// its configuration says.
func TestEverySecretOfTheEnvoyGuideIsServed(t *testing.T) {
	t.Parallel()
	var wanted []string
	header, socket := "", ""
	visit(t, guideBootstrap(t), func(m proto.Message) {
		if c, ok := m.(*tlsv3.SdsSecretConfig); ok {
			wanted = append(wanted, c.GetName())
			for _, g := range c.GetSdsConfig().GetApiConfigSource().GetGrpcServices() {
				for _, h := range g.GetInitialMetadata() {
					header = h.GetKey() + ": " + h.GetValue()
				}
			}
		}
		if p, ok := m.(interface{ GetPath() string }); ok && strings.HasSuffix(p.GetPath(), ".sock") {
			socket = p.GetPath()
		}
	})
	slices.Sort(wanted)
	wanted = slices.Compact(wanted)
	if !slices.Equal(wanted, []string{"ALL", "default"}) || header != securityHeader+": true" || socket != DefaultSocket {
		t.Errorf("the guide asks %s for %v with the header %q", socket, wanted, header)
	}

	s := newFaultyServer(t)
	foreign := foreignBundle(t, "b.example.org")
	s.issue = func(m *assayv1.AttestResponse) {
		m.GetIssued().GetBundle().Federated, m.GetIssued().GetBundle().Revision = []*assayv1.FederatedBundle{foreign}, 5
	}
	s.start()
	a, _ := runAgent(t, s.config(t))
	served(t, a)
	conn, _ := callAgent(t, a)
	r, err := secretv3.NewSecretDiscoveryServiceClient(conn).FetchSecrets(withHeader(t.Context(), "true"), &discovery.DiscoveryRequest{ResourceNames: wanted})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, packed := range r.GetResources() {
		secret := &tlsv3.Secret{}
		if err := packed.UnmarshalTo(secret); err != nil {
			t.Fatal(err)
		}
		if err := secret.ValidateAll(); err != nil {
			t.Error(err)
		}
		got = append(got, secret.GetName())
	}
	slices.Sort(got)
	if !slices.Equal(got, wanted) {
		t.Errorf("served %v, want %v", got, wanted)
	}
}
