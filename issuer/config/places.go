package config

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// keysDir is the directory of keys in a data directory.
const keysDir = "keys"

// owned is a path that is one trust domain's alone.
type owned struct {
	key     []string
	path    string
	implied bool // by another key
}

// name is how an error speaks of it.
func (o owned) name() string {
	if o.implied {
		return "data_dir/" + keysDir
	}
	return joined(o.key)
}

// owns are the paths that no other trust domain of the process may name: whoever
// writes there would write into another's.
func (c *Config) owns() []owned {
	location, implied := c.Keys.Location, false
	switch u, err := url.Parse(location); {
	case location == "":
		location, implied = filepath.Join(c.DataDir, keysDir), true
	case err == nil && !filepath.IsAbs(location):
		location = u.Path // of a file or a signer's socket
	}
	all := []owned{
		{key: []string{"data_dir"}, path: c.DataDir},
		{key: []string{"keys", "location"}, path: location, implied: implied},
		{key: []string{"policy"}, path: c.Policy},
		{key: []string{"admin_socket"}, path: c.AdminSocket},
		{key: []string{"checkpoint_sink"}, path: c.CheckpointSink},
		{key: []string{"sevsnp", "collateral"}, path: c.SEVSNP.Collateral},
	}
	var out []owned
	for _, o := range all {
		if o.path != "" {
			out = append(out, o)
		}
	}
	return out
}

// elsewhere reports paths that two trust domains share, however they are written.
// One in a directory of the other is not shared: a data directory may be in
// another's.
func (v validator) elsewhere(other *Config) {
	theirs := other.owns()
	for _, mine := range v.c.owns() {
		for _, o := range theirs {
			if mine.implied && o.implied || !samePlace(mine.path, o.path) {
				continue // where both are implied, what implies them is reported
			}
			at, whose := mine.key, "that"
			if mine.implied {
				at = []string{"data_dir"}
			}
			if mine.name() != o.name() {
				whose = o.name()
			}
			v.report(fmt.Sprintf("%s is also %s of %s", mine.name(), whose, other.TrustDomain), "each trust domain has its own", at...)
		}
	}
}

// samePlace reports whether two paths lead to the same: through symbolic links, and
// where both are there, by any other way (a bind mount, a hard link).
func samePlace(a, b string) bool {
	if resolved(a) == resolved(b) {
		return true
	}
	x, err := os.Stat(a)
	if err != nil {
		return false
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y)
}

// resolved is a path without symbolic links, as far as it is there already.
func resolved(path string) string {
	path = filepath.Clean(path)
	rest := ""
	for dir := path; ; dir = filepath.Dir(dir) {
		if real, err := filepath.EvalSymlinks(dir); err == nil {
			return filepath.Join(real, rest)
		}
		if dir == filepath.Dir(dir) || !strings.HasPrefix(path, dir) {
			return path
		}
		rest = filepath.Join(filepath.Base(dir), rest)
	}
}
