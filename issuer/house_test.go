package issuer_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/assay-project/assay/issuer/ca"
	"github.com/assay-project/assay/issuer/ledger"
	"github.com/assay-project/assay/issuer/store"
)

// house is the binary, serving several trust domains in one process.
type house struct {
	t       testing.TB
	dir     string
	binary  string
	names   []string
	address string
	metrics string
	log     *logBuffer
	cmd     *exec.Cmd
	ended   chan error
}

// newHouse makes the data and the configuration of each trust domain. databases
// has the URL of each, or is empty.
func newHouse(t testing.TB, names []string, databases ...string) *house {
	t.Helper()
	hw, err := hardware()
	must(t, err)
	h := &house{t: t, names: names}
	h.dir, err = os.MkdirTemp("", "assay-") // a socket's path has to be short
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(h.dir) })
	h.binary, err = binary()
	must(t, err)
	must(t, os.WriteFile(filepath.Join(h.dir, "root.pem"), hw.RootPEM(), 0o600))
	h.address, h.metrics = freeAddress(t), freeAddress(t)
	for i, name := range names {
		database := ""
		if len(databases) > 0 {
			database = databases[i]
		}
		h.init(name, database)
	}
	h.tenants(names[1:]...)
	t.Cleanup(h.kill)
	return h
}

func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

func (h *house) data(name string) string { return filepath.Join(h.dir, name) }
func (h *house) file(name string) string { return filepath.Join(h.data(name), "assayd.yaml") }

// init makes a trust domain whose policy grants payments.
func (h *house) init(name, database string) {
	h.t.Helper()
	args := []string{"init", "--trust-domain", name, "--data-dir", h.data(name), "--simulated-root", filepath.Join(h.dir, "root.pem"), "--tenant"}
	if database != "" {
		args = append(args, "--database", database)
	}
	if out, err := exec.Command(h.binary, args...).CombinedOutput(); err != nil {
		h.t.Fatalf("%v\n%s", err, out)
	}
	h.policy(name, 1)
	if name == h.names[0] {
		h.configure(name, fmt.Sprintf("listen: %q\nmetrics_listen: %q\nshutdown_timeout: 2s\n", h.address, h.metrics))
	}
}

// configure adds lines to a trust domain's file.
func (h *house) configure(name, lines string) { h.write(h.file(name), h.read(h.file(name))+lines) }

// tenants says which others the first one's file names.
func (h *house) tenants(names ...string) {
	h.t.Helper()
	var kept []string
	for line := range strings.Lines(h.read(h.file(h.names[0]))) {
		if !strings.HasPrefix(line, "tenants:") {
			kept = append(kept, line)
		}
	}
	var files []string
	for _, n := range names {
		files = append(files, h.file(n))
	}
	h.write(h.file(h.names[0]), strings.Join(kept, "")+"tenants: ["+strings.Join(files, ", ")+"]\n")
}

func (h *house) policy(name string, revision int) {
	h.t.Helper()
	path := filepath.Join(h.data(name), "policy.yaml")
	h.write(path+".new", policyOf(name, revision))
	must(h.t, os.Rename(path+".new", path))
}

func (h *house) read(path string) string {
	h.t.Helper()
	b, err := os.ReadFile(path)
	must(h.t, err)
	return string(b)
}

func (h *house) write(path, text string) {
	h.t.Helper()
	must(h.t, os.WriteFile(path, []byte(text), 0o600))
}

// start runs the process, and returns when the trust domains are ready.
func (h *house) start(ready ...string) {
	h.t.Helper()
	h.launch()
	for _, name := range ready {
		h.await(name)
	}
}

func (h *house) launch() {
	h.t.Helper()
	h.log, h.ended = &logBuffer{}, make(chan error, 1)
	h.cmd = exec.Command(h.binary, "run", "--config", h.file(h.names[0]))
	stderr, err := h.cmd.StderrPipe()
	must(h.t, err)
	must(h.t, h.cmd.Start())
	cmd, ended, log := h.cmd, h.ended, h.log
	go func() {
		for s := bufio.NewScanner(stderr); s.Scan(); {
			_, _ = log.Write(append(s.Bytes(), '\n'))
		}
		ended <- cmd.Wait()
	}()
}

func (h *house) await(name string) {
	h.t.Helper()
	o := h.office(name)
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial("tcp", h.metrics)
		if err != nil {
			continue
		}
		_ = c.Close()
		if o.get("/ready/"+name) == "ok\n" {
			return
		}
	}
	h.t.Fatalf("%s is not ready:\n%s", name, h.log.String())
}

func (h *house) hangup() {
	h.t.Helper()
	must(h.t, h.cmd.Process.Signal(syscall.SIGHUP))
}

// said waits until the log has a line with all of the words.
func (h *house) said(words ...string) {
	h.t.Helper()
	eventually(h.t, strings.Join(words, " … ")+" in the log", func() bool {
		for line := range strings.Lines(h.log.String()) {
			found := true
			for _, w := range words {
				found = found && strings.Contains(line, w)
			}
			if found {
				return true
			}
		}
		return false
	})
}

func (h *house) kill() {
	if h.cmd == nil {
		return
	}
	_ = h.cmd.Process.Signal(syscall.SIGKILL)
	<-h.ended
	h.cmd = nil
	if h.t.Failed() {
		h.t.Logf("the log:\n%s", clipped(h.log.String()))
	}
}

// stop is SIGTERM; the process must end well.
func (h *house) stop() {
	h.t.Helper()
	must(h.t, h.cmd.Process.Signal(syscall.SIGTERM))
	select {
	case err := <-h.ended:
		must(h.t, err)
	case <-time.After(15 * time.Second):
		h.t.Fatal("it does not stop")
	}
	h.cmd = nil
}

// office is a client of one trust domain.
func (h *house) office(name string) *office {
	h.t.Helper()
	hw, err := hardware()
	must(h.t, err)
	o := &office{t: h.t, hardware: hw, clock: &clock{}, addr: h.address, metricsAt: h.metrics, sni: name}
	o.cfg.TrustDomain = name
	o.cfg.AdminSocket = filepath.Join(h.data(name), "admin.sock")
	o.bootstrap = []byte(h.read(filepath.Join(h.data(name), "bootstrap-root.pem")))
	return o
}

// socket is a connection to a trust domain's admin socket.
func (h *house) socket(name string) *grpc.ClientConn {
	h.t.Helper()
	conn, err := grpc.NewClient("unix://"+filepath.Join(h.data(name), "admin.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(h.t, err)
	h.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// verify checks a trust domain's ledger, while nobody runs.
func (h *house) verify(name string) uint64 {
	h.t.Helper()
	st, err := store.OpenSQLiteReadOnly(context.Background(), ca.DatabasePath(h.data(name)))
	must(h.t, err)
	defer func() { must(h.t, st.Close()) }()
	text, err := ca.CheckpointKeyText(h.data(name))
	must(h.t, err)
	key, err := ledger.ParseVerifierKey(text)
	must(h.t, err)
	report, err := ledger.NewReader(st, name, "").In("main").Verify(context.Background(), key, nil)
	must(h.t, err)
	return report.Entries
}
