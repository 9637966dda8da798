package backup

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
)

// Source is one file to be archived: from memory, or from a file that nobody
// changes meanwhile.
type Source struct {
	Path string // in the archive: "data/keys/checkpoint.key"
	Mode fs.FileMode
	Body []byte // or
	From string // path on disk, when Body is nil

	Origin string // see [File]
}

func (s Source) open() (io.ReadCloser, error) {
	if s.Body != nil {
		return io.NopCloser(bytes.NewReader(s.Body)), nil
	}
	return os.Open(s.From)
}

// describe reads a source once, for its size and digest.
func (s Source) describe() (_ File, err error) {
	r, err := s.open()
	if err != nil {
		return File{}, err
	}
	defer func() { _ = r.Close() }() // only read
	h := sha256.New()
	n, err := io.Copy(h, r)
	if err != nil {
		return File{}, err
	}
	return File{Path: s.Path, Mode: s.Mode.Perm(), Size: n, SHA256: h.Sum(nil), Origin: s.Origin}, nil
}

// Write writes an archive. Format and Files of the manifest are filled in here,
// sorted by path, so that the same content makes the same archive.
func Write(w io.Writer, m Manifest, sources []Source) error {
	sources = slices.Clone(sources)
	slices.SortFunc(sources, func(a, b Source) int { return strings.Compare(a.Path, b.Path) })
	m.Format, m.Files = Format, nil
	for _, s := range sources {
		f, err := s.describe()
		if err != nil {
			return fmt.Errorf("backup: %s: %w", s.Path, err)
		}
		m.Files = append(m.Files, f)
	}
	if err := m.check(); err != nil {
		return err
	}
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	t := tar.NewWriter(w)
	header := func(name string, mode fs.FileMode, size int64) error {
		return t.WriteHeader(&tar.Header{
			Typeflag: tar.TypeReg, Name: name, Mode: int64(mode.Perm()), Size: size, ModTime: m.CreatedAt.Truncate(1e9), Format: tar.FormatPAX,
		})
	}
	if err := header(manifestName, 0o600, int64(len(text))); err != nil {
		return err
	}
	if _, err := t.Write(text); err != nil {
		return err
	}
	for i, s := range sources {
		if err := header(s.Path, m.Files[i].Mode, m.Files[i].Size); err != nil {
			return err
		}
		if err := copySource(t, s, m.Files[i]); err != nil {
			return err
		}
	}
	return t.Close()
}

// copySource copies what was described, and nothing else: a file that changed
// in between makes an archive that nobody could restore.
func copySource(w io.Writer, s Source, f File) error {
	r, err := s.open()
	if err != nil {
		return fmt.Errorf("backup: %s: %w", s.Path, err)
	}
	defer func() { _ = r.Close() }() // only read
	h := sha256.New()
	if _, err := io.Copy(io.MultiWriter(w, h), r); err != nil {
		return fmt.Errorf("backup: %s: %w", s.Path, err)
	}
	if !bytes.Equal(h.Sum(nil), f.SHA256) {
		return fmt.Errorf("backup: %s changed while it was archived", s.Path)
	}
	return nil
}
