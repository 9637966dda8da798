package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/assay-project/assay/internal/prebuilt"
	"github.com/assay-project/assay/policy/measure/eif"
	simnitro "github.com/assay-project/assay/simulators/nitro"
)

// enclaveBinaries are what is inside and under a simulated enclave: the agent and
// the simulator, built once.
var enclaveBinaries = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "enclaves-for-sessions-")
	if err != nil {
		return "", err
	}
	return dir, prebuilt.Into(dir, "../..", "assay-agent", "teesim")
})

// sessionRole is the role under which the session's enclaves are launched.
const sessionRole = "arn:aws:iam::123456789012:role/payments"

// TestTheNewcomersSession runs testdata/newcomer: somebody who has an image and a
// running server, and knows nothing else. The server is assayd in a process of its
// own, the enclaves are the simulator's with the real agent in them. In the
// environment, besides that of [TestPolicySessionsWithAServer]: ROLE, and the
// moments UNTIL (in two weeks) and LATER (in three). The command `launch EIF`
// starts an enclave from an image.
func TestTheNewcomersSession(t *testing.T) {
	assayd, err := assaydBinary()
	check(t, err)
	bin, err := enclaveBinaries()
	check(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(bin) })
	teesim := filepath.Join(bin, "teesim")
	testscript.Run(t, testscript.Params{
		Dir: "testdata/newcomer",
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"ends": ends, "serve": serveAssayd, "configure": configureAssayd, "waitfor": waitFor, "launch": launchEnclave,
		},
		Setup: func(env *testscript.Env) error {
			// Not the work directory: the path of a socket has at most 107 bytes.
			dir, err := os.MkdirTemp("", "assay")
			if err != nil {
				return err
			}
			env.Defer(func() { _ = os.RemoveAll(dir) })
			root, err := exec.Command(teesim, "nitro", "root", "--authority", filepath.Join(dir, "aws")).Output()
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(dir, "root.pem"), root, 0o600); err != nil {
				return err
			}
			data := filepath.Join(dir, "d")
			run := func(name string, args ...string) error {
				if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
					return fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, out)
				}
				return nil
			}
			for _, version := range []string{"41", "42"} {
				if err := run(teesim, "nitro", "eif", "--name", "payments", "--version", version, "--signer", filepath.Join(dir, "signer"), "--file", filepath.Join(env.WorkDir, "payments-"+version+".eif")); err != nil {
					return err
				}
			}
			if err := os.WriteFile(filepath.Join(env.WorkDir, "policy.test.yaml"), releaseTests(t, filepath.Join(env.WorkDir, "payments-41.eif")), 0o600); err != nil {
				return err
			}
			if err := run(assayd, "init", "--trust-domain", "simulated.example.org", "--data-dir", data, "--simulated-root", filepath.Join(dir, "root.pem")); err != nil {
				return err
			}
			boot, err := exec.Command(assayd, "bootstrap", "export", "--data-dir", data).Output()
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(dir, "bootstrap-root.pem"), boot, 0o600); err != nil {
				return err
			}
			file := filepath.Join(data, "assayd.yaml")
			src, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			text := strings.Replace(string(src), `listen: ":8443"`, `listen: "127.0.0.1:0"`, 1)
			text = strings.Replace(text, `metrics_listen: "127.0.0.1:9464"`, `metrics_listen: ""`, 1)
			now := time.Now().UTC()
			for name, value := range map[string]string{
				"SERVER": data, "ADMIN": filepath.Join(data, "admin.sock"), "STAGE": dir, "ROLE": sessionRole,
				"UNTIL": now.AddDate(0, 0, 14).Format(time.RFC3339), "LATER": now.AddDate(0, 0, 21).Format(time.RFC3339),
			} {
				env.Setenv(name, value)
			}
			return os.WriteFile(file, []byte(text), 0o600)
		},
	})
}

// releaseTests are the tests of a policy for a release, as its makers ship them.
func releaseTests(t *testing.T, image string) []byte {
	t.Helper()
	f, err := os.Open(image)
	check(t, err)
	defer func() { check(t, f.Close()) }()
	img, err := eif.Measure(f)
	check(t, err)
	return fmt.Appendf(nil, `version: 1
policy: policy.yaml
at: %s
claims:
  ours: {tee: aws-nitro, pcr0: "%s", pcr1: "%s", pcr2: "%s", pcr3: "%x", pcr8: "%s"}
cases:
  - name: release 41 is granted
    claims: ours
    want: {outcome: granted, workload: payments, spiffe_ids: ["spiffe://simulated.example.org/payments"]}
  - name: another image is not
    claims: {from: ours, pcr0: "%096x"}
    want: {outcome: denied, fails: [pcr0]}
  - name: our image, signed by somebody else, is not
    claims: {from: ours, pcr8: "%096x"}
    want: {outcome: denied, fails: [pcr8]}
  - name: our image, launched by somebody else, is not
    claims: {from: ours, pcr3: "%096x"}
    want: {outcome: denied, fails: [pcr3]}
`, time.Now().UTC().Format(time.RFC3339), img.PCR0, img.PCR1, img.PCR2, simnitro.RolePCR(sessionRole), img.PCR8, 1, 2, 3)
}

var serving = regexp.MustCompile(`msg=serving attestation=(\S+)`)

// launchEnclave: launch EIF starts the simulated hardware with an image, and the
// agent in it.
func launchEnclave(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: launch EIF")
	}
	bin, err := enclaveBinaries()
	ts.Check(err)
	x, ok := servers.Load(ts.Getenv("SERVER"))
	if !ok {
		ts.Fatalf("no server runs")
	}
	address := serving.FindStringSubmatch(x.(*runningAssayd).log.String())
	if address == nil {
		ts.Fatalf("the server does not say where it listens")
	}
	stage := ts.Getenv("STAGE")
	home := filepath.Join(stage, strings.TrimSuffix(args[0], ".eif"))
	ts.Check(os.Mkdir(home, 0o700))
	log, err := os.Create(filepath.Join(home, "log"))
	ts.Check(err)
	ts.Defer(func() { _ = log.Close() })
	start := func(name string, args ...string) {
		c := exec.Command(filepath.Join(bin, name), args...)
		c.Stdout, c.Stderr = log, log
		ts.Check(c.Start())
		ts.Defer(func() { _, _ = c.Process.Kill(), c.Wait() })
	}
	socket := filepath.Join(home, "nsm.sock")
	start("teesim", "nitro", "run", "--authority", filepath.Join(stage, "aws"), "--socket", socket, "--eif", ts.MkAbs(args[0]), "--role", sessionRole)
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(socket); err == nil {
			break
		}
	}
	out, err := exec.Command(filepath.Join(bin, "assay-agent"), "init", "--server", address[1], "--bootstrap-root", filepath.Join(stage, "bootstrap-root.pem"),
		"--nsm-socket", socket, "--data-dir", home).CombinedOutput()
	if err != nil {
		ts.Fatalf("%v\n%s", err, out)
	}
	start("assay-agent", "run", "--data-dir", home)
}
