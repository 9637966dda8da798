package svid_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"math"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/svid"
	"github.com/assay-project/assay/svid/svidtest"
)

// listKeys makes documents of keys, and lists, of one verifier root.
type listKeys struct {
	*testing.T
	td   spiffeid.TrustDomain
	root *ecdsa.PrivateKey
}

func (l listKeys) document(sequence uint64, next time.Time, keys ...*ecdsa.PrivateKey) []byte {
	l.Helper()
	v := &svid.VerifierKeys{TrustDomain: l.td, Sequence: sequence, IssuedAt: now.Add(-48 * time.Hour), NextUpdate: next}
	for _, k := range keys {
		v.Keys = append(v.Keys, svid.VerifierKey{Key: &k.PublicKey, NotBefore: now.Add(-240 * time.Hour), NotAfter: now.Add(240 * time.Hour)})
	}
	doc, err := svid.SignDenyListKeys(v, l.root)
	if err != nil {
		l.Fatal(err)
	}
	return doc
}

func (l listKeys) list(sequence uint64, next time.Time, key *ecdsa.PrivateKey, keys []byte) []byte {
	l.Helper()
	d := svid.Denials{TrustDomain: l.td, Sequence: sequence, IssuedAt: now.Add(-time.Minute), NextUpdate: next, Serials: [][svid.SerialSize]byte{{1}}}
	doc, err := d.Sign(key, keys)
	if err != nil {
		l.Fatal(err)
	}
	return doc
}

// The keys of deny-lists are online. One that is stolen is left out of the next
// document of keys; the one before may still be current, and is public.
func TestAStolenKeyOfDenyListsIsOfNoUseOnceItIsWithdrawn(t *testing.T) {
	l := listKeys{t, spiffeid.RequireTrustDomainFromString("example.test"), svidtest.NewKey(t)}
	stolen, fresh := svidtest.NewKey(t), svidtest.NewKey(t)
	before := l.document(1, now.Add(2*time.Hour), stolen)
	after := l.document(2, now.Add(48*time.Hour), fresh)
	forever := time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)
	thiefs := l.list(math.MaxUint64, forever, stolen, before)
	honest := l.list(7, now.Add(time.Hour), fresh, after)
	follower := func() *svid.DenyList {
		d, err := svid.NewDenyList(l.td, &l.root.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}

	informed := follower()
	if err := informed.Update(honest, now); err != nil {
		t.Fatal(err)
	}
	wantError(t, informed.Update(thiefs, now), attest.Stale, "deny_list_keys_rollback")

	// Who was shown the thief's list first comes back with the next honest one, and
	// is not held for longer than the document of keys stands.
	fooled := follower()
	if err := fooled.Update(thiefs, now); err != nil {
		t.Fatal(err)
	}
	_, err := fooled.Denials(now.Add(2*time.Hour - time.Second))
	if err != nil {
		t.Fatal(err)
	}
	_, err = fooled.Denials(now.Add(2 * time.Hour))
	wantError(t, err, attest.Stale, "deny_list_expired")
	if err := fooled.Update(honest, now); err != nil {
		t.Errorf("the honest list: %v", err)
	}
	wantError(t, fooled.Update(thiefs, now), attest.Stale, "deny_list_keys_rollback")

	// While its key stands, nobody brings back an older list, by a newer document either.
	wantError(t, fooled.Update(l.list(6, now.Add(time.Hour), fresh, l.document(3, now.Add(48*time.Hour), fresh)), now), attest.Stale, "deny_list_rollback")
}

func TestOfTwoDenyListsOfATrustDomainEachIsAsked(t *testing.T) {
	a := authority(t)
	s := a.Mint(t, "/orders")
	one, two := followed(t, a), followed(t, a)
	var serial [svid.SerialSize]byte
	s.Certificates[0].SerialNumber.FillBytes(serial[:])
	for _, err := range []error{
		one.Update(a.DenyList(t, svid.Denials{}), now),
		two.Update(a.DenyList(t, svid.Denials{Serials: [][svid.SerialSize]byte{serial}}), now),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := svid.Verify(s.Certificates, a.Source(), now, svid.NotDenied(one, two))
	wantError(t, err, attest.Denied, "denied")
}

func TestATokenIsBelievedNoLongerThanTheVerifierKeysAre(t *testing.T) {
	a := authority(t)
	w := &world{now: now, bundle: a.Bundle(), keys: a.VerifierKeys()}
	g := &svid.Gate{Source: w, Tokens: a.JWTBundle(t), Audience: "inventory", Now: w.Now}
	token := []string{"Bearer " + a.MintJWT(t, "/orders", "inventory")}
	who, err := g.Admit(nil, token)
	if err != nil {
		t.Fatal(err)
	}
	w.set(func(w *world) { w.keys.NextUpdate = now })
	_, err = g.Admit(nil, token)
	wantError(t, err, attest.Stale, "verifier_keys_expired")
	wantError(t, g.Again(who), attest.Stale, "verifier_keys_expired")
}

func TestKeysThatWereNotFetchedYetAreUnavailable(t *testing.T) {
	a := authority(t)
	ring, err := svid.NewKeyring(a.TrustDomain, a.VerifierRoot())
	if err != nil {
		t.Fatal(err)
	}
	s := a.Mint(t, "/orders")
	src := svid.NewLiveSource(a.Bundle(), svid.Keyrings{ring})
	_, err = svid.Verify(s.Certificates, src, now)
	wantError(t, err, attest.Unavailable, "verifier_keys")
	g := &svid.Gate{Source: src, Tokens: a.JWTBundle(t), Audience: "inventory", Now: clock}
	_, err = g.Admit(nil, []string{"Bearer " + a.MintJWT(t, "/orders", "inventory")})
	wantError(t, err, attest.Unavailable, "verifier_keys")

	// The follower reads at once, and needs no log.
	file := filepath.Join(t.TempDir(), "verifier-keys")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := ring.Run(ctx, file, time.Hour, nil); err != nil || ring.Sequence() != 0 {
		t.Errorf("without the file: %v", err)
	}
	if err := os.WriteFile(file, a.Document(t), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := ring.Run(ctx, file, time.Hour, nil); err != nil || ring.Sequence() == 0 {
		t.Errorf("with it: %v, sequence %d", err, ring.Sequence())
	}

	// A program that starts again begins where it ended.
	again, err := svid.NewKeyring(a.TrustDomain, a.VerifierRoot())
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Update(ring.Document(), now); err != nil || again.Sequence() != ring.Sequence() {
		t.Errorf("after a restart: %v", err)
	}
}

func TestALeafSpellsItsIDAsItIs(t *testing.T) {
	a := authority(t)
	for _, text := range []string{
		"SPIFFE://example.test/orders", "spiffe://example.test/orders#", "spiffe://example.test/orders?", "spiffe://example.test/orders/",
		"spiffe://example.test//orders", "spiffe://EXAMPLE.test/orders", "spiffe://example.test/ord%65rs", "spiffe://example.test:443/orders",
		"spiffe://example.test/" + strings.Repeat("a", 2048),
	} {
		s := a.Mint(t, "/orders", svidtest.Template(func(c *x509.Certificate) { c.URIs = []*url.URL{{Opaque: text}} }))
		if _, err := svid.Verify(s.Certificates, a.Source(), now); attest.CheckOf(err) != "leaf_id" {
			t.Errorf("%.60s: %v", text, err)
		}
	}
	if _, err := svid.Verify(a.Mint(t, "/orders").Certificates, a.Source(), now); err != nil {
		t.Errorf("as it is: %v", err)
	}
}
