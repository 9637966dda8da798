package main

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// file is one file of a tarball or package.
type file struct {
	name string // without a leading slash
	from string // on disk, or
	body []byte
	mode os.FileMode
}

func (f file) read() ([]byte, error) {
	if f.body != nil {
		return f.body, nil
	}
	return os.ReadFile(f.from)
}

// docs are the documents that are shipped: all of docs but its tests.
func (r *release) docs(below string) (out []file, err error) {
	root := filepath.Join(r.source, "docs")
	err = filepath.WalkDir(root, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(p, ".md") && !strings.HasSuffix(p, ".json") {
			return err
		}
		rel, err := filepath.Rel(root, p)
		out = append(out, file{name: below + "/" + filepath.ToSlash(rel), from: p, mode: 0o644})
		return err
	})
	for _, name := range []string{"LICENSE", "SECURITY.md"} {
		out = append(out, file{name: below + "/" + name, from: filepath.Join(r.source, name), mode: 0o644})
	}
	return out, err
}

// deployed are the files of deploy, but what only tests are.
func (r *release) deployed(below string) (out []file, err error) {
	root := filepath.Join(r.source, "deploy")
	err = filepath.WalkDir(root, func(p string, d os.DirEntry, err error) error {
		name := d.Name()
		if err != nil || d.IsDir() || strings.HasSuffix(name, ".go") || name == "go.mod" || name == "go.sum" {
			return err
		}
		rel, err := filepath.Rel(root, p)
		out = append(out, file{name: below + "/" + filepath.ToSlash(rel), from: p, mode: 0o644})
		return err
	})
	return out, err
}

// tarball writes assay-VERSION-linux-ARCH.tar.gz.
func (r *release) tarball(arch, bin string) error {
	base := "assay-" + r.version + "-linux-" + arch
	var files []file
	for _, b := range binaries {
		files = append(files, file{name: base + "/bin/" + b, from: filepath.Join(bin, b), mode: 0o755})
	}
	for _, list := range []func(string) ([]file, error){
		func(below string) ([]file, error) { return r.docs(below + "/doc") },
		func(below string) ([]file, error) { return r.deployed(below + "/deploy") },
	} {
		more, err := list(base)
		if err != nil {
			return err
		}
		files = append(files, more...)
	}
	return r.write(base+".tar.gz", func(w io.Writer) error {
		z, err := gzip.NewWriterLevel(w, gzip.BestCompression)
		if err != nil {
			return err
		}
		if err := r.tar(z, files); err != nil {
			return err
		}
		return z.Close()
	})
}

// tar writes files sorted, all of root's and of the commit's time.
func (r *release) tar(w io.Writer, files []file) error {
	slices.SortFunc(files, func(a, b file) int { return strings.Compare(a.name, b.name) })
	t := tar.NewWriter(w)
	for _, f := range files {
		body, err := f.read()
		if err != nil {
			return err
		}
		h := &tar.Header{Typeflag: tar.TypeReg, Name: f.name, Mode: int64(f.mode.Perm()), Size: int64(len(body)), ModTime: r.at, Format: tar.FormatUSTAR, Uname: "root", Gname: "root"}
		if err := t.WriteHeader(h); err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		if _, err := t.Write(body); err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
	}
	return t.Close()
}

// write makes one file of the release.
func (r *release) write(name string, content func(io.Writer) error) (err error) {
	f, err := os.OpenFile(filepath.Join(r.out, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644) //nolint:gosec // releases are public
	if err != nil {
		return err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	return content(f)
}

// sums writes SHA256SUMS over all that was made, as sha256sum does.
func (r *release) sums() error {
	all, err := os.ReadDir(r.out)
	if err != nil {
		return err
	}
	return r.write("SHA256SUMS", func(w io.Writer) error {
		for _, e := range all {
			b, err := os.ReadFile(filepath.Join(r.out, e.Name()))
			if err != nil {
				return err
			}
			if _, err := fmt.Fprintf(w, "%x  %s\n", sha256.Sum256(b), e.Name()); err != nil {
				return err
			}
		}
		return nil
	})
}
