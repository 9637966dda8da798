package layout

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const root = "../.."

var (
	testFunc = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Example|Benchmark)\w+)\(`)
	testName = regexp.MustCompile("`((?:Test|Fuzz|Example|Benchmark)\\w+)`")
	links    = regexp.MustCompile(`\]\(([^)#:]+)(?:#[^)]*)?\)`)
)

// walk calls f with every file of the repository that is ours to write.
func walk(t *testing.T, f func(path string)) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == ".git" || d.Name() == "bin"):
			return fs.SkipDir
		case !d.IsDir():
			f(path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func testsOfTheRepository(t *testing.T) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	walk(t, func(path string) {
		if !strings.HasSuffix(path, "_test.go") {
			return
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range testFunc.FindAllStringSubmatch(string(b), -1) {
			found[m[1]] = true
		}
	})
	if len(found) == 0 {
		t.Fatal("found no tests at all")
	}
	return found
}

func TestEveryThreatNamesATestThatExists(t *testing.T) {
	exists := testsOfTheRepository(t)
	b, err := os.ReadFile(filepath.Join(root, "docs/design/threat-model.md"))
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	for i, line := range strings.Split(string(b), "\n") {
		// The rows of the threat tables begin with an identifier like "| H3 |".
		if !regexp.MustCompile(`^\| [A-Z][0-9]+ \|`).MatchString(line) {
			continue
		}
		rows++
		names := testName.FindAllStringSubmatch(line, -1)
		if len(names) == 0 {
			t.Errorf("threat-model.md:%d names no test: %s", i+1, line)
		}
		for _, n := range names {
			if !exists[n[1]] {
				t.Errorf("threat-model.md:%d names %s, which does not exist", i+1, n[1])
			}
		}
	}
	if rows < 20 {
		t.Errorf("only %d rows were found: did the table change its shape?", rows)
	}
}

func TestEveryTestThatADocumentNamesExists(t *testing.T) {
	exists := testsOfTheRepository(t)
	walk(t, func(path string) {
		if !strings.HasSuffix(path, ".md") {
			return
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range testName.FindAllStringSubmatch(string(b), -1) {
			if !exists[m[1]] {
				t.Errorf("%s names %s, which does not exist", strings.TrimPrefix(path, root+"/"), m[1])
			}
		}
	})
}

func TestEveryLinkBetweenDocumentsLeadsSomewhere(t *testing.T) {
	walk(t, func(path string) {
		if !strings.HasSuffix(path, ".md") {
			return
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range links.FindAllStringSubmatch(string(b), -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(path), m[1])); err != nil {
				t.Errorf("%s links to %s, which does not exist", strings.TrimPrefix(path, root+"/"), m[1])
			}
		}
	})
}
