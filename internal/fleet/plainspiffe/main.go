// Plainspiffe is a program as go-spiffe's own examples write them: it knows SPIFFE
// and nothing of Assay. It finds its agent by SPIFFE_ENDPOINT_SOCKET, and runs
// unchanged with any SPIFFE implementation.
//
//	plainspiffe serve SPIFFE-ID…      mutual TLS for these callers alone; a token says who calls
//	plainspiffe call ADDRESS SPIFFE-ID  calls without a pause, until interrupted
//	plainspiffe once ADDRESS SPIFFE-ID  one call
//	plainspiffe fetch                 everything that the Workload API has for it
//	plainspiffe hold N                N sources, each with a connection, until interrupted
//
// Each call shows an X.509-SVID and a JWT-SVID of the caller's, checks the server's,
// and is made on a connection that is kept or on a new one, by turns.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// audience is whom the tokens are for.
const audience = "reports"

// patience is how long a program waits for its first identity, and for an answer.
const patience = 10 * time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1) //nolint:gocritic // the signal handler goes with the process
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New("serve, call, once, fetch or hold")
	}
	switch {
	case args[0] == "fetch":
		return fetch(ctx)
	case args[0] == "hold" && len(args) == 2:
		return hold(ctx, args[1])
	}
	p, err := newProgram(ctx)
	if err != nil {
		return err
	}
	defer p.close()
	switch {
	case args[0] == "serve" && len(args) > 1:
		return p.serve(ctx, args[1:])
	case (args[0] == "call" || args[0] == "once") && len(args) == 3:
		peer, err := spiffeid.FromString(args[2])
		if err != nil {
			return err
		}
		c := p.caller(args[1], peer)
		if args[0] == "once" {
			return c.call(ctx, c.fresh)
		}
		return c.loop(ctx)
	}
	return fmt.Errorf("%q is nothing that this program does", args)
}

// fetch asks for all that there is, once, and checks that it belongs together.
func fetch(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c, err := workloadapi.New(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	x, err := c.FetchX509Context(ctx)
	if err != nil {
		return fmt.Errorf("X.509-SVIDs: %w", err)
	}
	if _, err := c.FetchX509Bundles(ctx); err != nil {
		return fmt.Errorf("X.509 bundles: %w", err)
	}
	if _, err := c.FetchJWTBundles(ctx); err != nil {
		return fmt.Errorf("JWT bundles: %w", err)
	}
	for _, s := range x.SVIDs {
		fmt.Println(s.ID)
	}
	v, err := c.FetchJWTSVID(ctx, jwtsvid.Params{Audience: audience})
	if err != nil {
		return fmt.Errorf("JWT-SVID: %w", err)
	}
	if _, err := c.ValidateJWTSVID(ctx, v.Marshal(), audience); err != nil {
		return fmt.Errorf("validation of the JWT-SVID: %w", err)
	}
	return nil
}

// hold follows the agent as many workloads would.
func hold(ctx context.Context, count string) error {
	n, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	begin, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for range n {
		s, err := workloadapi.NewX509Source(begin)
		if err != nil {
			return err
		}
		defer func() { _ = s.Close() }()
	}
	fmt.Println("holding", n)
	<-ctx.Done()
	return nil
}

// program has sources that follow its agent.
type program struct {
	x509 *workloadapi.X509Source
	jwt  *workloadapi.JWTSource
}

func newProgram(ctx context.Context) (*program, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	x, err := workloadapi.NewX509Source(ctx)
	if err != nil {
		return nil, fmt.Errorf("no X.509-SVID: %w", err)
	}
	j, err := workloadapi.NewJWTSource(ctx)
	if err != nil {
		_ = x.Close()
		return nil, fmt.Errorf("no JWT bundles: %w", err)
	}
	return &program{x, j}, nil
}

func (p *program) close() { _, _ = p.x509.Close(), p.jwt.Close() }

// serve answers callers of these names until ctx ends.
func (p *program) serve(ctx context.Context, admit []string) error {
	var ids []spiffeid.ID
	for _, s := range admit {
		id, err := spiffeid.FromString(s)
		if err != nil {
			return err
		}
		ids = append(ids, id)
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s := &http.Server{
		Handler:           http.HandlerFunc(p.answer),
		TLSConfig:         tlsconfig.MTLSServerConfig(p.x509, p.x509, tlsconfig.AuthorizeOneOf(ids...)),
		ReadHeaderTimeout: patience,
	}
	defer context.AfterFunc(ctx, func() { _ = s.Close() })()
	fmt.Println("serving", l.Addr())
	if err := s.ServeTLS(l, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// answer greets who shows a token of the same name as the certificate.
func (p *program) answer(w http.ResponseWriter, r *http.Request) {
	id, err := spiffeid.FromURI(r.TLS.PeerCertificates[0].URIs[0])
	if err != nil {
		http.Error(w, err.Error(), http.StatusForbidden)
		return
	}
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	v, err := jwtsvid.ParseAndValidate(token, p.jwt, []string{audience})
	switch {
	case err != nil:
		http.Error(w, err.Error(), http.StatusUnauthorized)
	case v.ID != id:
		http.Error(w, "the token is another's", http.StatusUnauthorized)
	default:
		_, _ = fmt.Fprintf(w, "hello %s", id)
	}
}

// caller calls one server.
type caller struct {
	*program
	address     string
	kept, fresh *http.Transport
	own, peers  map[string]bool // serial numbers seen
}

func (p *program) caller(address string, peer spiffeid.ID) *caller {
	c := &caller{program: p, address: address, own: map[string]bool{}, peers: map[string]bool{}}
	conf := tlsconfig.MTLSClientConfig(p.x509, p.x509, tlsconfig.AuthorizeID(peer))
	c.kept = &http.Transport{TLSClientConfig: conf}
	c.fresh = &http.Transport{TLSClientConfig: conf.Clone(), DisableKeepAlives: true}
	return c
}

func (c *caller) call(ctx context.Context, by *http.Transport) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	own, err := c.x509.GetX509SVID()
	if err != nil {
		return err
	}
	token, err := c.jwt.FetchJWTSVID(ctx, jwtsvid.Params{Audience: audience, Subject: own.ID})
	if err != nil {
		return fmt.Errorf("a token: %w", err)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+c.address, http.NoBody)
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", "Bearer "+token.Marshal())
	out, err := by.RoundTrip(r)
	if err != nil {
		return err
	}
	defer func() { _ = out.Body.Close() }()
	text, err := io.ReadAll(out.Body)
	if err == nil && (out.StatusCode != http.StatusOK || string(text) != "hello "+own.ID.String()) {
		err = fmt.Errorf("%s: %s", out.Status, text)
	}
	if err != nil {
		return err
	}
	if by == c.fresh { // a kept connection knows the certificates of its beginning
		saw(c.own, "own", own.Certificates[0].SerialNumber.String())
		saw(c.peers, "peer", out.TLS.PeerCertificates[0].SerialNumber.String())
	}
	return nil
}

func saw(seen map[string]bool, whose, serial string) {
	if !seen[serial] {
		seen[serial] = true
		fmt.Println("saw", whose, serial)
	}
}

// Report is what a caller has to say at its end.
type Report struct {
	Calls  int      `json:"calls"`
	Failed []string `json:"failed"` // the first few
	Own    int      `json:"own"`    // certificates that it showed
	Peers  int      `json:"peers"`  // certificates that it was shown
}

// loop calls until ctx ends. No failure ends it: they are counted.
func (c *caller) loop(ctx context.Context) error {
	r := Report{Failed: []string{}}
	for ; ctx.Err() == nil; r.Calls++ {
		by := c.kept
		if r.Calls%2 == 0 {
			by = c.fresh
		}
		// A call that was begun is ended: an interrupt is no failure.
		if err := c.call(context.WithoutCancel(ctx), by); err != nil && len(r.Failed) < 10 {
			r.Failed = append(r.Failed, fmt.Sprintf("call %d: %v", r.Calls, err))
		}
		time.Sleep(2 * time.Millisecond)
	}
	r.Own, r.Peers = len(c.own), len(c.peers)
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	fmt.Printf("report %s\n", text)
	return nil
}
