package main

import (
	"encoding/json"
	"os"
	"testing"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/assay-project/assay/svid"
)

// unpacked is the message in an Any of the configuration.
func unpacked[M interface {
	proto.Message
	ValidateAll() error
}](t *testing.T, a *anypb.Any, into M) M {
	t.Helper()
	if err := a.UnmarshalTo(into); err != nil {
		t.Fatal(err)
	}
	if err := into.ValidateAll(); err != nil {
		t.Fatal(err)
	}
	return into
}

// Envoy's own definitions read the configuration: no field is misspelt, and what
// the example's answer rests on is there.
func TestTheConfigurationOfEnvoyIsOne(t *testing.T) {
	text, err := os.ReadFile("envoy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var tree any
	if err := yaml.Unmarshal(text, &tree); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(tree)
	if err != nil {
		t.Fatal(err)
	}
	conf := new(bootstrapv3.Bootstrap)
	if err := protojson.Unmarshal(b, conf); err != nil {
		t.Fatal(err)
	}
	if err := conf.ValidateAll(); err != nil {
		t.Fatal(err)
	}
	chain := conf.GetStaticResources().GetListeners()[0].GetFilterChains()[0]
	tls := unpacked(t, chain.GetTransportSocket().GetTypedConfig(), new(tlsv3.DownstreamTlsContext))
	if !tls.GetRequireClientCertificate().GetValue() || tls.GetCommonTlsContext().GetTlsParams().GetTlsMinimumProtocolVersion() != tlsv3.TlsParameters_TLSv1_3 ||
		tls.GetCommonTlsContext().GetValidationContextSdsSecretConfig().GetName() == "" {
		t.Errorf("the TLS context lets too much in: %v", tls)
	}
	hcm := unpacked(t, chain.GetFilters()[0].GetTypedConfig(), new(hcmv3.HttpConnectionManager))
	if hcm.GetForwardClientCertDetails() != hcmv3.HttpConnectionManager_SANITIZE_SET {
		t.Errorf("a client's x-forwarded-client-cert is not thrown away: %s", hcm.GetForwardClientCertDetails())
	}
	if !hcm.GetNormalizePath().GetValue() || !hcm.GetMergeSlashes() || hcm.GetPathWithEscapedSlashesAction() != hcmv3.HttpConnectionManager_REJECT_REQUEST {
		t.Error("a route's demands are walked around by another spelling of the path")
	}
	options := hcm.GetCommonHttpProtocolOptions()
	if options.GetHeadersWithUnderscoresAction() != corev3.HttpProtocolOptions_REJECT_REQUEST {
		t.Error("x_assay_id passes as x-assay-id")
	}
	for name, d := range map[string]*durationpb.Duration{"connection": options.GetMaxConnectionDuration(), "stream": options.GetMaxStreamDuration()} {
		if d.AsDuration() <= 0 || d.AsDuration() > 30*time.Minute {
			t.Errorf("a %s outlives the SVID that it shows: %s", name, d.AsDuration())
		}
	}
	filter := unpacked(t, hcm.GetHttpFilters()[0].GetTypedConfig(), new(extauthzv3.ExtAuthz))
	if !filter.GetIncludePeerCertificate() || filter.GetFailureModeAllow() || filter.GetGrpcService() == nil {
		t.Errorf("the filter is not what the answer rests on: %v", filter)
	}
	routes := 0
	for _, host := range hcm.GetRouteConfig().GetVirtualHosts() {
		for _, route := range host.GetRoutes() {
			per := unpacked(t, route.GetTypedPerFilterConfig()["envoy.filters.http.ext_authz"], new(extauthzv3.ExtAuthzPerRoute))
			// What the routes demand is what the server understands.
			got, err := (&Authorizer{Require: []svid.Requirement{}}).required(per.GetCheckSettings().GetContextExtensions())
			if err != nil || len(got) == 0 || per.GetDisabled() {
				t.Errorf("%v: %v", route.GetMatch(), err)
			}
			routes++
		}
	}
	if routes != 2 {
		t.Errorf("%d routes", routes)
	}
}
