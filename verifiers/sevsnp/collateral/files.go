package collateral

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"time"
)

const (
	fileMode fs.FileMode = 0o600
	dirMode  fs.FileMode = 0o700

	tempPrefix  = ".new-"
	lockFile    = ".lock"
	bundlesFile = "bundles.json"

	// staleTemp is how old an unfinished file must be to be removed: its writer was
	// killed.
	staleTemp = time.Hour
)

// ownFile reports whether a file that is no object belongs to the cache.
func ownFile(name string) bool {
	return name == lockFile || name == bundlesFile || strings.HasPrefix(name, tempPrefix)
}

// openDir opens the directory, or makes it, and removes what killed writers left.
func openDir(path string) (*os.Root, error) {
	if path == "" {
		return nil, errors.New("no directory is named")
	}
	if err := os.MkdirAll(path, dirMode); err != nil {
		return nil, err
	}
	dir, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	info, err := dir.Stat(".")
	if err == nil && info.Mode().Perm()&0o022 != 0 {
		err = fmt.Errorf("%s is writable for others (mode %04o): chmod go-w %s", path, info.Mode().Perm(), path)
	}
	if err == nil {
		if st, ok := info.Sys().(*syscall.Stat_t); ok && !mayOwn(int(st.Uid), os.Geteuid()) {
			err = fmt.Errorf("%s belongs to the user %d, who could put older files into it: name a directory of your own", path, st.Uid)
		}
	}
	if err == nil {
		err = removeStale(dir, time.Now())
	}
	if err != nil {
		_ = dir.Close() // only read
		return nil, err
	}
	return dir, nil
}

// mayOwn reports whether a user may work with the directory of an owner: with his
// own, and root's, who can do anything anyhow. Root works with everybody's, as an
// operator who imports a bundle for a server does.
func mayOwn(owner, user int) bool { return owner == user || owner == 0 || user == 0 }

func removeStale(dir *os.Root, now time.Time) error {
	files, err := fs.ReadDir(dir.FS(), ".")
	if err != nil {
		return err
	}
	for _, f := range files {
		if !strings.HasPrefix(f.Name(), tempPrefix) {
			continue
		}
		if info, err := f.Info(); err != nil || now.Sub(info.ModTime()) < staleTemp {
			continue
		}
		if err := dir.Remove(f.Name()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// readFile reads a regular file of at most limit bytes that only its owner may
// write. It returns the file's date even with an error, where there is one. The
// error is an *unreadError where the system failed, but for a file that is gone
// (fs.ErrNotExist); any other is the file's own fault.
func readFile(dir *os.Root, name string, limit int64) (b []byte, modified time.Time, err error) {
	// O_NONBLOCK: a named pipe must not hold us up.
	f, err := dir.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, time.Time{}, err
	}
	if err != nil {
		return nil, time.Time{}, unreadable(err)
	}
	defer func() { _ = f.Close() }() // only read
	info, err := f.Stat()
	if err != nil {
		return nil, time.Time{}, unreadable(err)
	}
	modified = info.ModTime()
	switch {
	case !info.Mode().IsRegular():
		return nil, modified, errors.New("it is not a regular file")
	case info.Mode().Perm()&0o022 != 0:
		return nil, modified, fmt.Errorf("others may write it (mode %04o)", info.Mode().Perm())
	case info.Size() > limit:
		return nil, modified, fmt.Errorf("it has %d bytes, at most %d are read", info.Size(), limit)
	}
	if b, err = io.ReadAll(io.LimitReader(f, limit+1)); err != nil {
		return nil, modified, unreadable(err)
	}
	if int64(len(b)) > limit {
		return nil, modified, fmt.Errorf("it has more than %d bytes", limit)
	}
	return b, modified, nil
}

// writeFile puts a file in its place whole: written aside, forced to disk, renamed,
// and the directory forced to disk. Mode 0600.
func writeFile(dir *os.Root, name string, content []byte) (err error) {
	var r [8]byte
	_, _ = rand.Read(r[:]) // never fails
	temp := tempPrefix + hex.EncodeToString(r[:])
	f, err := dir.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close()        // the error that matters is returned
			_ = dir.Remove(temp) // best effort
		}
	}()
	if err := f.Chmod(fileMode); err != nil { // whatever the umask
		return err
	}
	if _, err := f.Write(content); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := dir.Rename(temp, name); err != nil {
		return err
	}
	d, err := dir.Open(".")
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }() // synced or failed below
	return d.Sync()
}

// lock takes the directory's lock, which whoever replaces a file must hold: a CRL,
// or the record of bundles. Other processes wait; the kernel frees the lock of
// one that dies.
func lock(dir *os.Root) (unlock func(), err error) {
	f, err := dir.OpenFile(lockFile, os.O_RDWR|os.O_CREATE, fileMode)
	if err != nil {
		return nil, err
	}
	for {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err != nil {
		_ = f.Close() // the error that matters is returned
		return nil, fmt.Errorf("locking: %w", err)
	}
	return func() { _ = f.Close() }, nil // closing frees the lock
}
