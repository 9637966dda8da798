// Package guides tests the guides: their commands are run as they stand.
package guides

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/assay-project/assay/internal/prebuilt"
)

// The test binary plays the parts of two programs that need EC2, when it is
// called by their names.
func TestMain(m *testing.M) {
	parts := map[string]func([]string) error{
		"nitro-cli":   nitroCLI,
		"vsock-proxy": vsockProxy,
	}
	part, ok := parts[filepath.Base(os.Args[0])]
	if !ok {
		os.Exit(m.Run())
	}
	if err := part(os.Args[1:]); err != nil {
		_, _ = fmt.Fprintf(os.Stderr, "%s: %v\n", os.Args[0], err)
		os.Exit(1)
	}
}

// What the stand-ins find in their environment.
const (
	stage     = "GUIDE_STAGE" // the test's folder
	vsockPort = "GUIDE_VSOCK" // the port that stands for the parent's vsock port 9443
)

// enclosed reports whether this user can run an image's entry point with nothing but
// the image in reach.
func enclosed() bool { return os.Geteuid() == 0 }

func TestEveryCommandOfTheFirstEnclaveGuideWorks(t *testing.T) {
	if _, err := exec.LookPath("bash"); err != nil {
		t.Fatal("this test runs the guide's commands with bash")
	}
	dir := shortTempDir(t)
	bin := filepath.Join(dir, "bin")
	for _, d := range []string{"server", "run", "bin"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := prebuilt.Into(bin, "../.."); err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "server/payments"), "./testdata/payments")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"nitro-cli", "vsock-proxy"} {
		if err := os.Symlink(self, filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	root, err := exec.Command(filepath.Join(bin, "teesim"), "nitro", "root", "--authority", filepath.Join(dir, "aws")).Output()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "server/root.pem"), root, 0o600); err != nil {
		t.Fatal(err)
	}

	inside := freePort(t)
	script := guideScript(t, "first-enclave.md", dir, inside)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash")
	cmd.Dir = filepath.Join(dir, "server")
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), stage+"="+dir, vsockPort+"="+inside)
	cmd.Stdin = strings.NewReader(script)
	// Everything that the guide starts belongs to one process group.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = 5 * time.Second
	err = cmd.Run()
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
	enclave, readErr := os.ReadFile(filepath.Join(dir, "enclave.log"))
	if err != nil || readErr != nil {
		t.Fatalf("%v\n%s\n### in the enclave (%v)\n%s", err, out.String(), readErr, enclave)
	}
	t.Logf("%s\n### in the enclave\n%s", out.String(), enclave)
	// The program found its identity by itself, and is not who the agent is.
	user := "65532"
	if !enclosed() {
		user = fmt.Sprint(os.Getuid())
	}
	if want := "payments is spiffe://simulated.attested.example.org/payments/api, as user " + user + "\n"; !strings.Contains(string(enclave), want) {
		t.Errorf("the enclave's program never said %q", want)
	}
	for _, want := range []string{
		"VERIFIED: spiffe://simulated.attested.example.org/payments/api",
		"ok: first@2, 1 workload",
		"granted",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the guide's commands never printed %q:\n%s", want, out.String())
		}
	}

	// The folder is copied into an image: a path of this machine means nothing
	// there.
	conf, err := os.ReadFile(filepath.Join(dir, "server/image/assay-agent.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	roots := regexp.MustCompile(`(?s)bootstrap_roots:\n(.*?)\n\n`).FindSubmatch(conf)
	if roots == nil || strings.TrimSpace(string(roots[1])) != `- "bootstrap-root.pem"` {
		t.Errorf("the image's configuration does not name the root beside it:\n%s", conf)
	}
}

// memory is a folder on a tmpfs, as /run is: keys go nowhere else.
func memory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "guide")
	if err != nil {
		t.Fatalf("this test needs a tmpfs: %v", err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// guideScript strings the guide's blocks together, with the changes that the
// guide itself lists.
func guideScript(t *testing.T, name, dir, inside string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	server := freePort(t)
	// Sockets of the enclave: where it finds them, and where this machine does.
	nsm, within, without := "/run/nsm.sock", "/run/assay/agent.sock", dir+"/rootfs/run/assay/agent.sock"
	if !enclosed() {
		nsm, within, without = dir+"/run/nsm.sock", dir+"/run/agent.sock", dir+"/run/agent.sock"
	}
	changes := strings.NewReplacer(
		"attested.example.org", "simulated.attested.example.org",
		"assayd init ", "assayd init --simulated-root root.pem ",
		"assay-agent init ", "assay-agent init --nsm-socket "+nsm+" --socket "+within+" ",
		"assay svid verify ", "assay svid verify --allow-simulated ",
		"vsock:parent:9443", "127.0.0.1:"+inside,
		"8443", server,
		"/run/assay/svid", memory(t)+"/svid",
		"/run/assay/agent.sock", without,
	)
	var script strings.Builder
	script.WriteString("set -euo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n")
	blocks := regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatchIndex(string(b), -1)
	if len(blocks) < 8 {
		t.Fatalf("only %d blocks of commands found", len(blocks))
	}
	for _, loc := range blocks {
		line := 1 + strings.Count(string(b[:loc[0]]), "\n")
		fmt.Fprintf(&script, "echo '### %s:%d'\n%s", name, line, changes.Replace(string(b[loc[2]:loc[3]])))
		// The server's configuration listens on fixed ports, which may be taken,
		// and on every address, where this machine's own is enough.
		fmt.Fprintf(&script, "[ ! -f assay/assayd.yaml ] || sed -i 's/\":8443\"/\"127.0.0.1:%s\"/; s/127.0.0.1:9464//; s#/run/assay/agent.sock#%s/run/agent.sock#' assay/assayd.yaml\n", server, dir)
	}
	return script.String()
}

// shortTempDir is a temporary folder whose path leaves room for a socket's.
func shortTempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "guide")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// nitroCLI stands in for AWS's nitro-cli. The image's name is its seed: the
// same name gives the same measurements when it is built and when it runs.
func nitroCLI(args []string) error {
	dir := os.Getenv(stage)
	switch {
	case len(args) > 0 && args[0] == "build-enclave":
		eif, uri := flagValue(args, "--output-file"), flagValue(args, "--docker-uri")
		if _, err := os.Stat(filepath.Join(flagValue(args, "--docker-dir"), "Dockerfile")); err != nil {
			return err
		}
		if err := os.WriteFile(eif, []byte(uri), 0o600); err != nil {
			return err
		}
		out, err := exec.Command("teesim", "nitro", "measurements", "--image", uri).Output()
		if err != nil {
			return err
		}
		m := regexp.MustCompile(`pcr0: \{eq: "([0-9a-f]{96})"\}`).FindSubmatch(out)
		if m == nil {
			return errors.New("teesim printed no PCR0")
		}
		_, err = fmt.Printf("{\n  \"Measurements\": {\n    \"HashAlgorithm\": \"Sha384 { ... }\",\n    \"PCR0\": \"%s\"\n  }\n}\n", m[1])
		return err
	case len(args) > 0 && args[0] == "run-enclave":
		uri, err := os.ReadFile(flagValue(args, "--eif-path"))
		if err != nil {
			return err
		}
		if strings.HasPrefix(string(uri), ".eif") {
			return runEIF(dir, flagValue(args, "--eif-path"), flagValue(args, "--enclave-name"))
		}
		return runImage(dir, string(uri))
	case len(args) > 0 && args[0] == "terminate-enclave":
		return nil // the test ends the process group
	}
	return fmt.Errorf("unknown command %q", args)
}

// runImage launches the image beside a simulated security module. Where this user can,
// the entry point sees the files that the Dockerfile copies, the directories that
// nitro-cli adds, and nothing else.
func runImage(dir, uri string) error {
	image := filepath.Join(dir, "server/image")
	text, err := os.ReadFile(filepath.Join(image, "Dockerfile"))
	if err != nil {
		return err
	}
	root := filepath.Join(dir, "rootfs")
	for _, d := range []string{"dev", "run", "sys", "var", "proc", "tmp"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return err
		}
	}
	var entry []string
	for line := range strings.Lines(string(text)) {
		switch f := strings.Fields(line); {
		case len(f) > 2 && f[0] == "COPY":
			if err := copyFiles(image, f[1:len(f)-1], root, f[len(f)-1]); err != nil {
				return err
			}
		case len(f) > 1 && f[0] == "ENTRYPOINT":
			if err := json.Unmarshal([]byte(strings.TrimPrefix(line, "ENTRYPOINT ")), &entry); err != nil {
				return err
			}
		}
	}
	if len(entry) == 0 {
		return errors.New("the image has no ENTRYPOINT")
	}
	socket := filepath.Join(root, "run/nsm.sock")
	if !enclosed() {
		socket = filepath.Join(dir, "run/nsm.sock")
	}
	nsm := exec.Command("teesim", "nitro", "run", "--authority", filepath.Join(dir, "aws"), "--socket", socket, "--image", uri, "--role", payrole)
	if err := nsm.Start(); err != nil {
		return err
	}
	for range 500 {
		if _, err := os.Stat(socket); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	log, err := os.Create(filepath.Join(dir, "enclave.log"))
	if err != nil {
		return err
	}
	cmd := &exec.Cmd{Path: entry[0], Args: entry, Dir: "/", Env: []string{"PATH=/usr/bin"}, Stdout: log, Stderr: log}
	if enclosed() {
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
		return cmd.Start()
	}
	var args []string
	for i := 0; i < len(entry); i++ {
		switch {
		case entry[i] == "--user":
			i++
		case entry[i] == "exec":
			args = append(args, "exec", "--config", filepath.Join(root, "etc/assay/assay-agent.yaml"))
		case strings.HasPrefix(entry[i], "/"):
			args = append(args, filepath.Join(root, entry[i]))
		default:
			args = append(args, entry[i])
		}
	}
	cmd.Path, cmd.Args = args[0], args
	return cmd.Start()
}

// copyFiles does what a line COPY does.
func copyFiles(from string, names []string, root, to string) error {
	for _, name := range names {
		target := filepath.Join(root, to)
		if strings.HasSuffix(to, "/") {
			target = filepath.Join(root, to, name)
		}
		b, err := os.ReadFile(filepath.Join(from, name))
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(target, b, 0o755); err != nil {
			return err
		}
	}
	return nil
}

// vsockProxy stands in for AWS's vsock-proxy: the vsock is a port of this machine, and
// so is every name.
func vsockProxy(args []string) error {
	if len(args) != 7 || args[0] != "--num_workers" || args[2] != "--config" || args[4] != "9443" {
		return fmt.Errorf("unexpected arguments %q", args)
	}
	list, err := os.ReadFile(args[3])
	if err != nil {
		return err
	}
	if !strings.Contains(string(list), "- {address: "+args[5]+", port: "+args[6]+"}") {
		return fmt.Errorf("%s does not allow %s:%s", args[3], args[5], args[6])
	}
	return forward("tcp", "127.0.0.1:"+os.Getenv(vsockPort), "tcp", "127.0.0.1:"+args[6])
}

// forward accepts on one side and copies bytes to and from the other.
func forward(fromNet, from, toNet, to string) error {
	l, err := net.Listen(fromNet, from)
	if err != nil {
		return err
	}
	for {
		in, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer in.Close()
			out, err := net.Dial(toNet, to)
			if err != nil {
				return
			}
			defer out.Close()
			var wg sync.WaitGroup
			wg.Go(func() { _, _ = io.Copy(out, in); _ = out.(interface{ CloseWrite() error }).CloseWrite() })
			_, _ = io.Copy(in, out)
			_ = in.Close()
			wg.Wait()
		}()
	}
}

func flagValue(args []string, name string) string {
	for i, a := range args[:len(args)-1] {
		if a == name {
			return args[i+1]
		}
	}
	return ""
}
