package ca

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/assay-project/assay/internal/attestedtest"
	"github.com/assay-project/assay/issuer/store"
)

// While authorities are exchanged under them, many sign: each gets what they ask
// for, and nothing that an authority signed ends after the row that says when the
// last of it ends.
func TestSigningGoesOnWhileAuthoritiesAreExchanged(t *testing.T) {
	f := start(t, func(c *Config) { c.Propagation = time.Hour })
	var mu sync.Mutex
	last := map[string]time.Time{}
	var stop atomic.Bool
	var signed atomic.Int64
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for !stop.Load() {
				with, err := f.ca.signsWith()
				if err != nil {
					t.Errorf("no authority signs: %v", err)
					return
				}
				until := f.Now().Add(time.Hour)
				done, err := with.x509.use(until)
				if errors.Is(err, errSuperseded) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if until.After(last[with.x509.row.ID]) {
					last[with.x509.row.ID] = until
				}
				mu.Unlock()
				signed.Add(1)
				done()
			}
		})
	}
	for range 8 {
		info, err := f.ca.Prepare(t.Context(), store.X509, "")
		must(t, err)
		f.Advance(time.Hour)
		_, err = f.ca.Activate(t.Context(), store.X509, info.ID, "")
		must(t, err)
		_, err = f.ca.Issue(t.Context(), f.record(t, attestedtest.Request{}))
		must(t, err)
	}
	stop.Store(true)
	wg.Wait()
	must(t, f.ca.maintain(t.Context(), noStop))
	retired := 0
	for _, a := range f.ca.now.Load().all {
		r := a.said(store.Retired)
		if a.row.Use != store.X509 || r == nil {
			continue
		}
		retired++
		// The first one signed before this process knew it as active: its end is a bound.
		if r.EndsAt.Before(last[a.row.ID].Truncate(time.Second)) {
			t.Errorf("%s signed until %s, and its row says %s", a.row.ID, last[a.row.ID], r.EndsAt)
		}
	}
	if retired != 8 || signed.Load() < 100 {
		t.Errorf("%d authorities retired, %d uses", retired, signed.Load())
	}
}
