package svidhttp_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/svid"
	"github.com/assay-project/assay/svid/svidhttp"
	"github.com/assay-project/assay/svid/svidtest"
)

// renewing is an agent: its SVID is renewed at half its life.
type renewing struct {
	t   *testing.T
	a   *svidtest.Authority
	ttl time.Duration

	mu  sync.Mutex
	now *x509svid.SVID
}

func (r *renewing) GetX509SVID() (*x509svid.SVID, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.now == nil || time.Until(r.now.Certificates[0].NotAfter) < r.ttl/2 {
		r.now = r.a.Mint(r.t, "/orders", svidtest.TTL(r.ttl))
	}
	return r.now, nil
}

// start serves with TLS until the test ends.
func start(t *testing.T, h http.Handler, cfg *tls.Config) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h, TLSConfig: cfg, ReadHeaderTimeout: time.Minute, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	go func() { _ = s.ServeTLS(l, "", "") }()
	t.Cleanup(func() { _ = s.Close() })
	return "https://" + l.Addr().String()
}

func send(t *testing.T, c *http.Client, url string) (int, error) {
	t.Helper()
	resp, err := c.Post(url, "text/plain", strings.NewReader("order")) //nolint:noctx // a test's
	if err != nil {
		return 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// keeping is a handler that counts the connections it is asked on.
type keeping struct {
	mu   sync.Mutex
	from map[string]int
	over map[string]int // protocols
}

func (k *keeping) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.from == nil {
		k.from, k.over = map[string]int{}, map[string]int{}
	}
	k.from[r.RemoteAddr]++
	k.over[r.Proto]++
	_, _ = io.WriteString(w, "ok")
}

// Ours, and what any SPIFFE program has: neither meets a refusal when its SVID is
// renewed under way, nor when the server demands evidence younger than the SVID.
func TestAClientThatRenewsIsNeverRefused(t *testing.T) {
	for _, client := range []string{"ours", "go-spiffe's", "without a SVID of its own, by token"} {
		for _, proto := range []string{"HTTP/2.0", "HTTP/1.1"} {
			t.Run(client+" "+proto, func(t *testing.T) {
				t.Parallel()
				a := svidtest.New(t, "example.test")
				gate := &svidhttp.Gate{Gate: svid.Gate{Source: a.Source(), Tokens: a.JWTBundle(t), Audience: audience, Require: []svid.Requirement{svid.MaxAge(5 * time.Second)}}, Log: quiet()}
				server := &renewing{t: t, a: a, ttl: 2 * time.Second}
				seen := &keeping{}
				url := start(t, gate.Handler(seen), gate.TLS(server))
				own := &renewing{t: t, a: a, ttl: 2 * time.Second}
				id := spiffeid.RequireFromPath(a.TrustDomain, "/orders")
				tr := svidhttp.Transport(own, a.Source(), svid.ID(id))
				tr.Configure = func(t *http.Transport) { t.ForceAttemptHTTP2 = proto == "HTTP/2.0" }
				c := &http.Client{Transport: tr}
				switch client {
				case "go-spiffe's":
					cfg := tlsconfig.MTLSClientConfig(own, a.Bundle(), tlsconfig.AuthorizeID(id))
					plain := &http.Transport{TLSClientConfig: cfg, ForceAttemptHTTP2: proto == "HTTP/2.0"}
					if !plain.ForceAttemptHTTP2 {
						plain.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
					}
					c.Transport = plain
				case "without a SVID of its own, by token":
					tr.Own = nil
					c.Transport = &svidhttp.Bearer{Source: tokens{t, a}, Audience: audience, Base: tr}
				}
				t.Cleanup(c.CloseIdleConnections)
				for range 30 {
					if code, err := send(t, c, url); err != nil || code != http.StatusOK {
						t.Errorf("%d %v", code, err)
					}
					time.Sleep(140 * time.Millisecond)
				}
				if len(seen.from) > 10 || seen.over[proto] != 30 {
					t.Errorf("%d connections, by %v", len(seen.from), seen.over)
				}
			})
		}
	}
}

// renewer can be told to renew.
type renewer struct{ now atomic.Pointer[x509svid.SVID] }

func (r *renewer) GetX509SVID() (*x509svid.SVID, error) { return r.now.Load(), nil }

func TestAClientThatHasRenewedIsSeenWithItsNewCertificate(t *testing.T) {
	a := svidtest.New(t, "example.test")
	gate := &svidhttp.Gate{Gate: svid.Gate{Source: a.Source()}, Log: quiet()}
	var serial atomic.Value
	url := start(t, gate.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		who, _ := svid.FromContext(r.Context())
		serial.Store(who.Serial())
	}), gate.TLS(a.Mint(t, "/inventory")))
	own := &renewer{}
	c := &http.Client{Transport: svidhttp.Transport(own, a.Source(), svid.MemberOf(a.TrustDomain))}
	t.Cleanup(c.CloseIdleConnections)
	for range 3 {
		own.now.Store(a.Mint(t, "/orders"))
		if code, err := send(t, c, url); err != nil || code != http.StatusOK {
			t.Fatal(code, err)
		}
		if want := fmt.Sprintf("%032x", own.now.Load().Certificates[0].SerialNumber); serial.Load() != want {
			t.Errorf("seen as %s, want %s", serial.Load(), want)
		}
	}
}

// denying is a deny-list that can be made to name somebody.
func denying(t *testing.T, a *svidtest.Authority) (*svid.DenyList, func(*x509svid.SVID)) {
	t.Helper()
	list, err := svid.NewDenyList(a.TrustDomain, a.VerifierRoot())
	if err != nil {
		t.Fatal(err)
	}
	put := func(d svid.Denials) {
		t.Helper()
		if err := list.Update(a.DenyList(t, d), time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	put(svid.Denials{})
	return list, func(s *x509svid.SVID) {
		t.Helper()
		var serial [svid.SerialSize]byte
		s.Certificates[0].SerialNumber.FillBytes(serial[:])
		put(svid.Denials{Sequence: 2, Serials: [][svid.SerialSize]byte{serial}})
	}
}

func TestAServerThatIsDeniedGetsNoFurtherRequestOrToken(t *testing.T) {
	for _, h2 := range []bool{true, false} {
		a := svidtest.New(t, "example.test")
		denied, deny := denying(t, a)
		server := a.Mint(t, "/inventory")
		asked := 0
		url := start(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "" {
				asked++
			}
		}), (&svidhttp.Gate{Gate: svid.Gate{Tokens: a.JWTBundle(t), Audience: audience}}).TLS(server))
		tr := svidhttp.Transport(nil, a.Source(), svid.ID(server.ID), svid.NotDenied(denied))
		tr.Configure = func(t *http.Transport) { t.ForceAttemptHTTP2 = h2 }
		c := &http.Client{Transport: &svidhttp.Bearer{Source: tokens{t, a}, Audience: audience, Base: tr}}
		if _, err := send(t, c, url); err != nil {
			t.Fatal(err)
		}
		deny(server)
		if _, err := send(t, c, url); attest.CheckOf(err) != "denied" {
			t.Errorf("h2 %t: %v, want denied", h2, err)
		}
		if asked != 1 {
			t.Errorf("h2 %t: the server was asked %d times", h2, asked)
		}
	}
}

func TestAServerWhoseSVIDHasExpiredGetsNoFurtherRequest(t *testing.T) {
	a := svidtest.New(t, "example.test")
	server := a.Mint(t, "/inventory", svidtest.TTL(2*time.Second))
	seen := &keeping{}
	url := start(t, seen, svid.ServerTLS(server, a.Source()))
	c := &http.Client{Transport: svidhttp.Transport(a.Mint(t, "/orders"), a.Source(), svid.ID(server.ID))}
	if _, err := send(t, c, url); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Until(server.Certificates[0].NotAfter) + 1100*time.Millisecond)
	if _, err := send(t, c, url); attest.CheckOf(err) != "chain_validity" {
		t.Errorf("%v, want chain_validity", err)
	}
	if len(seen.from) != 1 {
		t.Errorf("asked on %v", seen.from)
	}
}

func TestAnAnswerOfAServerThatIsDeniedEnds(t *testing.T) {
	a := svidtest.New(t, "example.test")
	denied, deny := denying(t, a)
	server := a.Mint(t, "/inventory")
	url := start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			_, _ = io.WriteString(w, "event\n")
			_ = http.NewResponseController(w).Flush()
			time.Sleep(100 * time.Millisecond)
		}
	}), svid.ServerTLS(server, a.Source()))
	c := &http.Client{Transport: svidhttp.Transport(a.Mint(t, "/orders"), a.Source(), svid.ID(server.ID), svid.NotDenied(denied))}
	resp, err := c.Get(url) //nolint:noctx // a test's
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	deny(server)
	begun := time.Now()
	if _, err := io.Copy(io.Discard, resp.Body); err == nil || time.Since(begun) > 3*time.Second {
		t.Errorf("after %s: %v", time.Since(begun), err)
	}
}

// What goes on after the client's SVID has ended: an answer, its context, a body that
// is read, and a connection that was taken over.
func TestALongRequestEndsWithTheClient(t *testing.T) {
	for name, tc := range map[string]struct {
		proto   string
		handler func(w http.ResponseWriter, r *http.Request) error
	}{
		"an answer": {"", func(w http.ResponseWriter, _ *http.Request) error {
			for {
				if _, err := io.WriteString(w, "event\n"); err != nil {
					return err
				}
				w.(http.Flusher).Flush() //nolint:forcetypeassert // it must be one
				time.Sleep(100 * time.Millisecond)
			}
		}},
		"an answer that is flushed": {"", func(w http.ResponseWriter, _ *http.Request) error {
			for {
				if err := http.NewResponseController(w).Flush(); err != nil {
					return err
				}
				time.Sleep(100 * time.Millisecond)
			}
		}},
		"a context": {"", func(w http.ResponseWriter, r *http.Request) error {
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
			return r.Context().Err()
		}},
		"a body": {"", func(w http.ResponseWriter, r *http.Request) error {
			_ = http.NewResponseController(w).EnableFullDuplex()
			_ = http.NewResponseController(w).Flush()
			_, err := io.Copy(io.Discard, r.Body)
			return err
		}},
		"a connection that is taken over": {"HTTP/1.1", func(w http.ResponseWriter, _ *http.Request) error {
			c, rw, err := w.(http.Hijacker).Hijack() //nolint:forcetypeassert // it must be one
			if err != nil {
				return err
			}
			defer func() { _ = c.Close() }()
			_, err = rw.WriteString("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
			for err == nil {
				err = rw.Flush()
				if err == nil {
					_, err = rw.WriteString("event")
				}
				time.Sleep(100 * time.Millisecond)
			}
			return err
		}},
		"a connection that is taken over and idle": {"HTTP/1.1", func(w http.ResponseWriter, _ *http.Request) error {
			c, rw, err := w.(http.Hijacker).Hijack() //nolint:forcetypeassert // it must be one
			if err != nil {
				return err
			}
			defer func() { _ = c.Close() }()
			_, _ = rw.WriteString("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
			_ = rw.Flush()
			_, err = io.Copy(io.Discard, rw)
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := svidtest.New(t, "example.test")
			var refused atomic.Int32
			gate := &svidhttp.Gate{Gate: svid.Gate{Source: a.Source()}, Log: quiet(), Refused: func(*http.Request, error) { refused.Add(1) }}
			ended := make(chan error, 1)
			url := start(t, gate.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { ended <- tc.handler(w, r) }), gate.TLS(a.Mint(t, "/inventory")))
			client := a.Mint(t, "/orders", svidtest.TTL(2*time.Second))
			tr := svidhttp.Transport(client, a.Source(), svid.MemberOf(a.TrustDomain))
			tr.Configure = func(t *http.Transport) { t.ForceAttemptHTTP2 = tc.proto == "" }
			upload, more := io.Pipe()
			defer func() { _ = more.Close() }()
			if name == "a body" {
				go func() {
					for {
						if _, err := more.Write([]byte("more")); err != nil {
							return
						}
						time.Sleep(100 * time.Millisecond)
					}
				}()
			} else {
				upload = nil
			}
			var in io.Reader
			if upload != nil {
				in = upload
			}
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, in)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := (&http.Client{Transport: tr}).Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = resp.Body.Close() }()
			_, err = io.Copy(io.Discard, resp.Body)
			if err == nil && tc.proto == "" && name != "a context" {
				t.Error("the client takes it for the whole answer")
			}
			select {
			case err := <-ended:
				late := time.Since(client.Certificates[0].NotAfter)
				if err == nil || late < 0 || late > 2*time.Second {
					t.Errorf("it ended %s after the SVID: %v", late, err)
				}
				if name != "a context" && refused.Load() == 0 {
					t.Error("nobody was told")
				}
			case <-time.After(10 * time.Second):
				t.Error("it goes on")
			}
		})
	}
}

// Another part of the program has put something else where http.DefaultTransport was.
func TestTheTransportTakesNothingOfTheDefaultOne(t *testing.T) {
	a := svidtest.New(t, "example.test")
	ordinary := httptest.NewTLSServer(http.NotFoundHandler())
	defer ordinary.Close()
	old := http.DefaultTransport
	defer func() { http.DefaultTransport = old }()
	anybody := &tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}
	for _, other := range []http.RoundTripper{&http.Transport{DialTLSContext: anybody.DialContext}, struct{ http.RoundTripper }{old}} {
		http.DefaultTransport = other
		tr := svidhttp.Transport(nil, a.Source(), svid.MemberOf(a.TrustDomain))
		if code, err := send(t, &http.Client{Transport: tr}, ordinary.URL); err == nil {
			t.Errorf("%d of a server without an SVID", code)
		}
		tr = svidhttp.Transport(nil, a.Source(), svid.MemberOf(a.TrustDomain))
		tr.Configure = func(t *http.Transport) { t.DialTLSContext = anybody.DialContext }
		if code, err := send(t, &http.Client{Transport: tr}, ordinary.URL); err == nil {
			t.Errorf("%d of a server without an SVID", code)
		}
	}
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	if code, err := send(t, &http.Client{Transport: svidhttp.Transport(nil, a.Source(), svid.MemberOf(a.TrustDomain))}, plain.URL); err == nil {
		t.Errorf("%d over http", code)
	}
}

func TestASourceOfTokensThatIsANilPointerIsNone(t *testing.T) {
	a := svidtest.New(t, "example.test")
	for _, tokens := range []jwtbundle.Source{(*workloadapi.JWTSource)(nil), (*jwtbundle.Set)(nil)} {
		gate := &svidhttp.Gate{Gate: svid.Gate{Source: a.Source(), Tokens: tokens, Audience: audience}, Log: quiet()}
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
		r.Header.Set("Authorization", "Bearer "+a.MintJWT(t, "/orders", audience))
		w := httptest.NewRecorder()
		gate.Handler(http.NotFoundHandler()).ServeHTTP(w, r)
		if w.Code != http.StatusUnauthorized {
			t.Errorf("%d", w.Code)
		}
		if cfg := gate.TLS(a.Mint(t, "/inventory")); cfg.ClientAuth != tls.RequireAnyClientCert {
			t.Errorf("TLS lets in clients without a certificate: %s", cfg.ClientAuth)
		}
	}
}

func TestAStrangerDoesNotFillTheLog(t *testing.T) {
	a := svidtest.New(t, "example.test")
	var log bytes.Buffer
	var counted []error
	gate := &svidhttp.Gate{
		Gate: svid.Gate{Source: a.Source()}, Log: slog.New(slog.NewTextHandler(&log, nil)),
		Refused: func(_ *http.Request, err error) { counted = append(counted, err) },
	}
	r := httptest.NewRequestWithContext(context.Background(), strings.Repeat("M", 10_000), "/"+strings.Repeat("é", 100_000), nil)
	gate.Handler(http.NotFoundHandler()).ServeHTTP(httptest.NewRecorder(), r)
	if log.Len() > 2000 {
		t.Errorf("%d bytes", log.Len())
	}
	if len(counted) != 1 || attest.CheckOf(counted[0]) != "credential" {
		t.Errorf("%v", errors.Join(counted...))
	}
}
