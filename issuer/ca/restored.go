package ca

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/assay-project/assay/issuer/keys"
)

// restoredFile says when this server's database was put back to an older state. An
// authority that signs by that state may have retired in the lost time, and have
// left the bundle: whoever has fetched one since does not know it any more.
const restoredFile = "authorities.restored"

// Restored notes that this server's database was put back to an older state, at a
// time. An authority whose successor may have taken its place in the lost time then
// waits as one that has just been published.
func Restored(dataDir string, at time.Time) error {
	return keys.WriteFile(filepath.Join(dataDir, restoredFile), []byte(at.UTC().Format(time.RFC3339)+"\n"), 0o644, keys.Replace)
}

// readRestored is the zero time where nothing was put back.
func readRestored(dataDir string) (time.Time, error) {
	text, err := os.ReadFile(filepath.Join(dataDir, restoredFile))
	if errors.Is(err, fs.ErrNotExist) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, fault("authority_restored", err, "restore the file from a backup")
	}
	at, err := time.Parse(time.RFC3339, strings.TrimSpace(string(text)))
	if err != nil {
		return time.Time{}, fault("authority_restored", fmt.Errorf("%s: %w", restoredFile, err), "it holds one time, as in 2026-11-22T08:00:00Z")
	}
	return at, nil
}

// heldUntil is until when an authority of this server does not sign, though it is
// active: the zero time for most. By plan its successor signs a propagation time
// after the half of its life at the earliest, so that before that nobody can have
// forgotten it.
func (c *CA) heldUntil(a *authority) time.Time {
	if c.restored.IsZero() || a.row.CreatedAt.After(c.restored) || a.half().Add(c.cfg.Propagation).After(c.restored) {
		return time.Time{}
	}
	return c.restored.Add(c.cfg.Propagation)
}
