package store

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"

	"github.com/assay-project/assay/attest"
)

// lockFile keeps a second server away from the same SQLite file: the kernel
// drops the lock with the process, so that a killed server leaves none behind.
type lockFile struct{ f *os.File }

// takeLock locks path, and writes the process id into it for the message that
// the second one prints.
func takeLock(path string) (*lockFile, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fault("database_lock", path, err, "check the data directory's permissions")
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		holder := ""
		if b, rerr := io.ReadAll(io.LimitReader(f, 32)); rerr == nil && len(b) > 0 {
			holder = " (process " + strings.TrimSpace(string(b)) + ")"
		}
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fault("database_lock", path, errors.New("another assayd uses this data directory"+holder),
				"stop it first; several servers need PostgreSQL, and a data directory each")
		}
		return nil, fault("database_lock", path, err, "put the data directory on a file system with locks")
	}
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt(fmt.Appendf(nil, "%d\n", os.Getpid()), 0) // only for the message above
	}
	return &lockFile{f}, nil
}

func (l *lockFile) release() error {
	if l == nil {
		return nil
	}
	if err := l.f.Close(); !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}

// DataDirLock keeps a second process away from a data directory whose database is
// elsewhere.
type DataDirLock struct{ l *lockFile }

// LockDataDir takes the lock, or fails with check database_lock.
func LockDataDir(path string) (*DataDirLock, error) {
	l, err := takeLock(path)
	if err != nil {
		return nil, err
	}
	return &DataDirLock{l}, nil
}

// Release lets go of it. The kernel does, when the process ends.
func (d *DataDirLock) Release() error { return d.l.release() }

func fault(check, path string, err error, hint string) error {
	return &attest.Error{Kind: attest.Internal, Check: check, Err: fmt.Errorf("%s: %w", path, err), Hint: hint}
}
