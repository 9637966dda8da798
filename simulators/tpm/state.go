package tpm

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
)

// What is in a machine's state directory.
const (
	lockFile   = "lock"         // held by this process and its swtpm
	recordFile = "machine.json" // what the manufacturer knows; there once it is made
	tpmDir     = "swtpm"        // the TPM's own state
)

// record is what the manufacturer knows of a machine.
type record struct {
	Version int          `json:"version"`
	Root    []byte       `json:"root_sha256"` // of the authority that made it
	Faults  []string     `json:"faults"`      // of its certificates
	EKs     []recordedEK `json:"endorsement_keys"`
}

type recordedEK struct {
	Kind        EKKind `json:"kind"`
	Public      []byte `json:"public"`
	Certificate []byte `json:"certificate,omitempty"`
}

const recordVersion = 1

// state is a machine's directory, which this process alone has open.
type state struct {
	dir  string
	own  bool // made here, to be removed
	lock *os.File
}

// openState locks a directory, and makes it when it is missing; "" is one of its
// own that close removes. It does not wait: a machine runs once.
func openState(dir string) (*state, error) {
	s := &state{dir: dir, own: dir == ""}
	var err error
	if s.own {
		s.dir, err = os.MkdirTemp("", "simulated-tpm-")
	} else {
		err = os.MkdirAll(dir, 0o700)
	}
	if err != nil {
		return nil, fmt.Errorf("tpm: state: %w", err)
	}
	if s.lock, err = os.OpenFile(filepath.Join(s.dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return nil, fmt.Errorf("tpm: state: %w", err)
	}
	if err := syscall.Flock(int(s.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = s.lock.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("tpm: the machine in %s is running: stop it, or choose another state directory", s.dir)
		}
		return nil, fmt.Errorf("tpm: locking %s: %w", s.dir, err)
	}
	return s, nil
}

func (s *state) close() {
	_ = s.lock.Close() // gives the lock back
	if s.own {
		_ = os.RemoveAll(s.dir)
	}
}

// tpm is the directory of the TPM's own state. Unless the machine was made, it
// is emptied: what is there is half of one.
func (s *state) tpm(made bool) (string, error) {
	dir := filepath.Join(s.dir, tpmDir)
	if !made {
		if err := os.RemoveAll(dir); err != nil {
			return "", fmt.Errorf("tpm: state: %w", err)
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("tpm: state: %w", err)
	}
	return dir, nil
}

// read returns nil for a machine that was not made yet.
func (s *state) read() (*record, error) {
	r, err := readRecord(s.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return r, err
}

func readRecord(dir string) (*record, error) {
	b, err := os.ReadFile(filepath.Join(dir, recordFile))
	if err != nil {
		return nil, fmt.Errorf("tpm: state: %w", err)
	}
	r, err := parseRecord(b)
	if err != nil {
		return nil, fmt.Errorf("tpm: state: %s: %w: remove the directory to make another machine", filepath.Join(dir, recordFile), err)
	}
	return r, nil
}

func parseRecord(b []byte) (*record, error) {
	var r record
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, err
	}
	if r.Version != recordVersion || len(r.EKs) == 0 || len(r.Root) != sha256.Size {
		return nil, errors.New("this is not what the manufacturer knows of a machine")
	}
	return &r, nil
}

func (s *state) write(r record) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("tpm: state: %w", err)
	}
	if err := writeFile(filepath.Join(s.dir, recordFile), append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("tpm: state: %w", err)
	}
	return nil
}

// writeFile is whole or not there.
func writeFile(path string, content []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }() // gone after the rename
	_, err = f.Write(content)
	if err = errors.Join(err, f.Chmod(mode), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// ReadEKs returns the endorsement keys of the machine in a state directory,
// running or not. The error is fs.ErrNotExist when there is none.
func ReadEKs(dir string) ([]EK, error) {
	r, err := readRecord(dir)
	if err != nil {
		return nil, err
	}
	return r.eks()
}

func (r *record) eks() ([]EK, error) {
	var out []EK
	for _, e := range r.EKs {
		k, err := newEK(e.Kind, e.Public)
		if err != nil {
			return nil, err
		}
		k.Certificate = e.Certificate
		out = append(out, *k)
	}
	return out, nil
}

// kinds are those of the machine's endorsement keys.
func (r *record) kinds() []EKKind {
	var out []EKKind
	for _, e := range r.EKs {
		out = append(out, e.Kind)
	}
	return out
}

// fits reports whether the machine is the one that is asked for.
func (r *record) fits(a *Authority, dir string, kinds []EKKind) error {
	root := a.RootDigest()
	if !slices.Equal(r.Root, root[:]) {
		return fmt.Errorf("tpm: the machine in %s was made by another authority: choose that one, or another state directory", dir)
	}
	if len(kinds) > 0 && !slices.Equal(r.kinds(), kinds) {
		return fmt.Errorf("tpm: the machine in %s has the endorsement keys %v, not %v: they can't be changed once it is made", dir, r.kinds(), kinds)
	}
	return nil
}

// certificateFaults are the names of those that change certificates.
func certificateFaults(faults []Fault) []string {
	names := []string{}
	for _, f := range faults {
		if f.onCertificate != nil {
			names = append(names, f.Name)
		}
	}
	return names
}
