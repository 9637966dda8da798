package files

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/assay-project/assay/enclave-agent/child"
)

// keeper runs until the test ends.
func keeper(t *testing.T) *child.Keeper {
	t.Helper()
	k := child.New()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return k
}

func devNull(t *testing.T) *os.File {
	t.Helper()
	f, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func TestTheProcessOfAPIDFileIsSignalled(t *testing.T) {
	k, null := keeper(t), devNull(t)
	for _, who := range []*syscall.Credential{nil, {Uid: 12345, Gid: 12345}} {
		if who != nil && os.Getuid() != 0 {
			t.Log("NOT TESTED: another user's process (needs root)")
			continue
		}
		c, err := k.Start(child.Command{Path: "/bin/sleep", Args: []string{"sleep", "60"}, Files: [3]*os.File{null, null, null}, User: who})
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "pid")
		if err := os.WriteFile(path, fmt.Appendf(nil, " %d\n", c.PID()), 0o600); err != nil {
			t.Fatal(err)
		}
		if who != nil {
			if err := os.Chown(path, int(who.Uid), -1); err != nil {
				t.Fatal(err)
			}
		}
		var log bytes.Buffer
		r := Reload{Signal: syscall.SIGUSR1, PIDFile: path, Log: slog.New(slog.NewTextHandler(&log, nil))}
		r.Do(t.Context())
		select {
		case <-c.Done():
		case <-time.After(10 * time.Second):
			t.Fatalf("it got no signal\n%s", log.String())
		}
		if c.Code() != 128+int(syscall.SIGUSR1) {
			t.Errorf("it ended with %s", c.Outcome())
		}
		// It has ended: the number is nobody's, which is no mistake of anybody's.
		log.Reset()
		r.Do(t.Context())
		if !strings.Contains(log.String(), "level=INFO") || !strings.Contains(log.String(), "has ended") {
			t.Errorf("the log says %s", log.String())
		}
	}
}

// Each pid file here would have this very process signalled, or its group, or all.
func TestPIDFilesThatAreNotToBeBelievedSignalNobody(t *testing.T) {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGUSR2)
	defer signal.Stop(signals)
	for _, c := range []struct {
		name, content string
		mode          os.FileMode
		owner         int
		want          string
	}{
		{"itself", fmt.Sprint(os.Getpid()), 0o600, -1, "names the agent itself"},
		{"its group", "0", 0o600, -1, "does not hold the number of a process"},
		{"a group", fmt.Sprint(-os.Getpid()), 0o600, -1, "does not hold the number"},
		{"everybody", "-1", 0o600, -1, "does not hold the number"},
		{"text", "nginx", 0o600, -1, "does not hold the number"},
		{"empty", "", 0o600, -1, "does not hold the number"},
		{"too large a number", "99999999999", 0o600, -1, "does not hold the number"},
		{"a long file", strings.Repeat(" ", 100) + fmt.Sprint(os.Getppid()), 0o600, -1, "more than 64 bytes"},
		{"writable by others", fmt.Sprint(os.Getppid()), 0o622, -1, "can be changed by others"},
		{"a stranger's, of a process of root's", fmt.Sprint(os.Getppid()), 0o600, 12345, "belongs to user 12345"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "pid")
			if err := errors.Join(os.WriteFile(path, []byte(c.content), c.mode), os.Chmod(path, c.mode)); err != nil {
				t.Fatal(err)
			}
			if c.owner >= 0 {
				if os.Getuid() != 0 {
					t.Skip("NOT TESTED: needs root")
				}
				if err := os.Chown(path, c.owner, -1); err != nil {
					t.Fatal(err)
				}
			}
			r := Reload{PIDFile: path}
			if err := r.toPIDFile(syscall.SIGUSR2); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %s", err, c.want)
			}
		})
	}
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	r := Reload{PIDFile: pipe}
	if err := r.toPIDFile(syscall.SIGUSR2); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a pipe: %v", err)
	}
	select {
	case <-signals:
		t.Error("this process was signalled")
	default:
	}
}

func FuzzAPIDFileNamesOneProcessOrNone(f *testing.F) {
	for _, s := range []string{"1", " 17\n", "0", "-1", "+3", "1e3", "2147483647", "2147483648", ""} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if n, err := parsePID(b); (err == nil) == (n <= 0) {
			t.Errorf("parsePID(%q) = %d, %v", b, n, err)
		}
	})
}
