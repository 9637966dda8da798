// Package keyfile keeps a simulated authority's keys and certificates in the
// files of a directory, so that processes agree on them: one at a time makes
// what is missing, a file is there whole or not at all, and a secret that others
// can read is refused. The simulators say what is in which file.
package keyfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

const lockFile = ".lock"

// Dir is an authority's directory, which this process alone has open.
type Dir struct {
	path string
	lock *os.File
}

// Open makes the directory, mode 0700, unless it is there, and waits until no
// other process, and no other part of this one, has it open.
func Open(path string) (*Dir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(path, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	return &Dir{path: path, lock: f}, nil
}

// Close lets others in.
func (d *Dir) Close() { _ = d.lock.Close() } // closing gives the lock back

// Path is where a file of the directory is.
func (d *Dir) Path(name string) string { return filepath.Join(d.path, name) }

// Has reports whether there is anything of that name.
func (d *Dir) Has(name string) (bool, error) {
	_, err := os.Lstat(d.Path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Secret reads a file that only its owner can read. One that others can read is
// refused, and so is one behind a link.
func (d *Dir) Secret(name string) ([]byte, error) {
	info, err := os.Lstat(d.Path(name))
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s has mode %v, want a file that only its owner can read: chmod 600 it", d.Path(name), info.Mode())
	}
	return os.ReadFile(d.Path(name))
}

// Write makes a file, or replaces it; it is whole or not there.
func (d *Dir) Write(name string, content []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(d.path, "."+name+"-")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }() // gone after the rename
	_, err = f.Write(content)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), d.Path(name))
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", d.Path(name), err)
	}
	return nil
}

// Public reads a file of a directory that need not be open: what a process needs
// that only verifies. The error is fs.ErrNotExist when there is none.
func Public(dir, name string) ([]byte, error) {
	b, err := os.ReadFile(filepath.Join(dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no authority in %s: %w", dir, err)
	}
	return b, err
}
