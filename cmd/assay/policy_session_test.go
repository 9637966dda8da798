package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/assay-project/assay/internal/attestedtest"
	"github.com/assay-project/assay/internal/prebuilt"
)

// assaydBinary builds the server once for all sessions.
var assaydBinary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "assayd-for-sessions-")
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "assayd"), prebuilt.Into(dir, "../..", "assayd")
})

// TestPolicySessionsWithAServer runs the scripts in testdata/policyserver: an
// assayd of its own for each, in a process of its own, over its real socket and
// database. In the environment: SERVER is its data directory, ADMIN its socket.
// Commands: `policy FILE REVISION [NAME]` writes a policy, `serve` starts the
// server and waits until it answers, `kill9` and `stopserver` end it, `refusesto`
// wants it not to start, `configure TEXT…` appends to its configuration.
func TestPolicySessionsWithAServer(t *testing.T) {
	binary, err := assaydBinary()
	check(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(filepath.Dir(binary)) })
	root := attestedtest.New(t).Authority.RootPEM()
	testscript.Run(t, testscript.Params{
		Dir: "testdata/policyserver",
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"ends": ends, "tamper": tamper, "policy": writeTestPolicy, "serve": serveAssayd, "kill9": killAssayd, "stopserver": stopAssayd,
			"refusesto": refusesToStart, "configure": configureAssayd, "waitfor": waitFor,
		},
		Setup: func(env *testscript.Env) error {
			// Not the work directory: the path of a socket has at most 107 bytes.
			dir, err := os.MkdirTemp("", "assay")
			if err != nil {
				return err
			}
			env.Defer(func() { _ = os.RemoveAll(dir) })
			if err := os.WriteFile(filepath.Join(dir, "root.pem"), root, 0o600); err != nil {
				return err
			}
			data := filepath.Join(dir, "d")
			init := exec.Command(binary, "init", "--trust-domain", "simulated.example.org", "--data-dir", data, "--simulated-root", filepath.Join(dir, "root.pem"))
			if out, err := init.CombinedOutput(); err != nil {
				return fmt.Errorf("%w\n%s", err, out)
			}
			file := filepath.Join(data, "assayd.yaml")
			src, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			text := strings.Replace(string(src), `listen: ":8443"`, `listen: "127.0.0.1:0"`, 1)
			text = strings.Replace(text, `metrics_listen: "127.0.0.1:9464"`, `metrics_listen: ""`, 1)
			env.Setenv("SERVER", data)
			env.Setenv("ADMIN", filepath.Join(data, "admin.sock"))
			return os.WriteFile(file, []byte(text), 0o600)
		},
	})
}

// writeTestPolicy: policy FILE REVISION [NAME]
func writeTestPolicy(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 || len(args) > 3 {
		ts.Fatalf("usage: policy FILE REVISION [NAME]")
	}
	name := "prod"
	if len(args) == 3 {
		name = args[2]
	}
	text := fmt.Sprintf("# As it was approved.\nversion: 1\nbundle: %s\nrevision: %s # grows\ntrust_domain: simulated.example.org\nworkloads: []\n", name, args[1])
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o600))
}

type runningAssayd struct {
	cmd *exec.Cmd
	log strings.Builder
}

// servers are the sessions' running servers, by data directory.
var servers sync.Map

func serveAssayd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: serve")
	}
	binary, err := assaydBinary()
	ts.Check(err)
	data := ts.Getenv("SERVER")
	r := &runningAssayd{cmd: exec.Command(binary, "run", "--data-dir", data)}
	r.cmd.Stderr = &r.log
	ts.Check(r.cmd.Start())
	servers.Store(data, r)
	ts.Defer(func() { endAssayd(data, syscall.SIGKILL) })
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if c, err := net.Dial("unix", ts.Getenv("ADMIN")); err == nil {
			_ = c.Close()
			return
		}
	}
	endAssayd(data, syscall.SIGKILL)
	ts.Fatalf("the server does not answer:\n%s", r.log.String())
}

func endAssayd(data string, sig syscall.Signal) {
	if x, ok := servers.LoadAndDelete(data); ok {
		r := x.(*runningAssayd)
		_ = r.cmd.Process.Signal(sig)
		_ = r.cmd.Wait()
	}
}

func killAssayd(ts *testscript.TestScript, _ bool, _ []string) {
	endAssayd(ts.Getenv("SERVER"), syscall.SIGKILL)
}

func stopAssayd(ts *testscript.TestScript, _ bool, _ []string) {
	endAssayd(ts.Getenv("SERVER"), syscall.SIGTERM)
}

// refusesToStart: refusesto start TEXT wants the server to end with exit code 2,
// and `check` to say the same.
func refusesToStart(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: refusesto start TEXT")
	}
	binary, err := assaydBinary()
	ts.Check(err)
	for _, verb := range []string{"check", "run"} {
		out, err := exec.Command(binary, verb, "--data-dir", ts.Getenv("SERVER")).CombinedOutput()
		if ee, ok := err.(*exec.ExitError); !ok || ee.ExitCode() != 2 || !strings.Contains(string(out), args[1]) { //nolint:errorlint // straight from exec
			ts.Fatalf("%s: %v, want exit code 2 and %q:\n%s", verb, err, args[1], out)
		}
	}
}

// configureAssayd appends lines to the configuration.
func configureAssayd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: configure LINE…")
	}
	f, err := os.OpenFile(filepath.Join(ts.Getenv("SERVER"), "assayd.yaml"), os.O_APPEND|os.O_WRONLY, 0)
	ts.Check(err)
	_, err = f.WriteString("\n" + strings.Join(args, "\n") + "\n")
	ts.Check(err)
	ts.Check(f.Close())
}

// waitFor: waitfor TEXT COMMAND… runs the command until its output has the text.
func waitFor(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: waitfor TEXT COMMAND…")
	}
	var out []byte
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		c := exec.Command(args[1], args[2:]...)
		out, _ = c.CombinedOutput()
		if strings.Contains(string(out), args[0]) {
			return
		}
	}
	ts.Fatalf("waited in vain for %q:\n%s", args[0], out)
}
