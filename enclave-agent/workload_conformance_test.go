package agent

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
)

// What docs/spec/conformance.md promises of the Workload API, by a client that has
// nothing of go-spiffe: method names and field numbers are written here as the
// published workloadapi.proto has them, and messages are read as bytes.

// plain is that client.
type plain struct {
	t    testing.TB
	conn *grpc.ClientConn
}

// rawCodec hands gRPC bytes as they are.
type rawCodec struct{}

func (rawCodec) Marshal(v any) ([]byte, error)      { return *v.(*[]byte), nil }
func (rawCodec) Unmarshal(data []byte, v any) error { *v.(*[]byte) = bytes.Clone(data); return nil }
func (rawCodec) Name() string                       { return "proto" }

func newPlain(t testing.TB, a *Agent) *plain {
	t.Helper()
	c, err := grpc.NewClient("unix://"+a.cfg.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.ForceCodec(rawCodec{})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return &plain{t, c}
}

const workloadService = "/SpiffeWorkloadAPI/"

// call is a unary method.
func (p *plain) call(method string, request []byte) (fields, error) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(withHeader(context.Background(), "true"), 10*time.Second)
	defer cancel()
	var out []byte
	if err := p.conn.Invoke(ctx, workloadService+method, &request, &out); err != nil {
		return nil, err
	}
	return p.read(out), nil
}

// open is a server stream; the function waits for its next message.
func (p *plain) open(method string) (next func() (fields, error)) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(withHeader(context.Background(), "true"), 30*time.Second)
	p.t.Cleanup(cancel)
	s, err := p.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, workloadService+method)
	if err != nil {
		p.t.Fatal(err)
	}
	if err := s.SendMsg(&[]byte{}); err != nil {
		p.t.Fatal(err)
	}
	if err := s.CloseSend(); err != nil {
		p.t.Fatal(err)
	}
	return func() (fields, error) {
		var out []byte
		if err := s.RecvMsg(&out); err != nil {
			return nil, err
		}
		return p.read(out), nil
	}
}

func (p *plain) first(method string) fields {
	p.t.Helper()
	m, err := p.open(method)()
	if err != nil {
		p.t.Fatalf("%s: %v", method, err)
	}
	return m
}

// fields are the length-delimited fields of a message, by number: all that these
// messages have.
type fields map[protowire.Number][][]byte

func (p *plain) read(b []byte) fields {
	p.t.Helper()
	out := fields{}
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 || typ != protowire.BytesType {
			p.t.Fatalf("field %d is of type %d, want bytes", num, typ)
		}
		v, m := protowire.ConsumeBytes(b[n:])
		if m < 0 {
			p.t.Fatal("not a message")
		}
		out[num], b = append(out[num], v), b[n+m:]
	}
	return out
}

// one is a field that is there once.
func (p *plain) one(f fields, n protowire.Number) []byte {
	p.t.Helper()
	if len(f[n]) != 1 || len(f[n][0]) == 0 {
		p.t.Fatalf("field %d is there %d times, want once and not empty", n, len(f[n]))
	}
	return f[n][0]
}

// mapOf is a map field.
func (p *plain) mapOf(f fields, n protowire.Number) map[string][]byte {
	p.t.Helper()
	out := map[string][]byte{}
	for _, e := range f[n] {
		entry := p.read(e)
		out[string(p.one(entry, 1))] = entry[2][0]
	}
	return out
}

func plainRequest(values map[protowire.Number][]string) (out []byte) {
	for n, list := range values {
		for _, v := range list {
			out = protowire.AppendString(protowire.AppendTag(out, n, protowire.BytesType), v)
		}
	}
	return out
}

// served as they are in the published proto.
type plainSVID struct {
	id     string
	leaf   *x509.Certificate
	bundle []byte
	hint   string
}

// svids reads an X509SVIDResponse: 1 svids, 2 crl, 3 federated_bundles.
func (p *plain) svids(m fields) (out []plainSVID) {
	p.t.Helper()
	for _, raw := range m[1] {
		f := p.read(raw) // 1 spiffe_id, 2 x509_svid, 3 x509_svid_key, 4 bundle, 5 hint
		chain, err := x509.ParseCertificates(p.one(f, 2))
		if err != nil {
			p.t.Fatalf("x509_svid is not concatenated DER: %v", err)
		}
		key, err := x509.ParsePKCS8PrivateKey(p.one(f, 3))
		if err != nil {
			p.t.Fatalf("x509_svid_key is not PKCS#8: %v", err)
		}
		if !key.(*ecdsa.PrivateKey).PublicKey.Equal(chain[0].PublicKey) {
			p.t.Error("the key is not that of the first certificate")
		}
		authorities, err := x509.ParseCertificates(p.one(f, 4))
		if err != nil {
			p.t.Fatalf("bundle is not concatenated DER: %v", err)
		}
		roots := x509.NewCertPool()
		for _, a := range authorities {
			roots.AddCert(a)
		}
		if _, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
			p.t.Errorf("the SVID does not chain to its bundle: %v", err)
		}
		v := plainSVID{id: string(p.one(f, 1)), leaf: chain[0], bundle: f[4][0]}
		if len(f[5]) > 0 {
			v.hint = string(f[5][0])
		}
		if len(chain[0].URIs) != 1 || chain[0].URIs[0].String() != v.id {
			p.t.Errorf("the message names %s, the certificate %v", v.id, chain[0].URIs)
		}
		out = append(out, v)
	}
	return out
}

func idsOf(list []plainSVID) (out []string) {
	for _, v := range list {
		out = append(out, v.id)
	}
	return out
}

const secondID = "spiffe://simulated.example.org/admin"

// conformant is an agent with two identities, tokens and a federated trust domain.
func conformant(t *testing.T) (*faultyServer, *mints, *Agent, *assayv1.FederatedBundle) {
	t.Helper()
	s := newFaultyServer(t)
	s.ids = append(s.ids, secondID)
	m := newMints(t, s)
	foreign := foreignBundle(t, "b.example.org")
	s.issue = func(r *assayv1.AttestResponse) {
		r.GetIssued().GetBundle().Federated, r.GetIssued().GetBundle().Revision = []*assayv1.FederatedBundle{foreign}, 5
	}
	s.start()
	a, _ := runAgent(t, s.config(t))
	eventually(t, "the agent serves both identities", func() bool {
		now, _, err := a.members[0].state.view()
		return err == nil && len(now.svids) == 2
	})
	return s, m, a, foreign
}

func TestX509SVIDsAreServedAsThePublishedProtoHasThem(t *testing.T) {
	t.Parallel()
	s, _, a, foreign := conformant(t)
	p := newPlain(t, a)
	m := p.first("FetchX509SVID")
	list := p.svids(m)
	if got := idsOf(list); !slices.Equal(got, s.ids) {
		t.Errorf("identities %v, want %v: the first is the default", got, s.ids)
	}
	if len(m[2]) != 0 {
		t.Error("certificate revocation lists, of which there are none")
	}
	if d := cmp.Diff(map[string][]byte{"spiffe://b.example.org": foreign.GetX509Authorities()[0]}, p.mapOf(m, 3)); d != "" {
		t.Errorf("federated_bundles (-want +got):\n%s", d)
	}
	hints := map[string]bool{}
	for _, v := range list {
		if v.hint != "" && hints[v.hint] {
			t.Errorf("the hint %q twice", v.hint)
		}
		hints[v.hint] = true
		if !bytes.Equal(v.bundle, s.ca.cert.Raw) {
			t.Error("another bundle than that of the trust domain")
		}
	}
}

func TestX509BundlesAreServedAsThePublishedProtoHasThem(t *testing.T) {
	t.Parallel()
	s, _, a, foreign := conformant(t)
	p := newPlain(t, a)
	want := map[string][]byte{"spiffe://simulated.example.org": s.ca.cert.Raw, "spiffe://b.example.org": foreign.GetX509Authorities()[0]}
	if d := cmp.Diff(want, p.mapOf(p.first("FetchX509Bundles"), 2)); d != "" {
		t.Errorf("bundles (-want +got):\n%s", d)
	}
}

func TestJWTBundlesAreServedAsThePublishedProtoHasThem(t *testing.T) {
	t.Parallel()
	_, m, a, _ := conformant(t)
	p := newPlain(t, a)
	got := map[string][]string{}
	for td, doc := range p.mapOf(p.first("FetchJWTBundles"), 1) {
		var set struct{ Keys []map[string]any }
		if err := json.Unmarshal(doc, &set); err != nil {
			t.Fatalf("%s: not a JWK set: %v", td, err)
		}
		for _, k := range set.Keys {
			if k["use"] != "jwt-svid" || k["d"] != nil || k["x5c"] != nil {
				t.Errorf("%s: a key with another use, or more than a public key: %v", td, k)
			}
			got[td] = append(got[td], fmt.Sprint(k["kid"]))
		}
	}
	if d := cmp.Diff(map[string][]string{"spiffe://simulated.example.org": {m.kid}, "spiffe://b.example.org": {"k-b.example.org"}}, got); d != "" {
		t.Errorf("keys (-want +got):\n%s", d)
	}
}

func TestJWTSVIDsAreServedAndValidatedAsThePublishedProtoHasThem(t *testing.T) {
	t.Parallel()
	_, m, a, _ := conformant(t)
	m.answer = nil
	p := newPlain(t, a)
	orders := "spiffe://simulated.example.org/orders"
	out, err := p.call("FetchJWTSVID", plainRequest(map[protowire.Number][]string{1: {"reports"}, 2: {orders}}))
	if err != nil {
		t.Fatal(err)
	}
	if len(out[1]) != 1 {
		t.Fatalf("%d tokens, want the one that was asked for", len(out[1]))
	}
	svid := p.read(out[1][0]) // 1 spiffe_id, 2 svid, 3 hint
	token := string(p.one(svid, 2))
	if got := string(p.one(svid, 1)); got != orders || strings.Count(token, ".") != 2 {
		t.Errorf("a token of %s: %s", got, token)
	}
	valid, err := p.call("ValidateJWTSVID", plainRequest(map[protowire.Number][]string{1: {"reports"}, 2: {token}}))
	if err != nil {
		t.Fatal(err)
	}
	if got := string(p.one(valid, 1)); got != orders {
		t.Errorf("validated as %s", got)
	}
	claims := p.mapOf(p.read2(valid), 1) // google.protobuf.Struct
	for _, name := range []string{"sub", "aud", "exp"} {
		if claims[name] == nil {
			t.Errorf("the claim %s is not handed on", name)
		}
	}
	for name, r := range map[string]map[protowire.Number][]string{
		"FetchJWTSVID":     {2: {orders}},    // without its audience
		"ValidateJWTSVID":  {2: {token}},     // likewise
		"ValidateJWTSVID ": {1: {"reports"}}, // without the token
	} {
		if _, err := p.call(strings.TrimSpace(name), plainRequest(r)); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s without a mandatory field: %v, want InvalidArgument", name, err)
		}
	}
	if _, err := p.call("FetchJWTSVID", plainRequest(map[protowire.Number][]string{1: {"reports"}, 2: {orders + "/other"}})); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a token of an identity that is not the caller's: %v, want PermissionDenied", err)
	}
}

// read2 is the message in field 2.
func (p *plain) read2(f fields) fields { p.t.Helper(); return p.read(p.one(f, 2)) }

// Every message is the whole state: nothing of the one before is to be kept, and what
// is missing has been taken back.
func TestEveryMessageOfAStreamIsTheFullState(t *testing.T) {
	t.Parallel()
	s, _, a, _ := conformant(t)
	p := newPlain(t, a)
	svids, bundles, tokens := p.open("FetchX509SVID"), p.open("FetchX509Bundles"), p.open("FetchJWTBundles")
	next := func(what string, from func() (fields, error)) fields {
		t.Helper()
		m, err := from()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		return m
	}
	before := p.svids(next("SVIDs", svids))
	next("bundles", bundles)
	next("JWT bundles", tokens)

	eventually(t, "the agent watches, and has its first bundle", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.watching > 0 })

	// A renewal without the second identity, and without the federation.
	other := foreignBundle(t, "c.example.org")
	s.with(func() {
		s.ids, s.sequence = s.ids[:1], 2
		s.issue = func(r *assayv1.AttestResponse) {
			r.GetIssued().GetBundle().Federated, r.GetIssued().GetBundle().Revision = []*assayv1.FederatedBundle{other}, 6
		}
	})
	a.members[0].plan.advance(a.members[0].time.now())
	m := next("SVIDs", svids)
	after := p.svids(m)
	if got := idsOf(after); !slices.Equal(got, s.ids) || after[0].leaf.Equal(before[0].leaf) {
		t.Errorf("after the renewal: %v", got)
	}
	if got := p.mapOf(m, 3); len(got) != 1 || got["spiffe://c.example.org"] == nil {
		t.Errorf("federated_bundles of %d trust domains", len(got))
	}
	if got := p.mapOf(next("bundles", bundles), 2); len(got) != 2 || got["spiffe://c.example.org"] == nil || !bytes.Equal(got["spiffe://simulated.example.org"], s.ca.cert.Raw) {
		t.Errorf("bundles of %d trust domains", len(got))
	}
	if got := p.mapOf(next("JWT bundles", tokens), 1); len(got) != 2 || got["spiffe://c.example.org"] == nil {
		t.Errorf("JWT bundles of %d trust domains", len(got))
	}
	// What changes nothing that a stream tells is no message: a bundle of another
	// revision, with another deny-list, and nothing else.
	more := make(chan string, 3)
	for what, from := range map[string]func() (fields, error){"SVIDs": svids, "bundles": bundles, "JWT bundles": tokens} {
		go func() {
			if _, err := from(); err == nil {
				more <- what
			}
		}()
	}
	same := s.bundle()
	same.Sequence, same.Revision, same.Federated, same.DenyList = 2, 7, []*assayv1.FederatedBundle{other}, []byte("another one")
	if newer, _ := a.members[0].state.adoptBundle(must(checkBundle(same, testDomain))); !newer {
		t.Error("the bundle was not taken")
	}
	select {
	case what := <-more:
		t.Errorf("another message of %s, in which nothing changed", what)
	case <-time.After(500 * time.Millisecond):
	}
	// A new stream has its first message at once.
	if got := idsOf(p.svids(p.first("FetchX509SVID"))); !slices.Equal(got, s.ids) {
		t.Errorf("a second stream of the connection begins with %v", got)
	}
}

// The Workload API has the published methods and no other; what is beyond it is in
// services of their own, which reflection names.
func TestTheWorkloadAPIIsNotExtendedAndReflectionNamesWhatIsBesideIt(t *testing.T) {
	t.Parallel()
	s := newFaultyServer(t)
	s.start()
	a, _ := runAgent(t, s.config(t))
	conn, _ := callAgent(t, a)
	if _, err := reflected(t.Context(), conn); status.Code(err) != codes.InvalidArgument {
		t.Errorf("reflection without the security header: %v, want InvalidArgument", err)
	}
	services, err := reflected(withHeader(t.Context(), "true"), conn)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(services)
	want := []string{"SpiffeWorkloadAPI", "assay.agent.v1.Agent", "envoy.service.secret.v3.SecretDiscoveryService", "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"}
	if d := cmp.Diff(want, services); d != "" {
		t.Errorf("services (-want +got):\n%s", d)
	}
	p := newPlain(t, a)
	if _, err := p.call("FetchAttestation", nil); status.Code(err) != codes.Unimplemented {
		t.Errorf("a method of no profile: %v, want Unimplemented", err)
	}
	for _, method := range []string{"FetchWITSVID", "FetchWITBundles"} {
		if _, err := p.open(method)(); status.Code(err) != codes.Unimplemented {
			t.Errorf("%s: %v, want Unimplemented", method, err)
		}
	}
}

func reflected(ctx context.Context, conn *grpc.ClientConn) (names []string, err error) {
	s, err := reflectionpb.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}); err != nil {
		return nil, err
	}
	r, err := s.Recv()
	if err != nil {
		return nil, err
	}
	for _, x := range r.GetListServicesResponse().GetService() {
		names = append(names, x.GetName())
	}
	return names, nil
}
