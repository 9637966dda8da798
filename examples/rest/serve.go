package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"github.com/assay-project/assay/svid"
	"github.com/assay-project/assay/svid/svidhttp"
)

// maxReport bounds what a client can make the server keep, in bytes a report.
const maxReport = 64 << 10

func serve(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("serve", flag.ContinueOnError)
	var (
		listen    = f.String("listen", "127.0.0.1:8443", "address to serve on")
		domain    = f.String("domain", "", "trust domain that clients must belong to")
		audience  = f.String("audience", "", "whom tokens must be for: the URL by which clients know this API")
		simulated = f.Bool("accept-simulated", false, "accept results of simulated hardware")
	)
	if err := f.Parse(args); err != nil {
		return err
	}
	td, err := spiffeid.TrustDomainFromString(*domain)
	if err != nil {
		return fmt.Errorf("--domain: %w", err)
	}
	if *audience == "" {
		return errors.New("--audience must be given")
	}
	own, err := workloadapi.NewX509Source(ctx)
	if err != nil {
		return fmt.Errorf("no SVID: %w", err)
	}
	defer func() { _ = own.Close() }()
	tokens, err := workloadapi.NewJWTSource(ctx) // its bundles are what tokens are checked with
	if err != nil {
		return fmt.Errorf("no JWT bundle: %w", err)
	}
	defer func() { _ = tokens.Close() }()

	l, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	gate := gateOf(td, tokens, *audience, *simulated)
	gate.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	server := newServer(gate, own)
	go func() {
		<-ctx.Done()
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_ = server.Shutdown(end)
	}()
	_, _ = fmt.Fprintf(os.Stdout, "reports are served on https://%s\n", l.Addr())
	if err := server.ServeTLS(l, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// gateOf is what every client must be: of the trust domain, attested within two
// hours, and not in a state that its verifier warns of.
func gateOf(td spiffeid.TrustDomain, tokens jwtbundle.Source, audience string, simulated bool) *svidhttp.Gate {
	g := &svidhttp.Gate{Gate: svid.Gate{
		Tokens: tokens, Audience: audience,
		Require: []svid.Requirement{svid.MemberOf(td), svid.MaxAge(2 * time.Hour), svid.MinTier(svid.Affirming)},
	}}
	if simulated {
		// Simulated hardware is never better than warning.
		g.Require = []svid.Requirement{svid.MemberOf(td), svid.MaxAge(2 * time.Hour), svid.MinTier(svid.Warning), svid.Simulated()}
	}
	return g
}

// newServer is the API behind the gate, which has a log.
func newServer(gate *svidhttp.Gate, own x509svid.Source) *http.Server {
	api := &reports{gate: gate, held: map[string]report{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /reports", api.list)
	mux.HandleFunc("GET /reports/{name}", api.get)
	mux.HandleFunc("PUT /reports/{name}", api.put)
	cfg := gate.TLS(own)
	cfg.MinVersion = tls.VersionTLS13
	return &http.Server{Handler: gate.Handler(mux), TLSConfig: cfg, ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 64 << 10}
}

// report is one text, and who wrote it.
type report struct {
	Text     string    `json:"text"`
	Author   string    `json:"author"`
	Image    string    `json:"image"` // the author's PCR0, if it was published
	Attested time.Time `json:"attested"`
}

// reports is the API.
type reports struct {
	gate *svidhttp.Gate

	mu   sync.Mutex
	held map[string]report
}

func (s *reports) list(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	names := slices.AppendSeq(make([]string, 0, len(s.held)), maps.Keys(s.held)) // never null in JSON
	s.mu.Unlock()
	slices.Sort(names)
	answer(w, names)
}

func (s *reports) get(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	one, ok := s.held[r.PathValue("name")]
	s.mu.Unlock()
	if !ok {
		http.NotFound(w, r)
		return
	}
	answer(w, one)
}

// put asks for more than the gate does: whom the policy calls an author, on hardware
// that somebody is known to own.
func (s *reports) put(w http.ResponseWriter, r *http.Request) {
	who, ok := svid.FromContext(r.Context())
	if !ok {
		http.Error(w, "no gate stands before this handler", http.StatusInternalServerError)
		return
	}
	more := append(slices.Clone(s.gate.Require), svid.Attribute("role", "author"), svid.Owned())
	if err := who.Check(time.Now(), more...); err != nil {
		s.gate.Log.WarnContext(r.Context(), "a report is refused", "client", who.ID.String(), "error", err.Error())
		http.Error(w, http.StatusText(http.StatusForbidden), http.StatusForbidden)
		return
	}
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxReport))
	if err != nil {
		http.Error(w, http.StatusText(http.StatusRequestEntityTooLarge), http.StatusRequestEntityTooLarge)
		return
	}
	s.mu.Lock()
	s.held[r.PathValue("name")] = report{
		Text: string(text), Author: who.ID.String(), Image: who.Result.Measurements["pcr0"].String(), Attested: who.Result.EvidenceTime,
	}
	s.mu.Unlock()
	w.WriteHeader(http.StatusNoContent)
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}
