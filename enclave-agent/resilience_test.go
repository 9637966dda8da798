package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/assay-project/assay/attest"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
)

// A fleet is a thousand agents in one process and in made-up time: hours of outage
// pass in seconds, and what happens in each second can be counted, however slow the
// machine is. Everything is as in Run but the socket, which is a thing of the real
// world: what an agent would serve is read from its state.
type fleet struct {
	t        testing.TB
	server   *faultyServer
	agents   []*Agent
	up       atomic.Bool
	listener atomic.Pointer[pipeListener]
	ended    atomic.Int64 // loops that returned

	mu           sync.Mutex
	attestations []time.Time // begun at the server
	handshakes   []time.Time // connections that reached the server
	tries        []time.Time // connections that were tried
}

// quickDevice stands for hardware: the server double checks no evidence.
type quickDevice struct{}

func (quickDevice) Platform() attest.Platform { return attest.AWSNitro }
func (quickDevice) Evidence(_ context.Context, want attest.Binding) (attest.Evidence, error) {
	return attest.Evidence{Platform: attest.AWSNitro, Body: want.B[:]}, nil
}

// bubbleClock is a machine's clock in made-up time.
type bubbleClock struct{ booted time.Time }

func (c bubbleClock) Wall() time.Time     { return time.Now() }
func (c bubbleClock) Boot() time.Duration { return time.Since(c.booted) }

// pipeListener accepts connections that never leave the process.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}
func (l *pipeListener) Close() error   { l.once.Do(func() { close(l.closed) }); return nil }
func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

var errRefused = errors.New("connection refused")

func newFleet(t testing.TB, n int, life time.Duration) *fleet {
	t.Helper()
	f := &fleet{t: t, server: newFaultyServer(t)}
	f.server.life = life
	f.server.leaf = f.server.bootstrap.serverLeaf(t, nil)
	f.server.refuse = func(*assayv1.Hello) *assayv1.Denied {
		f.mark(&f.attestations)
		return nil
	}
	for range n {
		f.agents = append(f.agents, must(New(Config{
			TrustDomain: testDomain, Server: "assay:8443", BootstrapRoots: f.server.bootstrap.roots(t), Attester: quickDevice{},
			Socket: "/never/made", Clock: bubbleClock{time.Now()}, Dial: f.dial,
		})))
	}
	return f
}

func (f *fleet) mark(list *[]time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	*list = append(*list, time.Now())
}

func (f *fleet) dial(ctx context.Context, _ string) (net.Conn, error) {
	f.mark(&f.tries)
	l := f.listener.Load()
	if l == nil {
		return nil, errRefused
	}
	near, far := net.Pipe()
	select {
	case l.conns <- far:
		f.mark(&f.handshakes)
		return near, nil
	case <-l.closed:
	case <-ctx.Done():
	}
	return nil, errors.Join(errRefused, near.Close(), far.Close())
}

// start brings the server up.
func (f *fleet) start() {
	s := f.server
	if left := time.Until(must(leafOf(s.leaf)).NotAfter); left < 30*time.Minute {
		s.leaf = s.bootstrap.serverLeaf(f.t, nil) // the server has renewed its own certificate meanwhile
	}
	s.grpc = grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{s.leaf}, ClientAuth: tls.RequestClientCert,
	})))
	assayv1.RegisterAttestationServer(s.grpc, s)
	s.served, s.leave = make(chan error, 1), make(chan struct{})
	l := &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
	go func(g *grpc.Server, done chan error) { done <- g.Serve(l) }(s.grpc, s.served)
	f.listener.Store(l)
}

// stop takes it away: every connection breaks, and none is accepted.
func (f *fleet) stop() {
	f.listener.Store(nil)
	f.server.stop()
}

// run has the agents run; the function ends them.
func (f *fleet) run() (end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, a := range f.agents {
		for _, loop := range []func(context.Context) error{a.members[0].renewal, a.members[0].watch, a.ticks, a.members[0].forgetTokens} {
			wg.Go(func() {
				err := loop(ctx)
				if ctx.Err() == nil {
					f.ended.Add(1)
					f.t.Errorf("an agent ended by itself: %v", err)
				}
			})
		}
	}
	return func() { cancel(); wg.Wait(); f.stop() }
}

// serving is how many agents have an SVID for their workloads now.
func (f *fleet) serving() (n int) {
	for _, a := range f.agents {
		if _, _, err := a.members[0].state.view(); err == nil {
			n++
		}
	}
	return n
}

// busiest is the most moments of the list, from a time on, that lie within one
// second, and how many there are in all.
func (f *fleet) busiest(list *[]time.Time, from time.Time) (most, total int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var since []time.Time
	for _, m := range *list {
		if !m.Before(from) {
			since = append(since, m)
		}
	}
	for first, last := 0, 0; last < len(since); last++ { // marked in their order
		for since[last].Sub(since[first]) >= time.Second {
			first++
		}
		most = max(most, last-first+1)
	}
	return most, len(since)
}

// The server comes back while the SVIDs are still good: every one of them was served
// all the time, and all agents renew within the longest wait, spread over it.
func TestAThousandAgentsComeBackFromAnOutageWithoutAHerd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, fleetSize, 8*time.Minute)
		f.start()
		end := f.run()
		time.Sleep(time.Minute)
		if n := f.serving(); n != fleetSize {
			t.Fatalf("%d agents serve, want all", n)
		}
		f.stop()
		out := time.Now()
		for range 9 { // renewals are due from 3:36 to 4:24 after the boot
			time.Sleep(30 * time.Second)
			if n := f.serving(); n != fleetSize {
				t.Errorf("%d agents serve %s into the outage, want all", n, time.Since(out))
			}
		}
		if most, _ := f.busiest(&f.tries, out.Add(4*time.Minute)); most > 2*herd {
			t.Errorf("%d connections were tried in one second of the outage, want at most %d", most, 2*herd)
		}
		f.back(retryCap)
		end()
	})
}

// It comes back after they ended: nothing expired was served, no agent ended, and
// they boot anew as gently.
func TestAThousandAgentsOutliveTheirSVIDsAndComeBackWithoutAHerd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, fleetSize, 4*time.Minute)
		f.start()
		booted := time.Now()
		end := f.run()
		time.Sleep(time.Minute)
		f.stop()
		time.Sleep(time.Until(booted.Add(4*time.Minute - 2*time.Second)))
		if n := f.serving(); n != fleetSize {
			t.Errorf("%d agents serve just before the end of their SVIDs, want all", n)
		}
		time.Sleep(4 * time.Second)
		if n := f.serving(); n != 0 {
			t.Errorf("%d agents serve an SVID that has ended", n)
		}
		time.Sleep(time.Minute)
		f.back(retryCap)
		end()
	})
}

// back brings the server back and wants every agent to have an SVID of then within
// the wait, by one attestation each, and not all at once.
func (f *fleet) back(within time.Duration) {
	f.t.Helper()
	f.start()
	from := time.Now()
	time.Sleep(within + 2*time.Second)
	if n := f.serving(); n != fleetSize {
		f.t.Errorf("%d agents serve %s after the server is back, want all", n, within)
	}
	most, total := f.busiest(&f.attestations, from)
	if total != fleetSize {
		f.t.Errorf("%d attestations, want one from each of %d agents", total, fleetSize)
	}
	if most > herd {
		f.t.Errorf("%d attestations in one second, want at most %d", most, herd)
	}
	connected, all := f.busiest(&f.handshakes, from)
	if connected > 2*herd {
		f.t.Errorf("%d connections in one second, want at most %d", connected, 2*herd)
	}
	f.t.Logf("in the busiest second %d of %d attestations, %d of %d connections", most, total, connected, all)
}

// Outages have no length that an agent gives up after: most of a day, and then an SVID
// within the longest wait.
func TestAnAgentWaitsForItsServerForHours(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 1, time.Hour)
		end := f.run()
		time.Sleep(20 * time.Hour)
		most, total := f.busiest(&f.tries, time.Now().Add(-19*time.Hour))
		if least := int(19 * time.Hour / retryCap); total < least || total > 4*least {
			t.Errorf("%d tries in 19 hours, want %d to %d", total, least, 4*least)
		}
		if most > 8 {
			t.Errorf("%d tries in one second", most)
		}
		f.start()
		time.Sleep(retryCap + time.Second)
		if f.serving() != 1 {
			t.Error("it serves nothing after the server is back")
		}
		end()
	})
}

func leafOf(c tls.Certificate) (*x509.Certificate, error) {
	return x509.ParseCertificate(c.Certificate[0])
}
