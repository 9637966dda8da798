package files

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// lockName is the file whose lock says that a process keeps sets in the directory. It
// stays when the process ends: removing it would race.
const lockName = "..lock"

// Errors of a directory that is another's, or is not where its path leads any more.
var (
	ErrBusy  = errors.New("is kept by another agent")
	ErrMoved = errors.New("is not the directory any more that its path leads to")
)

// Claim makes the directory this process's to keep sets in, until Close. Of two that
// switch sets in one directory each would sweep away what the other has just made, so
// the second gets ErrBusy. Put claims where that has not been done.
func (d *Dir) Claim() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.claim()
}

func (d *Dir) claim() error {
	if d.lock != nil {
		return nil
	}
	f, err := d.root.OpenFile(lockName, os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return fmt.Errorf("%s %w", d.path, ErrBusy)
		}
		return &os.PathError{Op: "flock", Path: d.path + "/" + lockName, Err: err}
	}
	d.lock = f
	return nil
}

// inPlace is nil while the path leads to the directory that is open. What is written
// elsewhere would be found by nobody.
func (d *Dir) inPlace() error {
	held, err := d.root.Stat(".")
	if err != nil {
		return err
	}
	there, err := os.Stat(d.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err != nil || !os.SameFile(held, there) {
		return fmt.Errorf("%s %w: it was moved, removed or mounted over", d.path, ErrMoved)
	}
	return nil
}

// Reopen follows the path to another directory, where it leads to one by now, with all
// the checks of Open; it is made where it is missing. Nothing else may use d meanwhile.
// It reports whether it was another. On an error d is as it was.
func (d *Dir) Reopen() (bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.inPlace(); !errors.Is(err, ErrMoved) {
		return false, err
	}
	fresh, err := Open(d.path, d.o)
	if err != nil {
		return false, err
	}
	if d.lock != nil {
		if err := fresh.claim(); err != nil {
			return false, errors.Join(err, fresh.Close())
		}
	}
	_ = d.close()
	d.root, d.lock, d.disk, d.swept = fresh.root, fresh.lock, fresh.disk, false
	return true, nil
}

// Moved reports whether the path leads elsewhere by now.
func (d *Dir) Moved() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return errors.Is(d.inPlace(), ErrMoved)
}

func (d *Dir) close() error {
	err := d.root.Close()
	if d.lock != nil {
		err = errors.Join(err, d.lock.Close())
	}
	return err
}
