package process

import "golang.org/x/sys/unix"

// SeesPrograms reports whether this process may look at the programs of other users'
// processes (CAP_SYS_PTRACE, which root has), as selectors of path and sha256 need.
func SeesPrograms() bool {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData // 64 bits in two parts
	if err := unix.Capget(&head, &data[0]); err != nil {
		return false
	}
	return data[unix.CAP_SYS_PTRACE/32].Effective&(1<<(unix.CAP_SYS_PTRACE%32)) != 0
}
