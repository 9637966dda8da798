package issuer_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/attest"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
	simnitro "github.com/assay-project/assay/simulators/nitro"
)

// The client below is written from docs/spec/protocol.md, and shares no code
// with the agent.

const serverID = "spiffe://" + trustDomain + "/assay/server"

// tlsClient is the client's side of TLS, with an SVID to present or none.
func (o *office) tlsClient(own ...tls.Certificate) *tls.Config {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(o.bootstrap) {
		o.t.Fatal("the bootstrap root is no PEM certificate")
	}
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		ServerName:         o.sni,
		Certificates:       own,
		InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			leaf := cs.PeerCertificates[0]
			pool := x509.NewCertPool()
			for _, c := range cs.PeerCertificates[1:] {
				pool.AddCert(c)
			}
			_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, CurrentTime: o.clock.Now()})
			if err != nil {
				return err
			}
			if len(leaf.URIs) != 1 || leaf.URIs[0].String() != o.serverID() {
				return errors.New("not the server's SPIFFE ID")
			}
			return nil
		},
	}
}

// connect opens a connection of its own.
func (o *office) connect(own ...tls.Certificate) *grpc.ClientConn {
	o.t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+o.addr, grpc.WithTransportCredentials(credentials.NewTLS(o.tlsClient(own...))))
	must(o.t, err)
	o.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// key is a key to be certified.
type key struct {
	signer crypto.Signer
	csr    []byte
	want   string // requested SPIFFE ID
}

func newKey(t testing.TB, want string) key {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return keyOf(t, k, want)
}

func keyOf(t testing.TB, k crypto.Signer, want string) key {
	t.Helper()
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, k)
	must(t, err)
	return key{k, csr, want}
}

func (k key) spki(t testing.TB) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(k.signer.Public())
	must(t, err)
	return der
}

// attempt is one attestation, step by step. A test changes what it wants to
// be wrong between the steps.
type attempt struct {
	o      *office
	conn   *grpc.ClientConn
	stream assayv1.Attestation_AttestClient

	hello    *assayv1.Hello
	keys     []key
	launch   simnitro.Launch
	document simnitro.Document // ModuleID and the like; the rest is filled in
	faults   []simnitro.Fault

	nonce     []byte
	deadline  time.Time
	bound     attest.Challenge // what the evidence will be bound to
	evidence  *assayv1.Evidence
	cancelled context.CancelFunc
}

// attempt prepares an attestation of payments for the keys.
func (o *office) attempt(conn *grpc.ClientConn, keys ...key) *attempt {
	o.t.Helper()
	if len(keys) == 0 {
		keys = []key{newKey(o.t, "")}
	}
	a := &attempt{o: o, conn: conn, keys: keys, launch: payments()}
	a.hello = &assayv1.Hello{Version: 1, TrustDomain: o.domain(), Tee: "aws-nitro", Purpose: assayv1.Purpose_PURPOSE_BOOT}
	for _, k := range keys {
		a.hello.Keys = append(a.hello.Keys, &assayv1.KeyRequest{Csr: k.csr, RequestedId: k.want})
	}
	return a
}

// challenge sends Hello and reads the Challenge.
func (a *attempt) challenge() error {
	a.o.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	a.cancelled = cancel
	a.o.t.Cleanup(cancel)
	var err error
	if a.stream, err = assayv1.NewAttestationClient(a.conn).Attest(ctx); err != nil {
		return err
	}
	if err := a.stream.Send(&assayv1.AttestRequest{Message: &assayv1.AttestRequest_Hello{Hello: a.hello}}); err != nil && status.Code(err) != codes.Unknown {
		return err
	}
	resp, err := a.stream.Recv()
	if err != nil {
		return err
	}
	c := resp.GetChallenge()
	if c == nil {
		return errors.New("no challenge")
	}
	a.nonce, a.deadline = c.GetNonce(), time.UnixMilli(c.GetDeadlineUnixMs())
	return a.bind()
}

// bind computes what the evidence must be bound to.
func (a *attempt) bind() error {
	p, ok := peer.FromContext(a.stream.Context())
	if !ok {
		return errors.New("no peer")
	}
	state := p.AuthInfo.(credentials.TLSInfo).State
	ekm, err := state.ExportKeyingMaterial("EXPERIMENTAL assay v1", []byte(a.o.domain()), 32)
	if err != nil {
		return err
	}
	a.bound = attest.Challenge{
		Platform: attest.AWSNitro, TrustDomain: a.o.domain(), ServerID: a.o.serverID(),
		Exporter: [32]byte(ekm), Nonce: attest.Nonce(a.nonce), Purpose: attest.Boot,
	}
	if a.hello.GetPurpose() == assayv1.Purpose_PURPOSE_RENEW {
		a.bound.Purpose = attest.Renew
	}
	for _, k := range a.keys {
		a.bound.Keys = append(a.bound.Keys, attest.BoundKey{SPKI: k.spki(a.o.t), RequestedID: k.want})
	}
	return nil
}

// attest makes the evidence that a.bound asks for.
func (a *attempt) attest() {
	a.o.t.Helper()
	b, err := a.bound.Binding()
	must(a.o.t, err)
	d := a.document
	d.PCRs = a.launch.PCRs()
	d.UserData = append([]byte("assay/v1\x00"), b.B[:]...)
	d.Nonce = b.Nonce[:]
	d.PublicKey = b.Keys[0].SPKI
	a.evidence = &assayv1.Evidence{Body: &assayv1.Evidence_Nitro{Nitro: &assayv1.NitroEvidence{Document: a.o.document(d, a.faults...)}}}
}

// answer sends the evidence and reads the end.
func (a *attempt) answer() (*assayv1.Issued, error) {
	a.o.t.Helper()
	if err := a.stream.Send(&assayv1.AttestRequest{Message: &assayv1.AttestRequest_Evidence{Evidence: a.evidence}}); err != nil {
		if _, rerr := a.stream.Recv(); rerr != nil {
			return nil, rerr
		}
		return nil, err
	}
	return a.issued()
}

func (a *attempt) issued() (*assayv1.Issued, error) {
	resp, err := a.stream.Recv()
	if err != nil {
		return nil, err
	}
	if resp.GetIssued() == nil {
		return nil, errors.New("neither an error nor Issued")
	}
	if _, err := a.stream.Recv(); err == nil || status.Code(err) == codes.Unavailable {
		return nil, errors.New("the stream did not end")
	}
	return resp.GetIssued(), nil
}

// run is a whole attestation.
func (a *attempt) run() (*assayv1.Issued, error) {
	a.o.t.Helper()
	if err := a.challenge(); err != nil {
		return nil, err
	}
	a.attest()
	return a.answer()
}

// identity is an SVID with its key.
type identity struct {
	key  key
	leaf *x509.Certificate
}

func (i identity) certificate() tls.Certificate {
	return tls.Certificate{Certificate: [][]byte{i.leaf.Raw}, PrivateKey: i.key.signer, Leaf: i.leaf}
}

// boot attests payments and returns its first SVID.
func (o *office) boot(conn *grpc.ClientConn) identity {
	o.t.Helper()
	a := o.attempt(conn)
	issued, err := a.run()
	must(o.t, err)
	leaf, err := x509.ParseCertificate(issued.GetSvids()[0].GetChain()[0])
	must(o.t, err)
	return identity{a.keys[0], leaf}
}

// denied returns the detail of a refusal.
func denied(t testing.TB, err error) *assayv1.Denied {
	t.Helper()
	st, ok := status.FromError(err)
	if err == nil || !ok {
		t.Fatalf("want a refusal, got %v", err)
	}
	for _, d := range st.Details() {
		if d, ok := d.(*assayv1.Denied); ok {
			return d
		}
	}
	t.Fatalf("the status holds no Denied: %v", err)
	return nil
}

// wantRefusal checks code, kind and check of a refusal.
func wantRefusal(t testing.TB, err error, code codes.Code, kind attest.Kind, check string) {
	t.Helper()
	d := denied(t, err)
	if status.Code(err) != code || d.GetKind() != kind.String() || d.GetCheck() != check {
		t.Errorf("got %s %s/%s, want %s %s/%s (%v)", status.Code(err), d.GetKind(), d.GetCheck(), code, kind, check, err)
	}
	if len(d.GetReference()) != len("as-")+10 {
		t.Errorf("reference %q", d.GetReference())
	}
}

// renewal prepares a renewal of an SVID; prove makes its proof.
func (o *office) renewal(conn *grpc.ClientConn, old identity) *renewal {
	o.t.Helper()
	r := &renewal{attempt: o.attempt(conn), old: old}
	r.hello.Purpose = assayv1.Purpose_PURPOSE_RENEW
	return r
}

type renewal struct {
	*attempt
	old identity
}

// prove adds the proof of the previous key to the evidence.
func (r *renewal) prove() {
	r.o.t.Helper()
	b, err := r.bound.Binding()
	must(r.o.t, err)
	sum := sha256.Sum256(append([]byte("assay/v1 renew\x00"), b.B[:]...))
	sig, err := r.old.key.signer.Sign(rand.Reader, sum[:], crypto.SHA256)
	must(r.o.t, err)
	r.evidence.Renewal = &assayv1.Renewal{Certificate: r.old.leaf.Raw, Signature: sig}
}

func (r *renewal) run() (*assayv1.Issued, error) {
	r.o.t.Helper()
	if err := r.challenge(); err != nil {
		return nil, err
	}
	r.attest()
	r.prove()
	return r.answer()
}
