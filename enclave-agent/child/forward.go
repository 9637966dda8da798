package child

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// kept are the signals that are not handed on: those of a fault of this process, of
// its own children and timers, and those that a terminal sends to who is in the
// background, which the child, in front, cannot have earned.
func kept() []syscall.Signal {
	return []syscall.Signal{
		syscall.SIGCHLD, syscall.SIGURG, syscall.SIGPIPE, syscall.SIGTTIN, syscall.SIGTTOU,
		syscall.SIGSEGV, syscall.SIGBUS, syscall.SIGFPE, syscall.SIGILL, syscall.SIGTRAP, syscall.SIGABRT, syscall.SIGSYS,
		syscall.SIGPROF, syscall.SIGVTALRM,
	}
}

// Signals collects the signals of this process that are a child's to have, from the
// moment of the call: those that arrive before there is a child wait. stop ends it.
func Signals() (got <-chan os.Signal, stop func()) {
	c := make(chan os.Signal, 64)
	var wanted []os.Signal
	for n := syscall.Signal(1); n < 65; n++ {
		if !slices.Contains(kept(), n) && n != syscall.SIGKILL && n != syscall.SIGSTOP && n != 32 && n != 33 { // 32 and 33 are the C library's
			wanted = append(wanted, n)
		}
	}
	signal.Notify(c, wanted...)
	return c, func() { signal.Stop(c) }
}

// Forward hands signals on until the child has ended, and returns its exit code. It
// keeps this process and the child in step where a terminal stops them, and takes the
// terminal back at the end.
func (c *Child) Forward(from <-chan os.Signal) int {
	defer c.takeBack()
	for {
		select {
		case <-c.done:
			return c.Code()
		case by := <-c.stopped:
			c.heldUp(by)
		case s := <-from:
			if n, ok := s.(syscall.Signal); ok {
				c.handOn(n)
			}
		}
	}
}

// handOn hands one signal on. Those of job control are for all of the child's group, as
// a terminal means them.
func (c *Child) handOn(n syscall.Signal) { // errors: it may be about to end
	switch n {
	case syscall.SIGTSTP:
		_ = c.SignalGroup(n)
	case syscall.SIGCONT:
		if c.foreground {
			c.give()
		}
		_ = c.SignalGroup(n)
	default:
		_ = c.Signal(n)
	}
}

// ErrUnhandled is returned for a word that would end the child.
var ErrUnhandled = errors.New("the process handles no such signal, and would be ended by it")

// How Tell looks whether the child is ready. Who waits for signals by another way than
// a handler blocks them (sigwait(3), signalfd(2)), and does so for good; shells do it for
// a moment.
const (
	look    = 20 * time.Millisecond
	forGood = 10 // looks in a row
)

// plain are the signals that are meant to end or to stop, and those that end nobody.
func plain() []syscall.Signal {
	return []syscall.Signal{
		syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGKILL, syscall.SIGABRT,
		syscall.SIGSTOP, syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU, syscall.SIGCONT,
		syscall.SIGCHLD, syscall.SIGURG, syscall.SIGWINCH,
	}
}

// Tell sends a signal that is meant as a word, as SIGHUP is to many a server. A program
// that has only begun does not handle it yet and would be ended by it: Tell waits until
// the child catches, blocks or ignores it, and after a time returns ErrUnhandled.
// Those of plain are sent at once.
func (c *Child) Tell(s syscall.Signal, within time.Duration) error {
	if slices.Contains(plain(), s) {
		return c.Signal(s)
	}
	blocked := 0 // looks in a row
	for deadline := time.Now().Add(within); ; {
		catches, blocks := handles(c.pid, s)
		if blocked++; !blocks {
			blocked = 0
		}
		if catches || blocked == forGood {
			return c.Signal(s)
		}
		select {
		case <-c.done:
			return ErrEnded
		case <-time.After(look):
		}
		if time.Now().After(deadline) {
			return ErrUnhandled
		}
	}
}

// handles reports whether a process catches or ignores a signal, or blocks it (proc(5),
// /proc/pid/status). What cannot be told is taken for granted.
func handles(pid int, s syscall.Signal) (catches, blocks bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		// Without a /proc nothing can be told; with one, the process has just ended.
		_, self := os.Stat("/proc/self/status")
		return self != nil, false
	}
	for line := range strings.Lines(string(b)) {
		name, value, _ := strings.Cut(line, ":")
		mask, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
		if err != nil || mask&(1<<(s-1)) == 0 {
			continue
		}
		switch name {
		case "SigIgn", "SigCgt":
			return true, false
		case "SigBlk":
			blocks = true
		}
	}
	return false, blocks
}
