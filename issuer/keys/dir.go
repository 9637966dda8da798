package keys

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// suffix is the file name extension of a key; tempPrefix that of a file which is
// being written.
const (
	suffix     = ".key"
	tempPrefix = ".tmp-"
)

// Dir is a [Ring] of files: the key "x" is the file x.key.
type Dir struct{ path string }

var _ Ring = (*Dir)(nil)

// OpenDir opens a directory of keys. It must be a directory, belong to the user
// that runs the process, and be closed to everybody else.
func OpenDir(path string) (*Dir, error) {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fault("key_dir", path, fs.ErrNotExist, "run 'assayd init' first, or restore the directory from a backup")
	case err != nil:
		return nil, fault("key_dir", path, err, "check the path and its permissions")
	case !info.IsDir():
		return nil, fault("key_dir", path, fmt.Errorf("not a directory (%v)", info.Mode().Type()), "put a directory there: symbolic links are refused")
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || !ownedBy(st.Uid, os.Geteuid()) {
		return nil, fault("key_owner", path, errors.New("the directory belongs to another user"),
			fmt.Sprintf("chown it to the user that runs this program (uid %d)", os.Geteuid()))
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fault("key_mode", path, fmt.Errorf("others may enter it (mode %#o)", info.Mode().Perm()), "chmod 700 "+path)
	}
	return &Dir{path: path}, nil
}

// MakeDir creates the directory, mode 0700, where it is missing, and opens it.
func MakeDir(path string) (*Dir, error) {
	switch err := os.Mkdir(path, 0o700); {
	case err == nil:
		if err := SyncDir(filepath.Dir(path)); err != nil {
			return nil, err
		}
	case !errors.Is(err, fs.ErrExist):
		return nil, fault("key_dir", path, err, "check that its parent directory exists and can be written to")
	}
	return OpenDir(path)
}

// CheckName accepts 1 to 64 characters of a–z, 0–9 and '-', beginning with a
// letter: names that are safe in a path, and in the URI of a key elsewhere.
func CheckName(name string) error {
	ok := name != "" && len(name) <= 64 && name[0] >= 'a' && name[0] <= 'z'
	for _, c := range []byte(name) {
		ok = ok && (c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-')
	}
	if !ok {
		return fmt.Errorf("keys: %.70q is not a key name: want 1 to 64 of a-z, 0-9 and '-', beginning with a letter", name)
	}
	return nil
}

// Path is the file of the key with that name.
func (d *Dir) Path(name string) string { return filepath.Join(d.path, name+suffix) }

// Get reads a key. A missing one satisfies errors.Is(err, fs.ErrNotExist).
func (d *Dir) Get(_ context.Context, name string) (crypto.Signer, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	return load(d.Path(name))
}

// Create makes a key and returns once it is durable. An existing one satisfies
// errors.Is(err, fs.ErrExist) and is left alone.
func (d *Dir) Create(_ context.Context, name string, alg Algorithm) (crypto.Signer, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	return makeKey(d.Path(name), alg)
}

// Names lists the keys, sorted. Files that are not keys by name are left out.
func (d *Dir) Names(context.Context) ([]string, error) {
	files, err := os.ReadDir(d.path)
	if err != nil {
		return nil, fault("key_dir", d.path, err, "check the path and its permissions")
	}
	var out []string
	for _, f := range files {
		if name, ok := strings.CutSuffix(f.Name(), suffix); ok && CheckName(name) == nil {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out, nil
}

// Sweep removes what a crash left of files that were being written. Call it
// only while no other process writes there.
func (d *Dir) Sweep() error {
	files, err := os.ReadDir(d.path)
	if err != nil {
		return fault("key_dir", d.path, err, "check the path and its permissions")
	}
	for _, f := range files {
		if strings.HasPrefix(f.Name(), tempPrefix) && f.Type().IsRegular() {
			if err := os.Remove(filepath.Join(d.path, f.Name())); err != nil {
				return fault("key_dir", d.path, err, "check the directory's permissions")
			}
		}
	}
	return nil
}
