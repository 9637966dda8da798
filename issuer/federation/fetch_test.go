package federation

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	gofederation "github.com/spiffe/go-spiffe/v2/federation"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/attest"
)

const endpointID = "spiffe://b.example.org/assay/bundle"

func get(t testing.TB, r Relation, bundles x509bundle.Source) ([]byte, error) {
	t.Helper()
	if r.TrustDomain == "" {
		r.TrustDomain = theirs.Name()
	}
	checked, err := r.check(ours)
	must(t, err)
	if bundles == nil {
		bundles = x509bundle.NewSet()
	}
	return fetcher{now: time.Now, timeout: time.Second, private: loopback()}.fetch(t.Context(), checked, bundles)
}

// By both profiles, from go-spiffe's own handler.
func TestABundleIsFetchedFromGoSPIFFEsEndpointByBothProfiles(t *testing.T) {
	ca, web := newAuthority(t, "spiffe://b.example.org"), newAuthority(t, "")
	b := bundle(3, time.Minute, ca)
	must(t, b.AddJWTAuthority("k", newKey(t).Public()))
	h, err := gofederation.NewHandler(theirs, b)
	must(t, err)
	for name, c := range map[string]struct {
		cert *tls.Certificate
		r    Relation
		from x509bundle.Source
	}{
		"https_web":    {web.leaf(t, ""), Relation{Profile: Web, WebRoots: web.pem()}, nil},
		"https_spiffe": {ca.leaf(t, endpointID), Relation{Profile: SPIFFE, EndpointID: endpointID}, b},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEndpoint(t, c.cert, h.ServeHTTP)
			c.r.URL = e.URL + "/any/path?query"
			doc, err := get(t, c.r, c.from)
			must(t, err)
			got, _, err := Parse(theirs, doc)
			must(t, err)
			if !got.Equal(b) {
				t.Error("another bundle was fetched")
			}
		})
	}
}

func TestAnEndpointThatIsNotTheNamedOneIsRefused(t *testing.T) {
	ca, web, stranger := newAuthority(t, "spiffe://b.example.org"), newAuthority(t, ""), newAuthority(t, "spiffe://b.example.org")
	c := newAuthority(t, "spiffe://c.example.org")
	b := bundle(1, 0, ca)
	spiffe := Relation{Profile: SPIFFE, EndpointID: endpointID}
	byWeb := Relation{Profile: Web, WebRoots: web.pem()}
	elsewhere := web.leaf(t, endpointID) // of the right CA, without the host
	both := x509bundle.NewSet(b.X509Bundle(), x509bundle.FromX509Authorities(spiffeid.RequireTrustDomainFromString("c.example.org"), []*x509.Certificate{c.cert}))
	for name, k := range map[string]struct {
		cert *tls.Certificate
		r    Relation
		from x509bundle.Source
	}{
		"another CA of the web":                        {stranger.leaf(t, ""), byWeb, nil},
		"another host":                                 {elsewhere, byWeb, nil},
		"an SVID by another CA":                        {stranger.leaf(t, endpointID), spiffe, b},
		"an SVID of another server":                    {ca.leaf(t, "spiffe://b.example.org/workload"), spiffe, b},
		"an SVID of another trust domain":              {c.leaf(t, "spiffe://c.example.org/assay/bundle"), spiffe, both},
		"the named ID by another trust domain's CA":    {c.leaf(t, endpointID), spiffe, both},
		"a certificate of the web for https_spiffe":    {web.leaf(t, ""), spiffe, b},
		"an SVID while no bundle of the ID is here":    {ca.leaf(t, endpointID), spiffe, x509bundle.NewSet()},
		"an SVID that the web's roots do not know":     {ca.leaf(t, endpointID), byWeb, nil},
		"a system root's host for a relation with own": {web.leaf(t, ""), Relation{Profile: Web, WebRoots: stranger.pem()}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEndpoint(t, k.cert, serving(document(t, b)))
			k.r.URL = e.URL
			_, err := get(t, k.r, k.from)
			wantCheck(t, err, "endpoint_certificate")
			if attest.KindOf(err) != attest.Untrusted {
				t.Errorf("of kind %v", attest.KindOf(err))
			}
			if e.asked.Load() != 0 {
				t.Error("a request was sent to an endpoint that is not the named one")
			}
		})
	}
}

func TestTLSBelow12IsNotSpoken(t *testing.T) {
	web := newAuthority(t, "")
	e := newEndpoint(t, web.leaf(t, ""), serving(document(t, bundle(1, 0))))
	e.TLS.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		return &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11, Certificates: []tls.Certificate{*e.cert.Load()}}, nil
	}
	_, err := get(t, Relation{Profile: Web, WebRoots: web.pem(), URL: e.URL}, nil)
	wantCheck(t, err, "endpoint_unreachable")
}

func TestWhatAHostileEndpointAnswersIsBounded(t *testing.T) {
	web := newAuthority(t, "")
	doc := document(t, bundle(1, 0))
	for name, c := range map[string]struct {
		h     http.HandlerFunc
		check string
	}{
		"huge": {func(w http.ResponseWriter, _ *http.Request) {
			for range 1 << 20 {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		}, "bundle_size"},
		"huge, by its length": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "10000000")
			_, _ = w.Write(make([]byte, 10_000_000))
		}, "bundle_size"},
		"compressed": {func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Accept-Encoding") != "" {
				w.WriteHeader(http.StatusTeapot)
				return
			}
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write(doc)
		}, ""}, // it was not asked for, so that these are the bytes
		"slow to answer": {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, "endpoint_unreachable"},
		"slow to send": {func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				_, _ = w.Write([]byte(" "))
				_ = http.NewResponseController(w).Flush()
				time.Sleep(20 * time.Millisecond)
			}
		}, "endpoint_unreachable"},
		"cut short": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, _ = w.Write(doc)
		}, "endpoint_unreachable"},
		"long headers": {func(w http.ResponseWriter, _ *http.Request) {
			for i := range 1000 {
				w.Header().Set(fmt.Sprintf("X-%d", i), strings.Repeat("a", 100))
			}
		}, "endpoint_unreachable"},
		"an error with a bundle": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = w.Write(doc)
		}, "endpoint_status"},
		"no content": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }, "endpoint_status"},
		"a part": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(doc)
		}, "endpoint_status"},
		"nothing at all": {func(w http.ResponseWriter, _ *http.Request) {
			c, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				_ = c.Close()
			}
		}, "endpoint_unreachable"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newEndpoint(t, web.leaf(t, ""), c.h)
			began := time.Now()
			got, err := get(t, Relation{Profile: Web, WebRoots: web.pem(), URL: e.URL}, nil)
			wantCheck(t, err, c.check)
			if (got == nil) != (err != nil) {
				t.Error("neither a document nor an error, or both")
			}
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
}

func TestAnEndpointThatCannotBeReachedIsUnavailable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	address := l.Addr().String()
	must(t, l.Close())
	for _, u := range []string{"https://" + address, "https://no-such-host.invalid/bundle"} {
		_, err := get(t, Relation{Profile: Web, URL: u}, nil)
		wantCheck(t, err, "endpoint_unreachable")
		if attest.KindOf(err) != attest.Unavailable {
			t.Errorf("%s is of kind %v", u, attest.KindOf(err))
		}
	}
}

func TestRedirectsAreFollowedOnlyToEndpoints(t *testing.T) {
	web, ca := newAuthority(t, ""), newAuthority(t, "spiffe://b.example.org")
	b := bundle(1, 0, ca)
	doc := document(t, b)
	target := newEndpoint(t, web.leaf(t, ""), serving(doc))
	stranger := newEndpoint(t, newAuthority(t, "").leaf(t, ""), serving(doc))
	to := func(u string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, u, http.StatusTemporaryRedirect) }
	}
	plain := strings.Replace(target.URL, "https:", "http:", 1)
	withUser := strings.Replace(target.URL, "https://", "https://user:pass@", 1)
	for name, c := range map[string]struct {
		h     http.HandlerFunc
		check string
	}{
		"to another endpoint":           {to(target.URL + "/moved"), ""},
		"to plain HTTP":                 {to(plain), "endpoint_redirect"},
		"to a file":                     {to("file:///etc/passwd"), "endpoint_redirect"},
		"with a password":               {to(withUser), "endpoint_redirect"},
		"to itself, without end":        {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path+"x", http.StatusFound) }, "endpoint_redirect"},
		"to one that nobody knows":      {to(stranger.URL), "endpoint_certificate"},
		"nowhere":                       {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusFound) }, "endpoint_status"},
		"for good, without following":   {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotModified) }, "endpoint_status"},
		"to where it is no host at all": {to("https:///bundle"), "endpoint_redirect"},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEndpoint(t, web.leaf(t, ""), c.h)
			got, err := get(t, Relation{Profile: Web, WebRoots: web.pem(), URL: e.URL + "/b"}, nil)
			wantCheck(t, err, c.check)
			if c.check == "" && string(got) != string(doc) {
				t.Errorf("got %q", got)
			}
			if err != nil && strings.Contains(err.Error(), "pass@") {
				t.Errorf("the password of a URL is repeated: %v", err)
			}
		})
	}
	t.Run("https_spiffe, to the same ID", func(t *testing.T) {
		second := newEndpoint(t, ca.leaf(t, endpointID), serving(doc))
		first := newEndpoint(t, ca.leaf(t, endpointID), to(second.URL))
		_, err := get(t, Relation{Profile: SPIFFE, EndpointID: endpointID, URL: first.URL}, b)
		must(t, err)
	})
	t.Run("https_spiffe, to another ID", func(t *testing.T) {
		second := newEndpoint(t, ca.leaf(t, "spiffe://b.example.org/other"), serving(doc))
		first := newEndpoint(t, ca.leaf(t, endpointID), to(second.URL))
		_, err := get(t, Relation{Profile: SPIFFE, EndpointID: endpointID, URL: first.URL}, b)
		wantCheck(t, err, "endpoint_certificate")
	})
}

func TestSettingsThatCannotBeAreRefusedByTheirCheck(t *testing.T) {
	web := newAuthority(t, "")
	good := Relation{TrustDomain: theirs.Name(), URL: "https://b.example.org/bundle", Profile: Web}
	spiffe := Relation{TrustDomain: theirs.Name(), URL: "https://b.example.org/bundle", Profile: SPIFFE, EndpointID: endpointID}
	for _, r := range []Relation{good, spiffe} {
		_, err := r.check(ours)
		must(t, err)
	}
	simulated := spiffeid.RequireTrustDomainFromString("simulated.a.example.org")
	for name, c := range map[string]struct {
		change func(r *Relation)
		from   Relation
		check  string
	}{
		"no name":                    {func(r *Relation) { r.TrustDomain = "" }, good, "federation_trust_domain"},
		"a name with a scheme":       {func(r *Relation) { r.TrustDomain = "spiffe://b.example.org" }, good, "federation_trust_domain"},
		"a name in capitals":         {func(r *Relation) { r.TrustDomain = "B.example.org" }, good, "federation_trust_domain"},
		"our own name":               {func(r *Relation) { r.TrustDomain = ours.Name() }, good, "federation_trust_domain"},
		"simulated hardware":         {func(r *Relation) { r.TrustDomain = simulated.Name() }, good, "federation_kind"},
		"a URL without a profile":    {func(r *Relation) { r.Profile = "" }, good, "federation_profile"},
		"an unknown profile":         {func(r *Relation) { r.Profile = "http" }, good, "federation_profile"},
		"an ID for https_web":        {func(r *Relation) { r.EndpointID = endpointID }, good, "federation_profile"},
		"no ID for https_spiffe":     {func(r *Relation) { r.EndpointID = "" }, spiffe, "federation_profile"},
		"web roots for https_spiffe": {func(r *Relation) { r.WebRoots = web.pem() }, spiffe, "federation_profile"},
		"no URL":                     {func(r *Relation) { r.URL = "" }, good, "endpoint_url"},
		"plain HTTP":                 {func(r *Relation) { r.URL = "http://b.example.org/" }, good, "endpoint_url"},
		"a URL with a user":          {func(r *Relation) { r.URL = "https://user:secret@b.example.org/" }, good, "endpoint_url"},
		"a URL without a host":       {func(r *Relation) { r.URL = "https:///bundle" }, good, "endpoint_url"},
		"a URL with a port alone":    {func(r *Relation) { r.URL = "https://:443/bundle" }, good, "endpoint_url"},
		"a URL with a fragment":      {func(r *Relation) { r.URL = "https://b.example.org/#x" }, good, "endpoint_url"},
		"a long URL":                 {func(r *Relation) { r.URL = "https://b.example.org/" + strings.Repeat("a", 2048) }, good, "endpoint_url"},
		"a URL that is not UTF-8":    {func(r *Relation) { r.URL = "https://b.example.org/\xff" }, good, "endpoint_url"},
		"a broken URL":               {func(r *Relation) { r.URL = "https://b.example.org/%zz" }, good, "endpoint_url"},
		"an ID without a path":       {func(r *Relation) { r.EndpointID = "spiffe://b.example.org" }, spiffe, "endpoint_id"},
		"an ID that is none":         {func(r *Relation) { r.EndpointID = "https://b.example.org/x" }, spiffe, "endpoint_id"},
		"an ID of our own":           {func(r *Relation) { r.EndpointID = "spiffe://a.example.org/x" }, spiffe, "endpoint_id"},
		"web roots that are garbage": {func(r *Relation) { r.WebRoots = []byte("x") }, good, "web_roots"},
		"web roots with a key": {func(r *Relation) {
			r.WebRoots = []byte("-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n")
		}, good, "web_roots"},
		"web roots without an end": {func(r *Relation) { r.WebRoots = append(web.pem(), make([]byte, maxWebRoots)...) }, good, "web_roots"},
	} {
		r := c.from
		c.change(&r)
		_, err := r.check(ours)
		if got := attest.CheckOf(err); got != c.check {
			t.Errorf("%s: check %q (%v), want %q", name, got, err, c.check)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: a password is repeated: %v", name, err)
		}
	}
	// Simulated workloads may trust whom they like: nobody trusts them.
	for _, name := range []string{"simulated.b.example.org", "b.example.org"} {
		r := good
		r.TrustDomain = name
		if _, err := r.check(simulated); err != nil {
			t.Errorf("%s from a simulated trust domain: %v", name, err)
		}
	}
}
