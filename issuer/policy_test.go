package issuer_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/issuer"
	"github.com/assay-project/assay/issuer/store"
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

// A revision only grows, over a restart too, and whether or not anything was
// issued under it: the newest may be the one that withdrew everything.
func TestASupersededPolicyDoesNotStart(t *testing.T) {
	o := open(t)
	start := func(text string) error {
		t.Helper()
		path := filepath.Join(t.TempDir(), "policy.yaml")
		must(t, os.WriteFile(path, []byte(text), 0o600))
		p, err := issuer.LoadPolicyFile(path, trustDomain, slog.New(slog.DiscardHandler))
		must(t, err)
		err = p.Resume(t.Context(), o.store)
		if rerr := p.Remember(t.Context(), o.store, time.Now); (rerr == nil) != (err == nil) {
			t.Errorf("check says %v, start says %v", err, rerr)
		}
		return err
	}
	refused := func(what, hint string, err error) {
		t.Helper()
		var u *cli.UsageError
		if !errors.As(err, &u) || !contains(u.Hint, hint) {
			t.Errorf("%s: %v, want a hint with %q", what, err, hint)
		}
	}
	o.replacePolicy(policyText(5)) // nothing is ever issued under it
	refused("an older revision", "revision 6", start(policyText(4)))
	must(t, start(policyText(5)))
	refused("other content", "make it 6", start(strings.Replace(policyText(5), "30m", "31m", 1)))
	must(t, start(policyText(6)))
	refused("what was in force before", "revision 7", start(policyText(5)))
	must(t, start(strings.Replace(policyText(1), "bundle: test", "bundle: other", 1)))
}

// What was in force in the meantime, of the same name, supersedes.
func TestAReloadIsOnRecordBeforeItIsInForce(t *testing.T) {
	o := open(t)
	must(t, o.store.PutPolicy(t.Context(), store.PolicyChange{Policy: store.Policy{TrustDomain: trustDomain, Name: "test", Revision: 7, At: time.Now()}, Source: "file"}))
	o.replacePolicy(policyText(6))
	if o.policy.Current().Revision() != 1 || !contains(o.policy.Refused(), "superseded") {
		t.Errorf("in force: %d, refused: %q", o.policy.Current().Revision(), o.policy.Refused())
	}
	o.replacePolicy(policyText(8))
	last, err := o.store.LatestPolicy(t.Context(), trustDomain, "test")
	must(t, err)
	if o.policy.Current().Revision() != 8 || last.Revision != 8 {
		t.Errorf("in force: %d, on record: %d", o.policy.Current().Revision(), last.Revision)
	}
	// A record that cannot be made leaves the one before in force, and is tried again.
	o.movePolicy(policyText(9))
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	o.policy.Reload(gone)
	if o.policy.Current().Revision() != 8 || o.policy.Refused() == "" {
		t.Errorf("without a record: %d is in force, refused: %q", o.policy.Current().Revision(), o.policy.Refused())
	}
	o.policy.Reload(t.Context())
	if o.policy.Current().Revision() != 9 || o.policy.Refused() != "" {
		t.Errorf("with one: %d is in force, refused: %q", o.policy.Current().Revision(), o.policy.Refused())
	}
}

// A file that is replaced by moving is away for a moment.
func TestAPolicyFileThatWasAwayForAMomentIsNotRefusedForEver(t *testing.T) {
	o := open(t)
	for name, text := range map[string]string{"the one in force": policyText(1), "a bad one": "version: 1\nnonsense: true\n"} {
		o.replacePolicy(text)
		want := o.policy.Refused()
		must(t, os.Rename(o.cfg.Policy, o.cfg.Policy+".away"))
		o.policy.Reload(t.Context())
		if !contains(o.policy.Refused(), "cannot read") {
			t.Errorf("%s, while it is away: %q", name, o.policy.Refused())
		}
		must(t, os.Rename(o.cfg.Policy+".away", o.cfg.Policy))
		o.policy.Reload(t.Context())
		if got := o.policy.Refused(); got != want {
			t.Errorf("%s, when it is back: %q, before: %q", name, got, want)
		}
	}
}
