package issuer

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/issuer/store"
)

// The data directory remembers which revisions were in force, one line each. The
// database says so too, but who can write it must neither bring a policy back by
// removing what came after it, nor have their own handed out as one that was in
// force: for that an operator would publish it, and signers sign it.
//
// A line is written when the record is durable, and before the policy decides.

// acceptedFile is beside the pushed policies.
const acceptedFile = "accepted.jsonl"

// maxAccepted bounds what is read of it, in bytes: half a million changes.
const maxAccepted = 64 << 20

// accepted is one revision that was in force.
type accepted struct {
	Name     string `json:"name"`
	Revision uint64 `json:"revision"`
	Digest   string `json:"digest"` // lower-case hex
	UnixMS   int64  `json:"unix_ms"`
}

// acceptedPolicies are all of them.
type acceptedPolicies struct {
	path string // empty: there is no directory to remember them in

	mu     sync.Mutex
	size   int64 // of whole lines
	known  map[revisionOf][32]byte
	newest map[string]store.Policy // by name
	last   string                  // name of the one that came last
}

type revisionOf struct {
	name     string
	revision uint64
}

// read fills in what the file holds. It changes nothing there: a last line
// without its end was being written when the server was killed, and is written
// over.
func (a *acceptedPolicies) read() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.size, a.known, a.newest, a.last = 0, map[revisionOf][32]byte{}, map[string]store.Policy{}, ""
	if a.path == "" {
		return nil
	}
	const mend = "restore it from a backup; or remove it, and be sure that the policy is no older than what was in force"
	info, err := os.Lstat(a.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return cli.Usagef(mend, "the list of accepted policies: %w", err)
	}
	if info.Mode().Perm()&0o022 != 0 {
		return cli.Usagef("chmod 600 "+a.path, "%s: others may write it (mode %#o)", a.path, info.Mode().Perm())
	}
	raw, err := cli.ReadFile(a.path, maxAccepted)
	if err != nil {
		return cli.Usagef(mend, "the list of accepted policies: %w", err)
	}
	for n := 1; ; n++ {
		line, rest, whole := bytes.Cut(raw, []byte("\n"))
		if !whole {
			return nil
		}
		var x accepted
		d, derr := [32]byte{}, json.Unmarshal(line, &x)
		if derr == nil {
			d, derr = digestOf(x.Digest)
		}
		if derr != nil {
			return cli.Usagef(mend, "%s:%d: %w", a.path, n, derr)
		}
		a.note(store.Policy{Name: x.Name, Revision: x.Revision, Digest: d, At: time.UnixMilli(x.UnixMS)})
		a.size += int64(len(line)) + 1
		raw = rest
	}
}

func digestOf(text string) (d [32]byte, err error) {
	b, err := hex.DecodeString(text)
	if err == nil && len(b) != len(d) {
		err = fmt.Errorf("%.80q is no digest", text)
	}
	copy(d[:], b)
	return d, err
}

func (a *acceptedPolicies) note(p store.Policy) {
	a.known[revisionOf{p.Name, p.Revision}] = p.Digest
	if p.Revision >= a.newest[p.Name].Revision {
		a.newest[p.Name] = p
	}
	a.last = p.Name
}

// digest is what revision of that name was in force.
func (a *acceptedPolicies) digest(name string, revision uint64) ([32]byte, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	d, ok := a.known[revisionOf{name, revision}]
	return d, ok
}

// highest is the highest revision of a name, and whether there is one.
func (a *acceptedPolicies) highest(name string) (store.Policy, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	p, ok := a.newest[name]
	return p, ok
}

func (a *acceptedPolicies) lastName() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.last
}

// writable is nil where add will find its file: asked for while there is nothing
// to undo yet.
func (a *acceptedPolicies) writable() error {
	if a.path == "" {
		return nil
	}
	f, err := a.open()
	if err != nil {
		return fmt.Errorf("what is in force cannot be remembered: %w", err)
	}
	return f.Close()
}

func (a *acceptedPolicies) open() (*os.File, error) {
	dir := filepath.Dir(a.path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	_, err := os.Lstat(a.path)
	f, oerr := os.OpenFile(a.path, os.O_WRONLY|os.O_CREATE, 0o600)
	if oerr == nil && errors.Is(err, fs.ErrNotExist) {
		oerr = syncDirs(dir, filepath.Dir(dir))
	}
	return f, oerr
}

// add makes a policy one of them, durably.
func (a *acceptedPolicies) add(p store.Policy) (err error) {
	if a.path == "" {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if d, ok := a.known[revisionOf{p.Name, p.Revision}]; ok && d == p.Digest && a.last == p.Name {
		return nil
	}
	line, err := json.Marshal(accepted{p.Name, p.Revision, hex.EncodeToString(p.Digest[:]), p.At.UnixMilli()})
	if err != nil {
		return err
	}
	f, err := a.open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	line = append(line, '\n')
	if err := f.Truncate(a.size); err != nil {
		return err
	}
	if _, err := f.WriteAt(line, a.size); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	a.size += int64(len(line))
	a.note(p)
	return nil
}
