package issuer

import (
	"net"
	"syscall"
)

// peerOf asks the kernel who connected.
func peerOf(conn net.Conn) string {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return "unknown"
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return "unknown"
	}
	var cred *syscall.Ucred
	var cerr error
	err = raw.Control(func(fd uintptr) {
		cred, cerr = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	})
	if err != nil || cerr != nil {
		return "unknown"
	}
	return actorName(cred.Uid, cred.Pid)
}
