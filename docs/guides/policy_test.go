package guides

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/assay-project/assay/internal/prebuilt"
	"github.com/assay-project/assay/internal/strictyaml"
	"github.com/assay-project/assay/policy"
)

const policyGuide = "policy.md"

// payrole is the role of the session's enclaves.
const payrole = "arn:aws:iam::123456789012:role/payments"

var (
	yamlBlock = regexp.MustCompile("(?s)(?:<!-- (warns|error): ([a-z-]+) -->\n)?```yaml\n(.*?)```")
	shBlock   = regexp.MustCompile("(?s)```sh\n(.*?)```")
)

// whole makes a policy of an example that leaves out what all have in common.
func whole(example string) string {
	if strings.Contains(example, "version: 1\n") {
		return example
	}
	return "version: 1\nbundle: example\nrevision: 1\ntrust_domain: attested.example.org\n" + example
}

// Every example is a policy without warnings, or has the one mistake or warning
// that a comment beside it names and the text is about.
func TestEveryPolicyOfTheGuideIsWhatTheTextSays(t *testing.T) {
	b, err := os.ReadFile(policyGuide)
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	var seen []string
	blocks := 0
	for _, m := range yamlBlock.FindAllStringSubmatch(text, -1) {
		blocks++
		kind, want, src := m[1], m[2], whole(m[3])
		bundle, err := policy.Parse(policyGuide, []byte(src))
		var found strictyaml.Errors
		switch {
		case kind == "error":
			if !errors.As(err, &found) || len(found) != 1 || !strings.Contains(found[0].Msg, want) {
				t.Errorf("want one error about %s, got %v:\n%s", want, err, src)
			}
			seen = append(seen, kind)
			continue
		case err != nil:
			t.Errorf("%v:\n%s", err, src)
			continue
		}
		var codes []string
		for _, w := range bundle.Lint(policy.LintOptions{At: time.Date(2027, 1, 20, 0, 0, 0, 0, time.UTC)}) {
			codes = append(codes, w.Code)
		}
		if kind == "warns" {
			seen = append(seen, want)
			if !slices.Equal(codes, []string{want}) {
				t.Errorf("want the warning %s, got %q:\n%s", want, codes, src)
			}
		} else if len(codes) > 0 {
			t.Errorf("warnings %q:\n%s", codes, src)
		}
		for _, w := range bundle.Workloads() {
			seen = append(seen, string(w.Platform))
		}
	}
	if n := strings.Count(text, "```yaml\n"); n != blocks {
		t.Errorf("%d of %d examples were found", blocks, n)
	}
	for _, want := range []string{"aws-nitro", "amd-sev-snp", "tpm2", "error", "empty-bundle", "no-image"} {
		if !slices.Contains(seen, want) {
			t.Errorf("no example of %s: %q", want, seen)
		}
	}
}

// What the documents show as a policy is one, wherever it stands; this guide's own
// and the reference's are held to more by tests of their own.
func TestEveryPolicyInTheDocumentsIsOne(t *testing.T) {
	n := 0
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".md" {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range yamlBlock.FindAllStringSubmatch(string(text), -1) {
			if m[1] == "error" || !strings.Contains(m[3], "workloads:") {
				continue
			}
			n++
			if _, err := policy.Parse(path, []byte(whole(m[3]))); err != nil {
				t.Errorf("%v\n%s", err, m[3])
			}
		}
		return nil
	})
	if err != nil || n < 15 {
		t.Errorf("%d policies found: %v", n, err)
	}
}

// The newcomer's session: from an image that nobody knows to a policy in force, a
// denial explained, the next release, the end of the last one, a bad draft.
func TestEveryCommandOfThePolicyGuideWorks(t *testing.T) {
	text, err := os.ReadFile(policyGuide)
	if err != nil {
		t.Fatal(err)
	}
	dir := shortTempDir(t)
	bin := filepath.Join(dir, "bin")
	if err := prebuilt.Into(bin, "../.."); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, filepath.Join(bin, "nitro-cli")); err != nil {
		t.Fatal(err)
	}
	port := freePort(t)
	var script strings.Builder
	script.WriteString("set -euo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n")
	// What the guide takes as given: two images, and a server that was made.
	fmt.Fprintf(&script, `teesim nitro root --authority aws > root.pem
teesim nitro eif --name payments --version 41 --signer releases --file payments-41.eif
teesim nitro eif --name payments --version 42 --signer releases --file payments-42.eif
assayd init --simulated-root root.pem --trust-domain simulated.attested.example.org --data-dir assay
assayd bootstrap export --data-dir assay > bootstrap-root.pem
sed -i 's/":8443"/"127.0.0.1:%s"/; s/127.0.0.1:9464//' assay/assayd.yaml
`, port)
	changes := strings.NewReplacer("attested.example.org", "simulated.attested.example.org")
	for _, loc := range shBlock.FindAllSubmatchIndex(text, -1) {
		fmt.Fprintf(&script, "echo '### %s:%d'\n%s", policyGuide, 1+bytes.Count(text[:loc[0]], []byte{'\n'}), changes.Replace(string(text[loc[2]:loc[3]])))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), stage+"="+dir, "GUIDE_SERVER=127.0.0.1:"+port)
	cmd.Stdin = strings.NewReader(script.String())
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = 5 * time.Second
	err = cmd.Run()
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
	if err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	t.Log(out.String())
	rest := out.String()
	for _, want := range []string{
		"pcr8  ",
		"policy.yaml: first@2, one workload: payments, mode enforce",
		"ok: first@2, 1 workload",
		"first@2 is in force; it was first@1",
		"DENIED: policy first@2 does not admit this",
		"Workload payments (enforce) does not match: 1 of 4 rules fails",
		"hint      another image, or another build of it",
		"policy.yaml is first@3 now; it was first@2",
		"DENIED: policy first@3 does not admit this",
		"hint: the value is listed, and was accepted until",
		"first@3 is in force; it was first@2",
		"LOSE: payments",
		"error: replay: --fail-on: lose (1 environment)",
		"0 widenings",
		"UNNOTICED  payments: pcr8 dropped",
		"GRANTED: policy first@3 admits this as payments",
	} {
		_, after, ok := strings.Cut(rest, want)
		if !ok {
			t.Fatalf("the guide's commands never printed %q, after what came before it:\n%s", want, out.String())
		}
		rest = after
	}
}

// command finds each call of assay on a line.
var command = regexp.MustCompile(`(?:^|until |\$\()assay `)

func TestTheNewcomersSessionHasFewerThanTwentyCommands(t *testing.T) {
	text, err := os.ReadFile(policyGuide)
	if err != nil {
		t.Fatal(err)
	}
	_, session, _ := strings.Cut(string(text), "<!-- session -->")
	session, _, ok := strings.Cut(session, "<!-- end of session -->")
	if !ok {
		t.Fatal("the session is not marked")
	}
	n := 0
	for _, m := range shBlock.FindAllStringSubmatch(session, -1) {
		here := regexp.MustCompile(`(?s)<<'?EOF'?\n.*?\nEOF\n`).ReplaceAllString(m[1], "\n")
		here = strings.ReplaceAll(here, "\\\n", " ")
		for _, line := range strings.Split(here, "\n") {
			n += len(command.FindAllString(line, -1))
		}
	}
	if n < 10 || n >= 20 {
		t.Errorf("the session has %d commands of assay, want fewer than 20", n)
	}
}

// runEIF stands in for an instance that launches an enclave image: the simulated
// hardware measures it, and the agent that is in it starts.
func runEIF(dir, eif, name string) error {
	home := filepath.Join(dir, name)
	if err := os.Mkdir(home, 0o700); err != nil {
		return err
	}
	socket := filepath.Join(home, "nsm.sock")
	nsm := exec.Command("teesim", "nitro", "run", "--authority", filepath.Join(dir, "aws"), "--socket", socket, "--eif", eif, "--role", payrole)
	log, err := os.Create(filepath.Join(home, "log"))
	if err != nil {
		return err
	}
	nsm.Stderr = log
	if err := nsm.Start(); err != nil {
		return err
	}
	for range 500 {
		if _, err := os.Stat(socket); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	out, err := exec.Command("assay-agent", "init", "--server", os.Getenv("GUIDE_SERVER"), "--bootstrap-root", filepath.Join(dir, "bootstrap-root.pem"),
		"--nsm-socket", socket, "--data-dir", home).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	agent := exec.Command("assay-agent", "run", "--data-dir", home)
	agent.Stdout, agent.Stderr = log, log
	return agent.Start()
}
