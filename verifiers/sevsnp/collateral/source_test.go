package collateral_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/assay-project/assay/attest"
	simsnp "github.com/assay-project/assay/simulators/sevsnp"
	"github.com/assay-project/assay/verifiers/sevsnp"
	"github.com/assay-project/assay/verifiers/sevsnp/collateral"
)

func TestAnEndorsementIsFetchedOnceAndThenComesFromTheCache(t *testing.T) {
	for _, p := range simsnp.Products() {
		t.Run(string(p), func(t *testing.T) {
			w := newWorld(t, simsnp.KDSOptions{})
			dir := t.TempDir()
			s := w.source(t, dir, nil)
			r := report(t, w.chips[p], simsnp.Launch{})
			for range 3 {
				// A new verifier each time, so that its own cache does not answer.
				if _, err := authenticate(w.verifier(t, s), r); err != nil {
					t.Fatal(err)
				}
			}
			if n := w.kds.RequestCount(); n != 1 {
				t.Errorf("%d requests for one chip and TCB, want 1: %v", n, w.kds.Requests())
			}
			if st := s.Stats(); st.Fetched != 1 || st.Hits != 2 || st.FileReads != 0 {
				t.Errorf("fetched %d, found %d times in memory, read %d files; want 1, 2, 0", st.Fetched, st.Hits, st.FileReads)
			}
			info, err := os.Stat(only(t, dir, "vcek.*"))
			check(t, err)
			if info.Mode() != 0o600 {
				t.Errorf("the file has mode %v, want 0600", info.Mode())
			}
		})
	}
}

func TestWithTheKDSDeadGuestsWhoseChainIsCachedOrSuppliedStillAttest(t *testing.T) {
	w := newWorld(t, simsnp.KDSOptions{Burst: -1})
	server := httptest.NewServer(w.kds)
	real := func(_ *collateral.Config, k *collateral.KDSConfig) { k.URL, k.Transport = server.URL, nil }
	dir := t.TempDir()
	s := w.source(t, dir, real)
	cached := report(t, w.chips[simsnp.Genoa], simsnp.Launch{})
	if _, err := authenticate(w.verifier(t, s), cached); err != nil {
		t.Fatal(err)
	}
	check(t, s.Refresh(t.Context(), "genoa", "vcek"))
	check(t, s.Refresh(t.Context(), "turin", "vcek"))

	server.Close()
	before := w.kds.RequestCount()
	s = w.source(t, dir, real) // a server that starts while the KDS is dead
	required := sevsnp.WithRevocation(sevsnp.RevocationPolicy{Require: true})
	c, err := authenticate(w.verifier(t, s, required), cached)
	if err != nil || c.SNP.Revocation != sevsnp.RevocationOK {
		t.Errorf("cached: %v", err)
	}
	g, err := w.chips[simsnp.Turin].Launch(simsnp.Launch{})
	check(t, err)
	supplied, err := g.Report([64]byte{2})
	check(t, err)
	if _, err := authenticate(w.verifier(t, s, required), supplied, g.Endorsements()...); err != nil {
		t.Errorf("supplied: %v", err)
	}
	_, err = authenticate(w.verifier(t, s), report(t, w.chips[simsnp.Milan], simsnp.Launch{Version: 3}))
	if attest.CheckOf(err) != sevsnp.CheckEndorsementUnavailable || attest.KindOf(err) != attest.Unavailable {
		t.Errorf("neither: %v, want a refusal by %s", err, sevsnp.CheckEndorsementUnavailable)
	}
	if n := w.kds.RequestCount(); n != before {
		t.Errorf("a dead KDS was asked %d times", n-before)
	}
}

// offChipID is where a report names its chip (AMD publication 56860, section 7.3).
const offChipID = 0x1a0

func TestAFloodOfBadReportsThatNameRandomChipsMakesNoRequest(t *testing.T) {
	w := newWorld(t, simsnp.KDSOptions{Burst: -1})
	dir := t.TempDir()
	own := w.chips[simsnp.Genoa].ID()
	s := w.source(t, dir, func(c *collateral.Config, _ *collateral.KDSConfig) {
		c.Allowed = func(product string, id []byte) bool { return product == "genoa" && bytes.Equal(id, own) }
	})
	v := w.verifier(t, s)
	const flood = 1000
	for _, version := range []uint32{2, 3} {
		bad := report(t, w.chips[simsnp.Genoa], simsnp.Launch{Version: version})
		for range flood {
			_, err := rand.Read(bad[offChipID : offChipID+64])
			check(t, err)
			if _, err := authenticate(v, bad); attest.CheckOf(err) != sevsnp.CheckEndorsementMissing {
				t.Fatalf("%v, want a refusal by %s", err, sevsnp.CheckEndorsementMissing)
			}
		}
	}
	st := s.Stats()
	if n := w.kds.RequestCount(); n != 0 || st.Requests != 0 || st.FileReads != 0 || len(files(t, dir)) != 0 {
		t.Errorf("%d requests, %d files read, %d written; want none", n, st.FileReads, len(files(t, dir)))
	}
	if st.NotAllowed < 2*flood {
		t.Errorf("%d refusals were counted, want at least %d", st.NotAllowed, 2*flood)
	}
	// And the chip that is named gets its certificate all the same.
	if _, err := authenticate(v, report(t, w.chips[simsnp.Genoa], simsnp.Launch{})); err != nil {
		t.Error(err)
	}
}

func TestMaskedChipsAndProvidersKeysAreNeverFetched(t *testing.T) {
	w := newWorld(t, simsnp.KDSOptions{Burst: -1})
	v := w.verifier(t, w.source(t, t.TempDir(), nil))
	for name, l := range map[string]simsnp.Launch{"masked": {MaskChipID: true}, "vlek": {SigningKey: simsnp.VLEK}} {
		_, err := authenticate(v, report(t, w.chips[simsnp.Milan], l))
		if attest.CheckOf(err) != sevsnp.CheckEndorsementMissing {
			t.Errorf("%s: %v, want a refusal by %s", name, err, sevsnp.CheckEndorsementMissing)
		}
	}
	if n := w.kds.RequestCount(); n != 0 {
		t.Errorf("%d requests, want none", n)
	}
}

func TestAReportThatNamesAnAllowedChipCanCauseFewRequestsOnly(t *testing.T) {
	w := newWorld(t, simsnp.KDSOptions{Burst: -1})
	s := w.source(t, t.TempDir(), nil)
	k := keyOf(w.chips[simsnp.Milan])
	for i := range 200 {
		k.TCB.Microcode = uint8(i)
		_, _ = s.Endorsement(t.Context(), k)
	}
	if n := w.kds.RequestCount(); n != 2 {
		t.Errorf("%d requests for one chip, want 2", n)
	}
	// Another chip is not held up.
	if _, err := s.Endorsement(t.Context(), keyOf(w.chips[simsnp.Genoa])); err != nil {
		t.Error(err)
	}
	if st := s.Stats(); st.ChipLimited != 198 {
		t.Errorf("%d refusals by the chip's limit, want 198", st.ChipLimited)
	}
}

func TestEverybodyWhoWaitsForTheSameSharesOneRequest(t *testing.T) {
	w := newWorld(t, simsnp.KDSOptions{Burst: -1})
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		s := w.source(t, t.TempDir(), func(_ *collateral.Config, k *collateral.KDSConfig) {
			k.Transport = direct{http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { <-gate; w.kds.ServeHTTP(rw, r) })}
		})
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				if _, err := s.Endorsement(context.Background(), keyOf(w.chips[simsnp.Turin])); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		close(gate)
		wg.Wait()
		if n, joined := w.kds.RequestCount(), s.Stats().Joined; n != 1 || joined != 49 {
			t.Errorf("%d requests, %d waited; want 1 and 49", n, joined)
		}
	})
}

func TestASlowKDSHoldsUpNobodyButThoseWhoWaitForItAndThoseNotForLong(t *testing.T) {
	w := newWorld(t, simsnp.KDSOptions{Burst: -1})
	synctest.Test(t, func(t *testing.T) {
		s := w.source(t, t.TempDir(), nil)
		if _, err := s.Endorsement(t.Context(), keyOf(w.chips[simsnp.Genoa])); err != nil {
			t.Fatal(err)
		}
		w.fault(t, "slow")
		start := time.Now()
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				_, err := s.Endorsement(context.Background(), keyOf(w.chips[simsnp.Milan]))
				if attest.KindOf(err) != attest.Unavailable {
					t.Errorf("%v, want kind unavailable", err)
				}
			})
		}
		synctest.Wait()
		if _, err := s.Endorsement(t.Context(), keyOf(w.chips[simsnp.Genoa])); err != nil || time.Since(start) != 0 {
			t.Errorf("what is cached took %s: %v", time.Since(start), err)
		}
		wg.Wait()
		if d := time.Since(start); d != collateral.DefaultTimeout {
			t.Errorf("those who waited waited %s, want %s", d, collateral.DefaultTimeout)
		}
		// The next one does not wait at all: the KDS is left alone.
		start = time.Now()
		if _, err := s.Endorsement(t.Context(), keyOf(w.chips[simsnp.Turin])); attest.KindOf(err) != attest.Unavailable || time.Since(start) != 0 {
			t.Errorf("after a time-out: %v after %s, want unavailable at once", err, time.Since(start))
		}
	})
}

func TestWhoeverGivesUpDoesNotTakeTheOthersAlong(t *testing.T) {
	w := newWorld(t, simsnp.KDSOptions{Burst: -1})
	synctest.Test(t, func(t *testing.T) {
		s := w.source(t, t.TempDir(), func(_ *collateral.Config, k *collateral.KDSConfig) {
			k.Transport = direct{http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				select {
				case <-time.After(3 * time.Second):
					w.kds.ServeHTTP(rw, r)
				case <-r.Context().Done():
				}
			})}
		})
		impatient, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := s.Endorsement(impatient, keyOf(w.chips[simsnp.Milan])); attest.KindOf(err) != attest.Unavailable {
				t.Errorf("the impatient one: %v, want kind unavailable", err)
			}
		})
		synctest.Wait()
		for range 5 {
			wg.Go(func() {
				if _, err := s.Endorsement(context.Background(), keyOf(w.chips[simsnp.Milan])); err != nil {
					t.Errorf("a patient one: %v", err)
				}
			})
		}
		wg.Wait()
		if st := s.Stats(); st.Failures != 0 || st.Pause != 0 {
			t.Errorf("%d failures, pause %s: that a caller gave up is no fault of the KDS", st.Failures, st.Pause)
		}
	})
}

func TestATooManyRequestsIsObeyed(t *testing.T) {
	w := newWorld(t, simsnp.KDSOptions{Burst: -1})
	synctest.Test(t, func(t *testing.T) {
		s := w.source(t, t.TempDir(), nil)
		w.fault(t, "limited") // Retry-After: 60
		k := keyOf(w.chips[simsnp.Milan])
		_, err := s.Endorsement(t.Context(), k)
		if attest.KindOf(err) != attest.Unavailable || !strings.Contains(err.Error(), "1m0s") {
			t.Fatalf("%v, want unavailable for 1m0s", err)
		}
		w.fault(t, "")
		time.Sleep(59 * time.Second)
		if _, err := s.Endorsement(t.Context(), k); attest.KindOf(err) != attest.Unavailable {
			t.Errorf("after 59 s: %v, want kind unavailable", err)
		}
		if n := w.kds.RequestCount(); n != 1 {
			t.Errorf("%d requests within the time, want 1", n)
		}
		time.Sleep(10*time.Minute + time.Second) // the chip's own limit recovers as well
		if _, err := s.Endorsement(t.Context(), k); err != nil {
			t.Errorf("after the time: %v", err)
		}
	})
}

func TestWhatTheKDSDoesNotHaveIsNotAskedForAgainForAnHour(t *testing.T) {
	w := newWorld(t, simsnp.KDSOptions{Burst: -1})
	synctest.Test(t, func(t *testing.T) {
		s := w.source(t, t.TempDir(), nil)
		w.fault(t, "unknown-chips")
		k := keyOf(w.chips[simsnp.Genoa])
		for range 10 {
			if _, err := s.Endorsement(t.Context(), k); !errors.Is(err, collateral.ErrNone) {
				t.Fatalf("%v, want ErrNone", err)
			}
		}
		if n := w.kds.RequestCount(); n != 1 {
			t.Errorf("%d requests, want 1", n)
		}
		w.fault(t, "")
		time.Sleep(time.Hour)
		if _, err := s.Endorsement(t.Context(), k); err != nil {
			t.Errorf("after an hour: %v", err)
		}
	})
}

func TestAFaultyKDSGivesNothingAndIsLeftAlone(t *testing.T) {
	for name, refused := range map[string]uint64{
		"dead": 0, "error": 0, "oversized": 0, "truncated": 1, "html": 1, "other-chip": 1, "other-tcb": 1, "foreign": 1,
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, simsnp.KDSOptions{Burst: -1})
			server := httptest.NewServer(w.kds)
			defer server.Close()
			dir := t.TempDir()
			s := w.source(t, dir, func(_ *collateral.Config, k *collateral.KDSConfig) { k.URL, k.Transport = server.URL, nil })
			w.fault(t, name)
			r := report(t, w.chips[simsnp.Turin], simsnp.Launch{})
			if _, err := authenticate(w.verifier(t, s), r); attest.CheckOf(err) != sevsnp.CheckEndorsementUnavailable {
				t.Errorf("%v, want a refusal by %s", err, sevsnp.CheckEndorsementUnavailable)
			}
			st := s.Stats()
			if st.Refused != refused || st.Failures == 0 || st.Pause == 0 || len(files(t, dir)) != 0 {
				t.Errorf("%d answers refused (want %d), %d failures, pause %s, %d files", st.Refused, refused, st.Failures, st.Pause, len(files(t, dir)))
			}
			n := w.kds.RequestCount()
			if _, err := authenticate(w.verifier(t, s), r); attest.KindOf(err) != attest.Unavailable || w.kds.RequestCount() != n {
				t.Errorf("the second time: %v after %d further requests", err, w.kds.RequestCount()-n)
			}
		})
	}
}

func TestRedirectsAreFollowedWithinTheHostOnly(t *testing.T) {
	w := newWorld(t, simsnp.KDSOptions{Burst: -1})
	elsewhere := &counting{h: w.kds}
	other := httptest.NewServer(elsewhere)
	defer other.Close()
	for name, c := range map[string]struct {
		to   func(r *http.Request) string
		good bool
	}{
		"another host":  {func(r *http.Request) string { return other.URL + r.URL.String() }, false},
		"the same host": {func(r *http.Request) string { return "/moved" + r.URL.String() }, true},
		"a loop":        {func(r *http.Request) string { return r.URL.String() }, false},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				if path, moved := strings.CutPrefix(r.URL.Path, "/moved"); moved {
					r.URL.Path = path
					w.kds.ServeHTTP(rw, r)
					return
				}
				http.Redirect(rw, r, c.to(r), http.StatusFound)
			}))
			defer server.Close()
			s := w.source(t, t.TempDir(), func(_ *collateral.Config, k *collateral.KDSConfig) { k.URL, k.Transport = server.URL, nil })
			_, err := s.Endorsement(t.Context(), keyOf(w.chips[simsnp.Milan]))
			if (err == nil) != c.good {
				t.Errorf("%v", err)
			}
			if err != nil && (attest.KindOf(err) != attest.Unavailable || strings.Contains(err.Error(), w.chips[simsnp.Milan].Product().Line()+"/")) {
				t.Errorf("%v: want kind unavailable, and no URL with a chip in it", err)
			}
		})
	}
	if n := elsewhere.n.Load(); n != 0 {
		t.Errorf("the other host was asked %d times", n)
	}
}

func TestTheKDSIsAskedOverHTTPSUnlessItIsOnThisMachine(t *testing.T) {
	for url, good := range map[string]bool{
		"": true, "https://kdsintf.amd.com": true, "https://mirror.example.org:8443/kds": true,
		"http://127.0.0.1:8080": true, "http://[::1]:8080": true, "http://localhost": true,
		"http://kdsintf.amd.com": false, "http://10.0.0.1": false, "http://localhost.example.org": false,
		"ftp://kdsintf.amd.com": false, "kdsintf.amd.com": false, "https://": false,
		"https://user:secret@kdsintf.amd.com": false, "https://kdsintf.amd.com?x=y": false, "https://kdsintf.amd.com#x": false, "https://a b": false,
	} {
		if _, err := collateral.NewKDS(collateral.KDSConfig{URL: url}); (err == nil) != good {
			t.Errorf("%q: %v, want good = %t", url, err, good)
		}
	}
}

func TestTheRateOfRequestsIsBoundedAndNobodyWaitsForIt(t *testing.T) {
	w := newWorld(t, simsnp.KDSOptions{Burst: -1})
	synctest.Test(t, func(t *testing.T) {
		s := w.source(t, t.TempDir(), func(_ *collateral.Config, k *collateral.KDSConfig) { k.Burst, k.Interval = 2, time.Minute })
		start, refused := time.Now(), 0
		for _, c := range w.chips { // four
			if _, err := s.Endorsement(t.Context(), keyOf(c)); attest.KindOf(err) == attest.Unavailable {
				refused++
			}
		}
		if refused != 2 || time.Since(start) != 0 || w.kds.RequestCount() != 2 {
			t.Errorf("%d refused, %d requests, %s; want 2, 2, at once", refused, w.kds.RequestCount(), time.Since(start))
		}
		if st := s.Stats(); st.RateLimited != 2 {
			t.Errorf("%d counted, want 2", st.RateLimited)
		}
	})
}
