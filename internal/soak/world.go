package soak

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/assay-project/assay/internal/prebuilt"
	"github.com/assay-project/assay/issuer/store/postgres/postgrestest"
	simnitro "github.com/assay-project/assay/simulators/nitro"
	"github.com/assay-project/assay/svid"
)

// database is the PostgreSQL cluster.
type database struct {
	cluster *postgrestest.Cluster
	url     string
	mu      sync.Mutex // one crash at a time
}

// server is one assayd.
type server struct {
	r       *run
	name    string
	data    string
	address string // of the attestation service
	metrics string
	web     string // where the public documents are
	admin   string
	log     string

	rotating uses // one rotation by force of a use at a time
	denied   atomic.Pointer[svid.DenyList]

	mu      sync.Mutex
	cmd     *exec.Cmd
	ended   chan struct{}
	code    int // with which it ended
	closing bool
}

func (r *run) setUp(ctx context.Context) error {
	if r.Binaries == "" {
		r.say("building assayd and assay")
		r.Binaries = r.path("bin")
		if err := prebuilt.Into(r.Binaries, r.Module, "assayd", "assay"); err != nil {
			return err
		}
	}
	hardware, err := simnitro.NewAuthority(simnitro.AuthorityOptions{})
	if err != nil {
		return err
	}
	if err := os.WriteFile(r.path("root.pem"), hardware.RootPEM(), 0o600); err != nil {
		return err
	}
	r.say("starting PostgreSQL")
	cluster, err := postgrestest.New()
	if err != nil {
		return err
	}
	r.database = &database{cluster: cluster}
	if r.database.url, err = cluster.NewDatabase(ctx); err != nil {
		return err
	}
	for i, name := range []string{"a", "b"} {
		s, err := r.newServer(name)
		if err != nil {
			return err
		}
		r.servers[i] = s
	}
	a, b := r.servers[0], r.servers[1]
	if _, err := r.command(ctx, "assayd", "init", "--trust-domain", trustDomain, "--data-dir", a.data, "--server", "a", "--database", r.database.url, "--simulated-root", r.path("root.pem")); err != nil {
		return err
	}
	r.revision = 1
	if err := a.configure(); err != nil {
		return err
	}
	r.say("server a makes the trust domain")
	if err := a.start(); err != nil {
		return err
	}
	if err := a.await(ctx, time.Minute); err != nil {
		return err
	}
	if _, err := r.command(ctx, "assayd", "join", "--server", "b", "--from", a.data, "--data-dir", b.data, "--database", r.database.url, "--simulated-root", r.path("root.pem"), "--copy-root-keys"); err != nil {
		return err
	}
	if err := b.configure(); err != nil {
		return err
	}
	if err := b.start(); err != nil {
		return err
	}
	r.say("server b joins; it is not ready before its authority has propagated (%s)", propagation)
	joined := time.Now()
	if err := b.await(ctx, propagation+time.Minute); err != nil {
		return err
	}
	waited := time.Since(joined)
	if waited < propagation-2*time.Second {
		r.violated("join", "server b was ready after %s, and its authority must be published for %s first", waited.Round(time.Millisecond), propagation)
	}
	r.say("server b is ready after %s", waited.Round(100*time.Millisecond))
	for i := range r.Agents {
		e, err := r.newEnclave(ctx, hardware, i)
		if err != nil {
			return err
		}
		r.agents = append(r.agents, e)
	}
	return nil
}

func (r *run) newServer(name string) (*server, error) {
	s := &server{r: r, name: name, data: r.path(name), admin: r.path(name + ".sock"), log: r.path(name + ".log")}
	for _, to := range []*string{&s.address, &s.metrics, &s.web} {
		l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it does not block
		if err != nil {
			return nil, err
		}
		*to = l.Addr().String()
		if err := l.Close(); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// configure replaces the configuration that init or join wrote.
func (s *server) configure() error {
	if err := os.WriteFile(filepath.Join(s.data, "policy.yaml"), []byte(policyText(1)), 0o600); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(s.data, "assayd.yaml"), fmt.Appendf(nil, `trust_domain: %s
data_dir: .
policy: policy.yaml
server: %s
database: {url: %q}
listen: %q
metrics_listen: %q
web: {listen: %q, plain_http: true}
jwt: {issuer: "https://oidc.soak.example"}
admin_socket: %q
nitro: {simulated_root: %q}
checkpoint_sink: %q
reattest_spread: 2s
shutdown_timeout: 3s
authorities: {x509_ttl: %s, jwt_ttl: %s, verifier_ttl: %s, propagation: %s, refresh_hint: 2s}
log: {level: debug}
`, trustDomain, s.name, s.r.database.url, s.address, s.metrics, s.web, s.admin, s.r.path("root.pem"), s.sink(), x509TTL, jwtTTL, verifierTTL, propagation), 0o600)
}

func (s *server) sink() string { return s.r.path(s.name + ".checkpoints") }

// role is whose enclaves they are.
const role = "arn:aws:iam::123456789012:role/soak"

func launch() simnitro.Launch {
	return simnitro.Launch{Image: simnitro.ImageFromSeed("soak"), Role: role}
}

func policyText(revision int) string {
	p := launch().PCRs()
	return fmt.Sprintf(`version: 1
bundle: soak
revision: %d
trust_domain: %s
workloads:
  - name: soak
    tee: aws-nitro
    mode: enforce
    match:
      pcr0: {eq: %q}
      pcr3: {eq: %q}
    issue:
      - spiffe_id: "spiffe://{td}/soak"
        x509_ttl: %s
        jwt: {ttl: %s, audiences: [%s]}
        attributes: {revision: "r%d"}
`, revision, trustDomain, hex.EncodeToString(p[0]), hex.EncodeToString(p[3]), svidTTL, tokenTTL, audience, revision)
}

func (s *server) start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd != nil {
		select {
		case <-s.ended:
		default:
			return nil // another event has started it
		}
	}
	log, err := os.OpenFile(s.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // the child has its own
	cmd := exec.Command(filepath.Join(s.r.Binaries, "assayd"), "run", "--data-dir", s.data)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return err
	}
	s.cmd, s.ended = cmd, make(chan struct{})
	ended := s.ended
	go func() {
		_ = cmd.Wait() // how it ended is in its log
		close(ended)
		s.supervise(cmd, ended)
	}()
	return nil
}

// supervise starts a server again that ended because something elsewhere did not
// answer (exit code 7), as a supervisor does. Any other end that nobody asked for is a
// violation.
func (s *server) supervise(cmd *exec.Cmd, ended chan struct{}) {
	time.Sleep(200 * time.Millisecond)
	s.mu.Lock()
	asked := s.cmd == nil || s.ended != ended || s.closing
	if !asked {
		s.cmd = nil
	}
	s.mu.Unlock()
	if asked {
		return
	}
	const unavailable = 7
	if code := cmd.ProcessState.ExitCode(); code != unavailable {
		s.r.violated("server", "server %s ended with %d by itself: see %s", s.name, code, s.log) // and goes on, so that what follows is seen for what it is
	} else {
		s.r.count("server restarted by its supervisor")
	}
	if err := s.start(); err != nil {
		s.r.violated("server", "server %s does not start: %v", s.name, err)
	}
}

// stop ends the server with a signal, and waits for it.
func (s *server) stop(sig syscall.Signal) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == nil {
		return nil
	}
	select {
	case <-s.ended:
		return nil // see supervise
	default:
	}
	if err := s.cmd.Process.Signal(sig); err != nil {
		return err
	}
	select {
	case <-s.ended:
		s.code = s.cmd.ProcessState.ExitCode()
		s.cmd = nil
		return nil
	case <-time.After(30 * time.Second):
		return fmt.Errorf("server %s does not stop: see %s", s.name, s.log)
	}
}

// alive reports whether the process runs.
func (s *server) alive() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == nil {
		return false
	}
	select {
	case <-s.ended:
		return false
	default:
		return true
	}
}

// ready asks the probe, as a balancer does.
func (s *server) ready(ctx context.Context) (bool, string) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.metrics+"/ready", nil)
	if err != nil {
		return false, err.Error()
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false, err.Error()
	}
	defer func() { _ = resp.Body.Close() }()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 4096)) // best effort: for a message
	return resp.StatusCode == http.StatusOK, strings.TrimSpace(string(body))
}

func (s *server) await(ctx context.Context, limit time.Duration) error {
	why := ""
	for end := time.Now().Add(limit); time.Now().Before(end); {
		ok, said := s.ready(ctx)
		if ok {
			return nil
		}
		why = said
		if !s.alive() {
			return fmt.Errorf("server %s ended: see %s", s.name, s.log)
		}
		if !sleep(ctx, 50*time.Millisecond) {
			return ctx.Err()
		}
	}
	return fmt.Errorf("server %s is not ready after %s: %s", s.name, limit, why)
}

// command runs a program as an operator does.
func (r *run) command(ctx context.Context, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, filepath.Join(r.Binaries, name), args...)
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	if err := c.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

func (r *run) tearDown() error {
	var err error
	for _, a := range r.agents {
		a.stop()
	}
	for _, s := range r.servers {
		if s == nil {
			continue
		}
		s.mu.Lock()
		s.closing = true
		s.mu.Unlock()
		if s.alive() {
			err = errors.Join(err, s.stop(syscall.SIGKILL))
		}
	}
	if r.database != nil {
		err = errors.Join(err, r.database.cluster.Close())
	}
	return err
}

// sleep waits, and reports false when ctx ended before.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
