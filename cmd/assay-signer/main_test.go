package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/issuer/keys"
	"github.com/assay-project/assay/issuer/keys/signerwire"
)

// asSigner makes the test binary the command itself; asking makes it a client
// that lists keys, for tests that need one of another user.
const (
	asSigner = "ASSAY_SIGNER_TEST_COMMAND"
	asking   = "ASSAY_SIGNER_TEST_ASK"
)

func TestMain(m *testing.M) {
	switch path := os.Getenv(asking); {
	case os.Getenv(asSigner) != "":
		os.Exit(cli.Run(root()))
	case path != "":
		r, err := keys.NewRemote(path)
		if err == nil {
			_, err = r.List(context.Background())
		}
		cli.PrintError(os.Stderr, err)
		os.Exit(cli.ExitCode(err))
	}
	code := m.Run()
	if built != "" {
		_ = os.RemoveAll(built)
	}
	os.Exit(code)
}

// office is one signer's directory: its configuration, PIN and socket.
type office struct {
	t   *testing.T
	dir string
	env []string
}

// newOffice makes a directory whose path is short enough for a socket.
func newOffice(t *testing.T) *office {
	t.Helper()
	dir, err := os.MkdirTemp("", "as")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return &office{t: t, dir: dir, env: append(os.Environ(), asSigner+"=1")}
}

func (o *office) path(name string) string { return filepath.Join(o.dir, name) }
func (o *office) socket() string          { return o.path("s/signer.sock") }

func (o *office) write(name, body string) {
	o.t.Helper()
	must(o.t, os.WriteFile(o.path(name), []byte(body), 0o600))
}

// configure writes the configuration: the stores as they are given, and entries
// of keys as `keys create` printed them.
func (o *office) configure(stores string, entries ...string) {
	o.t.Helper()
	o.configureFor(fmt.Sprintf("  - uid: %d\n    purposes: [x509-authority, jwt, verifier, checkpoint]\n", os.Geteuid()), stores, entries...)
}

func (o *office) configureFor(clients, stores string, entries ...string) {
	o.t.Helper()
	body := "socket: s/signer.sock\nrequest_timeout: 2s\nclients:\n" + clients + "stores:\n" + stores
	if len(entries) > 0 {
		body += "keys:\n" + strings.Join(entries, "")
	}
	o.write("signer.yaml", body)
}

func (o *office) command(args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], append(args, "--config", o.path("signer.yaml"))...)
	cmd.Env = o.env
	return cmd
}

// do runs a command to its end.
func (o *office) do(args ...string) (code int, stdout, stderr string) {
	o.t.Helper()
	var out, errs bytes.Buffer
	cmd := o.command(args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	must(o.t, cmd.Start())
	// A `run` that should have been refused, and serves, must fail its test.
	late := time.AfterFunc(30*time.Second, func() { _ = cmd.Process.Kill() })
	err := cmd.Wait()
	late.Stop()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		o.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

func (o *office) must(args ...string) string {
	o.t.Helper()
	code, out, errs := o.do(args...)
	if code != 0 {
		o.t.Fatalf("%v: exit code %d\n%s", args, code, errs)
	}
	return out
}

// refused runs a command that must fail, and checks what it says.
func (o *office) refused(wantCode int, want string, args ...string) string {
	o.t.Helper()
	code, out, errs := o.do(args...)
	if code != wantCode || !strings.Contains(errs, want) || out != "" {
		o.t.Errorf("%v: exit code %d, want %d and %q in:\n%s%s", args, code, wantCode, want, out, errs)
	}
	return errs
}

// signer is a running process.
type signer struct {
	cmd  *exec.Cmd
	done chan struct{}

	mu  sync.Mutex
	log bytes.Buffer
}

func (s *signer) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.Write(b)
}

func (s *signer) said() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.String()
}

// run starts the signer and waits until it serves.
func (o *office) run() *signer {
	o.t.Helper()
	s := &signer{cmd: o.command("run"), done: make(chan struct{})}
	s.cmd.Stderr = s
	must(o.t, s.cmd.Start())
	go func() { _ = s.cmd.Wait(); close(s.done) }()
	o.t.Cleanup(func() { s.stop(syscall.SIGKILL) })
	for range 600 {
		if strings.Contains(s.said(), "msg=serving") {
			return s
		}
		select {
		case <-s.done:
			o.t.Fatalf("the signer ended:\n%s", s.said())
		case <-time.After(20 * time.Millisecond):
		}
	}
	o.t.Fatalf("the signer does not serve:\n%s", s.said())
	return nil
}

// stop sends a signal to the process that run started, and waits for its end.
func (s *signer) stop(sig os.Signal) {
	_ = s.cmd.Process.Signal(sig)
	<-s.done
}

func (o *office) remote() *keys.Remote {
	o.t.Helper()
	r, err := keys.NewRemote(o.socket())
	must(o.t, err)
	return r.WithTimeout(10 * time.Second)
}

func (o *office) get(p signerwire.Purpose, name string) *keyOf {
	o.t.Helper()
	k, err := o.remote().For(p).Get(o.t.Context(), name)
	if err != nil {
		o.t.Fatalf("%s for %s: %v", name, p, err)
	}
	return &keyOf{k}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
