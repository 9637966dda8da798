package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"

	"github.com/google/go-configfs-tsm/configfs/configfsi"
	"github.com/google/go-configfs-tsm/report"
)

// ConfigFS is where Linux (from 6.7 on) offers reports of any TEE through
// configfs, once that is mounted.
const ConfigFS = configfsi.TsmPrefix + "/report"

// providerSNP is what the sev-guest driver calls itself there.
const providerSNP = "sev_guest"

// snpConfigFS asks through configfs-tsm: a directory is made, the report data are
// written into it, and the report and the certificate table are read from it.
type snpConfigFS struct{ fs configfsi.Client }

func (s snpConfigFS) name() string { return "configfs-tsm" }

func (s snpConfigFS) firstLevel() uint32 { return 0 }

// report asks at the level, or at the guest's own if that is higher.
func (s snpConfigFS) report(_ context.Context, data [64]byte, level uint32) (_ snpReport, table []byte, err error) {
	files := &rememberError{Client: s.fs}
	r, err := report.CreateOpenReport(files)
	if err != nil {
		return nil, nil, files.cause(err)
	}
	defer func() { _ = r.Destroy() }() // an entry that stays is empty, and harmless
	if err := s.isSNP(r, files); err != nil {
		return nil, nil, err
	}
	floor, err := r.PrivilegeLevelFloor()
	if err != nil {
		return nil, nil, files.cause(err)
	}
	r.InBlob, r.Privilege, r.GetAuxBlob = data[:], &report.Privilege{Level: max(uint(level), floor)}, true
	res, err := r.Get()
	if err != nil {
		return nil, nil, files.cause(err)
	}
	if len(res.OutBlob) != snpReportSize {
		return nil, nil, nonsense("a report of %d bytes, want %d", len(res.OutBlob), snpReportSize)
	}
	return res.OutBlob, res.AuxBlob, nil
}

func (s snpConfigFS) isSNP(r *report.OpenReport, files *rememberError) error {
	p, err := r.ReadOption("provider")
	switch got := strings.TrimSpace(string(p)); {
	case err != nil:
		return files.cause(err)
	case got != providerSNP:
		return fmt.Errorf("%w: %s has reports of %q", errNoSNP, ConfigFS, clip(got))
	}
	return nil
}

// usable says whether reports of SEV-SNP can be had this way. It makes none.
func (s snpConfigFS) usable() error {
	files := &rememberError{Client: s.fs}
	r, err := report.CreateOpenReport(files)
	if err != nil {
		return files.cause(err)
	}
	defer func() { _ = r.Destroy() }()
	return s.isSNP(r, files)
}

// rememberError keeps the first error of a file: the library turns it into text,
// and with it goes what the operator needs to know (is it a permission?).
type rememberError struct {
	configfsi.Client
	mu    sync.Mutex
	first error
}

// cause adds the file's error to the library's.
func (r *rememberError) cause(err error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.first == nil || errors.Is(err, r.first) {
		return err
	}
	return fmt.Errorf("%w (%s)", r.first, clip(err.Error()))
}

func (r *rememberError) keep(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.first == nil {
		r.first = err
	}
}

func (r *rememberError) MkdirTemp(dir, pattern string) (string, error) {
	out, err := r.Client.MkdirTemp(dir, pattern)
	r.keep(err)
	return out, err
}

func (r *rememberError) ReadFile(name string) ([]byte, error) {
	b, err := r.Client.ReadFile(name)
	r.keep(err)
	return b, err
}

func (r *rememberError) WriteFile(name string, b []byte) error {
	err := r.Client.WriteFile(name, b)
	r.keep(err)
	return err
}

// tsmFiles are the files of configfs below a root directory, "" for the
// machine's own.
type tsmFiles struct{ root string }

func (t tsmFiles) MkdirTemp(dir, pattern string) (string, error) {
	out, err := os.MkdirTemp(t.root+dir, pattern)
	return strings.TrimPrefix(out, t.root), err
}

func (t tsmFiles) ReadFile(name string) ([]byte, error) { return os.ReadFile(t.root + name) }

func (t tsmFiles) ReadDir(name string) ([]fs.DirEntry, error) { return os.ReadDir(t.root + name) }

// WriteFile writes an attribute in one write, as configfs wants it, and makes no
// file where there is none.
func (t tsmFiles) WriteFile(name string, b []byte) error {
	f, err := os.OpenFile(t.root+name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Close())
}

// RemoveAll removes an entry: in configfs its attributes go with it.
func (t tsmFiles) RemoveAll(name string) error { return os.Remove(t.root + name) }
