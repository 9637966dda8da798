package backup

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
)

// Extract reads an archive into a directory that is there and empty: the files
// under into/data and into/config, directories with mode 0700, every file
// durable. The error is an *attest.Error with one of the checks of this package;
// what was written until then is for the caller to remove.
func Extract(r io.Reader, into string) (Manifest, error) {
	t := tar.NewReader(r)
	m, err := readManifest(t)
	if err != nil {
		return Manifest{}, err
	}
	left := make(map[string]File, len(m.Files))
	for _, f := range m.Files {
		left[f.Path] = f
	}
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return Manifest{}, fault("backup_truncated", damaged, "the archive cannot be read on: %w", err)
		}
		f, ok := left[h.Name]
		switch {
		case !ok:
			return Manifest{}, fault("backup_member", damaged, "%.200q is not in the manifest, or comes twice", h.Name)
		case h.Typeflag != tar.TypeReg:
			return Manifest{}, fault("backup_member", damaged, "%.200q is no regular file", h.Name)
		case h.Size != f.Size:
			return Manifest{}, fault("backup_digest", damaged, "%s has %d bytes, the manifest says %d", f.Path, h.Size, f.Size)
		}
		delete(left, h.Name)
		if err := extract(t, f, into); err != nil {
			return Manifest{}, err
		}
	}
	for name := range left {
		return Manifest{}, fault("backup_truncated", damaged, "%s is in the manifest and not in the archive", name)
	}
	return m, nil
}

// ReadManifest reads the manifest alone, at the beginning of an archive.
func ReadManifest(r io.Reader) (Manifest, error) { return readManifest(tar.NewReader(r)) }

func readManifest(t *tar.Reader) (Manifest, error) {
	h, err := t.Next()
	if err != nil || h.Name != manifestName || h.Typeflag != tar.TypeReg {
		return Manifest{}, fault("backup_manifest", damaged, "it does not begin with %s", manifestName)
	}
	if h.Size > maxManifest {
		return Manifest{}, fault("backup_manifest", damaged, "%s has %d bytes, at most %d are read", manifestName, h.Size, maxManifest)
	}
	text, err := io.ReadAll(io.LimitReader(t, maxManifest))
	if err != nil {
		return Manifest{}, fault("backup_truncated", damaged, "%s: %w", manifestName, err)
	}
	var m Manifest
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&m); err != nil {
		return Manifest{}, fault("backup_manifest", damaged, "%s: %w", manifestName, err)
	}
	if d.More() {
		return Manifest{}, fault("backup_manifest", damaged, "%s: something follows it", manifestName)
	}
	if err := m.check(); err != nil {
		return Manifest{}, err
	}
	return m, nil
}

// check holds for every manifest that Write writes and Extract reads.
func (m Manifest) check() error {
	bad := func(format string, args ...any) error { return fault("backup_manifest", damaged, format, args...) }
	switch {
	case m.Format != Format:
		return fault("backup_manifest", "use the version of assayd that wrote it, or a later one", "the format is %.40q, want %q", m.Format, Format)
	case m.TrustDomain == "" || m.Server == "" || m.CreatedAt.IsZero():
		return bad("trust domain, server or time is missing")
	case m.Database != SQLite && m.Database != PostgreSQL:
		return bad("unknown database %.40q", m.Database)
	case len(m.Files) > maxFiles:
		return bad("%d files, at most %d", len(m.Files), maxFiles)
	}
	seen := map[string]bool{}
	for _, f := range m.Files {
		switch {
		case !safe(f.Path):
			return bad("%.200q is not a path below %s or %s", f.Path, DataDir, ConfigDir)
		case seen[f.Path]:
			return bad("%.200q comes twice", f.Path)
		case f.Size < 0 || len(f.SHA256) != sha256.Size || f.Mode&^0o777 != 0:
			return bad("%.200q has no size, digest or mode of the right kind", f.Path)
		}
		seen[f.Path] = true
	}
	return nil
}

// safe accepts clean, relative paths below one of the two directories.
func safe(p string) bool {
	top, rest, ok := strings.Cut(p, "/")
	return ok && (top == DataDir || top == ConfigDir) && rest != "" && path.Clean(p) == p && filepath.IsLocal(filepath.FromSlash(p)) &&
		!strings.ContainsAny(p, "\x00\\")
}

// extract writes one file.
func extract(r io.Reader, f File, into string) error {
	name := filepath.Join(into, filepath.FromSlash(f.Path))
	cannot := func(err error) error {
		return fault("backup_write", "check the directory's permissions and the disk's free space", "%s: %w", f.Path, err)
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return cannot(err)
	}
	// Nothing in the archive is a program, and what others could write is no key:
	// at most 0644, whatever the manifest says.
	mode := f.Mode & 0o644
	out, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return cannot(err)
	}
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(out, h), io.LimitReader(r, f.Size+1))
	var pe *fs.PathError
	switch {
	case errors.As(err, &pe):
		err = cannot(err)
	case err != nil:
		err = fault("backup_truncated", damaged, "%s: %w", f.Path, err)
	case n != f.Size || !bytes.Equal(h.Sum(nil), f.SHA256):
		err = fault("backup_digest", damaged, "%s is not what the manifest says", f.Path)
	}
	if err == nil {
		if err = errors.Join(out.Chmod(mode), out.Sync()); err != nil {
			err = cannot(err)
		}
	}
	if cerr := out.Close(); err == nil && cerr != nil {
		err = cannot(cerr)
	}
	return err
}
