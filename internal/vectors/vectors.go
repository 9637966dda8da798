// Package vectors finds the recorded hardware evidence that tests run on.
//
// The recordings are not part of this repository. The environment variable
// ASSAY_VECTORS names the directory that holds them and their MANIFEST.json,
// which says what each is and what must come of it. A test that runs without
// them is skipped and says so; `make test` counts that as a partial run.
package vectors

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Env is the environment variable that names the directory.
const Env = "ASSAY_VECTORS"

// Vector is one entry of the manifest.
type Vector struct {
	Name             string          `json:"name"` // "nitro/anjuna-prod-2021"
	TEE              string          `json:"tee"`  // "nitro", "sevsnp", "tpm", …
	Product          string          `json:"product"`
	Files            []string        `json:"files"`
	Notes            string          `json:"notes"`
	VerificationTime *time.Time      `json:"verification_time"`
	Expect           json.RawMessage `json:"expect"` // per TEE

	dir string
}

// Path is the file's place on this machine; name is one of Files.
func (v Vector) Path(name string) string { return filepath.Join(v.dir, filepath.FromSlash(name)) }

// Read returns the content of the file whose base name is given.
func (v Vector) Read(t testing.TB, base string) []byte {
	t.Helper()
	for _, f := range v.Files {
		if filepath.Base(f) == base {
			b, err := os.ReadFile(v.Path(f))
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
	}
	t.Fatalf("vector %s has no file %s", v.Name, base)
	return nil
}

// Dir returns the directory of recordings, or skips the test loudly.
func Dir(t testing.TB) string {
	t.Helper()
	dir := os.Getenv(Env)
	if dir == "" {
		t.Skipf("SKIPPED WITHOUT RECORDINGS: set %s to the directory of recorded hardware evidence", Env)
	}
	return dir
}

// Load returns the manifest's vectors of one TEE, or skips the test loudly.
func Load(t testing.TB, tee string) []Vector {
	t.Helper()
	dir := Dir(t)
	all, err := read(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []Vector
	for _, v := range all {
		if v.TEE == tee {
			v.dir = dir
			out = append(out, v)
		}
	}
	if len(out) == 0 {
		t.Fatalf("%s holds no vector of TEE %q", dir, tee)
	}
	return out
}

func read(dir string) ([]Vector, error) {
	b, err := os.ReadFile(filepath.Join(dir, "MANIFEST.json"))
	if err != nil {
		return nil, fmt.Errorf("%s must name a directory with MANIFEST.json: %w", Env, err)
	}
	var all []Vector
	if err := json.Unmarshal(b, &all); err != nil {
		return nil, fmt.Errorf("MANIFEST.json: %w", err)
	}
	return all, nil
}
