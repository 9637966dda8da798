package files

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// Names of the layout. Two dots in front keep them out of globs and out of the way of
// names that users choose.
const (
	current   = "..data"
	setPrefix = "..set-"
	tmpPrefix = "..new-"
)

// File is one file of a set.
type File struct {
	Name    string
	Secret  bool // of KeyMode
	Content []byte
}

// Put puts a set in the place of the one before, in one step. On an error the one
// before is still in place, whole. It reports whether anything changed.
func (d *Dir) Put(set []File) (changed bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := errors.Join(d.inPlace(), d.claim()); err != nil {
		return false, err
	}
	before, err := d.root.Readlink(current)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if !strings.HasPrefix(before, setPrefix) || strings.Contains(before, "/") {
		before = ""
	}
	same := d.holds(before, set)
	if !same || !d.swept { // keys that a crash left are not kept for a change to come
		d.sweep(before)
	}
	if same {
		return false, d.link(set)
	}
	made := setPrefix + rand.Text()
	if err := d.fill(made, set); err != nil {
		return false, errors.Join(err, d.root.RemoveAll(made))
	}
	if err := d.point(current, made); err != nil {
		return false, errors.Join(err, d.root.RemoveAll(made))
	}
	if err := d.link(set); err != nil {
		return true, err
	}
	gone, err := d.unlink(set)
	if gone { // what is no longer to be had is not kept for those who read it a moment ago
		before = ""
	}
	d.sweep(made, before)
	return true, err
}

// kept are files of the present set that stay as they are: of a trust domain whose
// server is away, so that the agent has none of its identities now, as after a
// restart.
func (d *Dir) kept(stay func(file string) bool) (out []File) {
	d.mu.Lock()
	defer d.mu.Unlock()
	all, err := fs.ReadDir(d.root.FS(), current)
	if err != nil {
		return nil
	}
	for _, e := range all {
		if !stay(e.Name()) {
			continue
		}
		b, err := d.root.ReadFile(filepath.Join(current, e.Name()))
		if err != nil {
			continue
		}
		secret := strings.HasSuffix(e.Name(), ".key") || strings.HasPrefix(e.Name(), bothFile+".")
		out = append(out, File{Name: e.Name(), Secret: secret, Content: b})
	}
	return out
}

// holds reports whether a set on the directory is this one.
func (d *Dir) holds(name string, set []File) bool {
	if name == "" {
		return false
	}
	held, err := fs.ReadDir(d.root.FS(), name)
	if err != nil || len(held) != len(set) {
		return false
	}
	for _, f := range set {
		b, err := d.root.ReadFile(filepath.Join(name, f.Name))
		if err != nil || !bytes.Equal(b, f.Content) {
			return false
		}
	}
	return true
}

// fill writes the files of a set into a directory of their own, which nobody looks
// into yet.
func (d *Dir) fill(name string, set []File) error {
	if err := d.root.Mkdir(name, 0o700); err != nil {
		return err
	}
	for _, f := range set {
		if err := d.write(filepath.Join(name, f.Name), f); err != nil {
			return err
		}
	}
	return d.root.Chmod(name, 0o755) // the directory above guards it
}

// write makes a file that was not there, with its owner and mode from its first byte
// on.
func (d *Dir) write(name string, f File) (err error) {
	out, err := d.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if d.o.Owner != nil {
		if err := out.Chown(d.o.Owner.UID, d.o.Owner.GID); err != nil {
			return err
		}
	}
	mode := d.o.Mode
	if f.Secret {
		mode = d.o.KeyMode
	}
	if err := out.Chmod(mode); err != nil {
		return err
	}
	if _, err := out.Write(f.Content); err != nil {
		return err
	}
	if d.disk {
		return out.Sync()
	}
	return nil
}

// point makes a link, in the place of what had its name.
func (d *Dir) point(name, target string) error {
	tmp := tmpPrefix + rand.Text()
	if err := d.root.Symlink(target, tmp); err != nil {
		return err
	}
	if err := d.root.Rename(tmp, name); err != nil {
		return errors.Join(err, d.root.Remove(tmp))
	}
	return nil
}

// link gives each file of the set its name in the directory.
func (d *Dir) link(set []File) error {
	for _, f := range set {
		target := current + "/" + f.Name
		if has, err := d.root.Readlink(f.Name); err == nil && has == target {
			continue
		}
		if err := d.point(f.Name, target); err != nil {
			return err
		}
	}
	return nil
}

// unlink takes the names away that were of a set, and are not of this one.
func (d *Dir) unlink(set []File) (gone bool, err error) {
	wanted := map[string]bool{}
	for _, f := range set {
		wanted[f.Name] = true
	}
	all, err := fs.ReadDir(d.root.FS(), ".")
	if err != nil {
		return false, err
	}
	for _, e := range all {
		target, rerr := d.root.Readlink(e.Name())
		if rerr != nil || target != current+"/"+e.Name() || wanted[e.Name()] {
			continue
		}
		gone = true
		err = errors.Join(err, d.root.Remove(e.Name()))
	}
	return gone, err
}

// sweep removes what an earlier switch left: all sets but those named. What cannot be
// removed now is tried again at the next.
func (d *Dir) sweep(keep ...string) {
	all, err := fs.ReadDir(d.root.FS(), ".")
	if err != nil {
		return
	}
	for _, e := range all {
		name := e.Name()
		stale := strings.HasPrefix(name, setPrefix) && !slices.Contains(keep, name) || strings.HasPrefix(name, tmpPrefix) && !d.swept
		if now, err := d.root.Readlink(current); stale && (err != nil || now != name) {
			_ = d.root.RemoveAll(name)
		}
	}
	d.swept = true // from here on, a new name is that of somebody at work, such as `fetch`
}

// Replace puts one file, which is of no set, in the place of another in one step.
func (d *Dir) Replace(f File) error {
	if !ownName(f.Name) {
		return fmt.Errorf("%q is not the name of a file in %s", f.Name, d.path)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.inPlace(); err != nil {
		return err
	}
	err := d.replace(f)
	if errors.Is(err, fs.ErrNotExist) { // swept away by an agent that has just begun there
		err = d.replace(f)
	}
	return err
}

func (d *Dir) replace(f File) error {
	tmp := tmpPrefix + rand.Text()
	if err := d.write(tmp, f); err != nil {
		return errors.Join(err, ignoreMissing(d.root.Remove(tmp)))
	}
	if err := d.root.Rename(tmp, f.Name); err != nil {
		return errors.Join(err, ignoreMissing(d.root.Remove(tmp)))
	}
	return nil
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// ownName reports whether a name is that of a file in the directory itself.
func ownName(name string) bool {
	return name != "" && len(name) <= 255 && !strings.HasPrefix(name, ".") && !strings.ContainsAny(name, "/\x00\n")
}
