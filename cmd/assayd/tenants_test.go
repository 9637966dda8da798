package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/assay-project/assay/issuer/config"
	simnitro "github.com/assay-project/assay/simulators/nitro"
)

// running is a process inside the test.
type running struct {
	*process
	log   *lines
	ended chan error
	stop  context.CancelFunc
}

type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// serveInside serves the trust domains as `assayd run` does.
func serveInside(t *testing.T, names ...string) *running {
	t.Helper()
	dir, err := os.MkdirTemp("", "assay-") // a socket's path has to be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	hw, err := simnitro.NewAuthority(simnitro.AuthorityOptions{})
	if err != nil {
		t.Fatal(err)
	}
	rootFile := filepath.Join(dir, "root.pem")
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(rootFile, string(hw.RootPEM()))
	var files []string
	for _, name := range names {
		files = append(files, newTenant(t, dir, name))
	}
	first, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	metrics := l.Addr().String()
	_ = l.Close()
	write(files[0], fmt.Sprintf("%slisten: \"127.0.0.1:0\"\nmetrics_listen: %q\nshutdown_timeout: 1s\ntenants: [%s]\n", first, metrics, strings.Join(files[1:], ", ")))
	all, err := config.LoadAll(files[0])
	if err != nil {
		t.Fatal(err)
	}
	r := &running{log: &lines{}, ended: make(chan error, 1)}
	level := new(slog.LevelVar)
	r.process = &process{file: files[0], configs: all, level: level, log: newLogger(all[0], r.log, level), tenants: map[string]*supervised{}}
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	go func() { r.ended <- r.run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if t.Failed() {
			t.Logf("the log:\n%s", r.log)
		}
	})
	for _, name := range names {
		r.until(t, name+" is served", func() bool { return strings.Contains(r.log.String(), filepath.Join(dir, name, "admin.sock")) })
		r.until(t, name+" is ready", func() bool { return r.get(metrics, "/ready/"+name) == "ok\n" })
	}
	return r
}

// newTenant makes the data of a trust domain, and returns its configuration file.
func newTenant(t *testing.T, dir, name string) string {
	t.Helper()
	data := filepath.Join(dir, name)
	c := root()
	c.SetArgs([]string{"init", "--trust-domain", name, "--data-dir", data, "--simulated-root", filepath.Join(dir, "root.pem"), "--tenant"})
	c.SetOut(io.Discard)
	c.SetErr(io.Discard)
	if err := c.Execute(); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(data, config.FileName)
}

// change replaces a word in a file, or adds text where the word is "".
func change(t *testing.T, path, from, to string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := string(b) + to
	if from != "" {
		text = strings.Replace(string(b), from, to, 1)
	}
	if text == string(b) {
		t.Fatalf("%q is not in %s", from, b)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (r *running) get(address, path string) string {
	resp, err := http.Get("http://" + address + path) //nolint:noctx // a test
	if err != nil {
		return ""
	}
	defer func() { _ = resp.Body.Close() }()
	b, _ := io.ReadAll(resp.Body)
	return string(b)
}

func (r *running) until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("waited in vain until %s", what)
}

const tdA, tdB = "simulated.a.example", "simulated.b.example"

func TestATrustDomainThatFailsWhileItRunsIsOpenedAgainAndTheOthersRunOn(t *testing.T) {
	r := serveInside(t, tdA, tdB)
	a, _ := r.tenants[tdA].now()
	b, _ := r.tenants[tdB].now()
	_ = b.listeners.Admin.Close() // a service of it ends that should not
	r.until(t, "it says so", func() bool {
		return strings.Contains(r.log.String(), "the trust domain is not served; it is tried again") && strings.Contains(r.log.String(), "the admin service ended")
	})
	r.until(t, "it is open again", func() bool {
		now, _ := r.tenants[tdB].now()
		return now != nil && now != b && r.get(r.metrics, "/ready/"+tdB) == "ok\n"
	})
	if now, _ := r.tenants[tdA].now(); now != a {
		t.Error("the other was opened again too")
	}
	if strings.Contains(r.log.String(), "level=ERROR msg=\"the trust domain is not served; it is tried again\" trust_domain="+tdA) {
		t.Error("the other failed with it")
	}
	r.stop()
	if err := <-r.ended; err != nil {
		t.Errorf("the stop: %v", err)
	}
	if !strings.HasSuffix(r.log.String(), "msg=stopped\n") {
		t.Errorf("its last word: %q", r.log.String()[max(0, len(r.log.String())-200):])
	}
}

func TestAloneATrustDomainThatFailsEndsTheProcess(t *testing.T) {
	r := serveInside(t, tdA)
	a, _ := r.tenants[tdA].now()
	_ = a.listeners.Admin.Close()
	select {
	case err := <-r.ended:
		if err == nil || !strings.Contains(err.Error(), "the admin service ended") {
			t.Errorf("got %v", err)
		}
	case <-time.After(15 * time.Second):
		t.Fatal("it runs on, and nobody who supervises it knows")
	}
}
