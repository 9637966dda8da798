package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/assay-project/assay/issuer/config"
)

func TestAloneIsSaidOfTheMomentAtWhichATrustDomainFails(t *testing.T) {
	r := serveInside(t, tdA)
	dir := filepath.Dir(filepath.Dir(r.file))
	change(t, r.file, "tenants: []", "tenants: ["+newTenant(t, dir, tdB)+"]")
	r.hungUp(r.ctx)
	r.until(t, "b is served", func() bool { return r.get(r.metrics, "/ready/"+tdB) == "ok\n" })

	a, _ := r.tenants[tdA].now()
	_ = a.listeners.Admin.Close()
	r.until(t, "a is open again", func() bool {
		now, _ := r.tenants[tdA].now()
		return now != nil && now != a && r.get(r.metrics, "/ready/"+tdA) == "ok\n"
	})
	select {
	case err := <-r.ended:
		t.Errorf("the failure of one trust domain of two ended the process: %v", err)
	default:
	}
}

// A broken one is mended, its configuration is changed, and SIGHUP is sent: whether
// it opens just before the files are read or after it, what runs is what is said to.
func TestWhatOpensDuringAReloadRunsWithWhatIsSaidToBeInForce(t *testing.T) {
	for name, reload := range map[string]func(*running){
		"by SIGHUP": func(r *running) { r.hungUp(r.ctx) },
		"by its own time, meanwhile": func(r *running) {
			r.tenants[tdB].asked()
			time.Sleep(3 * time.Millisecond)
			r.reload(r.ctx)
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := serveInside(t, tdA, tdB)
			dir := filepath.Join(filepath.Dir(filepath.Dir(r.file)), tdB)
			b, _ := r.tenants[tdB].now()
			policy := filepath.Join(dir, "policy.yaml")
			if err := os.Rename(policy, policy+".gone"); err != nil {
				t.Fatal(err)
			}
			_ = b.listeners.Admin.Close()
			r.until(t, "b is not open", func() bool { now, _ := r.tenants[tdB].now(); return now == nil })
			r.until(t, "it was tried in vain", func() bool { return strings.Count(r.log.String(), "it is tried again") > 2 })
			if err := os.Rename(policy+".gone", policy); err != nil {
				t.Fatal(err)
			}
			change(t, filepath.Join(dir, config.FileName), "", "\nretain_evidence: 7h\nlimits: {in_flight: 77}\n")
			reload(r)
			r.until(t, "b is served", func() bool { return r.get(r.metrics, "/ready/"+tdB) == "ok\n" })
			now, believed := r.tenants[tdB].now()
			if now.cfg.RetainEvidence != believed.RetainEvidence {
				t.Errorf("it runs with retain_evidence %s, and %s is said to be in force", now.cfg.RetainEvidence, believed.RetainEvidence)
			}
			if believed.Limits.InFlight != 77 {
				t.Errorf("in_flight is %d", believed.Limits.InFlight)
			}
			// What is in the file is in force, or named as not in force.
			r.reload(r.ctx)
			named := strings.Contains(r.log.String(), "msg=\"a change needs a restart, and is not in force\" trust_domain="+tdB+" key=retain_evidence")
			if inForce := believed.RetainEvidence == 7*time.Hour; named == inForce {
				t.Errorf("retain_evidence is %s, named as needing a restart: %t", believed.RetainEvidence, named)
			}
		})
	}
}

// What was opened with a configuration that is not in force any more is not served.
func TestWhatWasOpenedWithAnOlderConfigurationIsNotServed(t *testing.T) {
	old, next := config.Default(), config.Default()
	next.RetainEvidence++
	p, s, opened := &process{}, &supervised{cfg: &old}, &tenant{}
	s.configure(&next)
	if p.opened(s, opened, &old) || s.open != nil {
		t.Error("it is served")
	}
	if !p.opened(s, opened, &next) || s.open != opened {
		t.Error("that of the configuration in force is not")
	}
}

// A role that was taken away is not kept by a tenant that ends slowly.
func TestAReloadIsInForceBeforeWhatWentHasEnded(t *testing.T) {
	r := serveInside(t, tdA, tdB)
	b := r.tenants[tdB]
	slow := make(chan struct{})
	b.stop = func() { <-slow } // what is in flight takes its time
	change(t, r.file, "tenants: ["+filepath.Join(filepath.Dir(filepath.Dir(r.file)), tdB, config.FileName)+"]", "tenants: []\nlimits: {in_flight: 55}")
	reloaded := make(chan struct{})
	a := r.tenants[tdA]
	go func() { defer close(reloaded); r.reload(r.ctx) }()
	r.until(t, "the new limit is in force", func() bool { _, c := a.now(); return c.Limits.InFlight == 55 })
	select {
	case <-reloaded:
		t.Error("it did not wait")
	default:
	}
	close(slow)
	r.stop()
	<-reloaded
	if err := <-r.ended; err != nil {
		t.Error(err)
	}
}

// The race detector looks on.
func TestATrustDomainThatReopensDuringReloadsIsNoRace(t *testing.T) {
	r := serveInside(t, tdA, tdB)
	for range 3 {
		if b, _ := r.tenants[tdB].now(); b != nil {
			_ = b.listeners.Admin.Close()
		}
		for range 5 {
			r.hungUp(r.ctx)
			time.Sleep(50 * time.Millisecond)
		}
	}
	r.until(t, "b is served", func() bool { return r.get(r.metrics, "/ready/"+tdB) == "ok\n" })
}
