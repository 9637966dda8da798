package main

import (
	"bufio"
	"bytes"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/hf/nitrite"
	"github.com/hf/nsm/request"
	"github.com/hf/nsm/response"
	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"teesim": func() { os.Exit(run()) }})
}

func TestSessions(t *testing.T) {
	commands := map[string]func(*testscript.TestScript, bool, []string){
		"exits":    exits,
		"verify":   nitroVerify,
		"ask":      nitroAsk,
		"socket":   socket,
		"filemode": filemode,
	}
	maps.Copy(commands, snpCommands())
	maps.Copy(commands, tpmCommands())
	testscript.Run(t, testscript.Params{Dir: "testdata", Cmds: commands, RequireExplicitExec: true})
}

// exits CODE COMMAND…: the command ends with exactly that code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	code := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		code = exit.ExitCode()
	}
	if code != want {
		ts.Fatalf("exit code %d, want %d", code, want)
	}
}

// nitroVerify DOCUMENT ROOT [NONCE]: an independent library accepts the document.
func nitroVerify(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: verify DOCUMENT ROOT [NONCE]")
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(ts.ReadFile(args[1]))) {
		ts.Fatalf("%s holds no certificate", args[1])
	}
	r, err := nitrite.Verify([]byte(ts.ReadFile(args[0])), nitrite.VerifyOptions{Roots: roots, CurrentTime: time.Now()})
	if neg != (err != nil) {
		ts.Fatalf("verification: %v", err)
	}
	if len(args) == 3 && hex.EncodeToString(r.Document.Nonce) != args[2] {
		ts.Fatalf("nonce %x, want %s", r.Document.Nonce, args[2])
	}
}

// nitroAsk SOCKET NONCE FILE: ask the NSM for a document, and keep it.
func nitroAsk(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: ask SOCKET NONCE FILE")
	}
	nonce, err := hex.DecodeString(args[1])
	ts.Check(err)
	body, err := cbor.Marshal((&request.Attestation{Nonce: nonce}).Encoded())
	ts.Check(err)
	out := exchange(ts, args[0], body)
	var res response.Response
	ts.Check(cbor.Unmarshal(out, &res))
	if res.Attestation == nil {
		ts.Fatalf("the NSM answers %s", res.Error)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[2]), res.Attestation.Document, 0o600))
}

// exchange sends one request to a device's socket, and returns the response.
func exchange(ts *testscript.TestScript, socket string, request []byte) []byte {
	c, err := net.Dial("unix", ts.MkAbs(socket))
	ts.Check(err)
	defer func() { _ = c.Close() }()
	_, err = c.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(request))), request...))
	ts.Check(err)
	var size [4]byte
	_, err = io.ReadFull(c, size[:])
	ts.Check(err)
	out := make([]byte, binary.BigEndian.Uint32(size[:]))
	_, err = io.ReadFull(c, out)
	ts.Check(err)
	return out
}

// socket PATH: wait until somebody listens there.
func socket(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: socket PATH")
	}
	for range 500 {
		if c, err := net.Dial("unix", ts.MkAbs(args[0])); err == nil {
			_ = c.Close()
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	ts.Fatalf("nobody listens on %s", args[0])
}

// filemode MODE FILE: the file has exactly that mode.
func filemode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: filemode MODE FILE")
	}
	info, err := os.Stat(ts.MkAbs(args[1]))
	ts.Check(err)
	if got := info.Mode().String(); got != args[0] {
		ts.Fatalf("%s has mode %s, want %s", args[1], got, args[0])
	}
}

func TestSIGTERMEndsAnEnclaveCleanly(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "nsm.sock")
	c := exec.Command("teesim", "nitro", "run", "--authority", filepath.Join(dir, "sim"), "--image", "orders", "--socket", socket)
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	if line, err := lines.ReadString('\n'); line != "listening on "+socket+"\n" {
		t.Errorf("it says %q (%v)", line, err)
	}
	open, err := net.Dial("unix", socket) // a client that stays does not keep it
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = open.Close() }()
	if err := c.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(lines); len(rest) != 0 || err != nil {
		t.Errorf("it goes on: %q (%v)", rest, err)
	}
	if err := c.Wait(); err != nil {
		t.Errorf("exit: %v", err)
	}
	if _, err := os.Lstat(socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

func TestASuggestionIsTheFaultThatWasMeant(t *testing.T) {
	for name, want := range map[string]string{
		"leaf-expird":   "did you mean leaf-expired?",
		"wrong_nonce":   "did you mean wrong-nonce?",
		"pcr-48-bytes":  "did you mean pcr-47-bytes or pcr-49-bytes?",
		"hello, world!": "see `teesim nitro faults`",
		"":              "see `teesim nitro faults`",
		string(bytes.Repeat([]byte{'a'}, 10_000)): "see `teesim nitro faults`",
	} {
		if got := near(name, nitroFaults(), "teesim nitro faults"); got != want {
			t.Errorf("near(%.20q) = %q, want %q", name, got, want)
		}
	}
}
