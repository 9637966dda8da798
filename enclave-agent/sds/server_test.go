package sds_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"github.com/google/go-cmp/cmp"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/enclave-agent/sds"
)

// held is what a caller may have, and who waits for it to change.
type held struct {
	mu      sync.Mutex
	now     *sds.Secrets
	err     error
	changed chan struct{}
}

func (h *held) source(context.Context) (*sds.Secrets, <-chan struct{}, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.now, h.changed, h.err
}

func (h *held) set(s *sds.Secrets, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now, h.err = s, err
	close(h.changed)
	h.changed = make(chan struct{})
}

func made(t *testing.T, id string) (sds.SVID, *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(id)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: id}, URIs: []*url.URL{u},
		NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return sds.SVID{ID: id, Chain: []*x509.Certificate{cert}, Key: pkcs8}, cert
}

func secretsOf(t *testing.T, ids ...string) *sds.Secrets {
	t.Helper()
	s := &sds.Secrets{TrustDomain: "example.org", Bundles: map[string][]*x509.Certificate{}}
	for _, id := range ids {
		v, _ := made(t, id)
		s.SVIDs = append(s.SVIDs, v)
	}
	for _, td := range []string{"example.org", "other.example.net"} {
		_, c := made(t, "spiffe://"+td)
		s.Bundles[td] = []*x509.Certificate{c}
	}
	return s
}

// envoy is a client that speaks as Envoy does.
type envoy struct {
	t      *testing.T
	stream secretv3.SecretDiscoveryService_StreamSecretsClient
	last   *discovery.DiscoveryResponse
}

func serve(t *testing.T, h *held) secretv3.SecretDiscoveryServiceClient {
	t.Helper()
	return serveWith(t, h, slog.New(slog.DiscardHandler))
}

// lockedText is a log that the server writes and the test reads.
type lockedText struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func serveWith(t *testing.T, h *held, log *slog.Logger) secretv3.SecretDiscoveryServiceClient {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	stopping := make(chan struct{})
	secretv3.RegisterSecretDiscoveryServiceServer(g, sds.New(h.source, stopping, log))
	go func() { _ = g.Serve(l) }()
	t.Cleanup(func() { close(stopping); g.Stop() })
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return secretv3.NewSecretDiscoveryServiceClient(conn)
}

func open(t *testing.T, h *held) *envoy {
	t.Helper()
	stream, err := serve(t, h).StreamSecrets(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return &envoy{t: t, stream: stream}
}

func (e *envoy) ask(names ...string) {
	e.t.Helper()
	r := &discovery.DiscoveryRequest{ResourceNames: names, TypeUrl: sds.TypeURL, Node: &core.Node{Id: "envoy-1", Cluster: "shop"}}
	if e.last != nil {
		r.VersionInfo, r.ResponseNonce, r.Node = e.last.GetVersionInfo(), e.last.GetNonce(), nil
	}
	if err := e.stream.Send(r); err != nil {
		e.t.Fatal(err)
	}
}

func (e *envoy) refuse(names ...string) {
	e.t.Helper()
	if err := e.stream.Send(&discovery.DiscoveryRequest{
		ResourceNames: names, TypeUrl: sds.TypeURL, ResponseNonce: e.last.GetNonce(),
		ErrorDetail: &rpcstatus.Status{Code: int32(codes.InvalidArgument), Message: "cannot load\nit"},
	}); err != nil {
		e.t.Fatal(err)
	}
}

// hear waits for an answer.
func (e *envoy) hear() map[string]*tlsv3.Secret {
	e.t.Helper()
	var err error
	if e.last, err = e.stream.Recv(); err != nil {
		e.t.Fatal(err)
	}
	return secretsIn(e.t, e.last)
}

func secretsIn(t *testing.T, r *discovery.DiscoveryResponse) map[string]*tlsv3.Secret {
	t.Helper()
	out := map[string]*tlsv3.Secret{}
	for _, a := range r.GetResources() {
		s := &tlsv3.Secret{}
		if err := a.UnmarshalTo(s); err != nil || a.GetTypeUrl() != sds.TypeURL {
			t.Fatalf("%s: %v", a.GetTypeUrl(), err)
		}
		if err := s.ValidateAll(); err != nil {
			t.Fatalf("Envoy's own rules: %v", err)
		}
		out[s.GetName()] = s
	}
	return out
}

// leaf is the certificate of a secret, whose key must be its own.
func leaf(t *testing.T, s *tlsv3.Secret) []byte {
	t.Helper()
	pair, err := tls.X509KeyPair(s.GetTlsCertificate().GetCertificateChain().GetInlineBytes(), s.GetTlsCertificate().GetPrivateKey().GetInlineBytes())
	if err != nil {
		t.Fatalf("%s: %v", s.GetName(), err)
	}
	return pair.Certificate[0]
}

func authorities(s *tlsv3.Secret) []byte {
	return s.GetValidationContext().GetTrustedCa().GetInlineBytes()
}

func names(m map[string]*tlsv3.Secret) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

func holding(s *sds.Secrets) *held { return &held{now: s, changed: make(chan struct{})} }

func TestEnvoyGetsCertificatesAndBundlesByTheirNames(t *testing.T) {
	s := secretsOf(t, "spiffe://example.org/a", "spiffe://example.org/b")
	e := open(t, holding(s))
	e.ask("default", "spiffe://example.org/b", "ROOTCA", "spiffe://other.example.net", "spiffe://example.org/nobody", "spiffe://third.example.com", "default")
	got := e.hear()
	if diff := cmp.Diff([]string{"ROOTCA", "default", "spiffe://example.org/b", "spiffe://other.example.net"}, names(got)); diff != "" {
		t.Fatalf("names (-want +got):\n%s", diff)
	}
	if !bytes.Equal(leaf(t, got["default"]), s.SVIDs[0].Chain[0].Raw) || !bytes.Equal(leaf(t, got["spiffe://example.org/b"]), s.SVIDs[1].Chain[0].Raw) {
		t.Error("a certificate is another one's")
	}
	for name, td := range map[string]string{"ROOTCA": "example.org", "spiffe://other.example.net": "other.example.net"} {
		pool := x509.NewCertPool()
		want := x509.NewCertPool()
		want.AddCert(s.Bundles[td][0])
		if !pool.AppendCertsFromPEM(authorities(got[name])) || !pool.Equal(want) {
			t.Errorf("%s does not hold the authorities of %s alone", name, td)
		}
	}
}

// Of a trust domain that has nothing now, `default` and `ROOTCA` are nobody else's.
func TestWhatHasNoNameIsNeverAnotherTrustDomains(t *testing.T) {
	s := secretsOf(t, "spiffe://other.example.net/a", "spiffe://example.organic/b")
	delete(s.Bundles, "example.org")
	e := open(t, holding(s))
	e.ask("default", "ROOTCA", "spiffe://other.example.net/a", "spiffe://other.example.net")
	if diff := cmp.Diff([]string{"spiffe://other.example.net", "spiffe://other.example.net/a"}, names(e.hear())); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
}

func TestALLChecksEachPeerWithTheBundleOfItsOwnTrustDomain(t *testing.T) {
	s := secretsOf(t, "spiffe://example.org/a")
	e := open(t, holding(s))
	e.ask("ALL")
	x := e.hear()["ALL"].GetValidationContext().GetCustomValidatorConfig()
	cfg := &tlsv3.SPIFFECertValidatorConfig{}
	if err := x.GetTypedConfig().UnmarshalTo(cfg); err != nil || x.GetName() != "envoy.tls.cert_validator.spiffe" {
		t.Fatalf("%s: %v", x.GetName(), err)
	}
	for i, td := range []string{"example.org", "other.example.net"} {
		pool, want := x509.NewCertPool(), x509.NewCertPool()
		want.AddCert(s.Bundles[td][0])
		if got := cfg.GetTrustDomains()[i]; got.GetName() != td || !pool.AppendCertsFromPEM(got.GetTrustBundle().GetInlineBytes()) || !pool.Equal(want) {
			t.Errorf("trust domain %d is %s", i, got.GetName())
		}
	}
}

func TestEnvoyHearsOfARenewalAndOfNothingElse(t *testing.T) {
	first := secretsOf(t, "spiffe://example.org/a", "spiffe://example.org/b")
	h := holding(first)
	e := open(t, h)
	e.ask("default")
	e.hear()
	e.ask("default") // the answer is accepted

	// What was not asked for changes, and what was asked for after it.
	second := *first
	second.SVIDs = slices.Clone(first.SVIDs)
	second.SVIDs[1], _ = made(t, "spiffe://example.org/b")
	h.set(&second, nil)
	third := second
	third.SVIDs = slices.Clone(second.SVIDs)
	third.SVIDs[0], _ = made(t, "spiffe://example.org/a")
	h.set(&third, nil)
	before := e.last
	if got := leaf(t, e.hear()["default"]); !bytes.Equal(got, third.SVIDs[0].Chain[0].Raw) {
		t.Error("the next answer is not about the renewal")
	}
	if e.last.GetVersionInfo() == before.GetVersionInfo() || e.last.GetNonce() == before.GetNonce() {
		t.Error("another content has the same version or nonce")
	}
}

func TestANameThatIsNotThereComesWhenItIs(t *testing.T) {
	h := holding(secretsOf(t, "spiffe://example.org/a"))
	e := open(t, h)
	e.ask("spiffe://example.org/late")
	if got := e.hear(); len(got) != 0 {
		t.Fatalf("an answer of %v", names(got))
	}
	e.ask("spiffe://example.org/late")
	h.set(secretsOf(t, "spiffe://example.org/late"), nil)
	if got := e.hear(); len(got) != 1 {
		t.Errorf("an answer of %v", names(got))
	}
}

func TestARefusedAnswerIsNotSentAgainAndTheNextOneIs(t *testing.T) {
	h := holding(secretsOf(t, "spiffe://example.org/a"))
	e := open(t, h)
	e.ask("default")
	e.hear()
	e.refuse("default")
	next := secretsOf(t, "spiffe://example.org/a")
	h.set(next, nil)
	if got := leaf(t, e.hear()["default"]); !bytes.Equal(got, next.SVIDs[0].Chain[0].Raw) {
		t.Error("the answer after a refusal is not the new one")
	}
}

func TestOtherNamesAreAnsweredAtOnce(t *testing.T) {
	h := holding(secretsOf(t, "spiffe://example.org/a"))
	e := open(t, h)
	e.ask("default")
	e.hear()
	e.ask("ROOTCA")
	if got := e.hear(); len(got) != 1 || authorities(got["ROOTCA"]) == nil {
		t.Errorf("an answer of %v", names(got))
	}
	e.ask("ROOTCA")
	// A word on an answer that was overtaken changes nothing.
	e.last = &discovery.DiscoveryResponse{Nonce: "1"}
	e.ask("default")
	h.set(secretsOf(t, "spiffe://example.org/a"), nil)
	if got := e.hear(); len(got) != 1 || authorities(got["ROOTCA"]) == nil {
		t.Errorf("after an old word: %v", names(got))
	}
}

func TestWhoMayHaveNothingIsDeniedAlsoInTheMiddle(t *testing.T) {
	h := holding(secretsOf(t, "spiffe://example.org/a"))
	e := open(t, h)
	e.ask("default")
	e.hear()
	h.set(nil, status.Error(codes.PermissionDenied, "no identity issued"))
	if _, err := e.stream.Recv(); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a caller who lost everything: %v", err)
	}
	if _, err := serve(t, h).FetchSecrets(t.Context(), &discovery.DiscoveryRequest{}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("one question: %v", err)
	}
}

func TestOneQuestionIsAnsweredOnce(t *testing.T) {
	s := secretsOf(t, "spiffe://example.org/a")
	r, err := serve(t, holding(s)).FetchSecrets(t.Context(), &discovery.DiscoveryRequest{TypeUrl: sds.TypeURL})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"spiffe://example.org", "spiffe://example.org/a", "spiffe://other.example.net"}, names(secretsIn(t, r))); diff != "" {
		t.Errorf("all names (-want +got):\n%s", diff)
	}
}

func TestQuestionsWithoutMeasureAreRefused(t *testing.T) {
	c := serve(t, holding(secretsOf(t, "spiffe://example.org/a")))
	for name, r := range map[string]*discovery.DiscoveryRequest{
		"another type":   {TypeUrl: "type.googleapis.com/envoy.config.cluster.v3.Cluster"},
		"many names":     {ResourceNames: slices.Repeat([]string{"a"}, 257)},
		"a long name":    {ResourceNames: []string{strings.Repeat("a", 2049)}},
		"a name of none": {ResourceNames: []string{""}},
	} {
		if _, err := c.FetchSecrets(t.Context(), r); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := c.FetchSecrets(t.Context(), &discovery.DiscoveryRequest{TypeUrl: sds.TypeURL, ResourceNames: []string{"ALL"}}); err != nil {
		t.Error(err)
	}
}
