package child

import (
	"bytes"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Job control. A child has a process group of its own, so that what a terminal sends
// (ctrl-C, a new size) reaches it once. For the shell above, this process is the job:
// a child that stops must stop it too, or nobody could type any more; and one that is
// continued must continue the child, with the terminal where the shell gave it.

// Terminal opens the controlling terminal of this process; nil where there is none.
func Terminal() *os.File {
	f, err := os.OpenFile("/dev/tty", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil
	}
	return f
}

// inFront reports whether this process's group has the terminal.
func inFront(tty *os.File) bool { return tty != nil && frontGroup(tty) == unix.Getpgrp() }

// frontGroup is the process group that has the terminal; 0 where that cannot be told.
func frontGroup(tty *os.File) int {
	pgrp, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP)
	if err != nil {
		return 0
	}
	return pgrp
}

// bringToFront gives the terminal to a group. From the background that is done under a
// blocked SIGTTOU, which would stop this process (tcsetpgrp(3)).
func bringToFront(tty *os.File, pgrp int) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var block, before unix.Sigset_t
	block.Val[0] = 1 << (unix.SIGTTOU - 1)
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &block, &before); err != nil {
		return
	}
	defer func() { _ = unix.PthreadSigmask(unix.SIG_SETMASK, &before, nil) }()
	_ = unix.IoctlSetPointerInt(int(tty.Fd()), unix.TIOCSPGRP, pgrp) // the terminal may be gone
}

// give hands the terminal that this process has to the child.
func (c *Child) give() {
	if inFront(c.tty) {
		bringToFront(c.tty, c.pid)
	}
}

// takeBack takes the terminal from the child, for who reads it next.
func (c *Child) takeBack() {
	if c.tty != nil && frontGroup(c.tty) == c.pid {
		bringToFront(c.tty, unix.Getpgrp())
	}
}

// heldUp is called when the child was stopped by a signal. Where nobody could continue
// it from its terminal, it is continued at once, as the kernel does with groups that
// are orphaned; a SIGSTOP is somebody's own decision, and stands.
func (c *Child) heldUp(by syscall.Signal) {
	if c.tty == nil || by != syscall.SIGTSTP && by != syscall.SIGTTIN && by != syscall.SIGTTOU {
		return
	}
	switch {
	case by != syscall.SIGTSTP && inFront(c.tty): // the shell brought this job to the front meanwhile
		c.give()
	case shellAbove():
		c.takeBack()
		suspend()
		if c.foreground {
			c.give()
		}
	case frontGroup(c.tty) != c.pid:
		return
	}
	_ = c.SignalGroup(syscall.SIGCONT)
}

// suspend stops this process's group, as the terminal would have done, until somebody
// continues it.
func suspend() {
	continued := make(chan os.Signal, 1)
	signal.Notify(continued, syscall.SIGCONT)
	defer signal.Stop(continued)
	if syscall.Kill(0, syscall.SIGSTOP) == nil {
		<-continued // the stop itself may come a moment after the call
	}
}

// shellAbove reports whether somebody above, at the same terminal, could continue this process's
// group: whether it is no orphaned one (POSIX.1-2017, 3.264).
func shellAbove() bool {
	own := unix.Getpgrp()
	session, err := unix.Getsid(0)
	if err != nil {
		return false
	}
	p := unix.Getppid()
	for range 64 {
		if p <= 0 {
			return false
		}
		group, err := unix.Getpgid(p)
		if err != nil {
			return false
		}
		if group != own {
			its, err := unix.Getsid(p)
			return err == nil && its == session
		}
		p = parentOf(p)
	}
	return false
}

// parentOf is the parent of a process (proc(5), /proc/pid/stat); 0 where that cannot
// be told.
func parentOf(pid int) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:]) // the name before may hold anything
	if len(f) < 2 {
		return 0
	}
	n, err := strconv.Atoi(string(f[1]))
	if err != nil {
		return 0
	}
	return n
}
