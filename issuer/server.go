package issuer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/issuer/ca"
	"github.com/assay-project/assay/issuer/config"
	"github.com/assay-project/assay/issuer/federation"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
	"github.com/assay-project/assay/issuer/ledger"
	"github.com/assay-project/assay/issuer/store"
	"github.com/assay-project/assay/issuer/tpms"
	"github.com/assay-project/assay/issuer/web"
	"github.com/assay-project/assay/policy"
	"github.com/assay-project/assay/policy/signed"
	"github.com/assay-project/assay/verifiers"
)

// maxMessage bounds what is read from a stranger before anything is known of
// it: a Nitro document (16 KiB), a TPM's quote with keys and certificates (48
// KiB), 16 certificate requests and a renewal fit.
const maxMessage = 64 << 10 // bytes

// maxAdminMessage bounds what is read from the operator: a signed policy fits.
const maxAdminMessage = signed.MaxSize + 64<<10 // bytes

// challengeTTL is how long an agent has to answer a challenge.
const challengeTTL = 60 * time.Second

// Parts are what the service is made of; cmd/assayd builds them. All are
// required but Version, Tracing, Federation, Background, and TPMs where no TPM is served.
type Parts struct {
	Set     verifiers.Set
	Policy  *PolicyFile
	Ledger  *ledger.Ledger
	CA      *ca.CA
	Store   store.Store
	Metrics *Metrics
	TPMs    *tpms.Registry
	Log     *slog.Logger
	Now     func() time.Time
	Version string // of the software, for Status
	Tracing *Tracing
	// Events is how changes of other servers are heard of; nil is alone.
	Events *Events
	// Federation are the foreign trust domains; nil is none, and no administration of them.
	Federation *federation.Federations
	// Background runs as long as the server. Each returns nil after ctx ends; an
	// error ends the server of this trust domain.
	Background []func(ctx context.Context) error
	// Warnings are what an operator should look at beside what the server finds
	// itself: of parts that it does not know. Nil is nothing.
	Warnings func(at time.Time) []string
}

// Listeners are what the service is reached through: the attestation service
// either through a Front, which serves other trust domains too, or through
// Attestation and Metrics alone. All but these and Admin may be nil, for off.
type Listeners struct {
	Front *Front

	Attestation net.Listener
	Metrics     net.Listener

	Admin          net.Listener // a unix socket that only the operator can open
	AdminTLS       net.Listener // TCP; administrators elsewhere
	Web            net.Listener // TCP; what the world may read
	BundleEndpoint net.Listener // TCP; the SPIFFE bundle endpoint, profile https_spiffe

	Serving func() // called when clients are served; may be nil
}

// Server is the attestation service of one trust domain.
type Server struct {
	assayv1.UnimplementedAttestationServer

	td        spiffeid.TrustDomain
	id        spiffeid.ID // spiffe://TD/assay/server, the same for every server of it
	cfg       config.Config
	current   atomic.Pointer[config.Config] // see settings
	reloaders []reloader

	set        verifiers.Set
	policy     *PolicyFile
	ledger     *ledger.Ledger
	ca         *ca.CA
	metrics    *Metrics
	tpms       *tpms.Registry
	tracing    *Tracing
	federation *federation.Federations
	events     *Events
	sent       atomic.Pointer[sentBundle]

	webCertificate atomic.Pointer[web.Certificate] // nil while none is served
	background     []func(context.Context) error
	warn           func(at time.Time) []string // may be nil
	log            *slog.Logger
	now            func() time.Time
	version        string

	challengeTTL time.Duration
	closingGrace atomic.Int64 // nanoseconds
	started      time.Time

	// What is shared with other trust domains.
	front       atomic.Pointer[Front] // set by Run
	tls         *tls.Config
	handshakes  *waitingRoom // this one's share
	connections *gate        // likewise
	strangers   atomic.Int64
	line        atomic.Pointer[line]
	streams     calls

	// What is not.
	unverified *waitingRoom
	working    atomic.Int64 // attestations whose evidence has come
	rest       atomic.Int64 // nanoseconds that ledger and CA take, of late
	instances  *rates
	tokens     *rates
	adminCalls *rates
	perSecond  *rate.Limiter
	logLimit   *rate.Limiter

	bans            *bans
	held            *holdings
	minting         *tokenOffice
	published       atomic.Pointer[publishedList]
	denyListProblem atomic.Pointer[problem]
	audit           *audit
	adminTLS        adminTLS

	watchers    watchers
	judgeNow    chan struct{} // see wake.go
	inFlight    atomic.Int64
	issuedTotal atomic.Uint64
	deniedTotal atomic.Uint64

	stopping chan struct{} // closed when Run begins to stop
}

// ServerID is the SPIFFE ID in every server certificate of a trust domain.
func ServerID(td spiffeid.TrustDomain) (spiffeid.ID, error) {
	return spiffeid.FromPath(td, reservedPath+"/server")
}

// New puts the parts together. It starts nothing and listens nowhere.
func New(cfg config.Config, p Parts) (*Server, error) {
	td, err := spiffeid.TrustDomainFromString(cfg.TrustDomain)
	if err != nil {
		return nil, err
	}
	id, err := ServerID(td)
	if err != nil {
		return nil, err
	}
	switch {
	case p.Policy == nil || p.Ledger == nil || p.CA == nil || p.Store == nil || p.Metrics == nil || p.Log == nil || p.Now == nil:
		return nil, errors.New("issuer: a part is missing")
	case len(p.Set.Platforms()) == 0:
		return nil, errors.New("issuer: no verifier: nothing could attest")
	case p.Set.Simulated() != cfg.Simulated():
		return nil, errors.New("issuer: the verifiers and the trust domain are of two kinds, simulated and hardware")
	}
	l := cfg.Limits
	s := &Server{
		td: td, id: id, cfg: cfg,
		set: p.Set, policy: p.Policy, ledger: p.Ledger, ca: p.CA, metrics: p.Metrics, tpms: p.TPMs, log: p.Log, now: p.Now, version: p.Version,
		tracing: p.Tracing, federation: p.Federation, events: p.Events, background: p.Background, warn: p.Warnings,
		challengeTTL: challengeTTL,
		started:      p.Now(),
		tls:          tlsConfig(p.CA.ServerCertificate),
		handshakes:   newWaitingRoom(l.Handshakes, l.Handshakes, 0),
		connections:  newGate(l.Connections, l.Connections),
		unverified:   newWaitingRoom(l.Unverified, l.UnverifiedPerAddress, int64(l.EventLogMiB)<<20),
		instances:    newRates(l.AttestationsPerInstance),
		tokens:       newRates(l.TokensPerInstance),
		adminCalls:   newRates(l.AdminCalls),
		perSecond:    rate.NewLimiter(rate.Limit(l.AttestationsPerSecond), l.AttestationsPerSecond),
		logLimit:     rate.NewLimiter(5, 50),
		stopping:     make(chan struct{}),
		judgeNow:     make(chan struct{}, 1),
	}
	s.bans, s.held = newBans(p.Store, cfg.TrustDomain, p.Now, p.Log), newHoldings()
	s.bans.readAtStart()
	s.audit = newAudit(p.Ledger, p.Now, p.Log)
	if err := s.readRoles(&cfg); err != nil {
		return nil, err
	}
	s.onReload(func(next *config.Config) (func(), error) {
		a, err := s.newAdministrators(next)
		return func() {
			if a != nil {
				s.adminTLS.current.Store(a)
			}
		}, err
	})
	s.current.Store(&s.cfg)
	s.closingGrace.Store(int64(closingGrace))
	p.CA.OnChange(func(c ca.Change) { s.authoritiesChanged(c.Bundle) })
	if s.federation != nil {
		s.federation.OnChange(func() { s.watchers.lookAgain(true) })
	}
	s.policy.result = func(r string) { s.metrics.reloads.WithLabelValues(r).Inc() }
	s.policy.changed = func(*policy.Bundle) { s.judgeSoon() }
	s.onReload(func(next *config.Config) (func(), error) {
		return func() {
			s.limit(next.Limits)
			s.ledger.SetQuotas(LedgerQuotas(next.Quotas))
		}, nil
	})
	s.minting = newTokenOffice(s.metrics)
	s.registerGauges()
	s.federationGauges()
	s.follow()
	return s, nil
}

// Run serves until ctx ends, then stops gracefully: no new attestations, those
// in flight finish within the configured time, watches end. It returns nil
// after a stop that was asked for. It can be called once.
func (s *Server) Run(ctx context.Context, l Listeners) error {
	g, ctx := errgroup.WithContext(ctx)
	front := l.Front
	if front == nil {
		var err error
		if front, err = NewFront(s.cfg, FrontParts{TrustDomains: []string{s.td.Name()}, Log: s.log, Now: s.now}); err != nil {
			return err
		}
		g.Go(func() error { return front.Run(ctx, l.Attestation, l.Metrics) })
	}
	s.line.Store(front.turns.line())
	defer front.turns.forget(s.line.Load())
	if err := front.attach(s); err != nil {
		return err
	}
	if l.Serving != nil {
		l.Serving()
	}
	g.Go(func() error { return s.banning(ctx) })
	g.Go(func() error { return s.denying(ctx) })
	g.Go(func() error { return s.audit.run(ctx) })
	admin := s.adminServer()
	g.Go(func() error { return serving("admin", admin.Serve(l.Admin)) })
	g.Go(func() error { return s.judging(ctx) })
	if s.federation != nil {
		g.Go(func() error { return s.federation.Run(ctx) })
	}
	if s.events != nil {
		g.Go(func() error { return s.events.Run(ctx) })
	}
	for _, run := range s.background {
		g.Go(func() error { return run(ctx) })
	}
	for _, x := range []struct {
		what     string
		listener net.Listener
		serve    func(context.Context, net.Listener) error
	}{
		{"remote admin", l.AdminTLS, s.serveAdminTLS},
		{"web", l.Web, s.serveWeb},
		{"bundle endpoint", l.BundleEndpoint, s.serveBundleEndpoint},
	} {
		if x.listener != nil {
			g.Go(func() error { return serving(x.what, x.serve(ctx, x.listener)) })
		}
	}
	g.Go(func() error {
		<-ctx.Done()
		close(s.stopping)
		front.detach(s, s.cfg.ShutdownTimeout)
		stop(admin, time.Second)
		return nil
	})
	return g.Wait()
}

// Platforms are those that the trust domain serves.
func (s *Server) Platforms() []attest.Platform { return s.set.Platforms() }

// vouched says that the client on a connection has proved who it is.
func (s *Server) vouched(client net.Addr, who attest.Instance) {
	if f := s.front.Load(); f != nil && client != nil {
		f.listener.vouched(client, s.td.Name()+" "+string(who))
	}
}

// serving makes an error of a server that ended without being asked to.
func serving(what string, err error) error {
	if err == nil || errors.Is(err, http.ErrServerClosed) || errors.Is(err, grpc.ErrServerStopped) {
		return nil
	}
	return fmt.Errorf("the %s service ended: %w", what, err)
}

// stop is gRPC's graceful stop with an end.
func stop(g *grpc.Server, limit time.Duration) {
	timer := time.AfterFunc(limit, g.Stop)
	defer timer.Stop()
	g.GracefulStop()
}

// ready says why the server cannot attest now, if it cannot.
func (s *Server) ready() error {
	select {
	case <-s.stopping:
		return errStopping
	default:
	}
	st := s.ca.Status()
	now := s.now()
	switch {
	case !now.Before(st.ServerNotAfter):
		return errors.New("the server's certificate has expired")
	case !now.Before(st.AuthorityNotAfter):
		return errors.New("the X.509 authority has expired")
	}
	if s.events != nil {
		if err := s.events.Ready(); err != nil {
			return err
		}
	}
	return s.ca.Ready()
}
