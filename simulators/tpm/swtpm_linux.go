package tpm

import "syscall"

// endsWithParent has the kernel kill the child when this process is killed: it
// would end without that too, with its connection, but not while it computes.
func endsWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}
