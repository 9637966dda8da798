package ca

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/assay-project/assay/issuer/keys"
	"github.com/assay-project/assay/issuer/store"
)

// usedFile lists the keys of this server that an authority had, one name on a
// line. It stands outside the database: where that was put back to an older state
// it has lost authorities, some of which may have been tainted since, and their
// keys would look like keys that nobody has used yet.
const usedFile = "authorities.keys"

const usedHead = "# Keys that an authority had, or may have had. None of them becomes another one's.\n"

// usedKeys are the keys that no new authority takes.
type usedKeys struct {
	path  string
	names map[string]bool
}

// readUsed reads the file; none is an empty one.
func readUsed(dataDir string) (*usedKeys, error) {
	u := &usedKeys{path: filepath.Join(dataDir, usedFile), names: map[string]bool{}}
	text, err := os.ReadFile(u.path)
	if errors.Is(err, fs.ErrNotExist) {
		return u, nil
	}
	if err != nil {
		return nil, fault("authority_used", err, "restore the file from a backup")
	}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		if err := keys.CheckName(line); err != nil {
			return nil, fault("authority_used", fmt.Errorf("%s: %w", u.path, err), "restore the file from a backup")
		}
		u.names[line] = true
	}
	return u, nil
}

func (u *usedKeys) has(name string) bool { return u.names[name] }

// add remembers keys, and returns when that is durable.
func (u *usedKeys) add(names ...string) error {
	next := maps.Clone(u.names)
	for _, name := range names {
		next[name] = true
	}
	if len(next) == len(u.names) {
		return nil
	}
	text := usedHead + strings.Join(slices.Sorted(maps.Keys(next)), "\n") + "\n"
	if err := keys.WriteFile(u.path, []byte(text), 0o644, keys.Replace); err != nil {
		return err
	}
	u.names = next
	return nil
}

// remember notes the keys of this server's authorities, before anything is done
// with one that has just been made.
func (c *CA) remember(rows []store.Authority) error {
	if c.reading {
		return nil
	}
	var names []string
	for _, row := range rows {
		if row.Server == c.cfg.Chain && row.KeyName == prefixOf(row.Use)+row.ID && keys.CheckName(row.KeyName) == nil {
			names = append(names, row.KeyName)
		}
	}
	return c.used.add(names...)
}

// SetAside is for a database that was put back to an older state. Keys of
// authorities that no row names any more may be those of the lost time, and an
// authority of the lost time may have been tainted. It has no new authority take
// one of them, and returns their names. Where keys are in an HSM, spares are among
// them: others have to be made.
func SetAside(ctx context.Context, dataDir string, ring keys.Ring, st store.Store, trustDomain string) ([]string, error) {
	used, err := readUsed(dataDir)
	if err != nil {
		return nil, err
	}
	c := &CA{cfg: Config{Keys: ring}, used: used}
	var out []string
	for _, use := range uses() {
		rows, err := st.Authorities(ctx, trustDomain, use)
		if err != nil {
			return nil, err
		}
		names, err := c.orphans(ctx, use, rows)
		if err != nil {
			return nil, err
		}
		out = append(out, names...)
	}
	return out, used.add(out...)
}
