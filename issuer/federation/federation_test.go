package federation

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/issuer/store"
)

// byWeb is a federation with b.example.org by https_web.
func byWeb(web *authority, url string) Relation {
	return Relation{TrustDomain: theirs.Name(), URL: url, Profile: Web, WebRoots: web.pem()}
}

func often(c *Config) { c.Poll = 30 * time.Millisecond }

func TestABundleIsPolledAndServedAndOutlivesEndpointAndServer(t *testing.T) {
	web, first, second := newAuthority(t, ""), newAuthority(t, "spiffe://b.example.org"), newAuthority(t, "spiffe://b.example.org")
	e := newEndpoint(t, web.leaf(t, ""), serving(document(t, bundle(1, 0, first))))
	s, path := newStore(t)
	f := open(t, s, often)
	var changes atomic.Int64
	f.OnChange(func() { changes.Add(1) })
	stop := run(t, f)
	before := time.Now()
	if _, err := f.Set(t.Context(), byWeb(web, e.URL), "uid 0"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the first bundle", func() bool { return held(f, theirs) != nil })
	if b := held(f, theirs); !b.HasX509Authority(first.cert) || len(b.X509Authorities()) != 1 {
		t.Error("another bundle than the endpoint's")
	}
	_, revision := f.Bundles()

	e.serve(serving(document(t, bundle(2, 0, first, second))))
	eventually(t, "the second bundle", func() bool { return held(f, theirs).HasX509Authority(second.cert) })
	if _, now := f.Bundles(); now <= revision || changes.Load() < 3 {
		t.Errorf("revision %d after %d, %d changes told", now, revision, changes.Load())
	}

	// What is the same again changes nothing.
	_, revision = f.Bundles()
	asked := e.asked.Load()
	eventually(t, "more polls", func() bool { return e.asked.Load() > asked+3 })
	if _, now := f.Bundles(); now != revision {
		t.Error("the same bundle counts as a change")
	}

	e.Close()
	eventually(t, "an error", func() bool {
		list, err := f.List(t.Context())
		must(t, err)
		return list[0].Failures > 0
	})
	list, err := f.List(t.Context())
	must(t, err)
	if st := list[0]; !strings.Contains(st.Error, "endpoint_unreachable") || st.Sequence != 2 || st.FetchedAt.Before(before.Add(-time.Second)) || st.NextAt.IsZero() {
		t.Errorf("status %+v", st)
	}
	if !held(f, theirs).HasX509Authority(second.cert) {
		t.Error("the last good bundle is served no more")
	}
	stop()
	must(t, s.Close())
	again, err := store.OpenSQLite(t.Context(), path)
	must(t, err)
	defer func() { _ = again.Close() }()
	f = open(t, again, nil)
	if b := held(f, theirs); b == nil || !b.HasX509Authority(second.cert) {
		t.Error("the last good bundle did not survive the restart")
	}
	if _, now := f.Bundles(); now != revision {
		t.Errorf("revision %d after the restart, %d before", now, revision)
	}
}

func TestHTTPSSPIFFEFollowsTheRotationOfTheForeignTrustDomain(t *testing.T) {
	first, second, third := newAuthority(t, ""), newAuthority(t, ""), newAuthority(t, "")
	e := newEndpoint(t, first.leaf(t, endpointID), serving(document(t, bundle(2, 0, first, second))))
	s, _ := newStore(t)
	f := open(t, s, nil)
	r := Relation{TrustDomain: theirs.Name(), URL: e.URL, Profile: SPIFFE, EndpointID: endpointID}
	_, err := f.Set(t.Context(), r, "")
	wantCheck(t, err, "federation_bundle") // nobody would know the endpoint
	r.Bundle = document(t, bundle(1, 0, first))
	_, err = f.Set(t.Context(), r, "")
	must(t, err)
	refresh := func() error { _, err := f.Refresh(t.Context(), theirs.Name()); return err }
	must(t, refresh())
	e.cert.Store(second.leaf(t, endpointID)) // known since the fetch before
	e.serve(serving(document(t, bundle(3, 0, second, third))))
	must(t, refresh())
	if held(f, theirs).HasX509Authority(first.cert) {
		t.Error("an authority that was withdrawn is kept")
	}
	e.cert.Store(first.leaf(t, endpointID)) // withdrawn
	wantCheck(t, refresh(), "endpoint_certificate")
	e.cert.Store(third.leaf(t, endpointID))
	must(t, refresh())

	// Who says that everything is revoked cannot be told from others any more.
	e.serve(serving(document(t, bundle(9, 0))))
	must(t, refresh())
	if b := held(f, theirs); b == nil || !b.Empty() {
		t.Error("an empty bundle does not revoke what was before")
	}
	wantCheck(t, refresh(), "endpoint_certificate")
}

func TestAnEndpointOfAnotherTrustDomainIsKnownByThatOnesBundle(t *testing.T) {
	ca, hub := newAuthority(t, "spiffe://b.example.org"), newAuthority(t, "spiffe://hub.example.org")
	id := "spiffe://hub.example.org/bundles"
	e := newEndpoint(t, hub.leaf(t, id), serving(document(t, bundle(1, 0, ca))))
	s, _ := newStore(t)
	f := open(t, s, nil)
	r := Relation{TrustDomain: theirs.Name(), URL: e.URL, Profile: SPIFFE, EndpointID: id}
	_, err := f.Set(t.Context(), r, "")
	wantCheck(t, err, "federation_bundle")
	own := bundle(1, 0, hub) // encoded, a bundle has no name
	_, err = f.Set(t.Context(), Relation{TrustDomain: "hub.example.org", Bundle: document(t, own)}, "")
	must(t, err)
	_, err = f.Set(t.Context(), r, "")
	must(t, err)
	_, err = f.Refresh(t.Context(), theirs.Name())
	must(t, err)
	// Never merged: each holds its own and nothing else.
	hubID := spiffeid.RequireTrustDomainFromString("hub.example.org")
	if b, h := held(f, theirs), held(f, hubID); len(b.X509Authorities()) != 1 || !b.HasX509Authority(ca.cert) || len(h.X509Authorities()) != 1 || !h.HasX509Authority(hub.cert) {
		t.Error("bundles of two trust domains are mixed")
	}
	_, err = f.Refresh(t.Context(), "hub.example.org")
	wantCheck(t, err, "federation_profile")
}

func TestWhatAnEndpointMayNotDoLeavesTheLastGoodBundle(t *testing.T) {
	web, ca, other := newAuthority(t, ""), newAuthority(t, "spiffe://b.example.org"), newAuthority(t, "")
	good := bundle(5, time.Minute, ca)
	e := newEndpoint(t, web.leaf(t, ""), serving(document(t, good)))
	s, _ := newStore(t)
	f := open(t, s, nil)
	_, err := f.Set(t.Context(), byWeb(web, e.URL), "")
	must(t, err)
	_, err = f.Refresh(t.Context(), theirs.Name())
	must(t, err)
	foreign := newAuthority(t, "spiffe://c.example.org")
	for name, c := range map[string]struct {
		h     http.HandlerFunc
		check string
	}{
		"goes back":                   {serving(document(t, bundle(4, 0, other))), "bundle_rollback"},
		"gives up its numbers":        {serving(document(t, bundle(0, 0, ca))), "bundle_rollback"},
		"goes back to the start":      {serving(set(`"spiffe_sequence":0,`)), "bundle_rollback"},
		"serves another trust domain": {serving(document(t, bundle(6, 0, foreign))), "bundle_trust_domain"},
		"serves garbage":              {serving([]byte("<html>")), "bundle_format"},
		"serves nothing":              {serving(nil), "bundle_format"},
		"is overloaded":               {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }, "endpoint_status"},
		"is large":                    {serving(append(document(t, good), bytes.Repeat([]byte(" "), MaxDocument)...)), "bundle_size"},
		"redirects to plain HTTP": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1/", http.StatusFound)
		}, "endpoint_redirect"},
		"publishes its private key too": {serving(set("", jwk(t, newKey(t), "jwt-svid", "a", nil, nil))), "bundle_format"},
	} {
		t.Run(name, func(t *testing.T) {
			e.serve(c.h)
			_, err := f.Refresh(t.Context(), theirs.Name())
			wantCheck(t, err, c.check)
			if !held(f, theirs).Equal(good) {
				t.Error("the last good bundle is not served any more")
			}
			list, err := f.List(t.Context())
			must(t, err)
			if st := list[0]; st.Failures == 0 || !strings.Contains(st.Error, c.check) || st.Sequence != 5 {
				t.Errorf("status %+v", st)
			}
		})
	}
	for name, b := range map[string]*spiffebundle.Bundle{
		"with the same number": bundle(5, 0, other), "with a higher one": bundle(1<<63, 0, other),
	} {
		e.serve(serving(document(t, b)))
		if _, err := f.Refresh(t.Context(), theirs.Name()); err != nil || !held(f, theirs).Equal(b) {
			t.Errorf("a changed bundle %s: %v", name, err)
		}
		// begin again
		r := byWeb(web, e.URL)
		r.Bundle = document(t, good)
		_, err := f.Set(t.Context(), r, "")
		must(t, err)
		if !held(f, theirs).Equal(good) {
			t.Error("a bundle that an operator hands in does not take the place of the other")
		}
	}
}

func TestARefreshHintCountsBetweenBounds(t *testing.T) {
	f := &Federations{cfg: Config{Poll: 5 * time.Minute}}
	seconds := func(s string) []byte { return set(`"spiffe_refresh_hint":` + s + `,`) }
	for hint, want := range map[string]time.Duration{
		"null": 5 * time.Minute, "0": 5 * time.Minute, "-1": 5 * time.Minute,
		"1": minInterval, "29": minInterval, "60": time.Minute, "3600": maxInterval,
		"315360000": maxInterval, "9223372036854775807": maxInterval,
	} {
		b, _, err := Parse(theirs, seconds(hint))
		must(t, err)
		if got := f.interval(b); got != want {
			t.Errorf("hint %s: every %s, want %s", hint, got, want)
		}
	}
	if got := f.interval(nil); got != 5*time.Minute {
		t.Errorf("before the first bundle: every %s", got)
	}
	f.cfg.Poll = time.Second
	b, _, err := Parse(theirs, seconds("1"))
	must(t, err)
	if got := f.interval(b); got != time.Second {
		t.Errorf("an operator who polls every second waits %s", got)
	}
}

func TestFailuresAreRetriedEverMoreRarelyAndNeverMoreThanPolls(t *testing.T) {
	f := &Federations{cfg: Config{Poll: 5 * time.Minute}}
	want := []time.Duration{15 * time.Second, 30 * time.Second, time.Minute, 2 * time.Minute, 4 * time.Minute, 5 * time.Minute}
	for i, w := range want {
		if got := f.retry(nil, i+1); got != w {
			t.Errorf("after %d failures: %s, want %s", i+1, got, w)
		}
	}
	for _, n := range []int{0, 100, 1 << 40} {
		if got := f.retry(nil, n); got <= 0 || got > 5*time.Minute {
			t.Errorf("after %d failures: %s", n, got)
		}
	}
	for range 1000 {
		if got := jitter(time.Minute); got < 48*time.Second || got > time.Minute {
			t.Fatalf("jitter makes %s of a minute", got)
		}
	}
	seen := map[time.Duration]bool{}
	for range 50 {
		seen[jitter(time.Hour)] = true
	}
	if len(seen) < 40 {
		t.Error("jitter is none")
	}
}

func TestServersOfOneDatabaseShareTheWork(t *testing.T) {
	web, ca := newAuthority(t, ""), newAuthority(t, "")
	e := newEndpoint(t, web.leaf(t, ""), serving(document(t, bundle(1, 0, ca))))
	s, _ := newStore(t)
	a, b := open(t, s, nil), open(t, s, func(c *Config) { c.Seal = sealOf("other") })
	_, err := a.Set(t.Context(), byWeb(web, e.URL), "")
	must(t, err)
	must(t, b.Reload(t.Context())) // as an event has it done
	run(t, a)
	run(t, b)
	eventually(t, "the bundle at both", func() bool {
		must(t, b.Reload(t.Context()))
		must(t, a.Reload(t.Context()))
		return held(a, theirs) != nil && held(b, theirs) != nil
	})
	time.Sleep(200 * time.Millisecond)
	if n := e.asked.Load(); n != 1 {
		t.Errorf("the endpoint was asked %d times in one interval", n)
	}
	// One that died in its turn is not waited for without end: its claim ends.
	rows, _, err := s.Federations(t.Context(), ours.Name())
	must(t, err)
	late := rows[0].NextAt.Add(time.Second)
	if mine, err := s.ClaimFederation(t.Context(), ours.Name(), theirs.Name(), late, late.Add(claimTime)); !mine || err != nil {
		t.Fatal(mine, err)
	}
	if mine, err := s.ClaimFederation(t.Context(), ours.Name(), theirs.Name(), late.Add(claimTime), late.Add(2*claimTime)); !mine || err != nil {
		t.Errorf("the claim of a server that died does not end: %t, %v", mine, err)
	}
}

func TestAFetchUnderSettingsThatChangedMeanwhileLeavesNoTrace(t *testing.T) {
	web, ca, other := newAuthority(t, ""), newAuthority(t, ""), newAuthority(t, "")
	s, _ := newStore(t)
	f := open(t, s, nil)
	var once sync.Once
	e := newEndpoint(t, web.leaf(t, ""), func(w http.ResponseWriter, r *http.Request) {
		once.Do(func() {
			_, err := f.Set(context.WithoutCancel(t.Context()), Relation{TrustDomain: theirs.Name(), Bundle: document(t, bundle(1, 0, ca))}, "")
			if err != nil {
				t.Error(err)
			}
		})
		serving(document(t, bundle(7, 0, other)))(w, r)
	})
	_, err := f.Set(t.Context(), byWeb(web, e.URL), "")
	must(t, err)
	st, err := f.Refresh(t.Context(), theirs.Name())
	must(t, err)
	if st.Profile != ByHand || st.Sequence != 1 || !held(f, theirs).HasX509Authority(ca.cert) {
		t.Errorf("the fetch under the settings before took their place: %+v", st)
	}
}

func TestARowThatNoServerSealedIsNotBelieved(t *testing.T) {
	ca, forged := newAuthority(t, ""), newAuthority(t, "")
	for name, spoil := range map[string]func(r *store.Federation){
		"another bundle":        func(r *store.Federation) { r.Bundle = document(t, bundle(9, 0, forged)) },
		"another URL":           func(r *store.Federation) { r.URL, r.Profile = "https://evil.example/", string(Web) },
		"other roots":           func(r *store.Federation) { r.WebRoots = forged.pem() },
		"another time":          func(r *store.Federation) { r.FetchedAt = r.FetchedAt.Add(time.Hour) },
		"no seal":               func(r *store.Federation) { r.SetSeal = nil },
		"no seal of the bundle": func(r *store.Federation) { r.BundleSeal = nil },
		"the seal of the other": func(r *store.Federation) { r.BundleSeal = r.SetSeal },
		"another name":          func(r *store.Federation) { r.Name = "c.example.org"; r.Version = 1 },
		"a server that is none": func(r *store.Federation) {
			must(t, Seal{Server: "stranger", Key: testKey("stranger")}.bundle(r))
		},
		"the name of a server, and another key": func(r *store.Federation) {
			must(t, Seal{Server: "other", Key: testKey("stranger")}.bundle(r))
		},
		"our own name": func(r *store.Federation) {
			r.Name, r.Version = ours.Name(), 1
			must(t, sealOf("main").settings(r))
			must(t, sealOf("main").bundle(r))
		},
		"a bundle that is none": func(r *store.Federation) {
			r.Bundle = []byte("{}")
			must(t, sealOf("main").bundle(r))
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, _ := newStore(t)
			f := open(t, s, nil)
			_, err := f.Set(t.Context(), Relation{TrustDomain: theirs.Name(), Bundle: document(t, bundle(1, 0, ca))}, "")
			must(t, err)
			rows, _, err := s.Federations(t.Context(), ours.Name())
			must(t, err)
			row := rows[0]
			row.Version++
			spoil(&row)
			must(t, s.PutFederation(t.Context(), row))
			must(t, f.Reload(t.Context()))
			if b := held(f, spiffeid.RequireTrustDomainFromString(row.Name)); b != nil {
				t.Error("it is served")
			}
			list, err := f.List(t.Context())
			must(t, err)
			found := false
			for _, st := range list {
				found = found || st.TrustDomain == row.Name && strings.HasPrefix(st.Error, "not used: ")
			}
			if !found {
				t.Errorf("nobody is told: %+v", list)
			}
			// A server that starts does so all the same, and the operator mends it.
			f = open(t, s, nil)
			if row.Name == theirs.Name() {
				_, err = f.Set(t.Context(), Relation{TrustDomain: row.Name, Bundle: document(t, bundle(1, 0, ca))}, "")
				must(t, err)
				if held(f, theirs) == nil {
					t.Error("setting it again does not mend it")
				}
			}
		})
	}
	// What another server of the trust domain sealed is believed.
	s, _ := newStore(t)
	f := open(t, s, func(c *Config) { c.Seal = sealOf("other") })
	_, err := f.Set(t.Context(), Relation{TrustDomain: theirs.Name(), Bundle: document(t, bundle(1, 0, ca))}, "")
	must(t, err)
	if held(open(t, s, nil), theirs) == nil {
		t.Error("what another server of the trust domain sealed is not believed")
	}
}

// Who set it is text of elsewhere; what is sealed is what every database gives back.
func TestAnActorWithAnyNameSealsWhatIsReadAgain(t *testing.T) {
	s, _ := newStore(t)
	f := open(t, s, nil)
	for _, actor := range []string{"", "uid 0 (root), pid 1", "a\x00b\xff\xfe", strings.Repeat("ä", 300)} {
		_, err := f.Set(t.Context(), Relation{TrustDomain: theirs.Name(), Bundle: document(t, bundle(1, 0, newAuthority(t, "")))}, actor)
		must(t, err)
		rows, _, err := s.Federations(t.Context(), ours.Name())
		must(t, err)
		if by := rows[0].SetBy; !utf8.ValidString(by) || strings.Contains(by, "\x00") || len(by) > 256 || held(f, theirs) == nil {
			t.Errorf("actor %q: stored as %q", actor, by)
		}
	}
}

func TestAFederationThatEndsIsServedNoMore(t *testing.T) {
	s, _ := newStore(t)
	f := open(t, s, nil)
	_, err := f.Set(t.Context(), Relation{TrustDomain: theirs.Name(), Bundle: document(t, bundle(1, 0, newAuthority(t, "")))}, "")
	must(t, err)
	_, revision := f.Bundles()
	must(t, f.Delete(t.Context(), theirs.Name(), ""))
	if _, now := f.Bundles(); held(f, theirs) != nil || now <= revision {
		t.Error("its bundle is still served, or agents would not notice")
	}
	if err := f.Delete(t.Context(), theirs.Name(), ""); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("twice: %v", err)
	}
	if _, err := f.Refresh(t.Context(), theirs.Name()); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("fetched after its end: %v", err)
	}
}

func TestForeignBundlesFitIntoWhatAgentsAreSent(t *testing.T) {
	s, _ := newStore(t)
	f := open(t, s, nil)
	filled := append(document(t, bundle(1, 0)), bytes.Repeat([]byte(" "), maxTotal/4-2000)...)
	names := []string{"c.example", "d.example", "e.example", "f.example", "g.example"}
	for i, name := range names {
		_, err := f.Set(t.Context(), Relation{TrustDomain: name, Bundle: filled}, "")
		if i < 4 {
			must(t, err)
		} else {
			wantCheck(t, err, "bundle_budget")
		}
	}
	web := newAuthority(t, "")
	e := newEndpoint(t, web.leaf(t, ""), serving(filled))
	_, err := f.Set(t.Context(), byWeb(web, e.URL), "")
	must(t, err)
	_, err = f.Refresh(t.Context(), theirs.Name())
	wantCheck(t, err, "bundle_budget")

	for i := range MaxFederations - 5 {
		_, err := f.Set(t.Context(), Relation{TrustDomain: "x" + strings.Repeat("y", i) + ".example", Bundle: document(t, bundle(1, 0))}, "")
		must(t, err)
	}
	_, err = f.Set(t.Context(), Relation{TrustDomain: "one-more.example", Bundle: document(t, bundle(1, 0))}, "")
	wantCheck(t, err, "federation_count")
}

func TestAFederationByHandHasABundle(t *testing.T) {
	s, _ := newStore(t)
	f := open(t, s, nil)
	_, err := f.Set(t.Context(), Relation{TrustDomain: theirs.Name()}, "")
	wantCheck(t, err, "federation_bundle")
	_, err = f.Set(t.Context(), Relation{TrustDomain: theirs.Name(), Bundle: []byte("{}")}, "")
	wantCheck(t, err, "bundle_format")
	if list, err := f.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("what was refused is there: %v %v", list, err)
	}
	if _, err := Open(t.Context(), Config{}); err == nil || attest.CheckOf(err) != "" {
		t.Errorf("an empty configuration: %v", err)
	}
}

// A database that cannot be reached stops fetching, and nothing else.
func TestWhileTheDatabaseIsAwayTheLastGoodBundleIsServed(t *testing.T) {
	s, _ := newStore(t)
	away := &unreachable{FederationStore: s}
	f := open(t, away, often)
	_, err := f.Set(t.Context(), Relation{TrustDomain: theirs.Name(), Bundle: document(t, bundle(1, 0, newAuthority(t, "")))}, "")
	must(t, err)
	away.now.Store(true)
	run(t, f)
	if err := f.Reload(t.Context()); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("reading: %v", err)
	}
	if held(f, theirs) == nil {
		t.Error("the bundle is gone")
	}
}

// unreachable is a store whose database can be away.
type unreachable struct {
	store.FederationStore
	now atomic.Bool
}

func (u *unreachable) Federations(ctx context.Context, td string) ([]store.Federation, uint64, error) {
	if u.now.Load() {
		return nil, 0, store.ErrUnavailable
	}
	return u.FederationStore.Federations(ctx, td)
}
