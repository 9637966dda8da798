package files

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Modes of the files, where Options name none.
const (
	DefaultKeyMode fs.FileMode = 0o600
	DefaultMode    fs.FileMode = 0o644
)

// Options say how files are kept.
type Options struct {
	// OnDiskUnsafe lets the directory be on a disk. Identities whose policy does not
	// permit it are not written even so.
	OnDiskUnsafe bool
	// Owner of the files; nil is who runs the agent.
	Owner *Owner
	// KeyMode is the mode of what is secret, keys and tokens; 0 is DefaultKeyMode. Only
	// owner and group can be let in, and only to read.
	KeyMode fs.FileMode
	// Mode is that of everything else; 0 is DefaultMode.
	Mode fs.FileMode
}

// Owner is a user and a group, by number.
type Owner struct{ UID, GID int }

// Errors of a directory. Each says what to do instead.
var (
	ErrDisk       = errors.New("is not on a tmpfs or ramfs: the host can read disks")
	ErrPermission = errors.New("can be changed by others")
	ErrMode       = errors.New("not a mode for secrets")
)

// Dir is a directory that is checked, and held open. Where its path leads elsewhere
// later, nothing is written any more (ErrMoved) until [Dir.Reopen]. Close it.
type Dir struct {
	path string
	root *os.Root
	o    Options
	disk bool

	mu    sync.Mutex // one change at a time
	lock  *os.File   // nil until it is claimed
	swept bool       // what a process before left half-made is gone
}

// Open opens a directory, and makes it where it is missing. Errors are ErrDisk,
// ErrPermission or ErrMode with the facts, or the system's.
func Open(path string, o Options) (*Dir, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if o, err = o.complete(); err != nil {
		return nil, err
	}
	if err := create(path, o); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	d := &Dir{path: path, root: root, o: o}
	if err := d.check(); err != nil {
		_ = root.Close()
		return nil, err
	}
	return d, nil
}

func (o Options) complete() (Options, error) {
	if o.KeyMode == 0 {
		o.KeyMode = DefaultKeyMode
	}
	if o.Mode == 0 {
		o.Mode = DefaultMode
	}
	switch {
	case o.KeyMode&^0o640 != 0 || o.KeyMode&0o400 == 0:
		return o, fmt.Errorf("%#o is %w: 0400, 0440, 0600 or 0640", o.KeyMode, ErrMode)
	case o.Mode&^0o644 != 0 || o.Mode&0o400 == 0:
		return o, fmt.Errorf("%#o is not a mode for certificates: at most 0644", o.Mode)
	}
	return o, nil
}

// create makes a directory that is missing, once it is known what it would be on.
func create(path string, o Options) error {
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	above := filepath.Dir(path)
	for {
		_, err := os.Stat(above)
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrNotExist) || above == filepath.Dir(above) {
			return err
		}
		above = filepath.Dir(above)
	}
	if !InMemory(above) && !o.OnDiskUnsafe {
		return fmt.Errorf("%s %w", path, ErrDisk)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // the directory itself guards what is in it
		return err
	}
	if err := os.Mkdir(path, 0o700); err != nil || o.Owner == nil {
		return err
	}
	// The owner's group may enter, and nobody else; nothing can be changed there.
	if err := os.Chown(path, -1, o.Owner.GID); err != nil {
		return err
	}
	return os.Chmod(path, 0o750) //nolint:gosec // for the group that was named
}

// check looks at the directory that is open, not at a name.
func (d *Dir) check() error {
	f, err := d.root.Open(".")
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	var kind unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &kind); err != nil {
		return &os.PathError{Op: "statfs", Path: d.path, Err: err}
	}
	d.disk = !volatile(kind)
	if d.disk && !d.o.OnDiskUnsafe {
		return fmt.Errorf("%s %w", d.path, ErrDisk)
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !ok:
		return fmt.Errorf("%s: its owner cannot be told", d.path)
	case st.Uid != 0 && int(st.Uid) != os.Geteuid():
		return fmt.Errorf("%s belongs to user %d and %w", d.path, st.Uid, ErrPermission)
	case info.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("%s has mode %s and %w", d.path, info.Mode().Perm(), ErrPermission)
	}
	return nil
}

// Path is the absolute path that the directory was opened by.
func (d *Dir) Path() string { return d.path }

// OnDisk reports whether the host can read what is written.
func (d *Dir) OnDisk() bool { return d.disk }

// Close lets go of the directory; the files stay.
func (d *Dir) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.close()
}

// InMemory reports whether a directory is on a tmpfs or ramfs. One that cannot be
// told of is not.
func InMemory(path string) bool {
	var kind unix.Statfs_t
	return unix.Statfs(path, &kind) == nil && volatile(kind)
}

func volatile(kind unix.Statfs_t) bool {
	return kind.Type == unix.TMPFS_MAGIC || kind.Type == unix.RAMFS_MAGIC
}
