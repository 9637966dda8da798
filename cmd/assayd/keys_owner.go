package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"strings"

	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/issuer/ca"
	"github.com/assay-project/assay/issuer/config"
	"github.com/assay-project/assay/issuer/keys"
)

// A directory of keys remembers whose they are. An authority takes a key that no
// other of its own uses; in a directory that two trust domains name by mistake,
// each would take the other's, and both sign with one key.

// ownerFile holds the name of the trust domain. No key has such a name.
const ownerFile = "trust-domain"

// keyDirs are the directories of a trust domain's keys: that of the data directory,
// and that of its authorities where it is another.
func keyDirs(cfg *config.Config) ([]string, error) {
	dirs := []string{ca.KeysPath(cfg.DataDir)}
	if cfg.Keys.Location == "" {
		return dirs, nil
	}
	l, err := keys.ParseLocation(cfg.Keys.Location)
	if err != nil {
		return nil, cli.Usagef(cli.Hint(err), "keys.location: %w", err)
	}
	if l.Dir != "" && l.Dir != dirs[0] {
		dirs = append(dirs, l.Dir)
	}
	return dirs, nil
}

// ownKeys refuses directories whose keys are another trust domain's. One that says
// nothing, as older ones do, is nobody else's.
func ownKeys(cfg *config.Config) error {
	dirs, err := keyDirs(cfg)
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		owner, err := ownerOf(dir)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return err
		case owner != cfg.TrustDomain:
			return cli.Usagef("mend data_dir or keys.location: each trust domain has keys of its own", "%s holds the keys of trust domain %s, not of %s", dir, owner, cfg.TrustDomain)
		}
	}
	return nil
}

// adoptKeys notes in the directories whose keys they hold, where nobody has.
func adoptKeys(cfg *config.Config, log *slog.Logger) error {
	dirs, err := keyDirs(cfg)
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		if _, err := ownerOf(dir); !errors.Is(err, fs.ErrNotExist) {
			continue // ownKeys looks at it
		}
		err := keys.WriteFile(filepath.Join(dir, ownerFile), []byte(cfg.TrustDomain+"\n"), 0o600, keys.Refuse)
		if err != nil && !errors.Is(err, fs.ErrExist) { // of keys that are only read
			log.Warn("a directory of keys cannot remember its trust domain", "directory", dir, "error", err)
		}
	}
	return ownKeys(cfg)
}

// ownerOf reads whose keys a directory holds. Where it does not say, the error
// satisfies errors.Is(err, fs.ErrNotExist).
func ownerOf(dir string) (string, error) {
	path := filepath.Join(dir, ownerFile)
	b, err := cli.ReadFile(path, 1<<10)
	if err != nil {
		return "", err
	}
	name := strings.TrimSpace(string(b))
	if err := config.CheckTrustDomain(name); err != nil {
		return "", cli.Usagef("write the name of the trust domain whose keys are beside it, or remove the file if you are sure", "%s: %w", path, fmt.Errorf("%.100q is not the name of a trust domain: %w", name, err))
	}
	return name, nil
}
