package agent

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	simsnp "github.com/assay-project/assay/simulators/sevsnp"
)

// kdsOf serves a simulated KDS that knows the host's chips of every product.
func kdsOf(t testing.TB, o simsnp.KDSOptions) (*simsnp.KDS, *KDS) {
	t.Helper()
	for _, p := range simsnp.Products() {
		o.Chips = append(o.Chips, must(amd().Chip(p, "host")))
	}
	sim := amd().KDS(o)
	srv := httptest.NewServer(sim)
	t.Cleanup(srv.Close)
	return sim, must(NewKDS(srv.URL))
}

// bare is a guest whose host gives it no certificates.
func bare(g *simsnp.Guest) snpGuest { return tableGuest{Guest: g} }

func TestAGuestWithoutCertificatesFetchesItsOwnOnce(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		product  simsnp.Product
		launch   simsnp.Launch
		requests int
	}{
		"Milan":            {simsnp.Milan, simsnp.Launch{}, 1},
		"Milan, version 2": {simsnp.Milan, simsnp.Launch{Version: 2}, 1},
		"Genoa, version 2": {simsnp.Genoa, simsnp.Launch{Version: 2}, 2}, // its reports do not say what it is
		"Genoa":            {simsnp.Genoa, simsnp.Launch{}, 1},
		"Siena":            {simsnp.Siena, simsnp.Launch{}, 1},
		"Turin":            {simsnp.Turin, simsnp.Launch{}, 1},
		"an older TCB":     {simsnp.Turin, simsnp.Launch{Reported: &simsnp.TCB{FMC: 1, SNP: 3, Microcode: 9}}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sim, kds := kdsOf(t, simsnp.KDSOptions{})
			dev := newSNP(SNPOptions{KDS: kds, Log: testLog(t)}, bare(launchSNP(c.product, c.launch)))
			for range 3 {
				ev, err := dev.Evidence(context.Background(), testBinding())
				if err != nil {
					t.Fatal(err)
				}
				if len(ev.Endorsements) != 1 {
					t.Fatalf("%d endorsements", len(ev.Endorsements))
				}
				verifySNP(t, ev, testBinding())
			}
			if n := sim.RequestCount(); n != c.requests {
				t.Errorf("%d requests, want %d: %v", n, c.requests, sim.Requests())
			}
		})
	}
}

func TestNothingIsFetchedThatTheHostGivesOrThatCannotBeNamed(t *testing.T) {
	t.Parallel()
	sim, kds := kdsOf(t, simsnp.KDSOptions{})
	full := launchSNP(simsnp.Genoa, simsnp.Launch{})
	for name, way := range map[string]snpGuest{
		"the host's":     tableGuest{full, full.CertTable()},
		"a VLEK":         bare(launchSNP(simsnp.Genoa, simsnp.Launch{SigningKey: simsnp.VLEK})),
		"a masked chip":  bare(launchSNP(simsnp.Genoa, simsnp.Launch{MaskChipID: true})),
		"an unknown CPU": bare(launchSNP(simsnp.Genoa, simsnp.Launch{}, faultSNP("cpuid-unknown"))),
	} {
		if _, err := newSNP(SNPOptions{KDS: kds, Log: testLog(t)}, way).Evidence(context.Background(), testBinding()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := sim.RequestCount(); n != 0 {
		t.Errorf("%d requests: %v", n, sim.Requests())
	}
}

func faultSNP(name string) simsnp.Fault {
	f, ok := simsnp.FaultByName(name)
	if !ok {
		panic("no fault " + name)
	}
	return f
}

// A table with a certificate of another chip or TCB is as good as none.
func TestACertificateOfTheHostThatDoesNotFitIsNoReasonNotToFetch(t *testing.T) {
	t.Parallel()
	sim, kds := kdsOf(t, simsnp.KDSOptions{})
	old := must(must(amd().Chip(simsnp.Milan, "host")).VCEK(simsnp.TCB{Bootloader: 1}))
	dev := newSNP(SNPOptions{KDS: kds, Log: testLog(t)}, tableGuest{launchSNP(simsnp.Milan, simsnp.Launch{}), snpTable(old)})
	ev, err := dev.Evidence(context.Background(), testBinding())
	if err != nil || len(ev.Endorsements) != 2 || sim.RequestCount() != 1 {
		t.Fatalf("%d endorsements, %d requests, %v", len(ev.Endorsements), sim.RequestCount(), err)
	}
	verifySNP(t, ev, testBinding())
}

// What the KDS does wrong costs the certificate and a warning; the report is
// sent without it, for the server may have it.
func TestAServiceThatFailsIsLeftAloneForAWhile(t *testing.T) {
	t.Parallel()
	for fault, want := range map[string]string{
		"dead": "", "error": "it answers 5", "limited": "it answers 429", "oversized": "more than", "truncated": "",
		"html": "no certificate", "other-chip": "another chip", "other-tcb": "another TCB", "unknown-chips": "it answers 404",
	} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			sim, kds := kdsOf(t, simsnp.KDSOptions{})
			f, ok := simsnp.KDSFaultByName(fault)
			if !ok {
				t.Fatal("there is no such fault")
			}
			sim.SetFaults(f)
			now := time.Now()
			kds.now = func() time.Time { return now }
			var log bytes.Buffer
			dev := newSNP(SNPOptions{KDS: kds, Log: slog.New(slog.NewTextHandler(&log, nil))}, bare(launchSNP(simsnp.Turin, simsnp.Launch{})))
			ask := func() int {
				ev, err := dev.Evidence(context.Background(), testBinding())
				if err != nil {
					t.Fatal(err)
				}
				return len(ev.Endorsements)
			}
			if n := ask(); n != 0 || !strings.Contains(log.String(), "cannot be fetched") || !strings.Contains(log.String(), want) {
				t.Errorf("%d endorsements; the log says %q", n, log.String())
			}
			if chip := hex.EncodeToString(must(amd().Chip(simsnp.Turin, "host")).HWID()); strings.Contains(log.String(), chip) {
				t.Errorf("the log names the chip: %q", log.String())
			}
			asked := sim.RequestCount()
			sim.SetFaults()
			if n := ask(); n != 0 || sim.RequestCount() != asked {
				t.Errorf("it was asked again at once (%d endorsements)", n)
			}
			now = now.Add(maxKDSPause)
			if n := ask(); n != 1 {
				t.Errorf("%d endorsements after the pause; the log says %q", n, log.String())
			}
		})
	}
}

func TestASlowServiceIsGivenUp(t *testing.T) {
	t.Parallel()
	sim, kds := kdsOf(t, simsnp.KDSOptions{})
	slow, _ := simsnp.KDSFaultByName("slow")
	sim.SetFaults(slow)
	kds.client.Timeout = 100 * time.Millisecond
	began := time.Now()
	r := snpReport(must(launchSNP(simsnp.Milan, simsnp.Launch{}).Report([64]byte{})))
	if _, err := kds.vcek(context.Background(), r); err == nil || time.Since(began) > time.Minute {
		t.Errorf("after %s: %v", time.Since(began), err)
	}
}

func TestTheServiceSaysForHowLongItWantsToBeLeftAloneWithinReason(t *testing.T) {
	t.Parallel()
	r := snpReport(must(launchSNP(simsnp.Milan, simsnp.Launch{}).Report([64]byte{})))
	for header, want := range map[string]time.Duration{"": kdsPause, "1": kdsPause, "120": 2 * time.Minute, "99999999": maxKDSPause, "-5": kdsPause, "Sun": kdsPause} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", header)
			w.WriteHeader(http.StatusTooManyRequests)
		}))
		kds := must(NewKDS(srv.URL))
		now := time.Now()
		kds.now = func() time.Time { return now }
		if _, err := kds.vcek(context.Background(), r); err == nil || kds.after.Sub(now) != want {
			t.Errorf("Retry-After %q: %s, want %s (%v)", header, kds.after.Sub(now), want, err)
		}
		srv.Close()
	}
}

func TestARedirectIsNotFollowed(t *testing.T) {
	t.Parallel()
	followed := false
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { followed = true }))
	defer other.Close()
	srv := httptest.NewServer(http.RedirectHandler(other.URL, http.StatusFound))
	defer srv.Close()
	r := snpReport(must(launchSNP(simsnp.Milan, simsnp.Launch{}).Report([64]byte{})))
	if _, err := must(NewKDS(srv.URL)).vcek(context.Background(), r); err == nil || followed {
		t.Errorf("followed %t, %v", followed, err)
	}
}

func TestTheAddressOfAServiceIsChecked(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"", "kdsintf.amd.com", "ftp://kdsintf.amd.com", "https://", "https://u:p@kds", "https://kds/?a=b", "https://kds/#x", "http://[::1"} {
		if _, err := NewKDS(bad); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
	if got := must(NewKDS(AMDKDS)).String(); got != "https://kdsintf.amd.com/" {
		t.Error(got)
	}
}

func FuzzFits(f *testing.F) {
	for _, p := range simsnp.Products() {
		g := launchSNP(p, simsnp.Launch{})
		f.Add(g.Endorsements()[0], must(g.Report([64]byte{})))
	}
	f.Fuzz(func(t *testing.T, der, report []byte) {
		if len(report) == snpReportSize {
			_ = fmt.Sprint(snpReport(report).fits(der))
		}
	})
}
