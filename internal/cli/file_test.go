package cli_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/assay-project/assay/internal/cli"
)

func TestOnlyRegularFilesOfALimitedSizeAreRead(t *testing.T) {
	dir := t.TempDir()
	file, fifo, link := filepath.Join(dir, "file"), filepath.Join(dir, "fifo"), filepath.Join(dir, "link")
	for _, err := range []error{os.WriteFile(file, []byte("1234"), 0o600), syscall.Mkfifo(fifo, 0o600), os.Symlink(file, link)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{file, link} {
		if b, err := cli.ReadFile(path, 4); err != nil || string(b) != "1234" {
			t.Errorf("%s: %q, %v", path, b, err)
		}
	}
	for path, want := range map[string]string{fifo: "not a regular file", dir: "not a regular file", file: "more than 3 bytes", "/dev/zero": "not a regular file"} {
		if b, err := cli.ReadFile(path, 3); b != nil || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %q, %v, want %q", path, b, err, want)
		}
	}
	if _, err := cli.ReadFile(filepath.Join(dir, "none"), 3); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
}
