package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/assay-project/assay/internal/strictyaml"
)

// Two trust domains that used one directory of keys would sign with one key.
func TestTheSamePlaceWrittenInAnotherWayIsTheSamePlace(t *testing.T) {
	for name, c := range map[string]struct{ b, c, want string }{
		"the keys that another has by default":      {"", "keys: {location: DIR/a/keys}\n", "keys.location is also data_dir/keys of a.example"},
		"the same as a URL":                         {"", "keys: {location: \"file://DIR/a/keys\"}\n", "keys.location is also data_dir/keys of a.example"},
		"not cleaned":                               {"", "keys: {location: DIR/b/../a//keys/}\n", "keys.location is also data_dir/keys of a.example"},
		"a URL and a path":                          {"keys: {location: \"file://DIR/k\"}\n", "keys: {location: DIR/k}\n", "keys.location is also that of b.example"},
		"one signer with two spellings":             {"keys: {location: \"signer://DIR/s\"}\n", "keys: {location: \"signer://DIR/x/../s\"}\n", "keys.location is also that of b.example"},
		"through a symbolic link":                   {"", "keys: {location: DIR/link/keys}\n", "keys.location is also data_dir/keys of a.example"},
		"through a link to what is not there yet":   {"checkpoint_sink: DIR/a/sink\n", "checkpoint_sink: DIR/link/sink\n", "checkpoint_sink is also that of b.example"},
		"another's default as data directory":       {"keys: {location: DIR/c}\n", "", "data_dir is also keys.location of b.example"},
		"the default that the one before names":     {"keys: {location: DIR/c/keys}\n", "", "data_dir/keys is also keys.location of b.example"},
		"a sink over another's policy":              {"", "checkpoint_sink: b-policy.yaml\n", "checkpoint_sink is also policy of b.example"},
		"a policy that is a hard link of another's": {"", "policy: hard.yaml\n", "policy is also that of a.example"},
	} {
		t.Run(name, func(t *testing.T) {
			path := files(t, "", "", "")
			dir := filepath.Dir(path)
			for _, err := range []error{
				os.MkdirAll(filepath.Join(dir, "a", "keys"), 0o700),
				os.Symlink("a", filepath.Join(dir, "link")),
				os.WriteFile(filepath.Join(dir, "a-policy.yaml"), nil, 0o600),
				os.Link(filepath.Join(dir, "a-policy.yaml"), filepath.Join(dir, "hard.yaml")),
			} {
				if err != nil {
					t.Fatal(err)
				}
			}
			for file, more := range map[string]string{"b.yaml": c.b, "c.yaml": c.c} {
				file = filepath.Join(dir, file)
				src, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				text := string(src)
				if strings.HasPrefix(more, "policy:") {
					text = strings.Replace(text, "policy: c-policy.yaml\n", "", 1)
				}
				if err := os.WriteFile(file, []byte(text+strings.ReplaceAll(more, "DIR", dir)), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			_, err := LoadAll(path)
			var all strictyaml.Errors
			if !errors.As(err, &all) || len(all) != 1 || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "c.yaml:") {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// The data of a package's one writable directory: the tenants' are inside.
func TestADataDirectoryMayBeInsideAnothers(t *testing.T) {
	path := files(t, "", "", "")
	c := filepath.Join(filepath.Dir(path), "c.yaml")
	if err := os.WriteFile(c, []byte("trust_domain: c.example\ndata_dir: a/c\npolicy: a/c/policy.yaml\nadmin_socket: a/c/admin.sock\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadAll(path); err != nil {
		t.Error(err)
	}
}
