package agentclient

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	agentv1 "github.com/assay-project/assay/issuer/issuerpb/assay/agent/v1"
)

// The waits between two watches that failed.
const (
	retryBase = 50 * time.Millisecond
	retryCap  = 5 * time.Second
)

// Options say which agent, and which of its identities.
type Options struct {
	// Socket is the absolute path of the agent's socket. Required.
	Socket string
	// ID is the identity to use; the zero ID is the first that the agent serves.
	ID spiffeid.ID
	// Log is told of bundles of other trust domains that cannot be read, and are left
	// out; nil is slog.Default().
	Log *slog.Logger
}

// Residency says where a private key lives.
type Residency string

// The residencies.
const (
	Software Residency = "software" // in the memory of the agent
	TPM      Residency = "tpm"      // in the TPM, until its next reset
)

// Identity is one identity of the agent.
type Identity struct {
	ID           spiffeid.ID
	Hint         string              // what it is for, in the operator's word; may be empty
	Certificates []*x509.Certificate // leaf first
	Residency    Residency
	// Result is the attestation result that the leaf carries, a CMW record; nil
	// without one. It is not verified: package svid does.
	Result []byte
	// Signer signs with the key, by asking the agent; nil for keys in memory.
	Signer *Signer
}

// Source holds what an agent serves, and follows it. It is safe for concurrent
// use, and implements go-spiffe's sources of SVIDs and of bundles. After a
// failure of the agent it keeps what it had.
type Source struct {
	id     spiffeid.ID
	log    *slog.Logger
	conn   *grpc.ClientConn
	client agentv1.AgentClient
	cancel context.CancelFunc
	done   chan struct{}

	mu      sync.Mutex
	all     []Identity
	bundle  *x509bundle.Bundle
	foreign map[spiffeid.TrustDomain]*x509bundle.Bundle // each speaks for its own trust domain alone
	tokens  map[spiffeid.TrustDomain]*jwtbundle.Bundle  // ours too
	keysDoc map[spiffeid.TrustDomain][]byte             // of the agent's own trust domains
	first   spiffeid.TrustDomain                        // that of the first identity
	updated chan struct{}                               // closed at the next change
	last    error                                       // why the last watch ended
}

// New connects to the agent and waits for its first identities, until ctx ends. An
// agent that is still attesting is waited for. The error then says what the agent
// answered last.
func New(ctx context.Context, o Options) (*Source, error) {
	if o.Socket == "" || o.Socket[0] != '/' {
		return nil, fmt.Errorf("agentclient: the socket %q is no absolute path", o.Socket)
	}
	conn, err := grpc.NewClient("unix://"+o.Socket, grpc.WithTransportCredentials(insecure.NewCredentials())) // a unix socket of this machine
	if err != nil {
		return nil, fmt.Errorf("agentclient: %w", err)
	}
	run, cancel := context.WithCancel(context.Background())
	log := o.Log
	if log == nil {
		log = slog.Default()
	}
	s := &Source{id: o.ID, log: log, conn: conn, client: agentv1.NewAgentClient(conn), cancel: cancel, done: make(chan struct{}), updated: make(chan struct{})}
	go func() {
		defer close(s.done)
		s.follow(run)
	}()
	for {
		s.mu.Lock()
		updated, last := s.updated, s.last
		ready := s.bundle != nil
		s.mu.Unlock()
		if ready {
			return s, nil
		}
		select {
		case <-updated:
		case <-ctx.Done():
			s.Close()
			return nil, fmt.Errorf("agentclient: no identity from %s: %w", o.Socket, errors.Join(ctx.Err(), last))
		}
	}
}

// Close ends the source. Its signers end with it.
func (s *Source) Close() {
	s.cancel()
	<-s.done
	_ = s.conn.Close()
}

// Identities are what the agent serves, in the order of its trust domains and of policy.
func (s *Source) Identities() []Identity {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.all)
}

// Updated is closed at the next change, or when the agent can no longer be reached.
func (s *Source) Updated() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.updated
}

// VerifierKeys is the signed verifier-keys document (docs/spec/verifier-keys.md) of the
// first identity's trust domain, nil without one. It is not verified:
// svid.ParseVerifierKeys does.
func (s *Source) VerifierKeys() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.keysDoc[s.first])
}

// VerifierKeysFor is that document of a trust domain that the agent is in, likewise;
// nil of every other.
func (s *Source) VerifierKeysFor(td spiffeid.TrustDomain) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.keysDoc[td])
}

// GetX509SVID returns the identity with its [Signer] as private key. The error says
// that the agent serves no such identity, or that its key is in memory.
func (s *Source) GetX509SVID() (*x509svid.SVID, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range s.all {
		if !s.id.IsZero() && id.ID != s.id {
			continue
		}
		if id.Signer == nil {
			return nil, fmt.Errorf("agentclient: the key of %s is in memory: use the SPIFFE Workload API", id.ID)
		}
		return &x509svid.SVID{ID: id.ID, Certificates: id.Certificates, PrivateKey: id.Signer}, nil
	}
	if s.id.IsZero() {
		return nil, errors.New("agentclient: the agent serves no identity")
	}
	return nil, fmt.Errorf("agentclient: the agent does not serve %s", s.id)
}

// GetX509BundleForTrustDomain returns the bundle of a trust domain that the agent is in,
// or of one that it federates with.
func (s *Source) GetX509BundleForTrustDomain(td spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bundle != nil && s.bundle.TrustDomain() == td {
		return s.bundle, nil
	}
	if b := s.foreign[td]; b != nil {
		return b, nil
	}
	return nil, fmt.Errorf("agentclient: there is no bundle for the trust domain %s", td)
}

// GetJWTBundleForTrustDomain returns what JWT-SVIDs of a trust domain are checked
// with, likewise.
func (s *Source) GetJWTBundleForTrustDomain(td spiffeid.TrustDomain) (*jwtbundle.Bundle, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.tokens[td]; b != nil {
		return b, nil
	}
	return nil, fmt.Errorf("agentclient: there is no JWT bundle for the trust domain %s", td)
}

// GetCertificate is for a server's tls.Config.
func (s *Source) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return s.certificate()
}

// GetClientCertificate is for a client's tls.Config.
func (s *Source) GetClientCertificate(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	return s.certificate()
}

func (s *Source) certificate() (*tls.Certificate, error) {
	v, err := s.GetX509SVID()
	if err != nil {
		return nil, err
	}
	c := &tls.Certificate{PrivateKey: v.PrivateKey, Leaf: v.Certificates[0]}
	for _, x := range v.Certificates {
		c.Certificate = append(c.Certificate, x.Raw)
	}
	return c, nil
}

// follow watches until ctx ends.
func (s *Source) follow(ctx context.Context) {
	wait := retryBase
	for ctx.Err() == nil {
		good, err := s.watch(ctx)
		if good {
			wait = retryBase
		}
		s.set(func() { s.last = err })
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
		case <-t.C:
		}
		wait = min(2*wait, retryCap)
	}
}

// watch takes one stream to its end; good reports whether it brought anything.
func (s *Source) watch(ctx context.Context) (good bool, err error) {
	stream, err := s.client.WatchIdentities(withHeader(ctx), &agentv1.WatchIdentitiesRequest{}, grpc.WaitForReady(false))
	if err != nil {
		return false, err
	}
	for {
		m, err := stream.Recv()
		if status.Code(err) == codes.PermissionDenied {
			s.set(func() { s.all = nil }) // they ended: a TPM's reset ends keys early
		}
		if err != nil {
			return good, err
		}
		if err := s.take(m); err != nil {
			return good, err
		}
		good = true
	}
}

// set changes the source and tells those who wait.
func (s *Source) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
	close(s.updated)
	s.updated = make(chan struct{})
}

// take reads a full-state message: all that is our own, or nothing; and of what other
// trust domains say, what can be read.
func (s *Source) take(m *agentv1.Identities) error {
	bundle, err := readBundle(m.GetBundle())
	if err != nil {
		return err
	}
	var all []Identity
	for _, x := range m.GetIdentities() {
		id, err := s.read(x)
		if err != nil {
			return fmt.Errorf("agentclient: an identity of the agent cannot be used: %w", err)
		}
		all = append(all, id)
	}
	if len(all) == 0 {
		return errors.New("agentclient: the agent serves no identity")
	}
	keysDoc := map[spiffeid.TrustDomain][]byte{}
	foreign, tokens := map[spiffeid.TrustDomain]*x509bundle.Bundle{}, map[spiffeid.TrustDomain]*jwtbundle.Bundle{}
	own := bundle.TrustDomain()
	keysDoc[own] = m.GetBundle().GetVerifierKeys()
	if err := readTokens(tokens, own, m.GetBundle()); err != nil {
		return err
	}
	for _, f := range m.GetFederated() {
		if f.GetTrustDomain() == own.Name() {
			continue // nobody else speaks for our own
		}
		b, err := readBundle(f)
		if err == nil {
			err = readTokens(tokens, b.TrustDomain(), f)
		}
		if err != nil {
			// Theirs is their trouble: it keeps nothing of ours from being renewed.
			s.log.Warn("the bundle of another trust domain is left out", "trust_domain", fmt.Sprintf("%.255s", f.GetTrustDomain()), "error", err)
			continue
		}
		foreign[b.TrustDomain()], keysDoc[b.TrustDomain()] = b, f.GetVerifierKeys()
	}
	s.set(func() {
		s.all, s.bundle, s.foreign, s.tokens, s.keysDoc, s.first, s.last = all, bundle, foreign, tokens, keysDoc, bundle.TrustDomain(), nil
	})
	return nil
}

// readTokens reads the keys of a trust domain's tokens, where there are any: an agent
// of before sends none.
func readTokens(tokens map[spiffeid.TrustDomain]*jwtbundle.Bundle, td spiffeid.TrustDomain, m *agentv1.Bundle) error {
	if len(m.GetJwtAuthorities()) == 0 {
		return nil
	}
	b, err := jwtbundle.Parse(td, m.GetJwtAuthorities())
	if err != nil {
		return fmt.Errorf("agentclient: the JWT bundle of %s: %w", td, err)
	}
	tokens[td] = b
	return nil
}

func readBundle(m *agentv1.Bundle) (*x509bundle.Bundle, error) {
	td, err := spiffeid.TrustDomainFromString(m.GetTrustDomain())
	if err != nil {
		return nil, fmt.Errorf("agentclient: the agent's bundle: %w", err)
	}
	out := x509bundle.New(td)
	for _, der := range m.GetX509Authorities() {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("agentclient: the agent's bundle: %w", err)
		}
		out.AddX509Authority(c)
	}
	return out, nil
}

func (s *Source) read(m *agentv1.Identity) (out Identity, err error) {
	for _, der := range m.GetChain() {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return Identity{}, err
		}
		out.Certificates = append(out.Certificates, c)
	}
	if len(out.Certificates) == 0 {
		return Identity{}, errors.New("it has no certificate")
	}
	if out.ID, err = x509svid.IDFromCert(out.Certificates[0]); err != nil {
		return Identity{}, err
	}
	if out.ID.String() != m.GetSpiffeId() {
		return Identity{}, fmt.Errorf("the certificate is for %s, not for %q", out.ID, m.GetSpiffeId())
	}
	out.Hint = m.GetHint()
	if len(m.GetAttestationResult()) > 0 {
		out.Result = m.GetAttestationResult()
	}
	switch m.GetKeyResidency() {
	case agentv1.KeyResidency_KEY_RESIDENCY_SOFTWARE:
		out.Residency = Software
	case agentv1.KeyResidency_KEY_RESIDENCY_TPM:
		out.Residency, out.Signer = TPM, newSigner(s.client, out.ID, out.Certificates[0])
	case agentv1.KeyResidency_KEY_RESIDENCY_UNSPECIFIED:
		fallthrough
	default:
		return Identity{}, fmt.Errorf("the key is in a place that this version does not know (%s)", m.GetKeyResidency())
	}
	return out, nil
}

// withHeader adds what the agent wants with every call (SPIFFE Workload Endpoint,
// section 4.2.1).
func withHeader(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "workload.spiffe.io", "true")
}
