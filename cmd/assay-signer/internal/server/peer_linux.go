package server

import (
	"errors"
	"net"
	"syscall"
)

// peer is who is at the other end.
type peer struct {
	uid uint32
	pid int32
}

// peerOf asks the kernel who connected: the credentials are those of connect(2).
func peerOf(conn net.Conn) (peer, error) {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return peer{}, errors.New("not a socket of the system")
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return peer{}, err
	}
	var cred *syscall.Ucred
	var cerr error
	if err := raw.Control(func(fd uintptr) {
		cred, cerr = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	}); err != nil {
		return peer{}, err
	}
	if cerr != nil {
		return peer{}, cerr
	}
	return peer{uid: cred.Uid, pid: cred.Pid}, nil
}
