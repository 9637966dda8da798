package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"

	"github.com/assay-project/assay/svid"
	"github.com/assay-project/assay/svid/svidhttp"
	"github.com/assay-project/assay/svid/svidtest"
)

const audience = "https://reports.example.org"

// lab is the API, and an authority whose tokens it takes.
type lab struct {
	authority *svidtest.Authority
	server    spiffeid.ID
	url       string
}

func open(t *testing.T, trustDomain string, simulated bool) *lab {
	t.Helper()
	a := svidtest.New(t, trustDomain)
	gate := gateOf(a.TrustDomain, a.JWTBundle(t), audience, simulated)
	gate.Log = slog.New(slog.DiscardHandler)
	own := a.Mint(t, "/reports")
	server := newServer(gate, own)
	server.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.ServeTLS(l, "", "") }()
	t.Cleanup(func() { _ = server.Close() })
	return &lab{a, own.ID, "https://" + l.Addr().String()}
}

// tokens mints what the Workload API would hand out.
type tokens struct {
	t       *testing.T
	a       *svidtest.Authority
	options []svidtest.Option
}

func (s tokens) FetchJWTSVID(_ context.Context, p jwtsvid.Params) (*jwtsvid.SVID, error) {
	return jwtsvid.ParseInsecure(s.a.MintJWT(s.t, "/reader", p.Audience, s.options...), []string{p.Audience})
}

func (s tokens) FetchJWTSVIDs(ctx context.Context, p jwtsvid.Params) ([]*jwtsvid.SVID, error) {
	one, err := s.FetchJWTSVID(ctx, p)
	return []*jwtsvid.SVID{one}, err
}

func (l *lab) do(t *testing.T, method, path, body string, options ...svidtest.Option) (int, string) {
	t.Helper()
	return l.as(t, audience, method, path, body, options...)
}

func (l *lab) as(t *testing.T, audience, method, path, body string, options ...svidtest.Option) (int, string) {
	t.Helper()
	c := newClient(l.authority.Bundle(), l.server, tokens{t, l.authority, options}, audience)
	defer c.CloseIdleConnections()
	return send(t, c, method, l.url+path, body)
}

func send(t *testing.T, c *http.Client, method, url, body string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestAReportIsWrittenAndReadByAttestedClients(t *testing.T) {
	l := open(t, "example.test", false)
	if code, body := l.do(t, http.MethodPut, "/reports/q3", "good", svidtest.Attribute("role", "author")); code != http.StatusNoContent {
		t.Fatalf("%d %s", code, body)
	}
	if code, body := l.do(t, http.MethodGet, "/reports", ""); code != http.StatusOK || body != "[\"q3\"]\n" {
		t.Errorf("%d %s", code, body)
	}
	code, body := l.do(t, http.MethodGet, "/reports/q3", "")
	var got report
	if err := json.Unmarshal([]byte(body), &got); code != http.StatusOK || err != nil {
		t.Fatalf("%d %s %v", code, body, err)
	}
	if got.Text != "good" || got.Author != "spiffe://example.test/reader" || got.Image == "" || time.Since(got.Attested) > time.Minute {
		t.Errorf("%+v", got)
	}
	if code, _ := l.do(t, http.MethodGet, "/reports/q4", ""); code != http.StatusNotFound {
		t.Errorf("%d", code)
	}
}

func TestClientsThatDoNotMeetTheRequirementsAreRefused(t *testing.T) {
	l := open(t, "example.test", false)
	author := svidtest.Attribute("role", "author")
	for name, tc := range map[string]struct {
		method  string
		options []svidtest.Option
		want    int
	}{
		"old evidence":       {http.MethodGet, []svidtest.Option{svidtest.Age(3 * time.Hour)}, http.StatusUnauthorized},
		"a debug enclave":    {http.MethodGet, []svidtest.Option{svidtest.Debug()}, http.StatusForbidden},
		"a warning":          {http.MethodGet, []svidtest.Option{svidtest.Grace()}, http.StatusForbidden},
		"not an author":      {http.MethodPut, nil, http.StatusForbidden},
		"an unowned author":  {http.MethodPut, []svidtest.Option{author, svidtest.Unowned()}, http.StatusForbidden},
		"another role":       {http.MethodPut, []svidtest.Option{svidtest.Attribute("role", "reader")}, http.StatusForbidden},
		"an author, to read": {http.MethodGet, []svidtest.Option{author}, http.StatusNotFound},
	} {
		if code, body := l.do(t, tc.method, "/reports/q3", "bad", tc.options...); code != tc.want {
			t.Errorf("%s: %d %s, want %d", name, code, body, tc.want)
		}
	}
	if code, _ := l.as(t, "https://other.example.org", http.MethodGet, "/reports", ""); code != http.StatusUnauthorized {
		t.Errorf("a token for somebody else: %d", code)
	}
	bare := &http.Client{Transport: svidhttp.Transport(nil, l.authority.Source(), svid.ID(l.server))}
	defer bare.CloseIdleConnections()
	if code, _ := send(t, bare, http.MethodGet, l.url+"/reports", ""); code != http.StatusUnauthorized {
		t.Errorf("no token: %d", code)
	}
	if code, _ := l.do(t, http.MethodPut, "/reports/q3", strings.Repeat("x", maxReport+1), author); code != http.StatusRequestEntityTooLarge {
		t.Errorf("too large: %d", code)
	}
}

func TestATokenIsSentToNobodyButTheServer(t *testing.T) {
	l := open(t, "example.test", false)
	for name, c := range map[string]*http.Client{
		"of another name":      newClient(l.authority.Bundle(), spiffeid.RequireFromString("spiffe://example.test/other"), tokens{t, l.authority, nil}, audience),
		"of another authority": newClient(svidtest.New(t, "example.test").Bundle(), l.server, tokens{t, l.authority, nil}, audience),
	} {
		resp, err := c.Get(l.url + "/reports")
		if err == nil {
			_ = resp.Body.Close()
			t.Errorf("%s: it was sent, and answered %s", name, resp.Status)
		}
	}
}

func TestSimulatedClientsAreServedOnlyWhenTold(t *testing.T) {
	for accept, want := range map[bool]int{false: http.StatusForbidden, true: http.StatusOK} {
		if code, body := open(t, "simulated.example.test", accept).do(t, http.MethodGet, "/reports", ""); code != want {
			t.Errorf("accept %t: %d %s", accept, code, body)
		}
	}
}

// Clients read a list, also while there is nothing in it.
func TestAnEmptyListIsAList(t *testing.T) {
	if code, body := open(t, "example.test", false).do(t, http.MethodGet, "/reports", ""); code != http.StatusOK || body != "[]\n" {
		t.Errorf("%d %q", code, body)
	}
}

// Who asks for help made no mistake.
func TestHelpIsNoError(t *testing.T) {
	for _, args := range [][]string{{"--help"}, {"help"}, {"serve", "--help"}, {"get", "-h"}} {
		if err := run(t.Context(), args); !errors.Is(err, flag.ErrHelp) {
			t.Errorf("%v: %v", args, err)
		}
	}
}

func TestTheCommandSaysWhatIsMissing(t *testing.T) {
	for want, args := range map[string][]string{
		"usage":       {},
		"--domain":    {"serve", "--audience", audience},
		"--audience":  {"serve", "--domain", "example.test"},
		"--server-id": {"get", "/reports"},
		"PATH":        {"get"},
	} {
		if err := run(t.Context(), args); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v", args, err)
		}
	}
}
