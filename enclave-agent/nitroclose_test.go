package agent

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// charDevice is a device with the mode that Linux gives /dev/nsm; behind it is /dev/null.
func charDevice(t *testing.T, mode uint32) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "nsm")
	if err := unix.Mknod(path, unix.S_IFCHR, int(unix.Mkdev(1, 3))); err != nil {
		t.Skipf("SKIPPED, NOTHING IS SHOWN: this user may make no devices: %v", err)
	}
	if err := os.Chmod(path, fs.FileMode(mode)); err != nil {
		t.Fatal(err)
	}
	return path
}

func modeOf(t *testing.T, path string) fs.FileMode {
	t.Helper()
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return st.Mode()
}

func TestTheAgentTakesTheSecurityModuleAwayFromOthers(t *testing.T) {
	t.Parallel()
	path := charDevice(t, 0o666)
	n := NewNitro(path)
	if got := n.reach(); !strings.Contains(got, "-rw-rw-rw-") {
		t.Errorf("who may open it: %q", got)
	}
	var p Preparer = n
	for range 2 {
		if err := p.Prepare(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := modeOf(t, path); got.Perm() != 0o600 || got&fs.ModeCharDevice == 0 {
			t.Errorf("mode %v", got)
		}
		if got := n.reach(); got != "" {
			t.Errorf("who may open it: %q", got)
		}
	}
}

// What is no device is somebody's file or socket, and keeps its mode.
func TestOnlyADeviceIsTakenAway(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "nsm")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{path, path + ".missing"} {
		n := NewNitro(name)
		if err := n.Prepare(t.Context()); err != nil || n.reach() != "" {
			t.Errorf("%s: %v %q", name, err, n.reach())
		}
	}
	if got := modeOf(t, path).Perm(); got != 0o644 {
		t.Errorf("mode %v", got)
	}
}

func TestAProbeDoesNotComplainOfASimulatorsSocket(t *testing.T) {
	t.Parallel()
	dev, _ := simulatedNSM(t)
	if err := dev.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := dev.Probe(t.Context()); err != nil || strings.Contains(got, "OTHERS") {
		t.Errorf("%q %v", got, err)
	}
}
