package files

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/assay-project/assay/enclave-agent/child"
)

// Bounds of a reload command.
const (
	DefaultReloadTimeout = 10 * time.Second
	MaxReloadTimeout     = 5 * time.Minute
)

// maxPIDFile bounds what is read of a pid file.
const maxPIDFile = 64

// Reload has software read its files again: by a signal, by a command, or by both in
// this order.
type Reload struct {
	Signal  syscall.Signal             // 0 is none
	PIDFile string                     // names the process that is signalled
	Child   func(syscall.Signal) error // signals the agent's own child instead; nil is none
	Command []string                   // the executable's path, and its arguments
	Env     []string                   // of the command
	Timeout time.Duration              // for the command; 0 is DefaultReloadTimeout
	Keeper  *child.Keeper              // runs the command
	Log     *slog.Logger
}

// Do reloads. What fails is logged: the files are there all the same, and the next
// change tries again.
func (r *Reload) Do(ctx context.Context) {
	if r.Signal != 0 {
		r.signal()
	}
	if len(r.Command) > 0 {
		r.run(ctx)
	}
}

func (r *Reload) signal() {
	send := r.toPIDFile
	if r.Child != nil {
		send = r.Child
	}
	err := send(r.Signal)
	switch {
	case err == nil:
		r.Log.Info("the workload is told to read its files", "signal", unix.SignalName(r.Signal))
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, child.ErrEnded):
		r.Log.Info("nobody is there yet to read new files", "signal", unix.SignalName(r.Signal), "why", err.Error())
	default:
		r.Log.Error("the workload is not told to read its files", "check", "reload_signal", "signal", unix.SignalName(r.Signal), "error", err.Error())
	}
}

// toPIDFile signals the process that a file names. The file is somebody's word: it
// counts if it is root's, this user's, or that of the process's own user, so that
// nobody has others signalled with the agent's rights.
func (r *Reload) toPIDFile(s syscall.Signal) error {
	pid, owner, err := readPIDFile(r.PIDFile)
	if err != nil {
		return err
	}
	if pid == os.Getpid() {
		return fmt.Errorf("%s names the agent itself", r.PIDFile)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("%s names process %d, which has ended: %w", r.PIDFile, pid, child.ErrEnded)
	}
	if err != nil {
		return &os.SyscallError{Syscall: "pidfd_open", Err: err}
	}
	defer func() { _ = unix.Close(fd) }()
	if owner != 0 && owner != os.Geteuid() {
		var st unix.Stat_t // of the process that the descriptor holds, or of nothing if it ended
		if err := unix.Stat(fmt.Sprintf("/proc/%d", pid), &st); err != nil || int(st.Uid) != owner {
			return fmt.Errorf("%s belongs to user %d, and process %d does not", r.PIDFile, owner, pid)
		}
	}
	if err := unix.PidfdSendSignal(fd, s, nil, 0); err != nil {
		return &os.SyscallError{Syscall: "pidfd_send_signal", Err: err}
	}
	return nil
}

// readPIDFile reads the number and the owner of a pid file.
func readPIDFile(path string) (pid, owner int, err error) {
	// A pipe of that name would hold the agent up.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return 0, 0, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.Mode().IsRegular() {
		return 0, 0, fmt.Errorf("%s is not a regular file", path)
	}
	if info.Mode().Perm()&0o022 != 0 {
		return 0, 0, fmt.Errorf("%s has mode %s and %w", path, info.Mode().Perm(), ErrPermission)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxPIDFile+1))
	if err != nil {
		return 0, 0, err
	}
	pid, err = parsePID(b)
	if err != nil {
		return 0, 0, fmt.Errorf("%s: %w", path, err)
	}
	return pid, int(st.Uid), nil
}

// parsePID reads the number of one process: 0 and negative ones are groups.
func parsePID(b []byte) (int, error) {
	if len(b) > maxPIDFile {
		return 0, fmt.Errorf("it has more than %d bytes", maxPIDFile)
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 31)
	if err != nil || n == 0 {
		return 0, errors.New("it does not hold the number of a process")
	}
	return int(n), nil
}

func (r *Reload) run(ctx context.Context) {
	within := r.Timeout
	if within == 0 {
		within = DefaultReloadTimeout
	}
	began := time.Now()
	ran := r.Keeper.RunFor(ctx, r.Command[0], r.Command, r.Env, within)
	if ran.Err == nil {
		r.Log.Info("the reload command ran", "command", r.Command[0], "took", time.Since(began).Round(time.Millisecond).String())
		return
	}
	r.Log.Error("the reload command failed; the files are written all the same", "check", "reload_command", "command", r.Command[0], "error", ran.Err.Error(), "output", ran.Output)
}
