package issuer

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/issuer/config"
	"github.com/assay-project/assay/issuer/ledger"
)

// Administrators who are elsewhere come over mutual TLS 1.3. The server shows the
// certificate that it shows to agents, under the bootstrap root that clients pin;
// they show X.509-SVIDs of a trust domain of their own, whose authorities are in a
// file that the configuration names. It is never the trust domain that is served:
// no policy, however wrong, can make an administrator.

// adminTLS is who may administer from elsewhere.
type adminTLS struct {
	current atomic.Pointer[administrators]
}

// administrators is one configuration of it, with the newest reading of the file.
type administrators struct {
	td    spiffeid.TrustDomain
	path  string
	roles map[spiffeid.ID]Role

	mu     sync.Mutex
	looked time.Time // by the machine's clock
	seen   fileLook
	bundle *x509bundle.Bundle
	fault  string // why the file's newest content is not in use
}

type fileLook struct {
	size int64
	at   time.Time
}

// bundleLook is how often the file is looked at, at most.
const bundleLook = time.Second

// maxAdminBundle bounds the file, in bytes.
const maxAdminBundle = 1 << 20

// readRoles takes the section administration of a configuration: at the start, and
// at every reload. What is wrong with it is an error, and nothing changes.
func (s *Server) readRoles(cfg *config.Config) error {
	a, err := s.newAdministrators(cfg)
	if err != nil {
		return err
	}
	if a != nil {
		s.adminTLS.current.Store(a)
	}
	return nil
}

// newAdministrators is nil where nobody may administer from elsewhere.
func (s *Server) newAdministrators(cfg *config.Config) (*administrators, error) {
	c := cfg.Administration
	if c.Listen == "" {
		return nil, nil //nolint:nilnil // off
	}
	td, err := spiffeid.TrustDomainFromString(c.TrustDomain)
	if err != nil || td.Name() != c.TrustDomain {
		return nil, cli.Usagef("name the trust domain of the administrators, without spiffe://", "administration.trust_domain %q: not the name of a trust domain", c.TrustDomain)
	}
	if td == s.td {
		return nil, cli.Usagef("administrators have SVIDs of a trust domain of their own, which no policy of this server can issue",
			"administration.trust_domain is %s, which this server issues for", td.Name())
	}
	a := &administrators{td: td, path: c.Bundle, roles: map[spiffeid.ID]Role{}}
	for _, binding := range []struct {
		role Role
		ids  []string
	}{{Viewer, c.Roles.Viewer}, {PolicyAuthor, c.Roles.PolicyAuthor}, {Operator, c.Roles.Operator}} {
		for _, text := range binding.ids {
			id, err := spiffeid.FromString(text)
			key := "administration.roles." + binding.role.String()
			switch {
			case err != nil || id.Path() == "":
				return nil, cli.Usagef("for example spiffe://"+td.Name()+"/alice", "%s: %q is no SPIFFE ID of an administrator", key, text)
			case !id.MemberOf(td):
				return nil, cli.Usagef("roles are bound to IDs of "+td.Name()+" alone", "%s: %s is of another trust domain than administration.trust_domain", key, id)
			case a.roles[id] != NoRole:
				return nil, cli.Usagef("each role includes the one before it: name it once", "%s: %s has the role %s already", key, id, a.roles[id])
			}
			a.roles[id] = binding.role
		}
	}
	if len(a.roles) == 0 {
		return nil, cli.Usagef("name at least one SPIFFE ID, or turn administration.listen off", "administration.roles binds nobody: nobody could call")
	}
	if a.bundle, a.seen, err = a.read(s.ca.Bundle()); err != nil {
		return nil, cli.Usagef("put the administrators' X.509 authorities there, in PEM", "administration.bundle: %w", err)
	}
	a.looked = time.Now()
	return a, nil
}

// read reads the file. own is the bundle that is served, none of whose authorities
// may be in it.
func (a *administrators) read(own *spiffebundle.Bundle) (*x509bundle.Bundle, fileLook, error) {
	st, err := os.Stat(a.path)
	if err != nil {
		return nil, fileLook{}, err
	}
	look := fileLook{st.Size(), st.ModTime()}
	if st.Size() > maxAdminBundle {
		return nil, look, fmt.Errorf("%s has %d bytes, at most %d are read", a.path, st.Size(), maxAdminBundle)
	}
	raw, err := os.ReadFile(a.path)
	if err != nil {
		return nil, look, err
	}
	b, err := x509bundle.Parse(a.td, raw)
	switch {
	case err != nil:
		return nil, look, fmt.Errorf("%s: %w", a.path, err)
	case b.Empty():
		return nil, look, fmt.Errorf("%s holds no certificate", a.path)
	case slices.ContainsFunc(b.X509Authorities(), own.HasX509Authority):
		return nil, look, fmt.Errorf("%s holds an authority of %s, which this server issues for", a.path, own.TrustDomain().Name())
	}
	return b, look, nil
}

// trusted is the newest good content of the file.
func (a *administrators) trusted(own *spiffebundle.Bundle) *x509bundle.Bundle {
	a.mu.Lock()
	defer a.mu.Unlock()
	if time.Since(a.looked) < bundleLook {
		return a.bundle
	}
	a.looked = time.Now()
	st, err := os.Stat(a.path)
	if err == nil && (fileLook{st.Size(), st.ModTime()}) == a.seen {
		return a.bundle
	}
	b, look, err := a.read(own)
	a.seen, a.fault = look, ""
	if err != nil {
		a.fault = "the administrators' bundle is not taken, an older one is in use: " + clip(err.Error(), 256)
		return a.bundle
	}
	a.bundle = b
	return b
}

// warning is what an operator should look at, or "".
func (t *adminTLS) warning() string {
	a := t.current.Load()
	if a == nil {
		return ""
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.fault
}

// verify checks an administrator's X.509-SVID.
func (t *adminTLS) verify(chain []*x509.Certificate, at time.Time, own *spiffebundle.Bundle) (spiffeid.ID, error) {
	a := t.current.Load()
	switch {
	case a == nil:
		return spiffeid.ID{}, errors.New("nobody may administer from elsewhere")
	case len(chain) == 0:
		return spiffeid.ID{}, errors.New("no client certificate")
	}
	id, _, err := x509svid.Verify(chain, a.trusted(own), x509svid.WithTime(at))
	switch {
	case err != nil:
		return spiffeid.ID{}, err
	case !id.MemberOf(a.td) || id.Path() == "":
		return spiffeid.ID{}, fmt.Errorf("%s is no administrator of %s", id, a.td.Name())
	}
	return id, nil
}

// roleOf is what an administrator may do.
func (t *adminTLS) roleOf(id spiffeid.ID) Role {
	if a := t.current.Load(); a != nil {
		return a.roles[id]
	}
	return NoRole
}

// Bounds of connections of administrators.
const (
	maxAdminHandshakes  = 64
	maxAdminConnections = 256
)

// serveAdminTLS serves the admin services over mutual TLS, until ctx ends.
func (s *Server) serveAdminTLS(ctx context.Context, l net.Listener) error {
	conf := tlsConfig(s.ca.ServerCertificate)
	conf.ClientAuth = tls.RequireAnyClientCert
	conf.VerifyConnection = func(state tls.ConnectionState) error {
		err := checkPeer(state)
		if err == nil {
			_, err = s.adminTLS.verify(state.PeerCertificates, s.now(), s.ca.Bundle())
		}
		return err
	}
	options := append(s.adminOptions(),
		grpc.Creds(&adminCredentials{TransportCredentials: credentials.NewTLS(conf), gate: newGate(maxAdminHandshakes, maxAdminHandshakes/4), server: s}),
		grpc.MaxHeaderListSize(16<<10),
		grpc.MaxConcurrentStreams(32),
		grpc.ConnectionTimeout(s.cfg.Limits.HandshakeTimeout),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 30 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: 5 * time.Minute, MaxConnectionAge: time.Hour, MaxConnectionAgeGrace: time.Minute, Time: time.Minute, Timeout: 20 * time.Second}),
	)
	g := grpc.NewServer(options...)
	registerAdmin(g, s)
	ended := make(chan struct{})
	go func() {
		select {
		case <-ctx.Done():
			stop(g, time.Second)
		case <-ended:
		}
	}()
	defer close(ended)
	return g.Serve(&boundedListener{Listener: l, room: make(chan struct{}, maxAdminConnections)})
}

// adminCredentials bound what a handshake costs, and end a connection with the
// SVID that it was opened with.
type adminCredentials struct {
	credentials.TransportCredentials
	gate   *gate
	server *Server
}

// adminPeer is who is at the other end of a connection to the admin services over
// TLS.
type adminPeer struct{ credentials.TLSInfo }

// ServerHandshake implements credentials.TransportCredentials.
func (c *adminCredentials) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	leave, limit := c.gate.enter(addressOf(raw.RemoteAddr()))
	if limit != "" {
		return nil, nil, errTooManyHandshakes // gRPC closes raw
	}
	defer leave()
	bounded := &handshakeConn{Conn: raw, left: maxHandshake}
	conn, info, err := c.TransportCredentials.ServerHandshake(bounded)
	if err != nil {
		c.server.metrics.limited.WithLabelValues("admin", "handshake").Inc()
		c.server.audit.refused(context.Background(), ledger.Action{Actor: "an unknown client", Method: "TLS handshake", Outcome: outcomeRefused, Detail: clip(err.Error(), 256)})
		return nil, nil, err
	}
	t, ok := info.(credentials.TLSInfo)
	if !ok || len(t.State.PeerCertificates) == 0 {
		return nil, nil, errors.New("a handshake without a client certificate")
	}
	left := t.State.PeerCertificates[0].NotAfter.Sub(c.server.now())
	bounded.established(max(left, time.Millisecond))
	return conn, adminPeer{t}, nil
}

// Clone implements credentials.TransportCredentials.
func (c *adminCredentials) Clone() credentials.TransportCredentials {
	clone := *c
	clone.TransportCredentials = c.TransportCredentials.Clone()
	return &clone
}

// boundedListener holds so many connections at once; who comes then waits in the
// kernel's queue.
type boundedListener struct {
	net.Listener
	room chan struct{}
}

// Accept implements net.Listener.
func (l *boundedListener) Accept() (net.Conn, error) {
	l.room <- struct{}{}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.room
		return nil, err
	}
	return &boundedConn{Conn: c, leave: sync.OnceFunc(func() { <-l.room })}, nil
}

type boundedConn struct {
	net.Conn
	leave func()
}

// Close implements net.Conn.
func (c *boundedConn) Close() error {
	defer c.leave()
	return c.Conn.Close()
}
