package issuer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/assay-project/assay/issuer/config"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
)

// Front is the one listener of a process, behind which one or several trust
// domains are served.
//
// The name that a client asks for in the TLS handshake (SNI) chooses the trust
// domain; who names none, or one that is not served here, meets the first. From
// then on the connection is that trust domain's: it was shown its certificate,
// its exporter is what evidence is bound to, and every RPC on it goes to its
// Server and to no other, whatever a Hello says. docs/guides/tenants.md says
// what they share and what not; docs/decisions/0019 why.
type Front struct {
	log      *slog.Logger
	now      func() time.Time
	registry *prometheus.Registry // of the process
	started  config.Config        // what the listener was made with

	handshakes  *waitingRoom // of all trust domains, by address
	connections *gate        // of all
	strangers   *gate        // of all, by address
	listener    *limitedListener
	turns       *turns

	reloads *prometheus.CounterVec // result
	restart prometheus.Gauge

	mu       sync.RWMutex
	limits   config.Limits
	names    []string // the trust domains, the first one first
	servers  map[string]*Server
	absent   map[string]error // why one is not served
	changed  chan struct{}    // closed when one begins to be served, or to be absent
	stopping chan struct{}
	stopped  bool
}

// FrontParts are what a Front is made of; all are required.
type FrontParts struct {
	// TrustDomains are those that will be served; the first is the one that
	// clients meet who name none.
	TrustDomains []string
	Log          *slog.Logger
	Now          func() time.Time
}

// NewFront makes the front of a process. Of the configuration, which is that of
// the first trust domain, it takes what belongs to the process.
func NewFront(cfg config.Config, p FrontParts) (*Front, error) {
	if len(p.TrustDomains) == 0 || p.Log == nil || p.Now == nil {
		return nil, errors.New("issuer: a part of the front is missing")
	}
	f := &Front{
		log: p.Log, now: p.Now, started: cfg, registry: prometheus.NewRegistry(),
		handshakes: newWaitingRoom(0, 0, 0), connections: newGate(0, 0), strangers: newGate(0, 0),
		turns:   newTurns(),
		servers: map[string]*Server{}, absent: map[string]error{}, changed: make(chan struct{}), stopping: make(chan struct{}),
	}
	f.listener = newLimitedListener(f.connections, f.strangers, func(limit string) { f.refused("connection", limit) })
	f.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), served{f})
	f.reloads = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "assay_config_reloads_total", Help: "Configurations that were read while the process ran, by result.",
	}, []string{"result"})
	f.restart = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "assay_config_restart_needed", Help: "Keys of the configuration files that are not in force before a restart, when they were read last.",
	})
	f.registry.MustRegister(f.reloads, f.restart)
	f.Configure(cfg.Limits, p.TrustDomains)
	return f, nil
}

// Counter adds a metric of the process, without a trust domain.
func (f *Front) Counter(name, help string, value func() float64) {
	f.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, value))
}

// Reloaded counts a configuration that was read while the process ran. restart is
// how many of its keys are not in force before a restart.
func (f *Front) Reloaded(result string, restart int) {
	f.reloads.WithLabelValues(result).Inc()
	if result == "loaded" {
		f.restart.Set(float64(restart))
	}
}

// Configure sets the limits of the process, and which trust domains share them.
// Who is inside stays inside.
func (f *Front) Configure(l config.Limits, trustDomains []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.limits, f.names = l, slices.Clone(trustDomains)
	f.handshakes.resize(l.Handshakes, l.HandshakesPerAddress, 0)
	f.connections.resize(l.Connections, l.Connections)
	f.strangers.resize(l.Connections, l.StrangersPerAddress)
	f.turns.share(len(f.names))
	for _, s := range f.servers {
		f.share(s)
	}
}

// share gives a trust domain its part of what all share: as much as every other.
// What one leaves unused is not lent to another, who might not give it back in
// time. The caller holds the lock.
func (f *Front) share(s *Server) {
	n := max(len(f.names), 1)
	s.handshakes.resize(max(f.limits.Handshakes/n, 1), max(f.limits.Handshakes/n, 1), 0)
	s.connections.resize(max(f.limits.Connections/n, 1), max(f.limits.Connections/n, 1))
}

// attach begins to serve a trust domain.
func (f *Front) attach(s *Server) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	name := s.td.Name()
	switch {
	case !slices.Contains(f.names, name):
		return fmt.Errorf("issuer: trust domain %s was not announced to the front", name)
	case f.servers[name] != nil:
		return fmt.Errorf("issuer: trust domain %s is served already", name)
	}
	f.share(s)
	f.servers[name] = s
	delete(f.absent, name)
	f.tell()
	s.front.Store(f)
	return nil
}

// detach ends the serving of a trust domain: nobody new comes, who is inside
// finishes within the limit, and then its connections are closed.
func (f *Front) detach(s *Server, limit time.Duration) {
	f.mu.Lock()
	if f.servers[s.td.Name()] == s {
		delete(f.servers, s.td.Name())
	}
	f.mu.Unlock()
	s.streams.close(limit, func() { f.listener.closeAll(s) })
	select {
	case <-f.stopping: // gRPC closes them when everything has been sent
	case <-time.After(flushTime):
		f.listener.closeAll(s)
	}
}

// flushTime is how long the last answers of a trust domain may take to be sent.
const flushTime = 250 * time.Millisecond

// Absent notes why a trust domain is not served. It is told on /ready, which is
// the process operator's.
func (f *Front) Absent(trustDomain string, why error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.absent[trustDomain] = why
	f.tell()
}

// tell wakes those who wait for a trust domain. The caller holds the lock.
func (f *Front) tell() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// home is the first trust domain's server, or nil while it is not served.
func (f *Front) home() *Server {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.servers[f.names[0]]
}

// openingTime is how long a client waits for a trust domain that is being opened:
// the listener is there before the first server is.
const openingTime = 2 * time.Second

// serverFor is who answers to a name in SNI; nil when it cannot be answered. A
// name that is served here and is not open at the moment is nobody else's.
func (f *Front) serverFor(name string) *Server {
	var timer *time.Timer
	for {
		s, changed := f.lookUp(name)
		if s != nil || changed == nil {
			return s
		}
		if timer == nil {
			timer = time.NewTimer(openingTime)
			defer timer.Stop()
		}
		select {
		case <-changed:
		case <-timer.C:
			return nil
		case <-f.stopping:
			return nil
		}
	}
}

// lookUp is serverFor at this moment; changed is what to wait for where the trust
// domain is about to be opened, and nil otherwise.
func (f *Front) lookUp(name string) (s *Server, changed <-chan struct{}) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if name = strings.ToLower(name); !slices.Contains(f.names, name) {
		name = f.names[0]
	}
	if s = f.servers[name]; s == nil && f.absent[name] == nil {
		return nil, f.changed
	}
	return s, nil
}

// all are the servers, in the order of their names in the configuration.
func (f *Front) all() []*Server {
	f.mu.RLock()
	defer f.mu.RUnlock()
	var out []*Server
	for _, name := range f.names {
		if s := f.servers[name]; s != nil {
			out = append(out, s)
		}
	}
	return out
}

// refused counts what was turned away before it was known whose it is. It is
// counted for the first trust domain, to which those belong who name none.
func (f *Front) refused(what, limit string) {
	if s := f.home(); s != nil {
		s.metrics.limited.WithLabelValues(what, limit).Inc()
		return
	}
	f.log.Debug("turned away", "what", what, "limit", limit)
}

// choose is tls.Config.GetConfigForClient: whose certificate the client will be
// shown, if that trust domain has room.
func (f *Front) choose(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	h, ok := hello.Conn.(*handshakeConn)
	if !ok {
		return nil, errors.New("a connection of another kind")
	}
	s := f.serverFor(hello.ServerName)
	if s == nil {
		f.refused("handshake", limitName)
		return nil, errNotServed
	}
	if limit := h.join(s); limit != "" {
		s.metrics.limited.WithLabelValues("handshake", limit).Inc()
		return nil, errTooManyHandshakes
	}
	return s.tls, nil
}

// limitName is the limit that turned a handshake away whose trust domain is not
// served at the moment; limitShare one whose trust domain has its share already.
const (
	limitName  = "name"
	limitShare = "share"
)

var errNotServed = errors.New("the trust domain is not served at the moment")

// Run serves until ctx ends, then stops gracefully. attestation is closed by it,
// and so is metrics, which may be nil.
func (f *Front) Run(ctx context.Context, attestation, metrics net.Listener) error {
	public := f.grpcServer()
	f.listener.Listener = attestation
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return serving("attestation", public.Serve(f.listener)) })
	var web *http.Server
	if metrics != nil {
		web = &http.Server{Handler: f.httpHandler(), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, MaxHeaderBytes: 16 << 10}
		g.Go(func() error { return serving("metrics", web.Serve(metrics)) })
	}
	g.Go(func() error {
		<-ctx.Done()
		f.mu.Lock()
		f.stopped = true
		f.mu.Unlock()
		close(f.stopping)
		stop(public, f.started.ShutdownTimeout)
		if web != nil {
			_ = web.Close()
		}
		return nil
	})
	return g.Wait()
}

func (f *Front) grpcServer() *grpc.Server {
	g := grpc.NewServer(
		grpc.Creds(&frontCredentials{
			// Only what is the same for every trust domain: choose gives the rest.
			TransportCredentials: credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13, GetConfigForClient: f.choose}),
			front:                f,
		}),
		grpc.ChainUnaryInterceptor(recoverUnary),
		grpc.ChainStreamInterceptor(recoverStream),
		grpc.InTapHandle(f.limitPatience),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxHeaderListSize(16<<10),
		grpc.MaxConcurrentStreams(uint32(f.started.Limits.StreamsPerConnection)),
		grpc.ConnectionTimeout(f.started.Limits.HandshakeTimeout),
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
	assayv1.RegisterAttestationServer(g, dispatch{})
	healthpb.RegisterHealthServer(g, probe{})
	if f.started.Reflection {
		reflection.Register(g)
	}
	return g
}
