package issuer

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/policy/signed"
)

// A pushed policy is kept as a file in the server's own data directory, named
// by its digest; the database only says which one is in force. So who can write
// the database, and has no key, can slip no policy in: not even one that was in
// force once, for the files of those are removed.
//
// The order is: the file, durable; then the record; then the policy decides; then
// the older files go. Whenever the server is killed, the file that the record
// names is there.

// pushedSuffix ends the name of a pushed policy's file.
const pushedSuffix = ".policy"

var errNoPushes = errors.New("this server takes no pushed policies: it has no place to keep them")

// WithPushedPolicies is the directory in which pushed policies are kept, and the
// list of all that were in force; it is made when it is needed. Without one, pushes
// are refused, and nothing of the past is handed out.
func WithPushedPolicies(dir string) PolicyOption {
	return func(p *PolicyFile) { p.pushes, p.accepted.path = dir, filepath.Join(dir, acceptedFile) }
}

func (p *PolicyFile) pushedFile(digest [32]byte) string {
	return filepath.Join(p.pushes, hex.EncodeToString(digest[:])+pushedSuffix)
}

// keepPushed makes the document durable.
func (p *PolicyFile) keepPushed(d *document) (err error) {
	if p.pushes == "" {
		return errNoPushes
	}
	if err := os.MkdirAll(p.pushes, 0o700); err != nil {
		return fmt.Errorf("a pushed policy cannot be kept: %w", err)
	}
	f, err := os.CreateTemp(p.pushes, ".*"+pushedSuffix) // 0600
	if err != nil {
		return fmt.Errorf("a pushed policy cannot be kept: %w", err)
	}
	_, err = f.Write(d.raw)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), p.pushedFile(d.bundle.Digest()))
	}
	if err != nil {
		return fmt.Errorf("a pushed policy cannot be kept: %w", errors.Join(err, os.Remove(f.Name())))
	}
	return syncDirs(p.pushes, filepath.Dir(p.pushes))
}

// syncDirs makes names durable (fsync(2) of a directory).
func syncDirs(dirs ...string) error {
	for _, dir := range dirs {
		d, err := os.Open(dir)
		if err != nil {
			return err
		}
		if err := errors.Join(d.Sync(), d.Close()); err != nil {
			return fmt.Errorf("%s: %w", dir, err)
		}
	}
	return nil
}

// readPushed reads the document of a pushed policy.
func (p *PolicyFile) readPushed(digest [32]byte) ([]byte, error) {
	if p.pushes == "" {
		return nil, errNoPushes
	}
	return cli.ReadFile(p.pushedFile(digest), signed.MaxSize)
}

// dropPushed removes all files but that of the policy in force, best effort: a
// file that no record names is never read.
func (p *PolicyFile) dropPushed(f *inForce) {
	if p.pushes == "" {
		return
	}
	keep := ""
	if f.Source != sourceFile {
		keep = filepath.Base(p.pushedFile(f.bundle.Digest()))
	}
	entries, err := os.ReadDir(p.pushes)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		p.log.Warn("older pushed policies cannot be removed", "directory", p.pushes, "error", err)
	}
	for _, e := range entries {
		if filepath.Ext(e.Name()) != pushedSuffix || e.Name() == keep {
			continue
		}
		if err := os.Remove(filepath.Join(p.pushes, e.Name())); err != nil {
			p.log.Warn("an older pushed policy cannot be removed", "error", err)
		}
	}
}
