package configdoc

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// Sample is what the tests document.
type Sample struct {
	// Listen is where the service listens,
	// host:port.
	Listen string `yaml:"listen"`
	Limits Limits `yaml:"limits"` // Limits bound things.
	// What things are called | other things.
	Names []string `yaml:"names"`
}

// Limits are nested.
type Limits struct {
	// How long.
	Wait time.Duration `yaml:"wait"`
	// Whether.
	Hard bool `yaml:"hard"`
}

// source repeats the comments above, as the generator reads them from a
// package's own files, tests excluded.
const source = `package x
type Sample struct {
	// Listen is where the service listens,
	// host:port.
	Listen string
	Limits Limits // Limits bound things.
	// What things are called | other things.
	Names []string
}
type Limits struct {
	// How long.
	Wait int
	// Whether.
	Hard bool
}
`

func dirWith(t *testing.T, src string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "x.go"), []byte(src), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestThePageHoldsEveryKeyWithItsTypeDefaultAndComment(t *testing.T) {
	got, err := Markdown(dirWith(t, source), &Sample{Listen: ":1", Limits: Limits{Wait: 90 * time.Minute}})
	if err != nil {
		t.Fatal(err)
	}
	want := "| key | type | default | meaning |\n|---|---|---|---|\n" +
		"| `listen` | text | `:1` | `listen` is where the service listens, host:port. |\n" +
		"| `limits.wait` | duration | `1h30m` | How long. |\n" +
		"| `limits.hard` | true or false | `false` | Whether. |\n" +
		"| `names` | list of text |  | What things are called \\| other things. |\n"
	if d := cmp.Diff(want, string(got)); d != "" {
		t.Error(d)
	}
}

func TestAFieldWithoutACommentIsRefused(t *testing.T) {
	if _, err := Markdown(dirWith(t, "package x\ntype Sample struct{ Listen string }\n"), Sample{}); err == nil {
		t.Error("an undocumented field was accepted")
	}
}

func TestAMappingThatIsOffByDefaultIsRefusedUntilItsKeysAreShown(t *testing.T) {
	type Sub struct {
		Key string `yaml:"key"`
	}
	type Sample struct {
		Sub *Sub `yaml:"sub"`
	}
	dir := dirWith(t, "package x\ntype Sub struct{\n// A key.\nKey string }\ntype Sample struct{\n// A mapping.\nSub *Sub }\n")
	if page, err := Markdown(dir, Sample{}); err == nil {
		t.Errorf("the keys of a nil mapping are left out:\n%s", page)
	}
	page, err := Markdown(dir, Sample{Sub: &Sub{}})
	if err != nil || !strings.Contains(string(page), "| `sub.key` |") {
		t.Errorf("got %v:\n%s", err, page)
	}
}

func TestAFieldWithoutATagIsRefused(t *testing.T) {
	type bare struct{ X string }
	if _, err := Markdown(dirWith(t, "package x\ntype bare struct{\n// X is.\nX string }\n"), bare{}); err == nil {
		t.Error("a field without a yaml tag was accepted")
	}
}
