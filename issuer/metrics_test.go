package issuer_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/assay-project/assay/attest"
	simnitro "github.com/assay-project/assay/simulators/nitro"
)

// Every metric has a line in the reference, and the reference names no other.
// Those of one platform's verifier are registered by cmd/assayd.
func TestTheReferenceNamesTheMetricsThatThereAre(t *testing.T) {
	o := open(t)
	conn := o.connect()
	_, err := o.attempt(conn).run()
	must(t, err)
	a := o.attempt(conn)
	must(t, a.challenge())
	f, _ := simnitro.FaultByName(simnitro.Faults()[0].Name)
	a.faults = []simnitro.Fault{f}
	a.attest()
	_, _ = a.answer()

	page, err := os.ReadFile("../docs/reference/metrics.md")
	must(t, err)
	documented := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(assay_[a-z_]+)`").FindAllStringSubmatch(string(page), -1) {
		documented[m[1]] = true
	}
	// What /metrics serves: of the process, and of the trust domain.
	ofProcess := regexp.MustCompile("^assay_config_")
	there := map[string]bool{}
	for line := range strings.Lines(o.get("/metrics")) {
		if m := regexp.MustCompile("^# TYPE (assay_[a-z_]+) ").FindStringSubmatch(line); m != nil {
			there[m[1]] = true
			if !documented[m[1]] {
				t.Errorf("%s is not in docs/reference/metrics.md", m[1])
			}
		}
		if strings.HasPrefix(line, "assay_") && !ofProcess.MatchString(line) && !strings.Contains(line, `trust_domain="`+trustDomain+`"`) {
			t.Errorf("without its trust domain: %s", line)
		}
	}
	// What only a platform's verifier knows is added by cmd/assayd.
	ofPlatform := regexp.MustCompile("^assay_(nitro|snp|tpm|collateral)_")
	// Vectors without a value are not gathered; these have none here. The
	// exporter of traces is cmd/assayd's.
	lazy := map[string]bool{
		"assay_admission_refused_total": true, "assay_policy_reloads_total": true,
		"assay_config_reloads_total": true, "assay_trace_failures_total": true,
	}
	for name := range documented {
		if !there[name] && !lazy[name] && !ofPlatform.MatchString(name) {
			t.Errorf("%s is documented and not there", name)
		}
	}
}

func TestAttestationsAreCountedByWhatBecameOfThem(t *testing.T) {
	o := open(t)
	conn := o.connect()
	_, err := o.attempt(conn).run()
	must(t, err)
	a := o.attempt(conn)
	a.launch.Debug = true
	_, _ = a.run()
	b := o.attempt(conn)
	b.hello.Tee = "toaster\x00\xff"[:7]
	_ = b.challenge()
	left := o.attempt(conn)
	must(t, left.challenge())
	left.cancelled()

	series := func(tee, purpose, outcome string) string {
		return `assay_attestations_total{outcome="` + outcome + `",purpose="` + purpose + `",tee="` + tee + `",trust_domain="` + trustDomain + `"}`
	}
	for s, want := range map[string]float64{
		series("aws-nitro", "boot", "issued"):                                                        1,
		series("aws-nitro", "boot", "denied"):                                                        1,
		series("unknown", "unknown", "malformed"):                                                    1,
		series("aws-nitro", "boot", "aborted"):                                                       1,
		`assay_refusals_total{check="platform",kind="malformed",trust_domain="` + trustDomain + `"}`: 1,
		`assay_refusals_total{check="policy",kind="denied",trust_domain="` + trustDomain + `"}`:      1,
	} {
		eventually(t, s, func() bool { return o.counter(s) == want })
	}
}

func TestTheProbesAnswer(t *testing.T) {
	o := open(t)
	for _, path := range []string{"/live", "/ready"} {
		if got := o.get(path); got != "ok\n" {
			t.Errorf("%s: %q", path, got)
		}
	}
	// Past the server certificate's end the server cannot attest, and says so.
	o.clock.Advance(8 * 24 * 3600 * 1e9)
	if got := o.get("/ready"); !strings.HasPrefix(got, "503") {
		t.Errorf("/ready after the certificate's end: %q", got)
	}
	if got := o.get("/live"); got != "ok\n" {
		t.Errorf("/live: %q", got)
	}
}

// The log is for operators: it says what happened, and holds no bytes of keys
// or evidence.
func TestTheLogHasTheReferenceAndNoEvidence(t *testing.T) {
	o := open(t)
	conn := o.connect()
	issued, err := o.attempt(conn).run()
	must(t, err)
	a := o.attempt(conn)
	must(t, a.challenge())
	a.bound.Nonce[0] ^= 1
	a.attest()
	_, err = a.answer()
	d := denied(t, err)
	if d.GetKind() != attest.Untrusted.String() {
		t.Fatal(err)
	}
	log := o.log.String()
	for _, want := range []string{issued.GetReference(), d.GetReference(), "binding_user_data", paymentsID} {
		if !strings.Contains(log, want) {
			t.Errorf("the log does not have %q", want)
		}
	}
	if strings.Contains(log, "PRIVATE KEY") {
		t.Error("a key in the log")
	}
}
