package child

import (
	"os"
	"os/signal"
	"slices"
	"syscall"
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
