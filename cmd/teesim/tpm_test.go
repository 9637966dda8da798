package main

import (
	"bufio"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/rogpeppe/go-internal/testscript"

	simtpm "github.com/assay-project/assay/simulators/tpm"
)

// tpmCommands are what sessions with a TPM can do beside ours.
func tpmCommands() map[string]func(*testscript.TestScript, bool, []string) {
	return map[string]func(*testscript.TestScript, bool, []string){"tpmpcr": tpmPCR}
}

// tpmPCR SOCKET BANK PCR: sets the variable PCR to a register's value in hex.
func tpmPCR(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: tpmpcr SOCKET BANK PCR")
	}
	bank := map[string]tpm2.TPMAlgID{"sha1": tpm2.TPMAlgSHA1, "sha256": tpm2.TPMAlgSHA256, "sha384": tpm2.TPMAlgSHA384}[args[1]]
	pcr, err := strconv.Atoi(args[2])
	ts.Check(err)
	c, err := simtpm.Dial(ts.MkAbs(args[0]))
	ts.Check(err)
	defer func() { _ = c.Close() }()
	mask := make([]byte, 3)
	mask[pcr/8] = 1 << (pcr % 8)
	r, err := tpm2.PCRRead{PCRSelectionIn: tpm2.TPMLPCRSelection{
		PCRSelections: []tpm2.TPMSPCRSelection{{Hash: bank, PCRSelect: mask}}}}.Execute(c)
	ts.Check(err)
	ts.Setenv("PCR", hex.EncodeToString(r.PCRValues.Digests[0].Buffer))
}

// startTPM runs a machine in a process of its own.
func startTPM(t *testing.T, args ...string) (c *exec.Cmd, out *bufio.Reader, socket string) {
	t.Helper()
	if err := simtpm.Installed(); err != nil {
		t.Skipf("SKIPPED, NOTHING WAS TESTED: %v", err)
	}
	dir, err := os.MkdirTemp("", "tpm") // t.TempDir() can be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket = filepath.Join(dir, "tpm.sock")
	c = exec.Command("teesim", append([]string{"tpm", "run", "--authority", filepath.Join(dir, "sim"), "--image", "ledger", "--socket", socket}, args...)...)
	pipe, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait()
	})
	out = bufio.NewReader(pipe)
	if line, err := out.ReadString('\n'); line != "listening on "+socket+"\n" {
		t.Fatalf("it says %q (%v)", line, err)
	}
	return c, out, socket
}

func TestSIGTERMEndsAMachineCleanly(t *testing.T) {
	state := filepath.Join(t.TempDir(), "machine")
	c, out, socket := startTPM(t, "--state", state)
	open, err := simtpm.Dial(socket) // a client that stays does not keep it
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = open.Close() }()
	if err := c.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(out); len(rest) != 0 || err != nil {
		t.Errorf("it goes on: %q (%v)", rest, err)
	}
	if err := c.Wait(); err != nil {
		t.Errorf("exit: %v", err)
	}
	if _, err := os.Lstat(socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
	if !free(t, state) {
		t.Error("the machine's TPM runs still")
	}
}

func TestAMachineThatIsKilledTakesItsTPMAlong(t *testing.T) {
	state := filepath.Join(t.TempDir(), "machine")
	c, _, _ := startTPM(t, "--state", state)
	if free(t, state) {
		t.Fatal("nothing runs")
	}
	if err := c.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = c.Wait() // it was killed
	for deadline := time.Now().Add(10 * time.Second); !free(t, state); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the machine's TPM runs still")
		}
	}
}

// free reports whether neither a machine nor its swtpm, which inherits the lock,
// has the state open.
func free(t *testing.T, state string) bool {
	t.Helper()
	f, err := os.Open(filepath.Join(state, "lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil
}
