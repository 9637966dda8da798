package issuer_test

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/issuer"
)

func TestANewPolicyIsInForceForTheNextAttestation(t *testing.T) {
	o := open(t)
	conn := o.connect()
	_, err := o.attempt(conn).run()
	must(t, err)
	text := strings.Replace(policyText(2), "pcr3: {eq: \"", "pcr3: {eq: \"00", 1)
	text = strings.Replace(text, `"}`+"\n    issue", `"}`+"\n    issue", 1)
	// Another role's digest: the last two digits go, so that the length stays.
	i := strings.Index(text, "pcr3: {eq: \"") + len("pcr3: {eq: \"")
	text = text[:i+96] + text[i+98:]
	o.replacePolicy(text)
	if why := o.policy.Refused(); why != "" {
		t.Fatal(why)
	}
	_, err = o.attempt(conn).run()
	wantRefusal(t, err, codes.PermissionDenied, attest.Denied, "policy")
}

func TestABadPolicyLeavesTheOneBeforeInForce(t *testing.T) {
	o := open(t)
	conn := o.connect()
	for name, text := range map[string]string{
		"not a policy":               "version: 1\nnonsense: true\n",
		"not YAML":                   "version: [\n",
		"another trust domain":       strings.Replace(policyText(2), "trust_domain: "+trustDomain, "trust_domain: simulated.elsewhere.example", 1),
		"revision that did not grow": strings.Replace(policyText(1), "30m", "31m", 1),
	} {
		before := o.policy.Current()
		o.replacePolicy(text)
		if o.policy.Current() != before {
			t.Errorf("%s: in force now", name)
		}
		if o.policy.Refused() == "" {
			t.Errorf("%s: Status would not say that it is refused", name)
		}
		if _, err := o.attempt(conn).run(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if o.gauge("assay_policy_refused") != 1 {
		t.Error("the metric does not say so")
	}
	must(t, os.Remove(o.cfg.Policy))
	o.policy.Reload(t.Context())
	if !contains(o.policy.Refused(), "cannot read") {
		t.Errorf("a file that is gone: %q", o.policy.Refused())
	}
	// Back to what is in force: all is well again.
	o.replacePolicy(policyText(1))
	if why := o.policy.Refused(); why != "" {
		t.Errorf("still refused: %s", why)
	}
}

func TestTheFileIsReadAgainWhenItChanges(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy.yaml")
	must(t, os.WriteFile(path, []byte(policyText(1)), 0o600))
	p, err := issuer.LoadPolicyFile(path, trustDomain, slog.New(slog.DiscardHandler))
	must(t, err)
	hup := make(chan os.Signal)
	go func() { _ = p.Run(t.Context(), hup) }()

	must(t, os.WriteFile(path, []byte(policyText(2)), 0o600))
	hup <- os.Interrupt // any signal: the channel is what counts
	eventually(t, "revision 2 after a signal", func() bool { return p.Current().Revision() == 2 })
	must(t, os.WriteFile(path, []byte(policyText(3)), 0o600))
	eventually(t, "revision 3 by itself", func() bool { return p.Current().Revision() == 3 })
}

func TestAPolicyThatIsWrongAtStartIsAnError(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"mistake":      "version: 1\nnonsense: true\n",
		"trust domain": strings.Replace(policyText(1), "trust_domain: "+trustDomain, "trust_domain: simulated.elsewhere.example", 1),
	} {
		path := filepath.Join(dir, "p.yaml")
		must(t, os.WriteFile(path, []byte(text), 0o600))
		if _, err := issuer.LoadPolicyFile(path, trustDomain, slog.New(slog.DiscardHandler)); cli.ExitCode(err) != cli.Usage {
			t.Errorf("%s: got %v", name, err)
		}
	}
	_, err := issuer.LoadPolicyFile(filepath.Join(dir, "none"), trustDomain, slog.New(slog.DiscardHandler))
	var u *cli.UsageError
	if !errors.As(err, &u) || u.Hint == "" {
		t.Errorf("a missing file: %v", err)
	}
}

// A revision only grows, over a restart too.
func TestASupersededPolicyDoesNotStart(t *testing.T) {
	o := open(t)
	o.replacePolicy(policyText(5))
	check := func(text string) (string, error) {
		t.Helper()
		path := filepath.Join(t.TempDir(), "policy.yaml")
		must(t, os.WriteFile(path, []byte(text), 0o600))
		p, err := issuer.LoadPolicyFile(path, trustDomain, slog.New(slog.DiscardHandler))
		must(t, err)
		return p.CheckNotSuperseded(t.Context(), o.ledger.Reader)
	}
	if warning, err := check(policyText(1)); warning != "" || err != nil {
		t.Errorf("nothing is on record: %q %v", warning, err)
	}
	_, err := o.attempt(o.connect()).run()
	must(t, err)
	if _, err := check(policyText(4)); cli.ExitCode(err) != cli.Usage || !contains(err.Error(), "superseded") {
		t.Errorf("an older revision: %v", err)
	}
	if warning, err := check(policyText(5)); warning != "" || err != nil {
		t.Errorf("the same: %q %v", warning, err)
	}
	if warning, err := check(strings.Replace(policyText(5), "30m", "31m", 1)); !contains(warning, "raise the revision") || err != nil {
		t.Errorf("other content: %q %v", warning, err)
	}
	if warning, err := check(policyText(6)); warning != "" || err != nil {
		t.Errorf("a newer revision: %q %v", warning, err)
	}
	if warning, err := check(strings.Replace(policyText(1), "bundle: test", "bundle: other", 1)); warning != "" || err != nil {
		t.Errorf("another bundle: %q %v", warning, err)
	}
}
