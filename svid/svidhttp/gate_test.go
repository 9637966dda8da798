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
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/assay-project/assay/svid"
	"github.com/assay-project/assay/svid/svidhttp"
	"github.com/assay-project/assay/svid/svidtest"
)

const audience = "https://orders.example.test"

// lab is a server behind a gate.
type lab struct {
	authority *svidtest.Authority
	log       bytes.Buffer
	at        atomic.Int64 // seconds by which the server's clock is ahead
	URL       string
}

func newLab(t *testing.T, tokens bool, require ...svid.Requirement) *lab {
	t.Helper()
	l := &lab{authority: svidtest.New(t, "example.test")}
	g := &svidhttp.Gate{
		Gate: svid.Gate{
			Source: l.authority.Source(), Require: require,
			Now: func() time.Time { return time.Now().Add(time.Duration(l.at.Load()) * time.Second) },
		},
		Log: slog.New(slog.NewTextHandler(&l.log, nil)),
	}
	if tokens {
		g.Tokens, g.Audience = l.authority.JWTBundle(t), audience
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /who", func(w http.ResponseWriter, r *http.Request) {
		who, ok := svid.FromContext(r.Context())
		if !ok {
			http.Error(w, "no peer in the context", http.StatusTeapot)
			return
		}
		_, _ = fmt.Fprintf(w, "%s as %s", who.ID, who.Result.Policy)
	})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{
		Handler: g.Handler(mux), TLSConfig: g.TLS(l.authority.Mint(t, "/orders")), ReadHeaderTimeout: time.Minute,
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
	}
	go func() { _ = server.ServeTLS(listener, "", "") }()
	t.Cleanup(func() { _ = server.Close() })
	l.URL = "https://" + listener.Addr().String()
	return l
}

// client shows a certificate; nil is none.
func (l *lab) client(t *testing.T, own *x509svid.SVID) *http.Client {
	t.Helper()
	var shown x509svid.Source
	if own != nil {
		shown = own
	}
	tr := svidhttp.Transport(shown, l.authority.Source(), svid.MemberOf(l.authority.TrustDomain))
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func (l *lab) get(t *testing.T, c *http.Client, authorization ...string) (int, string, error) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, l.URL+"/who", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range authorization {
		r.Header.Add("Authorization", a)
	}
	resp, err := c.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

func TestAHandlerKnowsTheAttestedClient(t *testing.T) {
	l := newLab(t, true, svid.Policy("test"))
	for name, get := range map[string]func() (int, string, error){
		"by its certificate": func() (int, string, error) { return l.get(t, l.client(t, l.authority.Mint(t, "/cart"))) },
		"by its token": func() (int, string, error) {
			return l.get(t, l.client(t, nil), "Bearer "+l.authority.MintJWT(t, "/cart", audience))
		},
	} {
		if code, body, err := get(); err != nil || code != http.StatusOK || body != "spiffe://example.test/cart as test@1" {
			t.Errorf("%s: %d %q %v", name, code, body, err)
		}
	}
}

func TestWhatIsWantedIsInTheLogAndNotInTheAnswer(t *testing.T) {
	l := newLab(t, true, svid.Policy("prod"))
	code, body, err := l.get(t, l.client(t, nil), "Bearer "+l.authority.MintJWT(t, "/cart", audience))
	if err != nil || code != http.StatusForbidden || strings.Contains(body, "prod") {
		t.Errorf("%d %q %v", code, body, err)
	}
	if !strings.Contains(l.log.String(), "check=policy") || !strings.Contains(l.log.String(), "prod") {
		t.Errorf("the log does not say why: %s", l.log.String())
	}
}

func TestRequestsWithoutAGoodTokenAreRefused(t *testing.T) {
	l := newLab(t, true)
	foreign := svidtest.New(t, "example.test")
	good := "Bearer " + l.authority.MintJWT(t, "/cart", audience)
	for name, header := range map[string][]string{
		"nothing":            nil,
		"another scheme":     {"Basic Y2FydDpjYXJ0"},
		"two headers":        {good, good},
		"two tokens":         {good + " " + good},
		"an empty token":     {"Bearer "},
		"another audience":   {"Bearer " + l.authority.MintJWT(t, "/cart", "https://other.example.test")},
		"another authority":  {"Bearer " + foreign.MintJWT(t, "/cart", audience)},
		"garbage":            {"Bearer a.b.c"},
		"one that has ended": {"Bearer " + ended(t, l.authority)},
	} {
		if code, body, err := l.get(t, l.client(t, nil), header...); err != nil || code != http.StatusUnauthorized {
			t.Errorf("%s: %d %q %v, want 401", name, code, body, err)
		}
	}
}

// ended is a token of two hours ago.
func ended(t *testing.T, a *svidtest.Authority) string {
	t.Helper()
	now := a.Now
	defer func() { a.Now = now }()
	a.Now = func() time.Time { return now().Add(-2 * time.Hour) }
	return a.MintJWT(t, "/cart", audience)
}

func TestACertificateThatDoesNotHoldIsNotMadeGoodByAToken(t *testing.T) {
	l := newLab(t, true)
	foreign := svidtest.New(t, "example.test")
	code, _, err := l.get(t, l.client(t, foreign.Mint(t, "/cart")), "Bearer "+l.authority.MintJWT(t, "/cart", audience))
	if err == nil {
		t.Errorf("answered %d", code)
	}
}

func TestAConnectionDoesNotOutliveTheSVIDItWasOpenedWith(t *testing.T) {
	l := newLab(t, false, svid.MaxAge(2*time.Hour))
	c := l.client(t, l.authority.Mint(t, "/cart"))
	if code, _, err := l.get(t, c); err != nil || code != http.StatusOK {
		t.Fatalf("%d %v", code, err)
	}
	l.at.Store(int64((time.Hour + time.Minute) / time.Second)) // the SVID is valid for an hour
	if code, _, err := l.get(t, c); err != nil || code != http.StatusUnauthorized {
		t.Errorf("after its end: %d %v, want 401 on the same connection", code, err)
	}
}

func TestAConnectionDoesNotOutliveADenial(t *testing.T) {
	var list *svid.DenyList
	denied := svid.Require("not_denied", func(a *svid.Attested, at time.Time) error {
		if list == nil {
			return nil
		}
		d, err := list.Denials(at)
		if err != nil {
			return err
		}
		if why := d.Certificate(a.Certificate); why != "" {
			return errors.New(why)
		}
		return nil
	})
	l := newLab(t, false, denied)
	own := l.authority.Mint(t, "/cart")
	c := l.client(t, own)
	if code, _, err := l.get(t, c); err != nil || code != http.StatusOK {
		t.Fatalf("%d %v", code, err)
	}
	follow, err := svid.NewDenyList(l.authority.TrustDomain, l.authority.VerifierRoot())
	if err != nil {
		t.Fatal(err)
	}
	var serial [svid.SerialSize]byte
	own.Certificates[0].SerialNumber.FillBytes(serial[:])
	if err := follow.Update(l.authority.DenyList(t, svid.Denials{Serials: [][svid.SerialSize]byte{serial}}), time.Now()); err != nil {
		t.Fatal(err)
	}
	list = follow
	if code, _, err := l.get(t, c); err != nil || code != http.StatusForbidden {
		t.Errorf("after its denial: %d %v, want 403 on the same connection", code, err)
	}
}

// tokens is a source of one token.
type tokens struct {
	t *testing.T
	a *svidtest.Authority
}

func (s tokens) FetchJWTSVID(_ context.Context, p jwtsvid.Params) (*jwtsvid.SVID, error) {
	return jwtsvid.ParseInsecure(s.a.MintJWT(s.t, "/cart", p.Audience), []string{p.Audience})
}

func (s tokens) FetchJWTSVIDs(ctx context.Context, p jwtsvid.Params) ([]*jwtsvid.SVID, error) {
	one, err := s.FetchJWTSVID(ctx, p)
	return []*jwtsvid.SVID{one}, err
}

func TestAClientShowsItsTokenOverHTTPSAlone(t *testing.T) {
	l := newLab(t, true)
	b := &svidhttp.Bearer{Source: tokens{t, l.authority}, Audience: audience, Base: l.client(t, nil).Transport}
	if code, body, err := l.get(t, &http.Client{Transport: b}); err != nil || code != http.StatusOK {
		t.Errorf("%d %q %v", code, body, err)
	}
	var seen []string
	plain := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen = r.Header.Values("Authorization") }))
	t.Cleanup(plain.Close)
	resp, err := (&http.Client{Transport: b}).Get(plain.URL) //nolint:noctx // a test's
	if err == nil {
		_ = resp.Body.Close()
		t.Errorf("a token went over http: %v", seen)
	}
	// A redirect elsewhere does not take the token along, nor does a second one there.
	away := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = append(seen, r.Header.Values("Authorization")...)
		if r.URL.Path != "/second" {
			http.Redirect(w, r, "/second", http.StatusFound)
		}
	}))
	t.Cleanup(away.Close)
	home := httptest.NewTLSServer(http.RedirectHandler(strings.Replace(away.URL, "127.0.0.1", "localhost", 1), http.StatusFound))
	t.Cleanup(home.Close)
	b.Base = &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	resp, err = (&http.Client{Transport: b}).Get(home.URL) //nolint:noctx // a test's
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if len(seen) != 0 {
		t.Errorf("another host got %v", seen)
	}
}
