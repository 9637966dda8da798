package child

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
)

// Keeper starts children and reaps all of this process. Make one with [New], one a
// process.
type Keeper struct {
	mu       sync.Mutex // held from fork to the entry below, and from wait to its removal
	children map[int]*Child
	orphans  int
}

// New returns a keeper. It reaps while [Keeper.Run] runs.
func New() *Keeper { return &Keeper{children: map[int]*Child{}} }

// Command is a program to start.
type Command struct {
	Path  string      // of the executable, not looked up
	Args  []string    // the first is the program's name
	Env   []string    // all of it
	Files [3]*os.File // standard input, output and error
	// Terminal is this process's own, nil where it has none ([Terminal]). What the child
	// does when it stops by it, this process does too.
	Terminal *os.File
	// Foreground gives the child the terminal whenever this process has it. The child
	// always has a process group of its own, so that a terminal's signals reach it once.
	Foreground bool
	// User is whom it runs as; nil is who runs the agent.
	User *syscall.Credential
}

// Child is one that was started.
type Child struct {
	keeper *Keeper
	pid    int
	done   chan struct{}
	status syscall.WaitStatus // once done is closed

	tty        *os.File
	foreground bool
	stopped    chan syscall.Signal // what stopped it last
}

// Start starts a program. An error is one of its file, or of the system.
func (k *Keeper) Start(c Command) (*Child, error) {
	attr := &syscall.ProcAttr{Env: c.Env, Sys: &syscall.SysProcAttr{Setpgid: true, Credential: c.User}}
	for _, f := range c.Files {
		attr.Files = append(attr.Files, f.Fd())
	}
	if c.Foreground && inFront(c.Terminal) {
		attr.Sys.Foreground, attr.Sys.Ctty = true, int(c.Terminal.Fd())
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	pid, err := syscall.ForkExec(c.Path, c.Args, attr)
	if err != nil {
		return nil, &os.PathError{Op: "start", Path: c.Path, Err: err}
	}
	made := &Child{keeper: k, pid: pid, done: make(chan struct{}), tty: c.Terminal, foreground: c.Foreground, stopped: make(chan syscall.Signal, 1)}
	k.children[pid] = made
	return made, nil
}

// Run reaps until ctx ends. Children that live on then are nobody's concern: the
// process is about to end.
func (k *Keeper) Run(ctx context.Context) error {
	ended := make(chan os.Signal, 1) // one note is enough: each time all that ended are waited for
	signal.Notify(ended, syscall.SIGCHLD)
	defer signal.Stop(ended)
	for {
		for k.reap() {
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ended:
		}
	}
}

// reap waits for one child that has ended or was stopped; false when there is none.
func (k *Keeper) reap() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	var status syscall.WaitStatus
	pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG|syscall.WUNTRACED, nil)
	switch {
	case errors.Is(err, syscall.EINTR):
		return true
	case err != nil || pid <= 0:
		return false
	}
	c := k.children[pid]
	switch {
	case status.Stopped():
		if c != nil {
			select {
			case c.stopped <- status.StopSignal():
			default: // it is about to be looked at
			}
		}
		return true
	case c == nil:
		k.orphans++
		return true
	}
	delete(k.children, pid)
	c.status = status
	close(c.done)
	return true
}

// Orphans is how many children were reaped that this process did not start.
func (k *Keeper) Orphans() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.orphans
}

// PID is the child's number. It may be another process's once the child is done.
func (c *Child) PID() int { return c.pid }

// Done is closed when the child has ended.
func (c *Child) Done() <-chan struct{} { return c.done }

// ErrEnded is returned for signals to a child that has ended.
var ErrEnded = errors.New("the process has ended")

// Signal sends a signal to the child alone.
func (c *Child) Signal(s syscall.Signal) error { return c.kill(c.pid, s) }

// SignalGroup sends a signal to the child's process group.
func (c *Child) SignalGroup(s syscall.Signal) error { return c.kill(-c.pid, s) }

func (c *Child) kill(target int, s syscall.Signal) error {
	c.keeper.mu.Lock()
	defer c.keeper.mu.Unlock()
	select {
	case <-c.done:
		return ErrEnded
	default:
	}
	return syscall.Kill(target, s)
}

// Code is the exit code as shells have it, 128 and the signal for a child that a
// signal ended. It is right once Done is closed.
func (c *Child) Code() int {
	if c.status.Signaled() {
		return 128 + int(c.status.Signal())
	}
	return c.status.ExitStatus()
}

// Outcome says how the child ended.
func (c *Child) Outcome() string {
	if c.status.Signaled() {
		return "killed by " + c.status.Signal().String()
	}
	return fmt.Sprintf("exit code %d", c.status.ExitStatus())
}

// Environ is an environment with some variables set anew; later ones win.
func Environ(base []string, set ...string) []string {
	out := make([]string, 0, len(base)+len(set))
	for _, v := range base {
		name, _, _ := strings.Cut(v, "=")
		replaced := false
		for _, s := range set {
			replaced = replaced || strings.HasPrefix(s, name+"=")
		}
		if !replaced {
			out = append(out, v)
		}
	}
	return append(out, set...)
}
