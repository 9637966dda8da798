package federation

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
)

// Two servers on one database, for hours, by a clock that runs by itself.
func TestAnEndpointIsAskedAsOftenAsItsHintSaysByAllServersTogether(t *testing.T) {
	s, _ := newStore(t)
	doc := document(t, bundle(1, 5*time.Minute, newAuthority(t, "")))
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var at []time.Time
		var failing bool
		fetch := func(context.Context, *relation, x509bundle.Source) ([]byte, error) {
			mu.Lock()
			at = append(at, time.Now())
			away := failing
			mu.Unlock()
			time.Sleep(time.Second) // what a fetch takes
			if away {
				return nil, unavailable("endpoint_unreachable", errors.New("away"))
			}
			return doc, nil
		}
		server := func(name string) *Federations {
			f := open(t, s, func(c *Config) { c.Seal = sealOf(name) })
			f.fetch = fetch
			return f
		}
		ctx, cancel := context.WithCancel(context.Background())
		a, b := server("main"), server("other")
		if _, err := a.Set(ctx, Relation{TrustDomain: theirs.Name(), URL: "https://b.example.org/", Profile: Web}, ""); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 2)
		for _, f := range []*Federations{a, b} {
			go func() { done <- f.Run(ctx) }()
		}
		time.Sleep(6 * time.Hour)
		synctest.Wait()
		mu.Lock()
		// 72 times by the hint; a fifth more often at most.
		if n := len(at); n < 72 || n > 72*5/4+2 {
			t.Errorf("asked %d times", n)
		}
		for i := 1; i < len(at); i++ {
			if gap := at[i].Sub(at[i-1]); gap < 4*time.Minute || gap > 5*time.Minute+2*time.Second {
				t.Fatalf("%s between two fetches", gap)
			}
		}
		if held(a, theirs) == nil || held(b, theirs) == nil {
			t.Error("a server has no bundle")
		}

		// Away as long: asked no more often than before, but for the first minutes.
		failing = true
		before := len(at)
		mu.Unlock()
		time.Sleep(6 * time.Hour)
		synctest.Wait()
		mu.Lock()
		if n := len(at) - before; n < 72 || n > 72*5/4+8 {
			t.Errorf("asked %d times while it failed", n)
		}
		if held(a, theirs) == nil || held(b, theirs) == nil {
			t.Error("the last good bundle went with the endpoint")
		}
		failing = false
		mu.Unlock()
		time.Sleep(6 * time.Minute)
		list, err := a.List(ctx)
		if err != nil || list[0].Error != "" || list[0].Failures != 0 {
			t.Errorf("after it came back: %+v, %v", list, err)
		}
		cancel()
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
}

// A fetch that a clock of the future planned is not waited for.
func TestAFetchThatIsPlannedTooFarAheadIsDueNow(t *testing.T) {
	s, _ := newStore(t)
	web := newAuthority(t, "")
	e := newEndpoint(t, web.leaf(t, ""), serving(document(t, bundle(1, 0))))
	f := open(t, s, nil)
	_, err := f.Set(t.Context(), byWeb(web, e.URL), "")
	must(t, err)
	rows, _, err := s.Federations(t.Context(), ours.Name())
	must(t, err)
	row := rows[0]
	row.NextAt = time.Now().Add(365 * 24 * time.Hour)
	must(t, s.FederationChecked(t.Context(), row))
	must(t, f.Reload(t.Context()))
	run(t, f)
	eventually(t, "a fetch", func() bool { return e.asked.Load() > 0 })
}
