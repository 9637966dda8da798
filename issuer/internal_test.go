package issuer

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/assay-project/assay/attest"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
	"github.com/assay-project/assay/verifiers"
	"github.com/assay-project/assay/verifiers/nitro"
)

func TestEveryKindHasItsCodeAndNoneTellsMoreThanItMay(t *testing.T) {
	secret := errors.New("expected 41aa, got 42bb")
	for kind, want := range map[attest.Kind]struct {
		code  codes.Code
		check string
		tells bool
	}{
		attest.Malformed:   {codes.InvalidArgument, "x", true},
		attest.Untrusted:   {codes.Unauthenticated, "x", true},
		attest.Stale:       {codes.Aborted, "x", true},
		attest.Denied:      {codes.PermissionDenied, "policy", false},
		attest.Unavailable: {codes.Unavailable, "x", false},
		attest.Internal:    {codes.Internal, "internal", false},
		attest.Kind(99):    {codes.Internal, "internal", false},
	} {
		err := refusal(fmt.Errorf("step: %w", &attest.Error{Kind: kind, Check: "x", Err: secret}), "as-ref")
		st := status.Convert(err)
		d := st.Details()[0].(*assayv1.Denied)
		if st.Code() != want.code || d.GetCheck() != want.check || d.GetReference() != "as-ref" {
			t.Errorf("%s: %v %v", kind, st, d)
		}
		if strings.Contains(st.Message(), "41aa") != want.tells {
			t.Errorf("%s: %q", kind, st.Message())
		}
		if (d.GetRetryAfterMs() > 0) != (kind == attest.Unavailable) {
			t.Errorf("%s: retry after %d ms", kind, d.GetRetryAfterMs())
		}
	}
	// What nobody classified is our fault, and says nothing.
	if st := status.Convert(refusal(secret, "as-ref")); st.Code() != codes.Internal || strings.Contains(st.Message(), "41aa") {
		t.Errorf("unclassified: %v", st)
	}
}

func TestARefusalIsUTF8WhateverAStrangerSent(t *testing.T) {
	st := status.Convert(refusal(&attest.Error{Kind: attest.Malformed, Check: "x", Err: errors.New(strings.Repeat("é\xff", 4000))}, "as-ref"))
	if !utf8.ValidString(st.Message()) || len(st.Message()) > 2048 {
		t.Errorf("%d bytes, valid %t", len(st.Message()), utf8.ValidString(st.Message()))
	}
	if len(st.Details()) != 1 {
		t.Errorf("details %v", st.Details())
	}
}

func TestAddressesAreCountedByWhatOneHostIsGiven(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.7:1234":            "192.0.2.7",
		"[::ffff:192.0.2.7]:1":      "192.0.2.7",
		"[2001:db8:1:2:3:4:5:6]:99": "2001:db8:1:2::/64",
		"[fe80::1%eth0]:99":         "fe80::/64",
	} {
		a, err := net.ResolveTCPAddr("tcp", in)
		if err != nil {
			t.Fatal(err)
		}
		if got := addressOf(a); got != want {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
	}
	if addressOf(&net.UnixAddr{Name: "/x", Net: "unix"}) != "unix" || addressOf(nil) != "" {
		t.Error("addresses without an IP")
	}
}

func TestAGateLetsInAsManyAsThereIsRoomFor(t *testing.T) {
	g := newGate(3, 2)
	a1, limit := g.enter("a")
	if limit != "" {
		t.Fatal(limit)
	}
	a2, _ := g.enter("a")
	if _, limit := g.enter("a"); limit != limitAddress {
		t.Errorf("third of one address: %q", limit)
	}
	b1, _ := g.enter("b")
	if _, limit := g.enter("c"); limit != limitTotal {
		t.Errorf("fourth of all: %q", limit)
	}
	a1()
	a1() // leaving twice makes one place
	if g.inside() != 2 {
		t.Errorf("%d inside", g.inside())
	}
	a2()
	b1()
	if g.inside() != 0 || len(g.byAddress) != 0 {
		t.Errorf("%d inside, %v", g.inside(), g.byAddress)
	}
}

// request makes a CSR with the algorithm.
func request(t testing.TB, k crypto.Signer, alg x509.SignatureAlgorithm) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{SignatureAlgorithm: alg}, k)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestKeysOfEveryAcceptedTypeAreTaken(t *testing.T) {
	p256, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	rsa2048, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for name, csr := range map[string][]byte{
		"P-256":   request(t, p256, x509.ECDSAWithSHA256),
		"P-384":   request(t, p384, x509.ECDSAWithSHA384),
		"Ed25519": request(t, ed, x509.PureEd25519),
		"RSA":     request(t, rsa2048, x509.SHA256WithRSA),
		"RSA-PSS": request(t, rsa2048, x509.SHA256WithRSAPSS),
	} {
		spki, err := keyFromCSR(csr)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		parsed, err := x509.ParseCertificateRequest(csr)
		if err != nil || string(parsed.RawSubjectPublicKeyInfo) != string(spki) {
			t.Errorf("%s: another key", name)
		}
	}
}

func TestARequestSignedWithSHA1IsRefused(t *testing.T) {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, err = keyFromCSR(request(t, k, x509.SHA1WithRSA))
	if attest.CheckOf(err) != "csr_key_type" {
		t.Errorf("got %v", err)
	}
}

func TestARenewalIsSignedInTheOneAlgorithmOfItsKey(t *testing.T) {
	msg := RenewalMessage(attest.Binding{B: [32]byte{1}})
	if string(msg) != "assay/v1 renew\x00\x01"+strings.Repeat("\x00", 31) {
		t.Fatalf("message %q", msg)
	}
	s256, s384 := sha256.Sum256(msg), sha512.Sum384(msg)
	p256, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	p521, _ := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	pss := &rsa.PSSOptions{SaltLength: 32, Hash: crypto.SHA256}
	for _, c := range []struct {
		name   string
		key    crypto.Signer
		digest []byte
		opts   crypto.SignerOpts
		good   bool
	}{
		{"P-256", p256, s256[:], crypto.SHA256, true},
		{"P-256 with SHA-384", p256, s384[:], crypto.SHA384, false},
		{"P-384", p384, s384[:], crypto.SHA384, true},
		{"P-384 with SHA-256", p384, s256[:], crypto.SHA256, false},
		{"P-521", p521, s256[:], crypto.SHA256, false},
		{"Ed25519", ed, msg, crypto.Hash(0), true},
		{"RSA-PSS", r, s256[:], pss, true},
		{"RSA-PSS with another salt", r, s256[:], &rsa.PSSOptions{SaltLength: 20, Hash: crypto.SHA256}, false},
		{"RSA PKCS#1 v1.5", r, s256[:], crypto.SHA256, false},
	} {
		sig, err := c.key.Sign(rand.Reader, c.digest, c.opts)
		if err != nil {
			t.Fatal(err)
		}
		if err := verifyRenewal(c.key.Public(), msg, sig); (err == nil) != c.good {
			t.Errorf("%s: %v", c.name, err)
		}
		if err := verifyRenewal(c.key.Public(), append(msg[:len(msg):len(msg)], 0), sig); err == nil {
			t.Errorf("%s: another message was accepted", c.name)
		}
	}
	if verifyRenewal("no key", msg, nil) == nil {
		t.Error("no key was accepted")
	}
}

// gRPC does not recover handlers: one panic would stop the server.
func TestAPanicOfAHandlerIsAnInternalAnswerAndAMetric(t *testing.T) {
	m := NewMetrics("simulated.example.org")
	var log strings.Builder
	r := recovery{slog.New(slog.NewTextHandler(&log, nil)), m}
	_, err := r.unary(t.Context(), nil, &grpc.UnaryServerInfo{FullMethod: "/x/Unary"}, func(context.Context, any) (any, error) { panic("secret of the stack") })
	serr := r.stream(nil, idleStream{ctx: t.Context()}, &grpc.StreamServerInfo{FullMethod: "/x/Stream"}, func(any, grpc.ServerStream) error { panic("secret of the stack") })
	for _, err := range []error{err, serr} {
		if status.Code(err) != codes.Internal || strings.Contains(err.Error(), "secret") {
			t.Errorf("got %v", err)
		}
	}
	families, err := m.Registry().Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "assay_panics_total" && f.GetMetric()[0].GetCounter().GetValue() != 2 {
			t.Errorf("counted %v", f)
		}
	}
	if !strings.Contains(log.String(), "/x/Stream") || !strings.Contains(log.String(), "secret of the stack") {
		t.Errorf("the log: %s", log.String())
	}
}

type idleStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s idleStream) Context() context.Context { return s.ctx }

// A Hello is any bytes that a stranger sends: it becomes at most 16 keys that
// their holders signed for, or an error that names a check.
func FuzzHello(f *testing.F) {
	v, err := nitro.New(nitro.HardwareRoots())
	if err != nil {
		f.Fatal(err)
	}
	set, err := verifiers.NewSet(v)
	if err != nil {
		f.Fatal(err)
	}
	s := &Server{td: spiffeid.RequireTrustDomainFromString("attested.example.org"), set: set}
	k, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	good, err := proto.Marshal(&assayv1.Hello{
		Version: 1, TrustDomain: "attested.example.org", Tee: "aws-nitro", Purpose: assayv1.Purpose_PURPOSE_BOOT,
		Keys: []*assayv1.KeyRequest{{Csr: request(f, k, x509.ECDSAWithSHA256), RequestedId: "spiffe://attested.example.org/a"}},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		var msg assayv1.Hello
		if proto.Unmarshal(b, &msg) != nil {
			return
		}
		h, err := s.checkHello(&msg)
		if err != nil {
			if h != nil || attest.CheckOf(err) == "" {
				t.Errorf("%v %v", h, err)
			}
			return
		}
		if len(h.keys) == 0 || len(h.keys) > attest.MaxKeys || h.platform != attest.AWSNitro {
			t.Errorf("%+v", h)
		}
	})
}

// A request comes from a stranger: whatever it is, the answer is a key whose
// holder signed it, or an error that names a check.
func FuzzKeyFromCSR(f *testing.F) {
	p256, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	f.Add(request(f, p256, x509.ECDSAWithSHA256))
	f.Add(request(f, ed, x509.PureEd25519))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, der []byte) {
		spki, err := keyFromCSR(der)
		if err != nil {
			if spki != nil || !strings.HasPrefix(attest.CheckOf(err), "csr_") {
				t.Errorf("%x: %v", spki, err)
			}
			return
		}
		if _, err := x509.ParsePKIXPublicKey(spki); err != nil {
			t.Errorf("no key: %v", err)
		}
	})
}
