package main

import (
	"bufio"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/assay-project/assay/internal/cli"
)

// writtenFile is a file that appears under its name when it is whole.
type writtenFile struct {
	*bufio.Writer
	file *os.File
	path string
}

// newFile begins one.
func newFile(path string, mode fs.FileMode) (*writtenFile, error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err == nil {
		err = f.Chmod(mode)
	}
	if err != nil {
		return nil, cli.Usagef("", "%s", clean(err))
	}
	return &writtenFile{bufio.NewWriterSize(f, 1<<16), f, path}, nil
}

// finish gives the file its name, or removes what was written.
func (w *writtenFile) finish(good bool) error {
	if !good {
		return errors.Join(w.file.Close(), os.Remove(w.file.Name()))
	}
	err := errors.Join(w.Flush(), w.file.Sync(), w.file.Close())
	if err == nil {
		err = os.Rename(w.file.Name(), w.path)
	}
	if err != nil {
		_ = os.Remove(w.file.Name()) // best effort: the error that matters is returned
		return cli.Usagef("", "%s", clean(err))
	}
	return nil
}
