package config

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/internal/strictyaml"
)

func TestTheStructCanBeDecodedInto(t *testing.T) {
	c := Default()
	if err := strictyaml.Check(&c); err != nil {
		t.Error(err)
	}
}

func TestAFileWithNothingButTheTrustDomainHasTheDefaults(t *testing.T) {
	got, err := Parse("/etc/assay/assayd.yaml", []byte("trust_domain: attested.example.org\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.TrustDomain = "attested.example.org"
	if d := cmp.Diff(&want, got); d != "" {
		t.Error(d)
	}
}

func TestTheStarterFileMeansTheDefaults(t *testing.T) {
	l := SystemLayout()
	got, err := Parse(l.File, Starter("attested.example.org", l))
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.TrustDomain = "attested.example.org"
	if d := cmp.Diff(&want, got); d != "" {
		t.Error(d)
	}
}

// Every commented key of the starter file is a real key with its default:
// taking the # away changes nothing.
func TestTheCommentsOfTheStarterFileAreTheDefaults(t *testing.T) {
	l := SystemLayout()
	var lines []string
	for line := range strings.Lines(string(Starter("attested.example.org", l))) {
		if rest, ok := strings.CutPrefix(line, "# "); ok && strings.Contains(rest, ":") && !strings.Contains(strings.SplitN(rest, ":", 2)[0], " ") {
			line = rest
		} else if rest, ok := strings.CutPrefix(line, "#   "); ok {
			line = "  " + rest
		}
		lines = append(lines, line)
	}
	src := strings.Join(lines, "")
	got, err := Parse(l.File, []byte(src))
	if err != nil {
		t.Fatalf("%v\n%s", err, src)
	}
	want := Default()
	want.TrustDomain = "attested.example.org"
	want.Tenants = []string{}                                                                                                              // none, said aloud
	want.CheckpointSink = "/var/log/assay/checkpoints"                                                                                     // an example, not a default
	want.PolicySigners = PolicySigners{Threshold: 2, Keys: []string{"/etc/assay/alice.pub", "/etc/assay/bob.pub", "/etc/assay/carol.pub"}} // likewise
	if d := cmp.Diff(&want, got); d != "" {
		t.Error(d)
	}
	for _, key := range []string{"limits:", "quotas:", "log:", "nitro:", "sevsnp:", "tpm:", "retain_evidence:", "reflection:", "shutdown_timeout:", "reattest_spread:", "policy_signers:"} {
		if !strings.Contains(src, "\n"+key) {
			t.Errorf("the starter file does not mention %s", key)
		}
	}
}

func TestADirectoryOfOnesOwnHoldsEverything(t *testing.T) {
	l := LayoutIn("/home/someone/assay")
	l.SimulatedRoot = "/home/someone/sim/root.pem"
	c, err := Parse(l.File, Starter("simulated.example.org", l))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{c.DataDir, c.Policy, c.AdminSocket} {
		if !strings.HasPrefix(p, "/home/someone/assay") {
			t.Errorf("%s is outside the directory", p)
		}
	}
	if c.Nitro.SimulatedRoot != "/home/someone/sim/root.pem" || !c.Simulated() {
		t.Errorf("simulated root %q", c.Nitro.SimulatedRoot)
	}
}

func TestASimulatedTPMIsEnoughOfASimulator(t *testing.T) {
	l := LayoutIn("/home/someone/assay")
	l.SimulatedTPMRoot = "/home/someone/assay/ek-root.pem"
	c, err := Parse(l.File, Starter("simulated.example.org", l))
	if err != nil {
		t.Fatal(err)
	}
	if c.TPM.SimulatedRoot != l.SimulatedTPMRoot || c.TPM.PCRBank != "sha256" || !l.Simulated() {
		t.Errorf("%+v", c.TPM)
	}
}

func TestPathsOfTheTPMAreRelativeToTheFile(t *testing.T) {
	c, err := Parse("/etc/assay/assayd.yaml", []byte("trust_domain: a.example\ntpm: {roots: tpm-roots}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if c.TPM.Roots != "/etc/assay/tpm-roots" {
		t.Errorf("roots %q", c.TPM.Roots)
	}
}

func TestEveryMistakeIsReportedWithItsPlace(t *testing.T) {
	for _, c := range []struct {
		name, src, want string
	}{
		{"no trust domain", "listen: \":1\"\n", "trust_domain is not the name of a trust domain"},
		{"empty file", "", "trust_domain is not the name of a trust domain"},
		{"scheme", "trust_domain: spiffe://a.example\n", ":1:15: trust_domain is not the name of a trust domain: it has a scheme"},
		{"upper case", "trust_domain: A.example\n", ":1:15: trust_domain"},
		{"unknown key", "trust_domain: a.example\nlisen: x\n", ":2:1: unknown key"},
		{"duplicate key", "trust_domain: a.example\ntrust_domain: a.example\n", ":2:1: duplicate key"},
		{"type", "trust_domain: a.example\nreflection: maybe\n", ":2:13:"},
		{"address", "trust_domain: a.example\nlisten: \"8443\"\n", ":2:9: listen is not an address"},
		{"port", "trust_domain: a.example\nlisten: \":84430\"\n", ":2:9: listen is not an address: port"},
		{"log level", "trust_domain: a.example\nlog: {level: loud}\n", ":2:14: unknown log level"},
		{"log format", "trust_domain: a.example\nlog: {format: xml}\n", ":2:15: unknown log format"},
		{"limit", "trust_domain: a.example\nlimits: {handshakes: 0}\n", ":2:22: limits.handshakes is 0"},
		{"duration", "trust_domain: a.example\nretain_evidence: 1m\n", ":2:18: retain_evidence is 1m0s, want"},
		{"empty path", "trust_domain: a.example\ndata_dir: \"\"\n", ":2:11: data_dir is empty"},
		{"long socket", "trust_domain: a.example\nadmin_socket: /" + strings.Repeat("a", 120) + "\n", ":2:15: the path of the admin socket has 121 bytes"},
		{"simulated without root", "trust_domain: simulated.a.example\n", "needs the root of its simulator"},
		{"hardware with simulated root", "trust_domain: a.example\nnitro: {simulated_root: x.pem}\n", ":2:25: a simulated root in a trust domain of hardware"},
		{"SHA-1", "trust_domain: a.example\ntpm: {pcr_bank: sha1}\n", ":2:17: the bank sha1 is never accepted"},
		{"unknown bank", "trust_domain: a.example\ntpm: {pcr_bank: sha512}\n", ":2:17: unknown bank \"sha512\""},
		{"no bank", "trust_domain: a.example\ntpm: {pcr_bank: \"\"}\n", ":2:17: unknown bank"},
		{"hardware with a simulated TPM", "trust_domain: a.example\ntpm: {simulated_root: x.pem}\n", ":2:23: a simulated root in a trust domain of hardware"},
		{"manufacturers beside a simulated TPM", "trust_domain: simulated.a.example\ntpm: {simulated_root: x.pem, roots: d}\n", ":2:37: roots of manufacturers in a trust domain of simulated hardware"},
		{"room for logs", "trust_domain: a.example\nlimits: {event_log_mib: 0}\n", ":2:25: limits.event_log_mib is 0"},
		{"no threshold", "trust_domain: a.example\npolicy_signers: {keys: [a.pub]}\n", "policy_signers.threshold is 0, want 1 to 1"},
		{"a threshold that nobody reaches", "trust_domain: a.example\npolicy_signers: {threshold: 2, keys: [a.pub]}\n", ":2:29: policy_signers.threshold is 2, want 1 to 1"},
		{"a threshold without keys", "trust_domain: a.example\npolicy_signers: {threshold: 1}\n", "policy_signers names no key"},
		{"a bundle without keys", "trust_domain: a.example\npolicy_signers: {bundle: prod}\n", "policy_signers names no key"},
		{"a key without a name", "trust_domain: a.example\npolicy_signers: {threshold: 1, keys: [\"\"]}\n", "the name of a key file is empty"},
		{"not YAML", "trust_domain: [\n", "not valid YAML"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Parse("/x/assayd.yaml", []byte(c.src))
			if err == nil {
				t.Fatal("accepted")
			}
			if got != nil {
				t.Error("a configuration was returned with the error")
			}
			var all strictyaml.Errors
			if !errors.As(err, &all) || cli.ExitCode(err) != cli.Usage {
				t.Errorf("%T, exit code %d", err, cli.ExitCode(err))
			}
			if !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "/x/assayd.yaml:") {
				t.Errorf("got %q, want %q", err, c.want)
			}
		})
	}
}

func TestAllMistakesAreReportedAtOnce(t *testing.T) {
	_, err := Parse("f", []byte("trust_domain: a.example\nlisten: x\nlog: {level: loud}\nnope: 1\n"))
	var all strictyaml.Errors
	if !errors.As(err, &all) || len(all) != 3 {
		t.Errorf("want 3 problems, got %v", err)
	}
}

func TestAMissingFileHasAHint(t *testing.T) {
	_, err := Load(t.TempDir() + "/none.yaml")
	var u *cli.UsageError
	if !errors.As(err, &u) || !strings.Contains(u.Hint, "assayd init") {
		t.Errorf("got %v", err)
	}
}

func TestTheDefaultRetentionIsThirtyDays(t *testing.T) {
	if Default().RetainEvidence != 30*24*time.Hour {
		t.Error(Default().RetainEvidence)
	}
}
