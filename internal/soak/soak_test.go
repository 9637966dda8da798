package soak

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"math/big"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/issuer/store/postgres/postgrestest"
	"github.com/assay-project/assay/svid"
)

// The soak of `make soak`, shorter and with fewer agents.
func TestTwoServersSurviveAShortStorm(t *testing.T) {
	if testing.Short() {
		t.Skip("a minute and a half")
	}
	if _, err := postgrestest.Available(); err != nil {
		postgrestest.Skip(t, err)
	}
	var out bytes.Buffer
	report, err := Run(t.Context(), Options{Seed: 20261122, Duration: 40 * time.Second, Agents: 8, Module: "../..", Out: &out})
	if errors.Is(err, postgrestest.ErrMissing) {
		postgrestest.Skip(t, err)
	}
	if err != nil {
		t.Fatalf("%v\n%s%v", err, out.String(), report)
	}
	for _, want := range []string{"rotated: jwt", "rotated: deny-list", "banned and unbanned", "tainted by force"} {
		if report.Events[want] == 0 {
			t.Errorf("it never came to %q:\n%s%v", want, out.String(), report)
		}
	}
	if report.Tokens < 20 || report.Minters < 2 || report.Lists < 20 {
		t.Errorf("tokens and deny-lists: it saw too little to prove anything:\n%s%v", out.String(), report)
	}
	if report.SVIDs < 8 || report.Checks < 100 || len(report.Entries) != 2 || len(report.Events) == 0 {
		t.Errorf("it saw too little to prove anything:\n%s%v", out.String(), report)
	}
}

func TestTheSameSeedDoesTheSame(t *testing.T) {
	plan := func(seed uint64) (out []string) {
		r := &run{Options: Options{Seed: seed, Duration: 10 * time.Minute, Agents: 50}, servers: [2]*server{{name: "a"}, {name: "b"}}}
		for _, e := range r.plan() {
			out = append(out, e.at.String()+" "+e.name)
		}
		return out
	}
	one := plan(1)
	if !slices.Equal(one, plan(1)) || slices.Equal(one, plan(2)) {
		t.Error("what happens is not drawn from the seed")
	}
	all := strings.Join(one, "\n")
	for _, want := range []string{"kill -9 server a", "kill -9 server b", "stop server", "kill -9 the database", "push a policy", "rotate the X.509", "rotate the verifier key",
		"rotate the JWT key", "rotate the deny-list key", "ban agent", "taint --force"} {
		if !strings.Contains(all, want) {
			t.Errorf("ten minutes of seed 1 have no %q", want)
		}
	}
}

// What does not verify is seen: by the oldest bundle, and by the newest.
func TestAnSVIDThatARelyingPartyCannotVerifyIsAViolation(t *testing.T) {
	td := spiffeid.RequireTrustDomainFromString(trustDomain)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, URIs: []*url.URL{{Scheme: "spiffe", Host: trustDomain}}, SubjectKeyId: []byte{1, 2, 3, 4},
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: now.Add(-time.Minute), NotAfter: now.Add(time.Minute), KeyUsage: x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true, URIs: []*url.URL{{Scheme: "spiffe", Host: trustDomain, Path: "/soak"}},
	}
	sign := func(c *x509.Certificate) *x509.Certificate {
		der, err := x509.CreateCertificate(rand.Reader, c, root, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		out, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	ca, shown := sign(root), sign(leaf)
	with, without := x509bundle.FromX509Authorities(td, []*x509.Certificate{ca}), x509bundle.New(td)
	for name, tt := range map[string]struct {
		bundle *x509bundle.Bundle
		want   string
	}{
		"an authority that nobody was told of":  {without, "crypto/x509"},
		"an SVID without an attestation result": {with, "svid:"},
	} {
		r := &run{Options: Options{Out: &bytes.Buffer{}}, began: now, report: &Report{}, serials: map[string]bool{}, signers: map[string]bool{}, told: map[string]bool{}}
		r.bundles = []snapshot{{at: now.Add(-time.Second), bundle: tt.bundle, source: svid.NewSource(x509bundle.NewSet(tt.bundle))}}
		r.met(0, []*x509.Certificate{shown}, now)
		if len(r.report.Violations) == 0 || !strings.Contains(r.report.Violations[0], tt.want) {
			t.Errorf("%s: %v, want a violation that says %q", name, r.report.Violations, tt.want)
		}
	}
	// Older bundles than a relying party may hold are not asked.
	r := &run{bundles: []snapshot{{at: now.Add(-propagation)}, {at: now.Add(-relyingAge + time.Second), from: "old"}, {at: now, from: "new"}}}
	got := r.relyingParties(now)
	if len(got) != 2 || got[0].from != "old" || got[1].from != "new" {
		t.Errorf("%+v", got)
	}
}

// A taint by force excuses who lacks the new authority, for as long as was said, and
// nobody else.
func TestATaintByForceExcusesOnlyWhoLacksTheAuthority(t *testing.T) {
	now := time.Now()
	td := spiffeid.RequireTrustDomainFromString(trustDomain)
	leaf := &x509.Certificate{SerialNumber: big.NewInt(1), AuthorityKeyId: []byte{7}, NotBefore: now.Add(-backdate)}
	without, with := x509bundle.New(td), x509bundle.FromX509Authorities(td, []*x509.Certificate{{Raw: []byte{1}, SubjectKeyId: []byte{7}}})
	r := &run{Options: Options{Out: &bytes.Buffer{}}, began: now, report: &Report{}, told: map[string]bool{}, condemned: map[string]time.Time{}}
	if r.excused(snapshot{bundle: without}, leaf, now) {
		t.Error("excused, and nobody tainted anything")
	}
	r.relax(now.Add(time.Second))
	if !r.excused(snapshot{bundle: without}, leaf, now) || r.report.Excused != 1 {
		t.Error("a bundle of before is not excused")
	}
	if r.excused(snapshot{bundle: with}, leaf, now) {
		t.Error("excused, though the authority is in the bundle")
	}
	if r.excused(snapshot{bundle: without}, leaf, now.Add(2*time.Second)) {
		t.Error("excused for ever")
	}
	// What a tainted authority signs afterwards is a violation.
	r.condemned["07"] = now.Add(time.Second)
	r.late(1, leaf)
	if len(r.report.Violations) != 0 {
		t.Errorf("what it signed before: %v", r.report.Violations)
	}
	r.condemned["07"] = now.Add(-time.Second)
	r.late(1, leaf)
	if len(r.report.Violations) != 1 || !strings.Contains(r.report.Violations[0], "tainted") {
		t.Errorf("what it signs after: %v", r.report.Violations)
	}
}

// A list that names somebody whom nobody banned is a violation, and a token that does
// not verify is one.
func TestWhoIsDeniedForNothingAndATokenOfNobodyAreViolations(t *testing.T) {
	td := spiffeid.RequireTrustDomainFromString(trustDomain)
	now := time.Now()
	root, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	second := now.Truncate(time.Second)
	keys, err := svid.SignDenyListKeys(&svid.VerifierKeys{
		TrustDomain: td, Sequence: 1, IssuedAt: second, NextUpdate: second.Add(time.Hour),
		Keys: []svid.VerifierKey{{Key: &key.PublicKey, NotBefore: second.Add(-time.Minute), NotAfter: second.Add(time.Hour)}},
	}, root)
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{SerialNumber: new(big.Int).SetBytes(bytes.Repeat([]byte{0x11}, 16))}
	d := &svid.Denials{TrustDomain: td, Sequence: 1, IssuedAt: second, NextUpdate: second.Add(time.Hour), Serials: [][svid.SerialSize]byte{[16]byte(bytes.Repeat([]byte{0x11}, 16))}}
	doc, err := d.Sign(key, keys)
	if err != nil {
		t.Fatal(err)
	}
	list, err := svid.NewDenyList(td, root.Public())
	if err != nil {
		t.Fatal(err)
	}
	if err := list.Update(doc, now); err != nil {
		t.Fatal(err)
	}
	r := &run{Options: Options{Out: &bytes.Buffer{}}, began: now, report: &Report{}, told: map[string]bool{}, minters: map[string]bool{}, servers: [2]*server{{name: "a"}, {name: "b"}}}
	e := &enclave{}
	r.innocent(e, leaf, now)
	if len(r.report.Violations) != 0 {
		t.Errorf("without a list: %v", r.report.Violations)
	}
	r.servers[1].denied.Store(list)
	e.banned.Store(true)
	r.innocent(e, leaf, now)
	if len(r.report.Violations) != 0 {
		t.Errorf("who is banned: %v", r.report.Violations)
	}
	e.banned.Store(false)
	r.innocent(e, leaf, now)
	if len(r.report.Violations) != 1 {
		t.Errorf("who is not: %v", r.report.Violations)
	}
	r.keys = []keySet{{at: now, from: "a", keys: jwtbundle.New(td)}}
	r.shown(1, "e30.e30.AA", now)
	if len(r.report.Violations) != 3 || r.report.Tokens != 0 { // for who has the oldest key set, and the newest
		t.Errorf("a token of nobody: %v", r.report.Violations)
	}
}
