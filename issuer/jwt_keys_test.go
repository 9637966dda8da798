package issuer_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v3/jwk"
	"github.com/lestrrat-go/jwx/v3/jws"

	"github.com/assay-project/assay/issuer/config"
	"github.com/assay-project/assay/issuer/oidc"
	"github.com/assay-project/assay/issuer/oidc/oidctest"
	"github.com/assay-project/assay/issuer/store"
)

// keySet is what a relying party fetches, with its entity tag.
func (o *office) keySet() (jwk.Set, string) {
	o.t.Helper()
	r, body := o.read(oidc.KeysPath)
	if r.StatusCode != http.StatusOK {
		o.t.Fatalf("%s: %s", oidc.KeysPath, r.Status)
	}
	set, err := jwk.Parse(body)
	must(o.t, err)
	return set, r.Header.Get("ETag")
}

// signedBy verifies a token with a key set that was fetched, and nothing else.
func signedBy(set jwk.Set, token string) bool {
	_, err := jws.Verify([]byte(token), jws.WithKeySet(set))
	return err == nil
}

// A relying party that fetched the key set yesterday knows the key of a token of
// today; and one that fetches it today still knows yesterday's.
func TestAKeyIsPublishedLongBeforeItsFirstTokenAndUntilItsLast(t *testing.T) {
	o, own := minting(t, public, func(c *config.Config) { c.Authorities.Propagation = 20 * time.Minute })
	ctx := t.Context()
	mint := func(own identity) string {
		t.Helper()
		r, err := o.mint(shows(own), 0, "reports")
		must(t, err)
		return r.GetToken()
	}
	first := mint(own)
	before, tag := o.keySet()
	if before.Len() != 1 || !signedBy(before, first) {
		t.Fatalf("%d keys", before.Len())
	}

	next, err := o.ca.Prepare(ctx, store.JWT, "test")
	must(t, err)
	yesterday, changed := o.keySet()
	if _, known := yesterday.LookupKeyID(next.KeyID); !known || yesterday.Len() != 2 || changed == tag {
		t.Errorf("a key that is prepared is not in the key set: %d keys", yesterday.Len())
	}
	if signedBy(before, mint(own)) != true {
		t.Error("a key signs that was prepared a moment ago")
	}
	if _, err := o.ca.Activate(ctx, store.JWT, next.ID, "test"); err == nil {
		t.Error("it can be activated before others can know it")
	}

	o.clock.Advance(o.ca.Propagation() + 5*time.Minute)
	_, err = o.ca.Activate(ctx, store.JWT, next.ID, "test")
	must(t, err)
	second := mint(own)
	if signedBy(before, second) || !signedBy(yesterday, second) {
		t.Error("a relying party with yesterday's key set must know the key of today's token")
	}
	today, _ := o.keySet()
	if !signedBy(today, second) {
		t.Error("nor does today's know it")
	}
}

func TestARevokedKeyIsGoneAndATaintedOneSignsNoMore(t *testing.T) {
	o, own := minting(t, public)
	ctx := t.Context()
	r, err := o.mint(shows(own), 0, "reports")
	must(t, err)
	stolen := r.GetToken()
	var id string
	for _, a := range o.ca.Authorities() {
		if a.Use == store.JWT {
			id = a.ID
		}
	}
	_, err = o.ca.Taint(ctx, store.JWT, id, "stolen", "test", true)
	must(t, err)
	r, err = o.mint(shows(own), 0, "reports")
	must(t, err)
	_, err = o.ca.Revoke(ctx, store.JWT, id, "stolen", "test")
	must(t, err)
	set, _ := o.keySet()
	if signedBy(set, stolen) || !signedBy(set, r.GetToken()) {
		t.Errorf("of %d keys, the stolen one still counts, or the new one does not", set.Len())
	}
}

// The documents as the web serves them.
func TestTheWebServesWhatCloudsAskFor(t *testing.T) {
	o, own := minting(t, public)
	r, err := o.mint(shows(own), 0, "sts.amazonaws.com")
	must(t, err)
	got, discovery := o.read(oidc.DiscoveryPath)
	_, jwks := o.read(oidc.KeysPath)
	if got.Header.Get("ETag") == "" || got.Header.Get("Cache-Control") == "" {
		t.Errorf("headers %v", got.Header)
	}
	p, err := oidctest.Parse(oidctest.Output{Issuer: o.cfg.JWT.Issuer, Discovery: discovery, JWKS: jwks, Token: r.GetToken(), Audience: "sts.amazonaws.com"}, o.clock.Now())
	must(t, err)
	for _, c := range oidctest.Constraints() {
		if err := c.Check(p); err != nil {
			t.Errorf("%s: %s: %v (%s)", c.Party, c.Text, err, c.Source)
		}
	}
}
