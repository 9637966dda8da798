package issuer

import (
	"context"
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
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"github.com/assay-project/assay/issuer/ca"
	"github.com/assay-project/assay/issuer/config"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
	"github.com/assay-project/assay/issuer/ledger"
	"github.com/assay-project/assay/issuer/tpms"
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
// required but Version, Tracing, and TPMs where no TPM is served.
type Parts struct {
	Set     verifiers.Set
	Policy  *PolicyFile
	Ledger  *ledger.Ledger
	CA      *ca.CA
	Metrics *Metrics
	TPMs    *tpms.Registry
	Log     *slog.Logger
	Now     func() time.Time
	Version string // of the software, for Status
	Tracing *Tracing
}

// Listeners are what the service is reached through. Metrics may be nil.
type Listeners struct {
	Attestation net.Listener
	Admin       net.Listener // a unix socket that only the operator can open
	Metrics     net.Listener
}

// Server is the attestation service of one trust domain.
type Server struct {
	assayv1.UnimplementedAttestationServer

	td  spiffeid.TrustDomain
	id  spiffeid.ID // spiffe://TD/assay/server, the same for every server of it
	cfg config.Config

	set     verifiers.Set
	policy  *PolicyFile
	ledger  *ledger.Ledger
	ca      *ca.CA
	metrics *Metrics
	tpms    *tpms.Registry
	log     *slog.Logger
	now     func() time.Time
	version string
	tracing *Tracing

	challengeTTL time.Duration
	closingGrace atomic.Int64 // nanoseconds
	started      time.Time

	handshakes  *gate
	connections *gate
	strangers   *gate
	listener    *limitedListener // set by Run
	unverified  *waitingRoom
	logLimit    *rate.Limiter

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
	case p.Policy == nil || p.Ledger == nil || p.CA == nil || p.Metrics == nil || p.Log == nil || p.Now == nil:
		return nil, errors.New("issuer: a part is missing")
	case len(p.Set.Platforms()) == 0:
		return nil, errors.New("issuer: no verifier: nothing could attest")
	case p.Set.Simulated() != cfg.Simulated():
		return nil, errors.New("issuer: the verifiers and the trust domain are of two kinds, simulated and hardware")
	}
	s := &Server{
		td: td, id: id, cfg: cfg,
		set: p.Set, policy: p.Policy, ledger: p.Ledger, ca: p.CA, metrics: p.Metrics, tpms: p.TPMs, log: p.Log, now: p.Now, version: p.Version, tracing: p.Tracing,
		challengeTTL: challengeTTL,
		started:      p.Now(),
		handshakes:   newGate(cfg.Limits.Handshakes, cfg.Limits.HandshakesPerAddress),
		connections:  newGate(cfg.Limits.Connections, cfg.Limits.Connections),
		strangers:    newGate(cfg.Limits.Connections, cfg.Limits.StrangersPerAddress),
		unverified:   newWaitingRoom(cfg.Limits.Unverified, cfg.Limits.UnverifiedPerAddress, int64(cfg.Limits.EventLogMiB)<<20),
		logLimit:     rate.NewLimiter(5, 50),
		stopping:     make(chan struct{}),
		judgeNow:     make(chan struct{}, 1),
	}
	s.closingGrace.Store(int64(closingGrace))
	s.policy.result = func(r string) { s.metrics.reloads.WithLabelValues(r).Inc() }
	s.policy.changed = func(*policy.Bundle) { s.judgeSoon() }
	s.registerGauges()
	return s, nil
}

// Run serves until ctx ends, then stops gracefully: no new attestations, those
// in flight finish within the configured time, watches end. It returns nil
// after a stop that was asked for. It can be called once.
func (s *Server) Run(ctx context.Context, l Listeners) error {
	public, healthServer := s.publicServer()
	admin := s.adminServer()
	s.listener = limit(l.Attestation, s.connections, s.strangers, func(limit string) { s.metrics.limited.WithLabelValues("connection", limit).Inc() })

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return serving("attestation", public.Serve(s.listener)) })
	g.Go(func() error { return serving("admin", admin.Serve(l.Admin)) })
	g.Go(func() error { return s.judging(ctx) })
	var web *http.Server
	if l.Metrics != nil {
		web = &http.Server{Handler: s.metrics.httpHandler(s.ready), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, MaxHeaderBytes: 16 << 10}
		g.Go(func() error { return serving("metrics", web.Serve(l.Metrics)) })
	}
	g.Go(func() error {
		<-ctx.Done()
		close(s.stopping)
		healthServer.Shutdown()
		stop(public, s.cfg.ShutdownTimeout)
		stop(admin, time.Second)
		if web != nil {
			_ = web.Close()
		}
		return nil
	})
	return g.Wait()
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

func (s *Server) publicServer() (*grpc.Server, *health.Server) {
	r := recovery{s.log, s.metrics}
	creds := &limitedCredentials{
		TransportCredentials: credentials.NewTLS(tlsConfig(s.ca.ServerCertificate)),
		gate:                 s.handshakes,
		refused:              func(limit string) { s.metrics.limited.WithLabelValues("handshake", limit).Inc() },
		now:                  s.now,
		grace:                &s.closingGrace,
	}
	g := grpc.NewServer(
		grpc.Creds(creds),
		grpc.ChainUnaryInterceptor(r.unary),
		grpc.ChainStreamInterceptor(r.stream),
		grpc.InTapHandle(s.limitPatience),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxHeaderListSize(16<<10),
		grpc.MaxConcurrentStreams(uint32(s.cfg.Limits.StreamsPerConnection)),
		grpc.ConnectionTimeout(s.cfg.Limits.HandshakeTimeout),
		grpc.WaitForHandlers(true),
		// Fixed windows: a stranger's fast link must not grow our buffers.
		grpc.StaticStreamWindowSize(2*maxMessage),
		grpc.StaticConnWindowSize(8*maxMessage),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 30 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionIdle:     5 * time.Minute,
			MaxConnectionAge:      time.Hour,
			MaxConnectionAgeGrace: 2 * challengeTTL,
			Time:                  time.Minute,
			Timeout:               20 * time.Second,
		}),
	)
	assayv1.RegisterAttestationServer(g, s)
	h := health.NewServer()
	h.SetServingStatus(assayv1.Attestation_ServiceDesc.ServiceName, healthpb.HealthCheckResponse_SERVING)
	healthpb.RegisterHealthServer(g, probe{server: h})
	if s.cfg.Reflection {
		reflection.Register(g)
	}
	return g, h
}

// probe answers health checks and nothing else: a watch costs a stranger nothing
// and holds memory here for as long as they like.
type probe struct {
	healthpb.UnimplementedHealthServer
	server *health.Server
}

// Check implements the health service.
func (p probe) Check(ctx context.Context, r *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	return p.server.Check(ctx, r)
}

func (s *Server) adminServer() *grpc.Server {
	r := recovery{s.log, s.metrics}
	g := grpc.NewServer(
		grpc.Creds(newSocketCredentials()), // a unix socket with mode 0600
		grpc.ChainUnaryInterceptor(r.unary),
		grpc.ChainStreamInterceptor(r.stream),
		grpc.MaxRecvMsgSize(maxAdminMessage),
		grpc.WaitForHandlers(true),
	)
	assayv1.RegisterAdminServer(g, &admin{Server: s})
	return g
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
	return nil
}
