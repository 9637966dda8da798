// Package postgrestest runs a real PostgreSQL for tests: a private cluster in a
// directory of its own, reached over a unix socket only, that can be killed.
//
//	c := postgrestest.Start(t)
//	s, err := postgres.Open(ctx, postgres.Config{ConnString: c.Database(t)})
//	c.Kill(t)    // kill -9: all of its processes
//	c.Restart(t)
//
// Nothing about durability is relaxed: fsync, full_page_writes and
// synchronous_commit are as in production.
package postgrestest

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Cluster is a PostgreSQL of one test.
type Cluster struct {
	bin, dir string
	as       *syscall.Credential // nil: this user
	server   *process
	names    atomic.Int64
}

// process is a postmaster that this package started.
type process struct {
	pid  int
	done chan struct{}
}

// superuser owns the databases; whoever reaches the socket is it.
const superuser = "assay"

// waitFor bounds every step of starting and stopping.
const waitFor = 60 * time.Second

// ErrMissing: there is no PostgreSQL on this machine.
var ErrMissing = errors.New("PostgreSQL is not installed (Debian package postgresql)")

// Available returns the directory of PostgreSQL's programs, or ErrMissing.
// ASSAY_POSTGRES names another one than Debian's newest.
func Available() (string, error) {
	dirs := []string{os.Getenv("ASSAY_POSTGRES")}
	if dirs[0] == "" {
		dirs, _ = filepath.Glob("/usr/lib/postgresql/*/bin") // the pattern is well-formed
		slices.SortFunc(dirs, func(a, b string) int { return versionOf(b) - versionOf(a) })
		if p, err := exec.LookPath("initdb"); err == nil {
			dirs = append(dirs, filepath.Dir(p))
		}
	}
	for _, d := range dirs {
		if _, err := os.Stat(filepath.Join(d, "initdb")); err != nil {
			continue
		}
		if _, err := os.Stat(filepath.Join(d, "postgres")); err == nil {
			return d, nil
		}
	}
	if d := os.Getenv("ASSAY_POSTGRES"); d != "" { // asked for, so not skipped
		return "", fmt.Errorf("ASSAY_POSTGRES=%s: there are no initdb and postgres in it", d)
	}
	return "", ErrMissing
}

func versionOf(dir string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(dir))) // 0 for what is no version
	return n
}

// Start makes and starts a cluster, and stops it with the test. Where PostgreSQL
// is missing the test is skipped, loudly.
func Start(t testing.TB) *Cluster {
	t.Helper()
	c, err := New()
	if errors.Is(err, ErrMissing) {
		Skip(t, err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// Skip skips a test that has no PostgreSQL, so that nobody takes it for run.
func Skip(t testing.TB, err error) {
	t.Helper()
	fmt.Fprintf(os.Stderr, "NOTICE: %s: %v. The tests of the PostgreSQL store did NOT run.\n", t.Name(), err)
	t.Skip(err)
}

// New makes and starts a cluster; the caller closes it. The error is ErrMissing
// where PostgreSQL is not installed.
func New() (_ *Cluster, err error) {
	bin, err := Available()
	if err != nil {
		return nil, err
	}
	c := &Cluster{bin: bin}
	// Not a test's own directory: another user has to reach it, and a socket's
	// path is short.
	if c.dir, err = os.MkdirTemp("", "assaypg"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	if os.Geteuid() == 0 { // PostgreSQL refuses to run as root
		if c.as, err = unprivileged(); err != nil {
			return nil, err
		}
		if err := os.Chown(c.dir, int(c.as.Uid), int(c.as.Gid)); err != nil {
			return nil, err
		}
	}
	out, err := c.command("initdb", "-D", c.data(), "-U", superuser, "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync").CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("initdb: %w\n%s", err, out)
	}
	if err = c.restart(); err != nil {
		return nil, err
	}
	return c, nil
}

// Close stops the cluster, if it runs, and removes it.
func (c *Cluster) Close() error {
	var err error
	if c.server != nil {
		err = c.stop(syscall.SIGQUIT) // nothing is kept: no checkpoint
	}
	return errors.Join(err, os.RemoveAll(c.dir))
}

func unprivileged() (*syscall.Credential, error) {
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err := errors.Join(err1, err2); err != nil {
			return nil, err
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, errors.New("there is no user to run PostgreSQL as: want postgres or nobody")
}

func (c *Cluster) data() string { return filepath.Join(c.dir, "data") }

func (c *Cluster) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(c.bin, name), args...)
	cmd.Dir = c.dir
	cmd.Env = []string{"PATH=" + c.bin + ":/usr/bin:/bin", "LC_ALL=C", "TZ=UTC"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c.as, Pdeathsig: syscall.SIGQUIT, Setpgid: true}
	return cmd
}

// Restart starts the server of a stopped or killed cluster, and returns when it
// answers: after its recovery.
func (c *Cluster) Restart(t testing.TB) {
	t.Helper()
	if err := c.restart(); err != nil {
		t.Fatal(err)
	}
}

func (c *Cluster) restart() error {
	deadline := time.Now().Add(waitFor)
	for {
		p, err := c.launch()
		if err != nil {
			return err
		}
		c.server = p
		for ended := false; !ended; {
			if c.answers() {
				return nil
			}
			if time.Now().After(deadline) {
				log, _ := os.ReadFile(filepath.Join(c.dir, "log")) // best effort: for the message
				return fmt.Errorf("PostgreSQL does not start:\n%s", log)
			}
			select {
			case <-p.done: // it refuses as long as a process of the one before is there
				ended = true
			case <-time.After(10 * time.Millisecond):
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (c *Cluster) launch() (*process, error) {
	log, err := os.OpenFile(filepath.Join(c.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644) //nolint:gosec // a test's log, read by nobody else
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }()
	cmd := c.command("postgres", "-D", c.data(), "-c", "listen_addresses=", "-c", "unix_socket_directories="+c.dir,
		"-c", "max_connections=100", "-c", "shared_buffers=64MB")
	cmd.Stdout, cmd.Stderr = log, log
	started, done := make(chan error), make(chan struct{})
	go func() {
		// The signal that a parent's death sends is that of the thread's.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ended is known to who ended it
			close(done)
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return &process{cmd.Process.Pid, done}, nil
}

func (c *Cluster) answers() bool {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, c.url("postgres"))
	if err != nil {
		return false
	}
	_ = conn.Close(ctx)
	return true
}

// Kill ends all processes of the server at once, without a word: kill -9.
func (c *Cluster) Kill(t testing.TB) {
	t.Helper()
	if err := c.stop(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// Stop ends the server as an operator does: connections are dropped, the rest is
// written.
func (c *Cluster) Stop(t testing.TB) {
	t.Helper()
	if err := c.stop(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
}

func (c *Cluster) stop(sig syscall.Signal) error {
	p := c.server
	c.server = nil
	select {
	case <-p.done: // its process id may be another's by now
		return nil
	default:
	}
	var children []int
	if sig == syscall.SIGKILL {
		// Stopped first: it makes no new children while they are counted.
		if err := syscall.Kill(p.pid, syscall.SIGSTOP); err != nil {
			return err
		}
		children = childrenOf(p.pid)
	}
	if err := syscall.Kill(p.pid, sig); err != nil {
		return err
	}
	for _, pid := range children {
		_ = syscall.Kill(pid, sig) // it may have ended with its parent
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(waitFor):
		return fmt.Errorf("PostgreSQL (process %d) does not stop", p.pid)
	}
}

// childrenOf lists the processes that a process started.
func childrenOf(pid int) (out []int) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return nil
	}
	for f := range strings.FieldsSeq(string(b)) {
		if n, err := strconv.Atoi(f); err == nil {
			out = append(out, n)
		}
	}
	return out
}

func (c *Cluster) url(database string) string {
	return "postgres:///" + database + "?" + url.Values{"host": {c.dir}, "user": {superuser}, "sslmode": {"disable"}}.Encode()
}

// Database makes an empty database and returns the connection string of its
// superuser.
func (c *Cluster) Database(t testing.TB) string {
	t.Helper()
	name := fmt.Sprintf("test%d", c.names.Add(1))
	c.Exec(t, c.url("postgres"), `CREATE DATABASE `+name)
	return c.url(name)
}

// Exec runs a statement behind the store's back.
func (c *Cluster) Exec(t testing.TB, database, statement string) {
	t.Helper()
	if err := Exec(context.Background(), database, statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

// Exec runs a statement on a connection of its own.
func Exec(ctx context.Context, database, statement string) error {
	conn, err := pgx.Connect(ctx, database)
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, statement)
	return errors.Join(err, conn.Close(ctx))
}
