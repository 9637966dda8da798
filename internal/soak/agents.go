package soak

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"

	agent "github.com/assay-project/assay/enclave-agent"
	simnitro "github.com/assay-project/assay/simulators/nitro"
)

// enclave is an agent in a simulated enclave of its own.
type enclave struct {
	number int
	name   string // of the instance, as servers have it
	socket string
	// It is banned, or has no SVID again yet since: nothing is promised to it.
	banned atomic.Bool
	run    *agent.Agent
	stop   func()
	log    *os.File
}

// newEnclave launches the image with an agent in it, on a device of its own.
func (r *run) newEnclave(ctx context.Context, hardware *simnitro.Authority, n int) (*enclave, error) {
	dir := r.path(fmt.Sprintf("e%d", n))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	module, err := hardware.Launch(launch())
	if err != nil {
		return nil, err
	}
	nsm := filepath.Join(dir, "nsm.sock")
	device, err := simnitro.Listen(nsm)
	if err != nil {
		return nil, err
	}
	root, err := os.ReadFile(filepath.Join(r.servers[0].data, "bootstrap-root.pem"))
	if err != nil {
		return nil, err
	}
	roots, err := agent.ParseBootstrapRoots(root)
	if err != nil {
		return nil, err
	}
	td, err := spiffeid.TrustDomainFromString(trustDomain)
	if err != nil {
		return nil, err
	}
	e := &enclave{number: n, name: "aws-nitro:" + module.ModuleID(), socket: "unix://" + filepath.Join(dir, "agent.sock")}
	if e.log, err = os.Create(filepath.Join(dir, "log")); err != nil {
		return nil, err
	}
	e.run, err = agent.New(agent.Config{
		TrustDomain: td, Server: "balancer:8443", BootstrapRoots: roots, Attester: agent.NewNitroSocket(nsm),
		Socket: filepath.Join(dir, "agent.sock"), Log: slog.New(slog.NewTextHandler(e.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Dial: r.balance,
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { _ = module.Serve(ctx, device) }) // it ends with the context
	running.Go(func() {
		if err := e.run.Run(ctx); err != nil && ctx.Err() == nil {
			r.violated("agent", "agent %d ended: %v", n, err)
		}
	})
	e.stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		_ = e.log.Close() // only diagnostics
	})
	return e, nil
}

// balance is what stands before the servers: it passes connections on to one that
// says that it is ready, and as they are (layer 4).
func (r *run) balance(ctx context.Context, _ string) (net.Conn, error) {
	order := rand.Perm(len(r.servers)) // which server is no secret; a machine's timing is not drawn from the seed either
	for _, i := range order {
		s := r.servers[i]
		if ok, _ := s.ready(ctx); !ok {
			continue
		}
		if c, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.address); err == nil {
			return c, nil
		}
	}
	return nil, errors.New("no server is ready")
}

// patience is how long a workload waits for its agent: both are in this process,
// which may be starved on a small machine, and a slow answer is no wrong one. What
// is looked at is the time of the answer, and that no SVID ended before the next
// was there.
const patience = 30 * time.Second

// fetch asks the agent for its SVID, as a workload does.
func (e *enclave) fetch(ctx context.Context) ([]*x509.Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	s, err := workloadapi.FetchX509SVID(ctx, workloadapi.WithAddr(e.socket))
	if err != nil {
		return nil, err
	}
	return s.Certificates, nil
}

// firstSVIDs waits until every agent serves an SVID.
func (r *run) firstSVIDs(ctx context.Context) error {
	for _, e := range r.agents {
		for end := time.Now().Add(time.Minute); ; {
			_, err := e.fetch(ctx)
			if err == nil {
				break
			}
			if time.Now().After(end) || ctx.Err() != nil {
				return fmt.Errorf("agent %d has no SVID: %w", e.number, err)
			}
			sleep(ctx, 50*time.Millisecond)
		}
	}
	r.say("%d agents have their first SVID", len(r.agents))
	return nil
}

// lookEvery is how often a workload of each agent asks for its SVID.
const lookEvery = time.Second

// look holds one agent to what was promised, until ctx ends.
func (r *run) look(ctx context.Context, e *enclave) {
	if !sleep(ctx, time.Duration(e.number)*lookEvery/time.Duration(max(1, r.Agents))) {
		return
	}
	var before *x509.Certificate
	looked := time.Now()
	for ctx.Err() == nil {
		asked := time.Now()
		chain, err := e.fetch(ctx)
		now := time.Now()
		switch {
		case ctx.Err() != nil:
			return
		case e.banned.Load():
			before = nil
		case err != nil:
			r.violated("no SVID", "agent %d serves none: %v", e.number, err)
		case !now.Before(chain[0].NotAfter):
			r.violated("expired SVID", "agent %d serves one that ended at %s", e.number, chain[0].NotAfter.Format(time.TimeOnly))
		default:
			r.met(e.number, chain, now)
			r.innocent(e, chain[0], now)
			// Renewed in time: the new one was issued before the old one ended. Where
			// nobody looked for as long as an SVID lives there may have been one between.
			if issued := chain[0].NotBefore.Add(backdate); before != nil && issued.After(before.NotAfter) && now.Sub(looked) < svidTTL {
				r.violated("late renewal", "agent %d: its SVID ended at %s, the next one was issued at %s", e.number, before.NotAfter.Format(time.TimeOnly), issued.Format(time.TimeOnly))
			}
			before = chain[0]
		}
		r.mu.Lock()
		r.report.Looks++
		r.report.Slowest = max(r.report.Slowest, now.Sub(asked))
		r.mu.Unlock()
		looked = now
		if !sleep(ctx, lookEvery) {
			return
		}
	}
}

func serialOf(c *x509.Certificate) string {
	b := make([]byte, 16)
	return hex.EncodeToString(c.SerialNumber.FillBytes(b))
}
