package agent

import (
	"context"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/assay-project/assay/attest"
)

func exists(path string) error {
	_, err := os.Lstat(path)
	return err
}

func TestASocketHasItsModeAndGoesWithItsListener(t *testing.T) {
	t.Parallel()
	path := filepath.Join(shortDir(t), "run", "agent.sock") // the directory is made
	if err := CheckSocket(path); err != nil {
		t.Errorf("CheckSocket: %v", err)
	}
	l, err := listen(context.Background(), path, 0o640)
	if err != nil {
		t.Fatal(err)
	}
	st := must(os.Lstat(path))
	if st.Mode().Type() != fs.ModeSocket || st.Mode().Perm() != 0o640 {
		t.Errorf("mode %s", st.Mode())
	}
	if err := exists(path + "~"); err == nil {
		t.Error("the name it was prepared under is left")
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if err := exists(path); err == nil {
		t.Error("the socket is left")
	}
	// And again: what is left does not hinder.
	l = must(listen(context.Background(), path, 0o640))
	_ = l.Close()
}

func TestALivingSocketIsNeverTaken(t *testing.T) {
	t.Parallel()
	path := filepath.Join(shortDir(t), "agent.sock")
	l := must(listen(context.Background(), path, 0o600))
	defer func() { _ = l.Close() }()
	_, err := listen(context.Background(), path, 0o600)
	wantCheck(t, err, attest.Unavailable, "socket")
	if !strings.Contains(err.Error(), "in use") {
		t.Error(err)
	}
	wantCheck(t, CheckSocket(path), attest.Unavailable, "socket")
}

func TestTheSocketOfAnotherProgramIsNeverTaken(t *testing.T) {
	t.Parallel()
	path := filepath.Join(shortDir(t), "agent.sock")
	other := must(net.Listen("unix", path)) // holds no lock of ours
	defer func() { _ = other.Close() }()
	_, err := listen(context.Background(), path, 0o600)
	wantCheck(t, err, attest.Unavailable, "socket")
	if exists(path) != nil {
		t.Error("it was removed")
	}
}

func TestTheSocketOfADeadProcessIsReplaced(t *testing.T) {
	t.Parallel()
	path := filepath.Join(shortDir(t), "agent.sock")
	dead := must(net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"}))
	dead.SetUnlinkOnClose(false)
	_ = dead.Close()
	if err := CheckSocket(path); err != nil {
		t.Errorf("CheckSocket: %v", err)
	}
	l, err := listen(context.Background(), path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = c.Close(), l.Close()
}

func TestAFileInThePlaceOfTheSocketIsLeftAlone(t *testing.T) {
	t.Parallel()
	path := filepath.Join(shortDir(t), "agent.sock")
	if err := os.WriteFile(path, []byte("dear"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := listen(context.Background(), path, 0o600)
	wantCheck(t, err, attest.Unavailable, "socket")
	if got := string(must(os.ReadFile(path))); got != "dear" {
		t.Errorf("it holds %q", got)
	}
}

func TestADirectoryThatOthersWriteToIsRefused(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	_, err := listen(context.Background(), filepath.Join(dir, "agent.sock"), 0o600)
	wantCheck(t, err, attest.Unavailable, "socket")
	if err := os.Chmod(dir, 0o777|fs.ModeSticky); err != nil { // as /tmp: others cannot replace what is ours
		t.Fatal(err)
	}
	l, err := listen(context.Background(), filepath.Join(dir, "agent.sock"), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
}
