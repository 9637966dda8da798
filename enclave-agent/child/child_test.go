package child

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func run(t *testing.T) *Keeper {
	t.Helper()
	k := New()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return k
}

func sh(t *testing.T, k *Keeper, script string, env ...string) *Child {
	t.Helper()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = null.Close() })
	c, err := k.Start(Command{Path: "/bin/sh", Args: []string{"sh", "-c", script}, Env: env, Files: [3]*os.File{null, null, null}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func ended(t *testing.T, c *Child) {
	t.Helper()
	select {
	case <-c.Done():
	case <-time.After(20 * time.Second):
		t.Fatal("it does not end")
	}
}

func TestAChildsEndIsTold(t *testing.T) {
	k := run(t)
	for script, want := range map[string]struct {
		code    int
		outcome string
	}{
		"exit 0":        {0, "exit code 0"},
		"exit 37":       {37, "exit code 37"},
		"kill -TERM $$": {143, "killed by terminated"},
		"kill -KILL $$": {137, "killed by killed"},
	} {
		c := sh(t, k, script)
		ended(t, c)
		if c.Code() != want.code || c.Outcome() != want.outcome {
			t.Errorf("%s: %d, %s", script, c.Code(), c.Outcome())
		}
		if err := c.Signal(syscall.SIGTERM); !errors.Is(err, ErrEnded) {
			t.Errorf("%s: a signal afterwards: %v", script, err)
		}
	}
}

// Many end at once, some before anybody waits for them.
func TestNoEndIsMissed(t *testing.T) {
	k := New()
	var all []*Child
	for range 30 {
		all = append(all, sh(t, k, "exit 3"))
	}
	time.Sleep(100 * time.Millisecond)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { _ = k.Run(ctx) }()
	for range 30 {
		all = append(all, sh(t, k, "exit 3"))
	}
	for _, c := range all {
		ended(t, c)
		if c.Code() != 3 {
			t.Errorf("code %d", c.Code())
		}
	}
}

func TestAProgramThatCannotBeStartedIsAnErrorAndLeavesNothing(t *testing.T) {
	k := run(t)
	for _, path := range []string{"/no/such/program", "/etc/hostname", "/"} {
		if c, err := k.Start(Command{Path: path, Args: []string{"x"}, Files: [3]*os.File{os.Stdin, os.Stdout, os.Stderr}}); err == nil {
			t.Errorf("%s runs as %d", path, c.PID())
		}
	}
	if n := k.Orphans(); n != 0 {
		t.Errorf("%d children of nobody's", n)
	}
}

// What others leave behind is reaped, and is nobody's end.
func TestOrphansAreReaped(t *testing.T) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) }()
	k := run(t)
	c := sh(t, k, "for i in 1 2 3 4 5 6 7 8 9 10; do (sleep 0.05 & ) ; done; exit 4")
	ended(t, c)
	if c.Code() != 4 {
		t.Errorf("code %d", c.Code())
	}
	for deadline := time.Now().Add(10 * time.Second); k.Orphans() < 10; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d orphans reaped, want 10", k.Orphans())
		}
	}
}

func TestSignalsAreHandedOn(t *testing.T) {
	k := run(t)
	file := filepath.Join(t.TempDir(), "got")
	c := sh(t, k, `trap 'echo usr1 >> `+file+`' USR1; trap 'echo term >> `+file+`; exit 9' TERM; echo ready >> `+file+`; while :; do sleep 0.02; done`, "PATH="+os.Getenv("PATH"))
	from := make(chan os.Signal, 4)
	code := make(chan int, 1)
	go func() { code <- c.Forward(from) }()
	until := func(want string) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			if b, _ := os.ReadFile(file); string(b) == want {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("never %q", want)
			}
		}
	}
	until("ready\n")
	from <- syscall.SIGUSR1
	until("ready\nusr1\n")
	from <- syscall.SIGTERM
	until("ready\nusr1\nterm\n")
	if n := <-code; n != 9 {
		t.Errorf("code %d", n)
	}
}

// A program that has only begun would be ended by the word that it handles later.
func TestAWordWaitsUntilItIsHandled(t *testing.T) {
	k := run(t)
	file := filepath.Join(t.TempDir(), "got")
	late := sh(t, k, `sleep 0.3; trap 'echo hup >> `+file+`; exit 6' HUP; while :; do sleep 0.02; done`, "PATH="+os.Getenv("PATH"))
	if err := late.Tell(syscall.SIGHUP, 20*time.Second); err != nil {
		t.Error(err)
	}
	if ended(t, late); late.Code() != 6 {
		t.Errorf("it ended with %s", late.Outcome())
	}
	deaf := sh(t, k, "exec sleep 60", "PATH="+os.Getenv("PATH"))
	for _, s := range []syscall.Signal{syscall.SIGHUP, syscall.SIGUSR1, syscall.Signal(40)} {
		if err := deaf.Tell(s, 50*time.Millisecond); !errors.Is(err, ErrUnhandled) {
			t.Errorf("%v: %v", s, err)
		}
	}
	if err := deaf.Tell(syscall.SIGWINCH, 0); err != nil { // ends nobody
		t.Error(err)
	}
	if err := deaf.Tell(syscall.SIGTERM, 0); err != nil { // is meant to end
		t.Error(err)
	}
	if ended(t, deaf); deaf.Outcome() != "killed by terminated" {
		t.Errorf("it was %s", deaf.Outcome())
	}
	if err := deaf.Tell(syscall.SIGHUP, time.Second); !errors.Is(err, ErrEnded) {
		t.Errorf("after its end: %v", err)
	}
	waiting := sh(t, k, "exec env --block-signal=USR1 sleep 60", "PATH="+os.Getenv("PATH")) // as with sigwait(3)
	if err := waiting.Tell(syscall.SIGUSR1, 20*time.Second); err != nil {
		t.Errorf("one that blocks it for good: %v", err)
	}
	_ = waiting.Signal(syscall.SIGKILL)
	short := sh(t, k, "sleep 0.2", "PATH="+os.Getenv("PATH"))
	if err := short.Tell(syscall.SIGHUP, 20*time.Second); !errors.Is(err, ErrEnded) {
		t.Errorf("it ended meanwhile: %v", err)
	}
}

func TestACommandIsBounded(t *testing.T) {
	k := run(t)
	cmd := func(ctx context.Context, script string, within time.Duration) (Ran, time.Duration) {
		began := time.Now()
		return k.RunFor(ctx, "/bin/sh", []string{"sh", "-c", script}, []string{"PATH=" + os.Getenv("PATH")}, within), time.Since(began)
	}
	if r, _ := cmd(t.Context(), "echo out; echo err >&2", time.Minute); r.Err != nil || r.Output != "out\nerr\n" {
		t.Errorf("%+v", r)
	}
	if r, _ := cmd(t.Context(), "echo why; exit 7", time.Minute); r.Err == nil || r.Err.Error() != "exit code 7" || r.Output != "why\n" {
		t.Errorf("%+v", r)
	}
	// It hangs, and so does what it started.
	r, took := cmd(t.Context(), "echo begun; sleep 300 & sleep 300", 200*time.Millisecond)
	if r.Err == nil || !strings.Contains(r.Err.Error(), "did not end within 200ms") || r.Output != "begun\n" || took > 5*time.Second {
		t.Errorf("after %s: %+v", took, r)
	}
	// It ends, and leaves somebody behind who holds its output.
	r, took = cmd(t.Context(), "sleep 3 & echo left", time.Minute)
	if r.Err != nil || r.Output != "left\n" || took > 2*time.Second {
		t.Errorf("after %s: %+v", took, r)
	}
	if r, _ = cmd(t.Context(), "head -c 100000 /dev/zero | tr '\\0' x; echo END", time.Minute); len(r.Output) != maxOutput || !strings.HasSuffix(r.Output, "xEND\n") {
		t.Errorf("%d bytes of output are kept", len(r.Output))
	}
	if r, _ = cmd(t.Context(), "read x && echo got input", time.Minute); r.Err == nil || r.Output != "" {
		t.Errorf("it had input: %+v", r)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if r, took = cmd(ctx, "sleep 300", time.Minute); r.Err == nil || !strings.Contains(r.Err.Error(), "the agent is stopping") || took > 5*time.Second {
		t.Errorf("after %s: %+v", took, r)
	}
	if r := k.RunFor(t.Context(), "/no/such/program", []string{"x"}, nil, time.Minute); r.Err == nil {
		t.Error("a program that is not there ran")
	}
}

func TestVariablesAreSetAnew(t *testing.T) {
	got := Environ([]string{"A=1", "AB=2", "B=3", "odd"}, "A=x", "C=y")
	if !slices.Equal(got, []string{"AB=2", "B=3", "odd", "A=x", "C=y"}) {
		t.Errorf("%q", got)
	}
}

func TestATailKeepsTheEnd(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		_, _ = w.Write(bytes.Repeat([]byte("a"), 3*maxOutput))
		_, _ = w.WriteString("end")
		_ = w.Close()
	}()
	out := &tail{}
	out.from(r)
	if s := out.String(); len(s) != maxOutput || !strings.HasSuffix(s, "aend") {
		t.Errorf("%d bytes", len(s))
	}
}
