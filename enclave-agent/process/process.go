package process

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrChanged is a process that ended, or is no longer what it was when it
// connected.
var ErrChanged = errors.New("the process has ended, or is not what it was when it connected")

// Process is the process that opened a connection.
type Process struct {
	PID int    // as /proc has it
	UID uint32 // effective, when it connected
	GID uint32

	start uint64 // when it started, clock ticks since boot (proc_pid_stat(5), field 22)
	// exe is the program that it ran when it connected. Zero where this user may not
	// know that of another user's process (proc(5), PTRACE_MODE_READ): then nothing
	// that depends on the program is known of it.
	exe inode

	mu   sync.Mutex
	fd   int // of the process; -1 once closed
	gone bool
}

// inode is a file, as long as the machine runs.
type inode struct{ dev, ino uint64 }

// OfPeer pins the process that connected to this end of a socket (unix(7)). The
// error says what the kernel did not tell; then nothing is known of the caller.
func OfPeer(c *net.UnixConn) (*Process, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	var (
		cred    *unix.Ucred
		credErr error
		fd      = -1
		fdErr   error
	)
	if err := raw.Control(func(s uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(s), unix.SOL_SOCKET, unix.SO_PEERCRED)
		fd, fdErr = unix.GetsockoptInt(int(s), unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	}); err != nil {
		return nil, err
	}
	if credErr != nil {
		return nil, fmt.Errorf("the kernel does not tell who connected: %w", credErr)
	}
	if cred.Pid <= 0 {
		return nil, errors.New("the caller is in a PID namespace that cannot be seen from here")
	}
	switch {
	case errors.Is(fdErr, unix.ENOPROTOOPT):
		// Before Linux 6.5. The pid may be another's by now, if the caller ended
		// since it connected: user and group have to be the same then.
		if fd, err = unix.PidfdOpen(int(cred.Pid), 0); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrChanged, err)
		}
	case fdErr != nil:
		return nil, fmt.Errorf("%w: %w", ErrChanged, fdErr) // it has ended, and was collected
	default:
		unix.CloseOnExec(fd)
	}
	p := &Process{UID: cred.Uid, GID: cred.Gid, fd: fd}
	if p.PID, err = pidOf(fd, int(cred.Pid)); err == nil {
		err = p.remember()
	}
	if err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// UserOfPeer is the user who connected to this end of a socket, whatever became of
// the process.
func UserOfPeer(c *net.UnixConn) (uint32, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(s uintptr) { cred, credErr = unix.GetsockoptUcred(int(s), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return 0, err
	}
	if credErr != nil {
		return 0, fmt.Errorf("the kernel does not tell who connected: %w", credErr)
	}
	return cred.Uid, nil
}

// pidOf is the number that /proc has the process under. That of the credentials is
// one in the agent's own PID namespace; a /proc of another namespace has somebody
// else under it. told is the one of the credentials.
func pidOf(fd, told int) (int, error) {
	b, err := os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(fd))
	if errors.Is(err, fs.ErrPermission) && ownProc() {
		return told, nil
	}
	if err != nil {
		return 0, fmt.Errorf("the kernel does not tell which process called: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		value, ok := strings.CutPrefix(line, "Pid:")
		if !ok {
			continue
		}
		switch pid, err := strconv.Atoi(strings.TrimSpace(value)); {
		case err != nil:
			return 0, err
		case pid < 0:
			return 0, ErrChanged // it has ended
		case pid == 0:
			return 0, errors.New("the caller is in a PID namespace that this /proc does not show")
		default:
			return pid, nil
		}
	}
	return 0, errors.New("the kernel does not tell which process a descriptor is of")
}

// ownProc reports whether /proc is that of the agent's own PID namespace. Where Linux is
// older than 5.14, a process that closed its memory to its user may not read its own
// fdinfo, unless it is root.
func ownProc() bool {
	self, err := os.Readlink("/proc/self")
	return err == nil && self == strconv.Itoa(os.Getpid())
}

// remember notes what the process is now.
func (p *Process) remember() (err error) {
	if p.start, err = p.started(); err != nil {
		return err
	}
	if p.exe, err = p.program(); err != nil {
		return err
	}
	return p.Unchanged()
}

// Unchanged says whether this is still the process that connected, running the
// program that it ran then, as the user that it was. The error is ErrChanged, and
// stays so.
func (p *Process) Unchanged() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone {
		return ErrChanged
	}
	if err := p.same(); err != nil {
		p.gone = true
		return err
	}
	return nil
}

func (p *Process) same() error {
	if p.fd < 0 || !alive(p.fd) {
		return ErrChanged
	}
	start, err := p.started()
	if err != nil || start != p.start {
		return ErrChanged
	}
	if exe, err := p.program(); err != nil || exe != p.exe {
		return ErrChanged
	}
	s, err := p.status()
	if err != nil || s.uid != p.UID || s.gid != p.GID {
		return ErrChanged
	}
	// The descriptor is asked last: while it says that the process lives, its pid
	// was nobody else's all the time.
	if !alive(p.fd) {
		return ErrChanged
	}
	return nil
}

// Close lets go of the process.
func (p *Process) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fd >= 0 {
		_ = unix.Close(p.fd)
		p.fd, p.gone = -1, true
	}
}

// alive reports whether the process of a descriptor has not ended: the descriptor
// becomes readable when it does (pidfd_open(2)).
func alive(fd int) bool {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		return err == nil && n == 0
	}
}

func (p *Process) path(name string) string { return "/proc/" + strconv.Itoa(p.PID) + "/" + name }

// started reads the moment at which the process began.
func (p *Process) started() (uint64, error) {
	b, err := os.ReadFile(p.path("stat"))
	if err != nil {
		return 0, gone(err)
	}
	// The second field is the program's name in parentheses, and may hold anything.
	i := strings.LastIndexByte(string(b), ')')
	fields := strings.Fields(string(b[max(i+1, 0):]))
	if i < 0 || len(fields) < 20 {
		return 0, fmt.Errorf("/proc/%d/stat has another form than proc_pid_stat(5)", p.PID)
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

// program is the file that the process runs.
func (p *Process) program() (inode, error) {
	info, err := os.Stat(p.path("exe"))
	switch {
	case errors.Is(err, fs.ErrPermission):
		return inode{}, nil
	case err != nil:
		return inode{}, gone(err)
	}
	return inodeOf(info)
}

// errHidden is a program that this user may not look at.
var errHidden = errors.New("the agent may not look at programs of other users: run it as root, or with CAP_SYS_PTRACE")

func inodeOf(info fs.FileInfo) (inode, error) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return inode{}, errors.New("a file without an inode")
	}
	return inode{uint64(st.Dev), st.Ino}, nil //nolint:unconvert // 32 bits on some machines
}

// status is what is read of proc_pid_status(5).
type status struct {
	uid, gid uint32 // effective
	groups   []uint32
}

func (p *Process) status() (s status, err error) {
	b, err := os.ReadFile(p.path("status"))
	if err != nil {
		return s, gone(err)
	}
	seen := 0
	for line := range strings.Lines(string(b)) {
		key, value, _ := strings.Cut(line, ":")
		fields := strings.Fields(value)
		switch key {
		case "Uid", "Gid": // real, effective, saved, of the file system
			if len(fields) != 4 {
				return s, fmt.Errorf("/proc/%d/status: %s has %d fields", p.PID, key, len(fields))
			}
			id, err := strconv.ParseUint(fields[1], 10, 32)
			if err != nil {
				return s, err
			}
			if seen++; key == "Uid" {
				s.uid = uint32(id)
			} else {
				s.gid = uint32(id)
			}
		case "Groups":
			seen++
			for _, f := range fields {
				id, err := strconv.ParseUint(f, 10, 32)
				if err != nil {
					return s, err
				}
				s.groups = append(s.groups, uint32(id))
			}
		}
	}
	if seen != 3 {
		return s, fmt.Errorf("/proc/%d/status lacks a line of Uid, Gid or Groups", p.PID)
	}
	slices.Sort(s.groups)
	return s, nil
}

// gone is what an absent file of /proc means.
func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
		return ErrChanged
	}
	return fmt.Errorf("the kernel does not tell about the caller: %w", err)
}
