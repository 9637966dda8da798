package layout

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Who looks for a page finds it in the index, and finds one line about it. The
// decisions have an index of their own.
func TestEveryPageIsInTheIndexOnce(t *testing.T) {
	docs := filepath.Join(root, "docs")
	b, err := os.ReadFile(filepath.Join(docs, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]int{}
	for _, m := range links.FindAllStringSubmatch(string(b), -1) {
		listed[filepath.Clean(m[1])]++
	}
	pages := 0
	err = filepath.WalkDir(docs, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".md") {
			return err
		}
		page, err := filepath.Rel(docs, path)
		if err != nil || page == "README.md" || strings.HasPrefix(page, "decisions") || strings.Contains(page, "testdata") {
			return err
		}
		pages++
		if n := listed[page]; n != 1 {
			t.Errorf("docs/README.md lists %s %d times, want once", page, n)
		}
		return nil
	})
	if err != nil || pages < 40 {
		t.Errorf("%d pages, %v", pages, err)
	}
}

// Who finds an example reads how it is started: in the index of the examples, and at
// the head of the program.
func TestEveryExampleSaysHowItIsStarted(t *testing.T) {
	dir := filepath.Join(root, "examples")
	index, err := os.ReadFile(filepath.Join(dir, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	mains, err := filepath.Glob(filepath.Join(dir, "*", "main.go"))
	if err != nil || len(mains) < 5 {
		t.Fatalf("%d examples, %v", len(mains), err)
	}
	for _, file := range mains {
		name := filepath.Base(filepath.Dir(file))
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		comment, _, _ := strings.Cut(string(b), "\npackage main")
		if !strings.Contains(comment, "\n//\t"+name+" ") && !strings.Contains(comment, "make "+name) {
			t.Errorf("examples/%s/main.go has no line that starts it", name)
		}
		if !strings.Contains(string(index), "[`"+name+"`]("+name+")") {
			t.Errorf("examples/README.md does not list %s", name)
		}
	}
}
