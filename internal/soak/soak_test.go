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
	if report.SVIDs < 8 || report.Checks < 100 || len(report.Entries) != 2 || len(report.Events) == 0 {
		t.Errorf("it saw too little to prove anything:\n%s%v", out.String(), report)
	}
}

func TestTheSameSeedDoesTheSame(t *testing.T) {
	plan := func(seed uint64) (out []string) {
		r := &run{Options: Options{Seed: seed, Duration: 10 * time.Minute}, servers: [2]*server{{name: "a"}, {name: "b"}}}
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
	for _, want := range []string{"kill -9 server a", "kill -9 server b", "stop server", "kill -9 the database", "push a policy", "rotate the X.509", "rotate the verifier key"} {
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
