package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/assay-project/assay/enclave-agent/files"
	"github.com/assay-project/assay/internal/fleet"
)

// site is a server and a simulated enclave, as processes.
type site struct {
	t       *testing.T
	bin     string
	dir     string // short, on a disk perhaps
	memory  string // on a tmpfs
	log     map[string]*buffer
	process map[string]*exec.Cmd
}

// buffer is what a process printed so far.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// sitePolicy grants the image what the second part says.
const sitePolicy = `version: 1
bundle: shop
revision: %d
trust_domain: simulated.example.org
workloads:
  - name: orders
    tee: aws-nitro
    mode: enforce
    match:
      pcr0: {eq: "a6605665e354fff6793a9191daac3cd6ed6c28bdb9b435eb700be7d17d43b9ecd385ee4e807656285c37f7f3c5581eac"}
      pcr3: {eq: "1abe9528ea89e025310c497f698de754557923cfa6c9df592e8c3ea0bd0bef1632578d5882eeca89ecfb259c24d7dd6a"}
    issue:%s`

// orders is the one identity that the image gets, another one with each revision.
func orders(revision int) string {
	return fmt.Sprintf(`
      - spiffe_id: "spiffe://{td}/orders"
        attributes: {release: "%d"}
        jwt: {ttl: 30s, audiences: [reports, sts.amazonaws.com]}
`, revision)
}

// newSite starts both, and writes an agent's configuration into agent/.
func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{t: t, bin: binaries(t), log: map[string]*buffer{}, process: map[string]*exec.Cmd{}}
	for into, parent := range map[*string]string{&s.dir: "", &s.memory: tmpfs} {
		dir, err := os.MkdirTemp(parent, "a")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		*into = dir
	}
	if !files.InMemory(s.memory) {
		t.Fatalf("these tests need a tmpfs on %s", tmpfs)
	}
	addr := fleet.FreePort(t)
	s.write("root.pem", s.tool("teesim", "nitro", "root", "--authority", s.path("hardware")))
	s.tool("assayd", "init", "--trust-domain", "simulated.example.org", "--simulated-root", s.path("root.pem"), "--data-dir", s.path("server"))
	conf, err := os.ReadFile(s.path("server/assayd.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	s.write("server/assayd.yaml", strings.NewReplacer(`listen: ":8443"`, `listen: "`+addr+`"`, `metrics_listen: "127.0.0.1:9464"`, `metrics_listen: ""`, "# reattest_spread: 1m", "reattest_spread: 10ms").Replace(string(conf)))
	s.revise(1)
	s.start("assayd", exec.Command(filepath.Join(s.bin, "assayd"), "run", "--data-dir", s.path("server")))
	s.write("bootstrap.pem", s.tool("assayd", "bootstrap", "export", "--data-dir", s.path("server")))
	s.start("teesim", exec.Command(filepath.Join(s.bin, "teesim"), "nitro", "run", "--authority", s.path("hardware"), "--image", "orders", "--role", "arn:aws:iam::123456789012:role/orders", "--socket", s.path("nsm.sock")))
	s.until("the enclave", func() bool { _, err := os.Lstat(s.path("nsm.sock")); return err == nil })
	init := s.agent("init", "--server", addr, "--bootstrap-root", s.path("bootstrap.pem"), "--nsm-socket", s.path("nsm.sock"), "--data-dir", s.path("agent"))
	if out, err := init.CombinedOutput(); err != nil {
		t.Fatalf("init: %v\n%s", err, out)
	}
	return s
}

func (s *site) path(name string) string { return filepath.Join(s.dir, name) }

func (s *site) write(name, content string) {
	s.t.Helper()
	if err := os.WriteFile(s.path(name)+".new", []byte(content), 0o600); err != nil {
		s.t.Fatal(err)
	}
	if err := os.Rename(s.path(name)+".new", s.path(name)); err != nil {
		s.t.Fatal(err)
	}
}

// revise changes the policy, after which agents attest again.
func (s *site) revise(revision int) {
	s.t.Helper()
	s.grant(revision, orders(revision))
}

// grant is revise with the identities, as YAML, that the image gets.
func (s *site) grant(revision int, identities string) {
	s.t.Helper()
	s.write("server/policy.yaml", fmt.Sprintf(sitePolicy, revision, identities))
	if c := s.process["assayd"]; c != nil {
		if err := c.Process.Signal(syscall.SIGHUP); err != nil {
			s.t.Fatal(err)
		}
	}
}

func (s *site) tool(name string, args ...string) string {
	s.t.Helper()
	out, err := exec.Command(filepath.Join(s.bin, name), args...).Output()
	if err != nil {
		s.t.Fatalf("%s: %v", name, err)
	}
	return string(out)
}

// agent is a command of the agent's own.
func (s *site) agent(args ...string) *exec.Cmd {
	self, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	c := exec.Command(self)
	c.Args = append([]string{"assay-agent"}, args...)
	return c
}

// start starts a process, and stops it with the test.
func (s *site) start(name string, c *exec.Cmd) {
	s.t.Helper()
	s.log[name] = &buffer{}
	if c.Stdout == nil {
		c.Stdout = s.log[name]
	}
	c.Stderr = s.log[name]
	c.WaitDelay = 5 * time.Second
	if err := c.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.process[name] = c
	s.t.Cleanup(func() {
		if c.ProcessState == nil {
			_ = c.Process.Signal(syscall.SIGTERM)
			_ = c.Wait()
		}
		if s.t.Failed() {
			s.t.Logf("%s:\n%s", name, s.log[name])
		}
	})
}

// until waits.
func (s *site) until(what string, ok func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("never: %s", what)
		}
	}
}

// renewals is how often certificates are renewed under a reader.
const renewals = 20

// A reader that reads in a loop while certificates are renewed always finds whole
// files, a certificate with its key, and a bundle that vouches for it; no secret has
// another mode than its own for a moment, wherever it is. The software that a pid file
// names is told, and the command runs, after the last change too.
func TestAReaderNeverSeesHalfARenewal(t *testing.T) {
	s := newSite(t)
	dir := filepath.Join(s.memory, "svid")
	s.start("nginx", exec.Command("/bin/sh", "-c", "trap 'cat "+dir+"/svid.pem > "+s.path("heard")+"' HUP; echo $$ > "+s.path("pid")+"; while :; do sleep 0.02; done"))
	s.start("agent", s.agent("run", "--data-dir", s.path("agent"), "--write", dir, "--jwt", "reports=token", "--aws-role", "arn:aws:iam::123456789012:role/orders", "--aws-region", "eu-central-1",
		"--reload-signal", "hup", "--reload-pid-file", s.path("pid"), "--reload-command", "cp "+dir+"/svid.pem "+s.path("copied")))
	all := []string{"svid.pem", "svid.key", "svid-with-key.pem", "bundle.pem", "token", "aws-token", "aws.env"}
	for _, name := range all {
		s.until(name, func() bool { _, err := os.Stat(filepath.Join(dir, name)); return err == nil })
	}
	token, err := os.ReadFile(filepath.Join(dir, "token"))
	if err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var (
		mu      sync.Mutex
		seen    = map[string]bool{}
		readers sync.WaitGroup
		reads   = map[string]int{}
	)
	reading := func(what string, read func() error) {
		readers.Go(func() {
			n := 0
			for ; ; n++ {
				select {
				case <-stop:
					mu.Lock()
					reads[what] = n
					mu.Unlock()
					return
				default:
				}
				if err := read(); err != nil {
					t.Errorf("%s, look %d: %v", what, n, err)
					return
				}
				time.Sleep(100 * time.Microsecond) // the renewals want the processor too
			}
		})
	}
	reading("certificates with their keys", func() error {
		serial, err := readPair(dir)
		mu.Lock()
		defer mu.Unlock()
		seen[serial] = true
		return err
	})
	reading("each file by itself", func() error {
		for _, name := range all {
			if err := readWhole(filepath.Join(dir, name)); err != nil {
				return err
			}
		}
		return nil
	})
	reading("all that lies there", func() error { return lookAround(dir) })
	for revision := 2; revision <= renewals+1; revision++ {
		s.revise(revision)
		s.until(fmt.Sprintf("the renewal of revision %d", revision), func() bool {
			mu.Lock()
			defer mu.Unlock()
			return t.Failed() || len(seen) >= revision
		})
	}
	// A token lives for 30 seconds, and is replaced after 15.
	s.until("another token", func() bool {
		b, err := os.ReadFile(filepath.Join(dir, "token"))
		return t.Failed() || err == nil && !bytes.Equal(b, token)
	})
	close(stop)
	readers.Wait()
	last, err := os.ReadFile(filepath.Join(dir, "svid.pem"))
	if err != nil {
		t.Fatal(err)
	}
	for _, who := range []string{"heard", "copied"} {
		s.until("the last certificate, "+who, func() bool { b, _ := os.ReadFile(s.path(who)); return bytes.Equal(b, last) })
	}
	for _, what := range []string{"the reload command ran", "the workload is told to read its files"} {
		if n := strings.Count(s.log["agent"].String(), what); n < 5 || n > renewals+1 {
			t.Errorf("%q %d times for %d renewals", what, n, renewals)
		}
	}
	if env, err := os.ReadFile(filepath.Join(dir, "aws.env")); err != nil || string(env) != "AWS_WEB_IDENTITY_TOKEN_FILE="+dir+"/aws-token\nAWS_ROLE_ARN=arn:aws:iam::123456789012:role/orders\nAWS_ROLE_SESSION_NAME=assay\nAWS_REGION=eu-central-1\n" {
		t.Errorf("aws.env: %v\n%s", err, env)
	}
	t.Logf("%v looks, %d certificates", reads, len(seen))
}

// readWhole reads a file as software does that knows nothing of how it is replaced, and
// checks that it is all there, and its mode.
func readWhole(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	text, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	name := filepath.Base(path)
	want := fs.FileMode(0o600)
	switch name {
	case "svid.pem", "bundle.pem", "aws.env":
		want = 0o644
	}
	if got := info.Mode().Perm(); got != want {
		return fmt.Errorf("%s has mode %s, want %s", name, got, want)
	}
	whole := false
	switch name {
	case "token", "aws-token":
		part := bytes.Split(text, []byte("."))
		if whole = len(part) == 3; whole {
			signature, err := base64.RawURLEncoding.DecodeString(string(part[2]))
			whole = err == nil && len(signature) == 64 // ES256 (RFC 7518, section 3.4)
		}
	case "aws.env":
		whole = bytes.HasPrefix(text, []byte("AWS_")) && bytes.HasSuffix(text, []byte("eu-central-1\n"))
	default:
		rest := text
		for len(rest) > 0 {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				break
			}
			whole = len(rest) == 0
		}
	}
	if !whole {
		return fmt.Errorf("%s is not whole: %d bytes", name, len(text))
	}
	return nil
}

// lookAround looks at all that lies in the directory for a moment, also what is being
// made: no secret can be read by others.
func lookAround(dir string) error {
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // gone meanwhile
		}
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return nil //nolint:nilerr // gone meanwhile
		}
		defer func() { _ = f.Close() }()
		text, err := io.ReadAll(f)
		if err != nil {
			return err
		}
		info, err := f.Stat()
		if err != nil {
			return err
		}
		if secret := bytes.Contains(text, []byte("PRIVATE KEY")) || bytes.HasPrefix(text, []byte("eyJ")); secret && info.Mode().Perm() != 0o600 {
			return fmt.Errorf("a secret in %s has mode %s", e.Name(), info.Mode().Perm())
		}
		return nil
	})
}

// readPair reads what is there as careful software does, and checks that it belongs
// together. It returns the serial number.
func readPair(dir string) (string, error) {
	for range 3 { // between the link and the files may lie two renewals of a test's pace
		set, err := os.Readlink(filepath.Join(dir, "..data"))
		if err != nil {
			return "", err
		}
		set = filepath.Join(dir, set)
		pair, err := tls.LoadX509KeyPair(filepath.Join(set, "svid.pem"), filepath.Join(set, "svid.key"))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", err
		}
		both, err := os.ReadFile(filepath.Join(dir, "svid-with-key.pem"))
		if err != nil {
			return "", err
		}
		if _, err := tls.X509KeyPair(both, both); err != nil {
			return "", err
		}
		bundle, err := os.ReadFile(filepath.Join(dir, "bundle.pem"))
		if err != nil {
			return "", err
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(bundle) {
			return "", errors.New("no bundle")
		}
		if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
			return "", err
		}
		token, err := os.ReadFile(filepath.Join(dir, "token"))
		if err != nil {
			return "", err
		}
		if strings.Count(string(token), ".") != 2 {
			return "", fmt.Errorf("half a token: %d bytes", len(token))
		}
		return pair.Leaf.SerialNumber.String(), nil
	}
	return "", errors.New("the set is gone each time")
}

var pidLine = regexp.MustCompile(`msg="the command runs" .*pid=([0-9]+)`)

// As the first process of its environment, exec is what init is: orphans come to it
// and go, signals reach the workload, and its exit code is the environment's.
func TestAsTheFirstProcessExecReapsForwardsAndEndsAsTheWorkloadDoes(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("NOT TESTED: a PID namespace needs root")
	}
	s := newSite(t)
	out := s.path("out")
	workload := `
trap 'echo usr1 >> ` + out + `' USR1
trap 'echo hup >> ` + out + `' HUP
trap 'echo term >> ` + out + `; exit 42' TERM
echo "first $(cat /proc/1/cmdline | tr '\0' ' ')" >> ` + out + `
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do (sleep 0.1 &); done
sleep 0.6
echo "zombies $(cat /proc/[0-9]*/stat 2>/dev/null | grep -c ') Z ')" >> ` + out + `
echo "endpoint $SPIFFE_ENDPOINT_SOCKET" >> ` + out + `
while :; do sleep 0.02; done`
	inner := s.agent("exec", "--data-dir", s.path("agent"), "--write", filepath.Join(s.memory, "svid"), "--reload-signal", "HUP", "--", "sh", "-c", workload)
	// The shell mounts the new namespace's /proc, and becomes the agent.
	script := `mount -t proc proc /proc && self="$1" && shift && exec "$self" "$@"`
	link := s.path("assay-agent") // testscript tells by the name which program it is
	if err := os.Symlink(inner.Path, link); err != nil {
		t.Fatal(err)
	}
	c := exec.Command("/bin/sh", append([]string{"-c", script, "sh", link}, inner.Args[1:]...)...)
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS, Unshareflags: syscall.CLONE_NEWNS}
	s.start("init", c)
	said := func(line string) func() bool {
		return func() bool { b, _ := os.ReadFile(out); return strings.Contains(string(b), line) }
	}
	s.until("the workload's report", said("endpoint unix://"+s.path("agent/agent.sock")))
	if b, err := os.ReadFile(out); err != nil || !strings.Contains(string(b), "first "+link+" exec ") || !strings.Contains(string(b), "zombies 0\n") {
		t.Errorf("it says\n%s%v", b, err)
	}
	if m := pidLine.FindStringSubmatch(s.log["init"].String()); m == nil {
		t.Error("the log does not say what runs")
	} else if n, err := strconv.Atoi(m[1]); err != nil || n < 2 || n > 50 {
		t.Errorf("the workload's number is %s: is this a namespace of its own?", m[1])
	}
	if err := c.Process.Signal(syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	s.until("USR1", said("usr1\n"))
	// A renewal is told to the workload, without a pid file.
	s.revise(2)
	s.until("HUP", said("hup\n"))
	if err := c.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	var ended *exec.ExitError
	if err := c.Wait(); !errors.As(err, &ended) || ended.ExitCode() != 42 {
		t.Errorf("it ended with %v, want 42", err)
	}
	if !said("term\n")() {
		t.Error("the workload was not told")
	}
	m := regexp.MustCompile(`orphans_reaped=([0-9]+)`).FindStringSubmatch(s.log["init"].String())
	if m == nil {
		t.Fatal("the log does not count orphans")
	}
	if n, err := strconv.Atoi(m[1]); err != nil || n < 20 {
		t.Errorf("%s orphans reaped, want 20", m[1])
	}
}
