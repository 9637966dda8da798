package issuer_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
)

func TestOneProcessServesSeveralTrustDomainsAndStopsWell(t *testing.T) {
	h := newHouse(t, []string{first, second})
	h.start(first, second)
	var wg sync.WaitGroup
	for _, name := range h.names {
		o := h.office(name)
		conn := o.connect()
		for range 3 {
			wg.Go(func() {
				if _, err := o.attempt(conn).run(); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			})
		}
	}
	wg.Wait()
	if got := h.office(first).get("/ready"); got != "ok\n"+first+": ok\n"+second+": ok\n" {
		t.Errorf("/ready: %q", got)
	}
	for _, name := range h.names {
		h.said("msg=serving", "trust_domain="+name, "attestation="+h.address)
	}
	h.stop()
	for _, name := range h.names {
		if n := h.verify(name); n < 3 {
			t.Errorf("%s: %d entries", name, n)
		}
	}
	out, err := exec.Command(h.binary, "check", "--config", h.file(first)).CombinedOutput()
	if err != nil || strings.Count(string(out), "ok: trust domain ") != 2 {
		t.Errorf("check: %v\n%s", err, out)
	}
}

func TestWhatIsBrokenInOneTrustDomainDoesNotStopTheOthers(t *testing.T) {
	for _, broken := range []string{first, second} {
		t.Run(broken, func(t *testing.T) {
			h := newHouse(t, []string{first, second})
			well := second
			if broken == second {
				well = first
			}
			policy := filepath.Join(h.data(broken), "policy.yaml")
			good := h.read(policy)
			h.write(policy, "not: a policy\n")
			h.start(well)
			o := h.office(well)
			if _, err := o.attempt(o.connect()).run(); err != nil {
				t.Errorf("the other: %v", err)
			}
			if got := o.get("/ready/" + broken); !strings.HasPrefix(got, "503") || !strings.Contains(got, "policy.yaml") {
				t.Errorf("/ready/%s: %q", broken, got)
			}
			if got := o.get("/ready"); !strings.HasPrefix(got, "ok\n") {
				t.Errorf("/ready: %q", got)
			}
			h.said("level=ERROR", "the trust domain is not served", "trust_domain="+broken)
			// Nobody answers in its place, and who names nobody meets the first or no one.
			x := h.office(broken)
			if _, err := x.attempt(x.connect()).run(); status.Code(err) != codes.Unavailable {
				t.Errorf("the broken one: %v", err)
			}
			out, err := exec.Command(h.binary, "check", "--config", h.file(first)).CombinedOutput()
			if err == nil || !strings.Contains(string(out), "trust domain "+broken+":\n") || !strings.Contains(string(out), policy+":1:1") || !strings.Contains(string(out), "ok: trust domain "+well) {
				t.Errorf("check: %v\n%s", err, out)
			}
			h.write(policy, good)
			h.hangup()
			h.await(broken)
			if _, err := x.attempt(x.connect()).run(); err != nil {
				t.Errorf("mended: %v", err)
			}
			h.stop()
		})
	}
}

func TestWhereNoTrustDomainCanBeServedTheStartIsRefused(t *testing.T) {
	h := newHouse(t, []string{first, second})
	for _, name := range h.names {
		h.write(filepath.Join(h.data(name), "policy.yaml"), "not: a policy\n")
	}
	h.launch()
	select {
	case err := <-h.ended:
		h.cmd = nil
		var ee *exec.ExitError
		if !errors.As(err, &ee) || ee.ExitCode() != 2 || !strings.Contains(h.log.String(), "none of 2 trust domains can be served") {
			t.Errorf("got %v", err)
		}
	case <-time.After(15 * time.Second):
		t.Fatal("it runs")
	}
	for _, name := range h.names {
		if !strings.Contains(h.log.String(), filepath.Join(h.data(name), "policy.yaml")+":1:1") {
			t.Errorf("the error does not name %s:\n%s", name, h.log.String())
		}
	}
}

func TestAReloadChangesWhatIsSafeWhileEverybodyIsServed(t *testing.T) {
	third := "simulated.c.example"
	h := newHouse(t, []string{first, second})
	h.start(first, second)
	a, b := h.office(first), h.office(second)
	connA, connB := a.connect(), b.connect()
	watching := a.boot(connA)
	if _, err := a.watch(watching.certificate()); err != nil {
		t.Fatal(err)
	}
	_ = b.boot(connB)

	// A tenant comes, a limit becomes less, the log says more; and what needs a
	// restart is named, and not in force.
	h.init(third, "")
	h.tenants(second, third)
	h.configure(first, "limits: {attestations_per_instance: 1}\nquotas: {denials_per_hour: 1}\nlog: {level: debug}\nreflection: true\n")
	h.configure(second, "retain_evidence: 2h\n")
	h.hangup()
	h.await(third)
	h.said("the configuration was read again", third)
	h.said("level=WARN", "needs a restart", "trust_domain="+first, "key=reflection")
	h.said("level=WARN", "needs a restart", "trust_domain="+second, "key=retain_evidence")
	if n := a.counter("assay_config_restart_needed"); n != 2 {
		t.Errorf("%v keys need a restart", n)
	}
	c := h.office(third)
	if _, err := c.attempt(c.connect()).run(); err != nil {
		t.Errorf("the new one: %v", err)
	}
	again := func(o *office, conn *grpc.ClientConn) error {
		x := o.attempt(conn)
		x.document.ModuleID = "i-0123456789abcdef0-enc0123456789abcde"
		_, err := x.run()
		return err
	}
	must(t, again(a, connA))
	if err := again(a, connA); err == nil || denied(t, err).GetCheck() != "instance_rate" {
		t.Errorf("the new limit is not in force: %v", err)
	}
	for range 2 {
		if err := again(b, connB); err != nil {
			t.Errorf("the limit of another trust domain: %v", err)
		}
	}
	if n := a.gauge("assay_watches"); n != 1 {
		t.Errorf("%v watches: a reload cost one", n)
	}
	for _, o := range []*office{a, b} { // a quota, too, is that of one
		for i := range 2 {
			x := o.attempt(o.connect())
			x.launch.Debug = true
			x.document.ModuleID = fmt.Sprintf("i-0123456789abcdef%d-enc0123456789abcde", i+1)
			if _, err := x.run(); status.Code(err) != codes.PermissionDenied {
				t.Errorf("a debug enclave: %v", err)
			}
		}
	}
	eventually(t, "the denials to be counted", func() bool {
		return a.gauge("assay_ledger_denials_total") == 1 && a.gauge("assay_ledger_denials_dropped_total") == 1 && b.gauge("assay_ledger_denials_total") == 2
	})
	if _, err := c.watch(c.boot(c.connect()).certificate()); err != nil {
		t.Fatal(err)
	}
	h.said("level=DEBUG", "watching", third)

	// A file with a mistake changes nothing, in no trust domain.
	good := h.read(h.file(first))
	h.configure(second, "nope: 1\n")
	h.write(h.file(first), strings.Replace(good, "attestations_per_instance: 1", "attestations_per_instance: 100", 1))
	h.hangup()
	h.said("level=ERROR", "the configuration is refused", "nope")
	if err := again(a, connA); err == nil {
		t.Error("half of a refused configuration is in force")
	}
	h.write(h.file(second), strings.Replace(h.read(h.file(second)), "nope: 1\n", "", 1))

	// One goes: its own end and nobody else's.
	h.tenants(third)
	h.hangup()
	h.said("the trust domain is not configured any more", second)
	eventually(t, "the limit to be raised", func() bool { return again(a, connA) == nil })
	if err := again(c, c.connect()); err != nil {
		t.Errorf("who stays: %v", err)
	}
	if err := again(b, b.connect()); err == nil {
		t.Error("who went is served")
	}
	if _, err := os.Stat(filepath.Join(h.data(second), "admin.sock")); !os.IsNotExist(err) {
		t.Errorf("the admin socket of who went is there: %v", err)
	}
	h.stop()
	for _, name := range []string{first, second, third} {
		h.verify(name)
	}
}

// What one tenant's attesters and administrator can fill or keep busy is its own.
func TestATenantExhaustsOnlyItself(t *testing.T) {
	h := newHouse(t, []string{first, second})
	h.configure(first, "quotas: {denials: 2, denials_per_hour: 2, denials_per_instance: 2, evidence_per_instance: 1}\nlimits: {admin_calls: 30, attestations_per_instance: 1000}\n")
	h.start(first, second)
	a, b := h.office(first), h.office(second)

	// Denials and evidence: quotas are each one's own.
	deny := func(o *office) {
		x := o.attempt(o.connect())
		x.launch.Debug = true
		if _, err := x.run(); status.Code(err) != codes.PermissionDenied {
			t.Errorf("a debug enclave: %v", err)
		}
	}
	for range 6 {
		deny(a)
	}
	deny(b)
	eventually(t, "the denials to be counted", func() bool { return a.gauge("assay_ledger_denials_total") == 2 })
	if n := a.gauge("assay_ledger_denials_dropped_total"); n != 4 {
		t.Errorf("%v dropped in the one whose quota is used up, want 4", n)
	}
	if kept, dropped := b.gauge("assay_ledger_denials_total"), b.gauge("assay_ledger_denials_dropped_total"); kept != 1 || dropped != 0 {
		t.Errorf("in the other: %v kept, %v dropped", kept, dropped)
	}

	// Calls of an administrator.
	statusOf := func(name string) error {
		_, err := assayv1.NewAdminClient(h.socket(name)).Status(t.Context(), &assayv1.StatusRequest{})
		return err
	}
	var refused error
	for range 60 {
		if err := statusOf(first); err != nil {
			refused = err
		}
	}
	if status.Code(refused) != codes.Unavailable && status.Code(refused) != codes.ResourceExhausted {
		t.Errorf("sixty calls where thirty are allowed: %v", refused)
	}
	if err := statusOf(second); err != nil {
		t.Errorf("the administrator of the other: %v", err)
	}

	// A policy that takes long to compile, over and over.
	expensive := expensivePolicy(first)
	h.write(filepath.Join(h.data(first), "policy.yaml"), expensive)
	h.hangup()
	for range 20 {
		if _, err := b.attempt(b.connect()).run(); err != nil {
			t.Fatalf("the other's agents meanwhile: %v", err)
		}
	}
	h.stop()
}

// expensivePolicy has as many workloads with expressions as there is room for.
func expensivePolicy(name string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "version: 1\nbundle: test\nrevision: 2\ntrust_domain: %s\nworkloads:\n", name)
	for i := range 400 {
		sum := sha256.Sum256([]byte{byte(i), byte(i >> 8)})
		fmt.Fprintf(&b, "  - name: w%d\n    tee: aws-nitro\n    mode: enforce\n    match:\n      pcr0: {eq: %q}\n      pcr3: {eq: %q}\n    expr: 'nitro.debug == false && nitro.module_id.matches(\"^i-[0-9a-f]{%d}.*$\")'\n    issue: [{spiffe_id: \"spiffe://{td}/w%d\", x509_ttl: 1h}]\n",
			i, hex.EncodeToString(append(sum[:], sum[:16]...)), hex.EncodeToString(append(sum[:], sum[:16]...)), i%50+1, i)
	}
	return b.String()
}
