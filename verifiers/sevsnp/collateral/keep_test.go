package collateral_test

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/assay-project/assay/attest"
	simsnp "github.com/assay-project/assay/simulators/sevsnp"
	"github.com/assay-project/assay/verifiers/sevsnp"
	"github.com/assay-project/assay/verifiers/sevsnp/collateral"
)

func TestOnlyWhatHasVerifiedAReportIsWritten(t *testing.T) {
	w := newWorld(t, simsnp.KDSOptions{Burst: -1})
	dir := t.TempDir()
	s := w.source(t, dir, nil)
	v := w.verifier(t, s)
	good := report(t, w.chips[simsnp.Milan], simsnp.Launch{})
	forged := bytes.Clone(good)
	forged[0x50] ^= 1 // in REPORT_DATA
	if _, err := authenticate(v, forged); attest.CheckOf(err) != sevsnp.CheckReportSignature {
		t.Fatalf("%v, want a refusal by %s", err, sevsnp.CheckReportSignature)
	}
	if f := files(t, dir); len(f) != 0 {
		t.Errorf("a forged report had %q written", f)
	}
	for range 2 {
		if _, err := authenticate(v, good); err != nil {
			t.Fatal(err)
		}
	}
	if n, f := w.kds.RequestCount(), files(t, dir); n != 1 || len(f) != 1 {
		t.Errorf("%d requests, files %q; want one of each", n, f)
	}
}

func TestAStrangersTCBsNeverKeepTheTrueOneOut(t *testing.T) {
	w := newWorld(t, simsnp.KDSOptions{Burst: -1})
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		s := w.source(t, dir, nil)
		k := keyOf(w.chips[simsnp.Milan])
		for i := range 300 {
			k.TCB.Microcode, k.TCB.SNP = uint8(i), uint8(i>>8)+1
			if _, err := s.Endorsement(t.Context(), k); err != nil {
				t.Fatalf("TCB %d: %v", i, err)
			}
			time.Sleep(10 * time.Minute)
		}
		if _, err := s.Endorsement(t.Context(), keyOf(w.chips[simsnp.Milan])); err != nil {
			t.Errorf("the true TCB, after 300 others: %v", err)
		}
		if f := files(t, dir); len(f) != 0 {
			t.Errorf("%d files were written, want none", len(f))
		}
	})
}

func TestWhoeverHangsUpDoesNotUseUpTheChipsRequests(t *testing.T) {
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
		k := keyOf(w.chips[simsnp.Milan])
		for range 5 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			_, err := s.Endorsement(ctx, k)
			cancel()
			if err != nil && attest.KindOf(err) != attest.Unavailable {
				t.Errorf("%v, want kind unavailable", err)
			}
		}
		if _, err := s.Endorsement(t.Context(), k); err != nil {
			t.Errorf("the patient one: %v", err)
		}
		if n := w.kds.RequestCount(); n != 1 {
			t.Errorf("%d requests, want 1: its result was for everybody", n)
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := s.Endorsement(gone, keyOf(w.chips[simsnp.Genoa])); attest.KindOf(err) != attest.Unavailable {
			t.Errorf("gone before it asked: %v, want kind unavailable", err)
		}
		synctest.Wait()
		if n := w.kds.RequestCount(); n != 1 {
			t.Errorf("somebody who was gone already caused a request")
		}
	})
}

func TestACacheThatCannotBeWrittenIsTriedOnceAMinuteAndHoldsNobodyUp(t *testing.T) {
	w := newWorld(t, simsnp.KDSOptions{Burst: -1})
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		var log bytes.Buffer
		s := w.source(t, dir, func(c *collateral.Config, _ *collateral.KDSConfig) { c.Log = slog.New(slog.NewTextHandler(&log, nil)) })
		k := keyOf(w.chips[simsnp.Milan])
		away := dir + "-away"
		check(t, os.Rename(dir, away))
		check(t, os.Remove(away)) // nothing can be made in it any more
		for range 5 {
			fetchAndKeep(t, s, k)
		}
		if n := strings.Count(log.String(), "could not be kept"); n != 1 {
			t.Errorf("tried %d times at once, want once", n)
		}
		time.Sleep(time.Minute)
		fetchAndKeep(t, s, k)
		if n := strings.Count(log.String(), "could not be kept"); n != 2 {
			t.Errorf("tried %d times within a minute, want twice", n)
		}
		if n := w.kds.RequestCount(); n != 1 {
			t.Errorf("%d requests, want 1", n)
		}
	})
}
