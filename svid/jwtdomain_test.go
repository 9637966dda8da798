package svid_test

import (
	"errors"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/svid"
	"github.com/assay-project/assay/svid/svidtest"
)

// believing is two trust domains that federate: ours attests, the bank's writes into
// its tokens what it likes.
type believing struct {
	ours, bank         *svidtest.Authority
	ourToken, bankWord string
	both               *jwtbundle.Set // as a Workload API has them
	require            []svid.Requirement
}

func newBelieving(t *testing.T) *believing {
	b := &believing{ours: svidtest.New(t, "example.test"), bank: svidtest.New(t, "bank.test")}
	release := svidtest.Digest("release41")
	b.both = jwtbundle.NewSet(b.ours.JWTBundle(t), b.bank.JWTBundle(t))
	b.ourToken = b.ours.MintJWT(t, "/orders", "inventory", svidtest.PCR(0, release))
	b.bankWord = b.bank.MintJWT(t, "/evil", "inventory", svidtest.PCR(0, release))
	b.require = []svid.Requirement{svid.PCR(0, release), svid.Owned(), svid.MinTier(svid.Affirming)}
	return b
}

func wantCheck(t *testing.T, name string, a *svid.Attested, err error, kind attest.Kind, check string) {
	t.Helper()
	switch {
	case check == "" && err != nil:
		t.Errorf("%s: %v", name, err)
	case check != "" && (a != nil || attest.KindOf(err) != kind || attest.CheckOf(err) != check):
		t.Errorf("%s: %v, want %s %s", name, err, kind, check)
	}
}

func TestAFederatedTrustDomainDoesNotVouchForHardware(t *testing.T) {
	b := newBelieving(t)
	bank, ours := spiffeid.RequireTrustDomainFromString("bank.test"), spiffeid.RequireTrustDomainFromString("example.test")
	id := func(s string) svid.Requirement { return svid.ID(spiffeid.RequireFromString(s)) }
	for name, tc := range map[string]struct {
		token   string
		bundles jwtbundle.Source
		says    []svid.Requirement
		kind    attest.Kind
		check   string
	}{
		"nothing says whose, theirs":  {b.bankWord, b.both, nil, attest.Internal, "attestation_domain"},
		"nothing says whose, ours":    {b.ourToken, b.both, nil, attest.Internal, "attestation_domain"},
		"ours is believed":            {b.ourToken, b.both, []svid.Requirement{svid.MemberOf(ours)}, 0, ""},
		"theirs is not":               {b.bankWord, b.both, []svid.Requirement{svid.MemberOf(ours)}, attest.Denied, "member_of"},
		"a member of no trust domain": {b.ourToken, b.both, []svid.Requirement{svid.MemberOf()}, attest.Denied, "member_of"},
		"both are, by name":           {b.bankWord, b.both, []svid.Requirement{svid.MemberOf(ours, bank)}, 0, ""},
		"ours by its ID":              {b.ourToken, b.both, []svid.Requirement{id("spiffe://example.test/orders")}, 0, ""},
		"theirs by our ID":            {b.bankWord, b.both, []svid.Requirement{id("spiffe://example.test/orders")}, attest.Denied, "id"},
		"one bundle is a choice":      {b.ourToken, b.ours.JWTBundle(t), nil, 0, ""},
		"another bundle":              {b.bankWord, b.ours.JWTBundle(t), nil, attest.Untrusted, "token_bundle"},
	} {
		a, err := svid.VerifyJWT(tc.token, tc.bundles, "inventory", time.Now(), append(tc.says, b.require...)...)
		wantCheck(t, name, a, err, tc.kind, tc.check)
		g := svid.Gate{Tokens: tc.bundles, Audience: "inventory", Require: append(tc.says, b.require...)}
		a, err = g.Admit(nil, []string{"Bearer " + tc.token})
		wantCheck(t, name+", at a gate", a, err, tc.kind, tc.check)
	}
}

// onlyKeys answers with one trust domain's keys, whatever it is asked for.
type onlyKeys struct{ keys *svid.VerifierKeys }

func (k onlyKeys) VerifierKeys(spiffeid.TrustDomain) (*svid.VerifierKeys, error) {
	return k.keys, nil
}

func TestVerifierKeysOfAnotherTrustDomainPinNothing(t *testing.T) {
	b := newBelieving(t)
	for name, keys := range map[string]svid.VerifierKeysSource{"ours": onlyKeys{b.ours.VerifierKeys()}, "none at all": onlyKeys{}} {
		g := svid.Gate{Source: svid.NewLiveSource(b.ours.Bundle(), keys), Tokens: b.both, Audience: "inventory", Require: b.require}
		a, err := g.Admit(nil, []string{"Bearer " + b.bankWord})
		wantCheck(t, name, a, err, attest.Untrusted, "attestation_domain")
	}
}

// keysOf is verifier keys that can be withdrawn.
type keysOf map[spiffeid.TrustDomain]*svid.VerifierKeys

func (k keysOf) VerifierKeys(td spiffeid.TrustDomain) (*svid.VerifierKeys, error) {
	if v, ok := k[td]; ok {
		return v, nil
	}
	return nil, errors.New("none")
}

func TestAGateBelievesATokenNoMoreThanACertificate(t *testing.T) {
	b := newBelieving(t)
	bank := spiffeid.RequireTrustDomainFromString("bank.test")
	keys := keysOf{spiffeid.RequireTrustDomainFromString("example.test"): b.ours.VerifierKeys()}
	g := svid.Gate{Source: svid.NewLiveSource(b.ours.Bundle(), keys), Tokens: b.both, Audience: "inventory", Require: b.require}
	ours, err := g.Admit(nil, []string{"Bearer " + b.ourToken})
	wantCheck(t, "ours is pinned", ours, err, 0, "")
	a, err := g.Admit(nil, []string{"Bearer " + b.bankWord})
	wantCheck(t, "theirs is not", a, err, attest.Untrusted, "attestation_domain")
	g.Require = append([]svid.Requirement{svid.MemberOf(bank)}, b.require...)
	a, err = g.Admit(nil, []string{"Bearer " + b.bankWord})
	wantCheck(t, "nor by a name alone", a, err, attest.Untrusted, "attestation_domain")
	keys[bank] = b.bank.VerifierKeys()
	a, err = g.Admit(nil, []string{"Bearer " + b.bankWord})
	wantCheck(t, "pinned", a, err, 0, "")

	// What was believed is not for ever.
	g.Require = b.require
	if err := g.Again(ours); err != nil {
		t.Errorf("again: %v", err)
	}
	clear(keys)
	if err := g.Again(ours); attest.CheckOf(err) != "attestation_domain" {
		t.Errorf("again, without verifier keys: %v", err)
	}
}
