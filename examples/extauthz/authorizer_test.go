package main

import (
	"bytes"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/assay-project/assay/svid"
	"github.com/assay-project/assay/svid/svidtest"
)

// lab is the server on its socket, and Envoy's side of it.
type lab struct {
	authority *svidtest.Authority
	list      *svid.DenyList
	ahead     atomic.Int64 // seconds
	log       bytes.Buffer
	client    authv3.AuthorizationClient
}

func newLab(t *testing.T, change func(*lab, *Authorizer)) *lab {
	t.Helper()
	l := &lab{authority: svidtest.New(t, "example.test")}
	var err error
	if l.list, err = svid.NewDenyList(l.authority.TrustDomain, l.authority.VerifierRoot()); err != nil {
		t.Fatal(err)
	}
	if err := l.list.Update(l.authority.DenyList(t, svid.Denials{}), time.Now()); err != nil {
		t.Fatal(err)
	}
	a := &Authorizer{
		Source:  l.authority.Source(),
		Require: []svid.Requirement{svid.MemberOf(l.authority.TrustDomain), svid.NotDenied(l.list)},
		Log:     slog.New(slog.NewTextHandler(&l.log, nil)),
		Now:     func() time.Time { return time.Now().Add(time.Duration(l.ahead.Load()) * time.Second) },
	}
	if change != nil {
		change(l, a)
	}
	dir, err := os.MkdirTemp("", "extauthz") // short, for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	socket, err := listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := listen(path); err == nil {
		t.Error("a socket that is served was taken over")
	}
	server := grpc.NewServer()
	authv3.RegisterAuthorizationServer(server, a)
	go func() { _ = server.Serve(socket) }()
	t.Cleanup(server.Stop)
	conn, err := grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	l.client = authv3.NewAuthorizationClient(conn)
	return l
}

// escaped is PEM as Envoy writes it into source.certificate and its header.
func escaped(certs ...*x509.Certificate) string {
	var text []byte
	for _, c := range certs {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return strings.NewReplacer("\n", "%0A", " ", "%20", "+", "%2B", "/", "%2F", "=", "%3D").Replace(string(text))
}

// request is what Envoy asks about a request of this peer; nil is one without a
// certificate.
func request(own *x509svid.SVID, headers, route map[string]string) *authv3.CheckRequest {
	peer := &authv3.AttributeContext_Peer{Address: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{Address: "192.0.2.1"}}}}
	if own != nil {
		peer.Principal, peer.Certificate = own.ID.String(), escaped(own.Certificates[0])
	}
	return &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Source: peer, ContextExtensions: route,
		Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{Method: http.MethodGet, Path: "/orders?secret=1", Headers: headers}},
	}}
}

func (l *lab) ask(t *testing.T, r *authv3.CheckRequest) *authv3.CheckResponse {
	t.Helper()
	res, err := l.client.Check(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// refused asks, and wants a refusal with this status and for this check.
func (l *lab) refused(t *testing.T, r *authv3.CheckRequest, code codes.Code, status int, check string) {
	t.Helper()
	l.log.Reset()
	res := l.ask(t, r)
	if codes.Code(res.GetStatus().GetCode()) != code || int(res.GetDeniedResponse().GetStatus().GetCode()) != status || res.GetOkResponse() != nil {
		t.Errorf("%v, want %s and %d", res, code, status)
	}
	if !strings.Contains(l.log.String(), "check="+check+" ") || strings.Contains(l.log.String(), "secret") {
		t.Errorf("the log says %q, want check %s", l.log.String(), check)
	}
}

func (l *lab) allowed(t *testing.T, r *authv3.CheckRequest) map[string]string {
	t.Helper()
	res := l.ask(t, r)
	if codes.Code(res.GetStatus().GetCode()) != codes.OK || res.GetDeniedResponse() != nil {
		t.Fatalf("%v %s", res, l.log.String())
	}
	out := map[string]string{}
	for _, h := range res.GetOkResponse().GetHeaders() {
		if h.GetAppendAction() != corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD {
			t.Errorf("%s can be forged by the client", h.GetHeader().GetKey())
		}
		out[h.GetHeader().GetKey()] = h.GetHeader().GetValue()
	}
	return out
}

func TestAnAttestedPeerPassesAndIsNamedToTheProgram(t *testing.T) {
	l := newLab(t, nil)
	got := l.allowed(t, request(l.authority.Mint(t, "/cart"), map[string]string{headerID: "spiffe://example.test/admin"}, nil))
	if got[headerID] != "spiffe://example.test/cart" || got[headerTEE] != "aws-nitro" || got[headerStatus] != "affirming" || got[headerPolicy] != "test@1" || len(got) != 4 {
		t.Errorf("%v", got)
	}
}

func TestWhatARouteDemandsIsChecked(t *testing.T) {
	l := newLab(t, nil)
	image := hex.EncodeToString(svidtest.Digest("image"))
	other := hex.EncodeToString(svidtest.Digest("another"))
	own := l.authority.Mint(t, "/cart", svidtest.Age(time.Hour), svidtest.Attribute("role", "admin"), svidtest.Grace(), svidtest.Unowned())
	for _, tc := range []struct {
		key, good, bad string
		code           codes.Code
		status         int
		check          string
	}{
		{"min-tier", "warning", "affirming", codes.PermissionDenied, 403, "tier"},
		{"max-age", "2h", "30m", codes.Unauthenticated, 401, "max_age"},
		{"policy", "test", "prod", codes.PermissionDenied, 403, "policy"},
		{"attribute.role", "admin", "reader", codes.PermissionDenied, 403, "attribute"},
		{"pcr0", other + "|" + image, other, codes.PermissionDenied, 403, "pcr0"},
	} {
		l.allowed(t, request(own, nil, map[string]string{tc.key: tc.good}))
		l.refused(t, request(own, nil, map[string]string{tc.key: tc.bad}), tc.code, tc.status, tc.check)
	}
	l.refused(t, request(own, nil, map[string]string{"owned": "true"}), codes.PermissionDenied, 403, "instance-identity")
	for key, value := range map[string]string{"min_tier": "affirming", "min-tier": "good", "max-age": "-1h", "owned": "yes", "pcr0": "xyz", "attribute.": "x", "": ""} {
		l.refused(t, request(l.authority.Mint(t, "/cart"), nil, map[string]string{key: value}), codes.Internal, 500, "route")
	}
}

func TestPeersThatDoNotHoldAreRefused(t *testing.T) {
	l := newLab(t, nil)
	mint := func(options ...svidtest.Option) *x509svid.SVID { return l.authority.Mint(t, "/cart", options...) }
	good := mint()
	l.refused(t, request(nil, nil, nil), codes.Unauthenticated, 401, "credential")
	l.refused(t, request(mint(svidtest.Unattested()), nil, nil), codes.Unauthenticated, 401, "result_missing")
	l.refused(t, request(mint(svidtest.ResultOf(t, good)), nil, nil), codes.Unauthenticated, 401, "result_key")
	l.refused(t, request(mint(svidtest.Debug()), nil, nil), codes.PermissionDenied, 403, "tier")
	l.refused(t, request(svidtest.New(t, "example.test").Mint(t, "/cart"), nil, nil), codes.Unauthenticated, 401, "chain")
	for name, text := range map[string]string{
		"garbage": "x", "half an escape": "%2", "two": escaped(good.Certificates[0], good.Certificates[0]), "too much": strings.Repeat("x", maxForwarded+1),
		"a key": "-----BEGIN%20PRIVATE%20KEY-----%0AAAAA%0A-----END%20PRIVATE%20KEY-----%0A",
	} {
		r := request(good, nil, nil)
		r.Attributes.Source.Certificate = text
		t.Log(name)
		l.refused(t, r, codes.Unauthenticated, 401, "peer_certificate")
	}
}

// A client can send any header. None of them makes it somebody else.
func TestAStrangerDoesNotFillTheLog(t *testing.T) {
	l := newLab(t, nil)
	r := request(nil, nil, nil)
	r.GetAttributes().GetRequest().GetHttp().Path = "/" + strings.Repeat("é", 50_000) + "?secret"
	l.refused(t, r, codes.Unauthenticated, http.StatusUnauthorized, "credential")
	if l.log.Len() > 1000 {
		t.Errorf("%d bytes", l.log.Len())
	}
}

func TestAForgedHeaderGainsNothing(t *testing.T) {
	l := newLab(t, nil)
	mallory, victim := l.authority.Mint(t, "/mallory", svidtest.Debug()), l.authority.Mint(t, "/victim")
	xfcc := func(s *x509svid.SVID) map[string]string {
		return map[string]string{"x-forwarded-client-cert": `Hash=00;URI=` + s.ID.String() + `;Chain="` + escaped(s.Certificates...) + `"`}
	}
	l.refused(t, request(nil, xfcc(victim), nil), codes.Unauthenticated, 401, "credential")
	l.refused(t, request(mallory, xfcc(victim), nil), codes.Unauthenticated, 401, "peer_certificate")
	l.refused(t, request(mallory, xfcc(mallory), nil), codes.PermissionDenied, 403, "tier")
	if got := l.allowed(t, request(victim, xfcc(victim), nil)); got[headerID] != victim.ID.String() {
		t.Errorf("%v", got)
	}
	two := xfcc(victim)
	two["x-forwarded-client-cert"] += "," + two["x-forwarded-client-cert"]
	l.refused(t, request(victim, two, nil), codes.Unauthenticated, 401, "peer_certificate")
	// An authority of the client's own, as an intermediate certificate.
	stranger := svidtest.New(t, "example.test")
	theirs := stranger.Mint(t, "/mallory")
	theirs.Certificates = append(theirs.Certificates, stranger.Bundle().X509Authorities()...)
	l.refused(t, request(theirs, xfcc(theirs), nil), codes.Unauthenticated, 401, "chain")
}

func TestEveryRequestOfAConnectionIsCheckedAnew(t *testing.T) {
	l := newLab(t, nil)
	own := l.authority.Mint(t, "/cart")
	l.allowed(t, request(own, nil, map[string]string{"max-age": "20m"}))
	l.ahead.Store(21 * 60)
	l.refused(t, request(own, nil, map[string]string{"max-age": "20m"}), codes.Unauthenticated, 401, "max_age")
	l.allowed(t, request(own, nil, nil))
	l.ahead.Store(61 * 60)
	l.refused(t, request(own, nil, nil), codes.Unauthenticated, 401, "chain_validity")
	l.ahead.Store(0)
	var serial [svid.SerialSize]byte
	own.Certificates[0].SerialNumber.FillBytes(serial[:])
	if err := l.list.Update(l.authority.DenyList(t, svid.Denials{Sequence: 2, Serials: [][svid.SerialSize]byte{serial}}), time.Now()); err != nil {
		t.Fatal(err)
	}
	l.refused(t, request(own, nil, nil), codes.PermissionDenied, 403, "denied")
	empty, err := svid.NewDenyList(l.authority.TrustDomain, l.authority.VerifierRoot())
	if err != nil {
		t.Fatal(err)
	}
	l = newLab(t, func(_ *lab, a *Authorizer) { a.Require = append(a.Require, svid.NotDenied(empty)) })
	l.refused(t, request(l.authority.Mint(t, "/cart"), nil, nil), codes.Unavailable, 503, "deny_list")
}

func TestTokensPassWhereTheyAreTaken(t *testing.T) {
	bearer := func(l *lab, options ...svidtest.Option) map[string]string {
		return map[string]string{"authorization": "Bearer " + l.authority.MintJWT(t, "/cart", "orders", options...)}
	}
	l := newLab(t, nil)
	l.refused(t, request(nil, bearer(l), nil), codes.Unauthenticated, 401, "credential")
	l = newLab(t, func(l *lab, a *Authorizer) { a.Tokens, a.Audience = l.authority.JWTBundle(t), "orders" })
	if got := l.allowed(t, request(nil, bearer(l), nil)); got[headerID] != "spiffe://example.test/cart" {
		t.Errorf("%v", got)
	}
	l.refused(t, request(nil, bearer(l, svidtest.Debug()), nil), codes.PermissionDenied, 403, "tier")
	l.refused(t, request(nil, map[string]string{"authorization": "Bearer a.b.c"}, nil), codes.Unauthenticated, 401, "token_structure")
	// Envoy joins several headers of one name.
	one := bearer(l)["authorization"]
	l.refused(t, request(nil, map[string]string{"authorization": one + "," + one}, nil), codes.Unauthenticated, 401, "token_scheme")
	l.refused(t, request(svidtest.New(t, "example.test").Mint(t, "/cart"), bearer(l), nil), codes.Unauthenticated, 401, "chain")
}

func TestTheHeaderIsReadAsEnvoyWritesIt(t *testing.T) {
	got, err := clientCert(`By=spiffe://a/b;Hash=468ed33be74eee6556d90c0149c1309e9ba61d6425303443c0748a02dd8de688;Subject="/C=US/CN=Te\"st; x, y";URI=spiffe://a/c;DNS=x;DNS=y`)
	if err != nil || got["subject"] != `/C=US/CN=Te"st; x, y` || got["uri"] != "spiffe://a/c" || got["by"] != "spiffe://a/b" {
		t.Errorf("%v %v", got, err)
	}
	for _, bad := range []string{"", "Hash", "=x", `Cert="x`, `Cert="x"y`, "Hash=1;", "Hash=1;Hash=2", "Hash=1,Hash=2", strings.Repeat("x", maxForwarded) + "=1"} {
		if got, err := clientCert(bad); err == nil {
			t.Errorf("%.20q: %v", bad, got)
		}
	}
}

func FuzzClientCert(f *testing.F) {
	f.Add(`By=a;Hash=b;Cert="c;\"d";URI=e`, "x")
	f.Fuzz(func(t *testing.T, header, certs string) {
		if got, err := clientCert(header); err == nil && len(got) == 0 {
			t.Error("nothing, and no error")
		}
		if got, err := certificates(certs); (err == nil) != (len(got) > 0) {
			t.Errorf("%d certificates, and %v", len(got), err)
		}
	})
}
