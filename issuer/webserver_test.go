package issuer_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	gofederation "github.com/spiffe/go-spiffe/v2/federation"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/issuer/config"
	"github.com/assay-project/assay/issuer/federation"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
	"github.com/assay-project/assay/issuer/store"
)

// public serves everything that the world may read.
func public(c *config.Config) {
	c.Web.Listen, c.Web.PlainHTTP, c.Federation.SPIFFEListen = "127.0.0.1:0", true, "127.0.0.1:0"
	c.JWT.Issuer = "https://oidc.example.org"
}

// read reads a public document.
func (o *office) read(path string) (*http.Response, []byte) {
	o.t.Helper()
	r, err := http.Get("http://" + o.webAt + path) //nolint:noctx // a test's
	must(o.t, err)
	defer func() { _ = r.Body.Close() }()
	body, err := io.ReadAll(r.Body)
	must(o.t, err)
	return r, body
}

func TestTheWorldReadsWhatIsPublicAndNothingElse(t *testing.T) {
	o := open(t, public)
	r, doc := o.read("/bundle")
	td := spiffeid.RequireTrustDomainFromString(trustDomain)
	b, err := spiffebundle.Parse(td, doc)
	must(t, err)
	if !b.Equal(o.ca.Bundle()) || r.Header.Get("Content-Type") != "application/json" || r.Header.Get("ETag") == "" || r.Header.Get("Cache-Control") != "public, max-age=60" {
		t.Errorf("/bundle is another bundle, or has other headers: %v", r.Header)
	}
	_, doc = o.read("/verifier-keys")
	if !bytes.Equal(doc, o.ca.VerifierKeysDocument()) {
		t.Error("/verifier-keys is another document")
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if r, _ := o.read("/deny-list"); r.StatusCode == http.StatusOK {
			break
		} else if time.Now().After(end) {
			t.Fatalf("there is no deny-list: %s", r.Status)
		}
	}
	if r, doc = o.read("/deny-list"); r.Header.Get("Cache-Control") != "no-cache" || len(doc) == 0 {
		t.Errorf("/deny-list: %v", r.Header)
	}
	var discovery struct {
		Issuer string `json:"issuer"`
		JWKS   string `json:"jwks_uri"`
	}
	_, doc = o.read("/.well-known/openid-configuration")
	must(t, json.Unmarshal(doc, &discovery))
	if discovery.Issuer != "https://oidc.example.org" || discovery.JWKS != "https://oidc.example.org/keys" {
		t.Errorf("discovery: %+v", discovery)
	}
	_, doc = o.read("/keys")
	var set struct {
		Keys []struct {
			Kid string `json:"kid"`
		} `json:"keys"`
	}
	must(t, json.Unmarshal(doc, &set))
	if want := slices.Sorted(maps.Keys(o.ca.Bundle().JWTAuthorities())); len(set.Keys) != len(want) || len(want) == 0 || set.Keys[0].Kid != want[0] {
		t.Errorf("/keys has %v, want %v", set.Keys, want)
	}
	for _, path := range []string{"/", "/metrics", "/live", "/ready", "/bundle/", "/.well-known/", "/admin"} {
		if r, body := o.read(path); r.StatusCode != http.StatusNotFound || len(body) > 20 {
			t.Errorf("%s: %s %q", path, r.Status, body)
		}
	}

	// By https_spiffe: the bundle alone, under an SVID of the bundle endpoint.
	id := spiffeid.RequireFromPath(td, "/assay/bundle")
	got, err := gofederation.FetchBundle(t.Context(), td, "https://"+o.bundleAt+"/bundle", gofederation.WithSPIFFEAuth(b, id))
	must(t, err)
	if !got.Equal(b) {
		t.Error("https_spiffe serves another bundle")
	}
	_, err = gofederation.FetchBundle(t.Context(), td, "https://"+o.bundleAt+"/bundle", gofederation.WithSPIFFEAuth(b, spiffeid.RequireFromPath(td, "/payments/api")))
	if err == nil {
		t.Error("the bundle endpoint passes for a workload")
	}
	roots := x509.NewCertPool()
	for _, c := range b.X509Authorities() {
		roots.AddCert(c)
	}
	c, err := tls.Dial("tcp", o.bundleAt, &tls.Config{InsecureSkipVerify: true})
	must(t, err)
	defer func() { _ = c.Close() }()
	leaf := c.ConnectionState().PeerCertificates[0]
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != id.String() || len(leaf.DNSNames)+len(leaf.IPAddresses) != 0 {
		t.Errorf("the endpoint's certificate is for %v %v", leaf.URIs, leaf.DNSNames)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
		t.Errorf("the endpoint's certificate: %v", err)
	}
}

// Relying parties append to the issuer, whatever path it has; a proxy may take that
// off.
func TestAnIssuerWithAPathHasItsDocumentsThere(t *testing.T) {
	o := open(t, public, func(c *config.Config) { c.JWT.Issuer = "https://oidc.example.org/td/prod" })
	for _, under := range []string{"/td/prod", ""} {
		r, doc := o.read(under + "/.well-known/openid-configuration")
		var discovery struct {
			Issuer string `json:"issuer"`
			JWKS   string `json:"jwks_uri"`
		}
		if r.StatusCode != http.StatusOK {
			t.Fatalf("under %q: %s", under, r.Status)
		}
		must(t, json.Unmarshal(doc, &discovery))
		if discovery.Issuer != o.cfg.JWT.Issuer || discovery.JWKS != o.cfg.JWT.Issuer+"/keys" {
			t.Errorf("discovery: %+v", discovery)
		}
		if r, keys := o.read(under + "/keys"); r.StatusCode != http.StatusOK || !bytes.Contains(keys, []byte(`"keys":[{`)) {
			t.Errorf("under %q: %s %s", under, r.Status, keys)
		}
	}
	for _, path := range []string{"/td/prod", "/td/prod/", "/td/keys", "/td/prod/bundle", "/td/prod//keys"} {
		if r, _ := o.read(path); r.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %s", path, r.Status)
		}
	}
}

func TestAnOperatorIsToldWhatCloudsDoNotTakeOfAnIssuer(t *testing.T) {
	for issuer, want := range map[string]bool{"https://oidc.example.org": false, "https://oidc.example.org:8443/a": true} {
		o := open(t, func(c *config.Config) { c.JWT.Issuer = issuer })
		st, err := o.admin().Status(t.Context(), &assayv1.StatusRequest{})
		must(t, err)
		if got := slices.Contains(st.GetWarnings(), "jwt.issuer has a port: AWS takes none"); got != want {
			t.Errorf("%s: warnings %q", issuer, st.GetWarnings())
		}
	}
}

// What a peer got a minute ago must get it what comes next, whatever became of the
// authority since.
func TestAPeerByHTTPSSPIFFESurvivesAForcedRotation(t *testing.T) {
	o := open(t, public)
	td := spiffeid.RequireTrustDomainFromString(trustDomain)
	id := spiffeid.RequireFromPath(td, "/assay/bundle")
	held := o.ca.Bundle()
	_, err := o.ca.Taint(t.Context(), store.X509, o.ca.Status().AuthorityID, "stolen", "test", true)
	must(t, err)
	next, err := gofederation.FetchBundle(t.Context(), td, "https://"+o.bundleAt+"/bundle", gofederation.WithSPIFFEAuth(held, id))
	must(t, err)
	if len(next.X509Authorities()) != 2 {
		t.Errorf("the peer knows %d authorities, want the tainted one and its successor", len(next.X509Authorities()))
	}
}

func TestWithoutAnIssuerURLThereIsNoDiscovery(t *testing.T) {
	o := open(t, public, func(c *config.Config) { c.JWT.Issuer = "" })
	for _, path := range []string{"/.well-known/openid-configuration", "/keys"} {
		if r, _ := o.read(path); r.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %s", path, r.Status)
		}
	}
}

// foreignDocument is a bundle document of one JWT authority, with a sequence number.
func foreignDocument(sequence string) []byte {
	return []byte(`{"spiffe_sequence":` + sequence + `,"keys":[{"kty":"EC","use":"jwt-svid","kid":"k","crv":"P-256",
		"x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}`)
}

func TestAForeignBundleIsPushedToWhoWatches(t *testing.T) {
	o := open(t)
	holder := o.boot(o.connect())
	w, err := o.watch(holder.certificate())
	must(t, err)
	admin := assayv1.NewFederationsClient(o.adminConnection())
	next := func() *assayv1.TrustBundle {
		t.Helper()
		for {
			e, err := w.Recv()
			must(t, err)
			if e.GetBundle() != nil {
				return e.GetBundle()
			}
		}
	}
	last := uint64(0)
	grows := func(b *assayv1.TrustBundle) {
		t.Helper()
		if b.GetRevision() <= last {
			t.Errorf("revision %d after %d", b.GetRevision(), last)
		}
		last = b.GetRevision()
	}
	set := func(sequence string) {
		t.Helper()
		_, err := admin.SetFederation(t.Context(), &assayv1.SetFederationRequest{Federation: &assayv1.Federation{TrustDomain: "b.example.org", Bundle: foreignDocument(sequence)}})
		must(t, err)
	}
	until := func(holds func(*assayv1.TrustBundle) bool) *assayv1.TrustBundle {
		t.Helper()
		for range 5 {
			if b := next(); holds(b) {
				return b
			}
		}
		t.Fatal("the bundle that was expected is not pushed")
		return nil
	}
	set("3")
	b := until(func(b *assayv1.TrustBundle) bool { return len(b.GetFederated()) == 1 })
	grows(b)
	if f := b.GetFederated()[0]; f.GetTrustDomain() != "b.example.org" || f.GetSequence() != 3 || len(f.GetX509Authorities()) != 0 || !bytes.Contains(f.GetJwtAuthorities(), []byte(`"kid":"k"`)) {
		t.Errorf("pushed %v", f)
	}
	if len(b.GetX509Authorities()) != 1 || len(b.GetJwtAuthorities()) == 0 || bytes.Contains(b.GetJwtAuthorities(), []byte(`"kid":"k"`)) {
		t.Error("our own authorities are others beside a foreign bundle")
	}
	set("4")
	grows(until(func(b *assayv1.TrustBundle) bool {
		return len(b.GetFederated()) == 1 && b.GetFederated()[0].GetSequence() == 4
	}))
	_, err = admin.DeleteFederation(t.Context(), &assayv1.DeleteFederationRequest{TrustDomain: "b.example.org"})
	must(t, err)
	grows(until(func(b *assayv1.TrustBundle) bool { return len(b.GetFederated()) == 0 }))
}

func TestFederationsAreAdministeredWithReasons(t *testing.T) {
	o := open(t)
	admin := assayv1.NewFederationsClient(o.adminConnection())
	set := func(f *assayv1.Federation) error {
		_, err := admin.SetFederation(t.Context(), &assayv1.SetFederationRequest{Federation: f})
		return err
	}
	_, refreshed := admin.RefreshFederation(t.Context(), &assayv1.RefreshFederationRequest{TrustDomain: "b.example.org"})
	_, deleted := admin.DeleteFederation(t.Context(), &assayv1.DeleteFederationRequest{TrustDomain: "b.example.org"})
	for name, c := range map[string]struct {
		err  error
		code codes.Code
	}{
		"nothing":             {set(nil), codes.InvalidArgument},
		"ourselves":           {set(&assayv1.Federation{TrustDomain: trustDomain, Bundle: foreignDocument("1")}), codes.InvalidArgument},
		"no way to a bundle":  {set(&assayv1.Federation{TrustDomain: "b.example.org"}), codes.InvalidArgument},
		"a broken bundle":     {set(&assayv1.Federation{TrustDomain: "b.example.org", Bundle: []byte("{}")}), codes.InvalidArgument},
		"refreshing nothing":  {refreshed, codes.NotFound},
		"deleting nothing":    {deleted, codes.NotFound},
		"a new one, by hand":  {set(&assayv1.Federation{TrustDomain: "b.example.org", Bundle: foreignDocument("1")}), codes.OK},
		"another, by the web": {set(&assayv1.Federation{TrustDomain: "c.example.org", Url: "https://127.0.0.1:1/", Profile: string(federation.Web)}), codes.OK},
	} {
		if got := status.Code(c.err); got != c.code {
			t.Errorf("%s: %v, want %s", name, c.err, c.code)
		}
	}
	if _, err := admin.RefreshFederation(t.Context(), &assayv1.RefreshFederationRequest{TrustDomain: "b.example.org"}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("refreshing one by hand: %v", err)
	}
	if _, err := admin.RefreshFederation(t.Context(), &assayv1.RefreshFederationRequest{TrustDomain: "c.example.org"}); status.Code(err) != codes.Unavailable {
		t.Errorf("refreshing one that is away: %v", err)
	}
	r, err := admin.ListFederations(t.Context(), &assayv1.ListFederationsRequest{})
	must(t, err)
	if n := len(r.GetFederations()); n != 2 || r.GetFederations()[1].GetError() == "" || r.GetFederations()[0].GetError() != "" {
		t.Errorf("listed: %v", r)
	}
	if o.gauge("assay_federations") != 2 || o.gauge("assay_federations_in_trouble") != 1 {
		t.Error("the gauges say something else")
	}
	st, err := o.admin().Status(t.Context(), &assayv1.StatusRequest{})
	must(t, err)
	if !slices.ContainsFunc(st.GetWarnings(), func(w string) bool {
		return contains(w, "the bundle of c.example.org cannot be fetched: endpoint_unreachable")
	}) {
		t.Errorf("warnings: %q", st.GetWarnings())
	}
}
