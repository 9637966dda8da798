package agent

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"github.com/assay-project/assay/attest"
	agentv1 "github.com/assay-project/assay/issuer/issuerpb/assay/agent/v1"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
)

// jwkSet is a set of one key.
func jwkSet(t testing.TB, id string) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: id, Use: "jwt-svid"}}})
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

// foreignBundle is a bundle of another trust domain.
func foreignBundle(t testing.TB, name string) *assayv1.FederatedBundle {
	t.Helper()
	return &assayv1.FederatedBundle{
		TrustDomain: name, X509Authorities: [][]byte{newAuthority(t, name).cert.Raw}, JwtAuthorities: jwkSet(t, "k-"+name), Sequence: 4, RefreshHintSeconds: 300,
	}
}

func ownBundle(t testing.TB, ca *authority, change func(*assayv1.TrustBundle)) *assayv1.TrustBundle {
	t.Helper()
	m := &assayv1.TrustBundle{TrustDomain: testDomain.Name(), X509Authorities: [][]byte{ca.cert.Raw}, Sequence: 1, Revision: 10}
	if change != nil {
		change(m)
	}
	return m
}

func TestForeignBundlesAreServedBesideOursAndNeverMerged(t *testing.T) {
	t.Parallel()
	s := newFaultyServer(t)
	b, c := foreignBundle(t, "b.example.org"), foreignBundle(t, "c.example.org")
	revoked := &assayv1.FederatedBundle{TrustDomain: "revoked.example.org"}
	own := jwkSet(t, "own")
	s.issue = func(m *assayv1.AttestResponse) {
		bundle := m.GetIssued().GetBundle()
		bundle.Federated, bundle.Revision, bundle.JwtAuthorities = []*assayv1.FederatedBundle{b, c, revoked}, 5, own
	}
	s.start()
	a, _ := runAgent(t, s.config(t))
	served(t, a)

	x, err := workloadapi.FetchX509Context(t.Context(), workloadapi.WithAddr("unix://"+a.cfg.Socket))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]byte{testDomain.Name(): s.ca.cert.Raw, "b.example.org": b.GetX509Authorities()[0], "c.example.org": c.GetX509Authorities()[0]}
	check := func(how string, got map[string][]byte) {
		t.Helper()
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s serves other bundles (-want +got):\n%s", how, d)
		}
	}
	got := map[string][]byte{}
	for _, b := range x.Bundles.Bundles() {
		for _, a := range b.X509Authorities() {
			got[b.TrustDomain().Name()] = append(got[b.TrustDomain().Name()], a.Raw...)
		}
	}
	check("FetchX509SVID", got)
	set, err := workloadapi.FetchX509Bundles(t.Context(), workloadapi.WithAddr("unix://"+a.cfg.Socket))
	if err != nil {
		t.Fatal(err)
	}
	got = map[string][]byte{}
	for _, b := range set.Bundles() {
		for _, a := range b.X509Authorities() {
			got[b.TrustDomain().Name()] = append(got[b.TrustDomain().Name()], a.Raw...)
		}
	}
	check("FetchX509Bundles", got)

	tokens, err := workloadapi.FetchJWTBundles(t.Context(), workloadapi.WithAddr("unix://"+a.cfg.Socket))
	if err != nil {
		t.Fatal(err)
	}
	ids := map[string][]string{}
	for _, b := range tokens.Bundles() {
		ids[b.TrustDomain().Name()] = slices.Sorted(maps.Keys(b.JWTAuthorities()))
	}
	if d := cmp.Diff(map[string][]string{testDomain.Name(): {"own"}, "b.example.org": {"k-b.example.org"}, "c.example.org": {"k-c.example.org"}, "revoked.example.org": nil}, ids); d != "" {
		t.Errorf("JWT bundles (-want +got):\n%s", d)
	}

	conn, _ := callAgent(t, a)
	shown, err := agentv1.NewAgentClient(conn).GetIdentities(withHeader(context.Background(), "true"), &agentv1.GetIdentitiesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range shown.GetFederated() {
		names = append(names, f.GetTrustDomain())
	}
	if !slices.Equal(names, []string{"b.example.org", "c.example.org", "revoked.example.org"}) || shown.GetBundle().GetRevision() != 5 || string(shown.GetBundle().GetJwtAuthorities()) != string(own) {
		t.Errorf("assay.agent.v1 shows %v, %v", names, shown.GetBundle())
	}
}

// What only changes in a foreign bundle reaches workloads, and an older view does not.
func TestAForeignBundleThatChangesReachesWorkloads(t *testing.T) {
	t.Parallel()
	s := newFaultyServer(t)
	first, second := foreignBundle(t, "b.example.org"), foreignBundle(t, "b.example.org")
	with := func(revision uint64, f ...*assayv1.FederatedBundle) *assayv1.TrustBundle {
		return ownBundle(t, s.ca, func(m *assayv1.TrustBundle) { m.Revision, m.Federated = revision, f })
	}
	s.issue = func(m *assayv1.AttestResponse) { m.GetIssued().Bundle = with(10, first) }
	s.start()
	a, _ := runAgent(t, s.config(t))
	served(t, a)
	_, client := callAgent(t, a)
	ctx, cancel := context.WithCancel(withHeader(context.Background(), "true"))
	defer cancel()
	stream, err := client.FetchX509Bundles(ctx, &workload.X509BundlesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	next := func(want ...[]byte) {
		t.Helper()
		m, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		got := m.GetBundles()["spiffe://b.example.org"]
		if len(want) == 0 && got == nil || len(want) == 1 && string(got) == string(want[0]) {
			return
		}
		t.Errorf("another bundle of b.example.org than expected: %d bytes", len(got))
	}
	push := func(b *assayv1.TrustBundle) {
		s.events <- &assayv1.WatchEvent{Event: &assayv1.WatchEvent_Bundle{Bundle: b}}
	}
	next(first.GetX509Authorities()[0])
	push(with(11, second))
	next(second.GetX509Authorities()[0])
	push(with(10, first)) // of a server that lags behind
	push(with(12))        // the federation ended
	next()
}

func TestWhichBundleIsNewerIsSaidByRevisionAndSequence(t *testing.T) {
	type n struct{ sequence, revision uint64 }
	for _, c := range []struct {
		held, got    n
		newer, older bool
		why          string
	}{
		{n{1, 5}, n{1, 6}, true, false, "a foreign bundle changed"},
		{n{1, 5}, n{2, 6}, true, false, "an authority changed"},
		{n{1, 5}, n{1, 5}, false, false, "the same"},
		{n{2, 6}, n{1, 5}, false, true, "a server that lags behind"},
		{n{2, 6}, n{1, 9}, false, true, "a server that lags behind in one, and is ahead in the other"},
		{n{1, 9}, n{2, 6}, false, true, "the other way round"},
		{n{1, 0}, n{2, 0}, true, false, "servers of before: an authority changed"},
		{n{2, 0}, n{1, 0}, false, true, "servers of before: one lags behind"},
		{n{2, 0}, n{2, 0}, false, false, "servers of before: the same"},
		{n{2, 0}, n{2, 7}, true, false, "the server was updated"},
		{n{2, 7}, n{2, 0}, false, true, "a server of before beside newer ones"},
		{n{2, 7}, n{3, 0}, true, false, "a server of before knows a newer authority"},
	} {
		held, got := &trustBundle{sequence: c.held.sequence, revision: c.held.revision}, &trustBundle{sequence: c.got.sequence, revision: c.got.revision}
		if got.newer(held) != c.newer || got.older(held) != c.older {
			t.Errorf("%s: after %v, %v is newer: %t, older: %t", c.why, c.held, c.got, got.newer(held), got.older(held))
		}
	}
	if first := new(trustBundle); !first.newer(nil) || first.older(nil) {
		t.Error("the first bundle is not taken")
	}
}

func TestForeignBundlesThatCannotBeAreRefused(t *testing.T) {
	ca := newAuthority(t, "ca")
	many := make([]*assayv1.FederatedBundle, maxFederated+1)
	for i := range many {
		many[i] = &assayv1.FederatedBundle{TrustDomain: fmt.Sprintf("d%d.example.org", i)}
	}
	b := foreignBundle(t, "b.example.org")
	for name, list := range map[string][]*assayv1.FederatedBundle{
		"our own":        {foreignBundle(t, testDomain.Name())},
		"one twice":      {b, foreignBundle(t, "b.example.org")},
		"without a name": {{}},
		"in capitals":    {foreignBundle(t, "B.example.org")},
		"with a scheme":  {foreignBundle(t, "spiffe://b.example.org")},
		"too many":       many,
	} {
		_, err := checkBundle(ownBundle(t, ca, func(m *assayv1.TrustBundle) { m.Federated = list }), testDomain)
		t.Run(name, func(t *testing.T) { wantCheck(t, err, attest.Untrusted, "bundle_federated") })
	}
	if _, err := checkBundle(ownBundle(t, ca, func(m *assayv1.TrustBundle) { m.Federated = many[1:] }), testDomain); err != nil {
		t.Errorf("as many as there may be: %v", err)
	}
}

// A foreign trust domain's data never keeps an agent from its own identity.
func TestAForeignBundleThatCannotBeReadIsLeftOutAlone(t *testing.T) {
	ca := newAuthority(t, "ca")
	leaf := newAuthority(t, "x").serverLeaf(t, nil)
	good := foreignBundle(t, "b.example.org")
	authorities := make([][]byte, maxAuthorities+1)
	for i := range authorities {
		authorities[i] = good.GetX509Authorities()[0]
	}
	for name, spoil := range map[string]func(*assayv1.FederatedBundle){
		"garbage for an authority": func(f *assayv1.FederatedBundle) { f.X509Authorities = [][]byte{{1}} },
		"a leaf for an authority":  func(f *assayv1.FederatedBundle) { f.X509Authorities = [][]byte{leaf.Certificate[0]} },
		"too many authorities":     func(f *assayv1.FederatedBundle) { f.X509Authorities = authorities },
		"garbage for a set":        func(f *assayv1.FederatedBundle) { f.JwtAuthorities = []byte("x") },
		"a set with a symmetric key": func(f *assayv1.FederatedBundle) {
			f.JwtAuthorities = []byte(`{"keys":[{"kty":"oct","kid":"a","k":"AA"}]}`)
		},
	} {
		bad := foreignBundle(t, "bad.example.org")
		spoil(bad)
		got, err := checkBundle(ownBundle(t, ca, func(m *assayv1.TrustBundle) { m.Federated = []*assayv1.FederatedBundle{bad, good} }), testDomain)
		if err != nil || len(got.federated) != 1 || got.federated[0].td.Name() != "b.example.org" || len(got.dropped) != 1 {
			t.Errorf("%s: %v", name, err)
		}
	}
}
