// Package guides tests the guides: their commands are run as they stand.
package guides

import (
	"bytes"
	"context"
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
)

// The test binary plays the parts of three programs that need EC2, when it is
// called by their names.
func TestMain(m *testing.M) {
	parts := map[string]func([]string) error{
		"nitro-cli":   nitroCLI,
		"vsock-proxy": vsockProxy,
		"socat":       socat,
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

const stage = "GUIDE_STAGE" // the test's folder, for the stand-ins

func TestEveryCommandOfTheFirstEnclaveGuideWorks(t *testing.T) {
	if _, err := exec.LookPath("bash"); err != nil {
		t.Fatal("this test runs the guide's commands with bash")
	}
	dir := shortTempDir(t)
	bin := filepath.Join(dir, "bin")
	build := exec.Command("go", "build", "-o", bin+"/", "../../cmd/assayd", "../../cmd/assay-agent", "../../cmd/assay", "../../cmd/teesim")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"nitro-cli", "vsock-proxy", "socat"} {
		if err := os.Symlink(self, filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{"server", "run"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
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

	script := guideScript(t, "first-enclave.md", dir)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash")
	cmd.Dir = filepath.Join(dir, "server")
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), stage+"="+dir)
	cmd.Stdin = strings.NewReader(script)
	// Everything that the guide starts belongs to one process group.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = 5 * time.Second
	err = cmd.Run()
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
	if err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	t.Log(out.String())
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
func guideScript(t *testing.T, name, dir string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	server, inside := freePort(t), freePort(t)
	changes := strings.NewReplacer(
		"attested.example.org", "simulated.attested.example.org",
		"assayd init ", "assayd init --simulated-root root.pem ",
		"assay-agent init ", "assay-agent init --nsm-socket "+dir+"/nsm.sock ",
		"assay svid verify ", "assay svid verify --allow-simulated ",
		"10443", inside,
		"8443", server,
		"/etc/assay", dir+"/server/image",
		"/run/assay/svid", memory(t)+"/svid",
		"/run/assay", dir+"/run",
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
		fmt.Fprintf(&script, "[ ! -f image/assay-agent.yaml ] || sed -i 's#/run/assay/agent.sock#%s/run/agent.sock#' image/assay-agent.yaml\n", dir)
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
		nsm := exec.Command("teesim", "nitro", "run", "--authority", filepath.Join(dir, "aws"), "--socket", filepath.Join(dir, "nsm.sock"),
			"--image", string(uri), "--role", "arn:aws:iam::123456789012:role/payments")
		if err := nsm.Start(); err != nil {
			return err
		}
		for range 500 {
			if _, err := os.Stat(filepath.Join(dir, "nsm.sock")); err == nil {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		inside := exec.Command(filepath.Join(dir, "server/image/entrypoint.sh"))
		log, err := os.Create(filepath.Join(dir, "enclave.log"))
		if err != nil {
			return err
		}
		inside.Stdout, inside.Stderr = log, log
		return inside.Start()
	case len(args) > 0 && args[0] == "terminate-enclave":
		return nil // the test ends the process group
	}
	return fmt.Errorf("unknown command %q", args)
}

// vsockProxy stands in for AWS's vsock-proxy: the vsock is a unix socket, and
// every name is this machine.
func vsockProxy(args []string) error {
	if len(args) < 3 {
		return errors.New("usage: vsock-proxy PORT HOST PORT")
	}
	return forward("unix", filepath.Join(os.Getenv(stage), "vsock-"+args[0]), "tcp", "127.0.0.1:"+args[2])
}

// socat stands in for the one call of socat that the guide makes.
func socat(args []string) error {
	m := regexp.MustCompile(`^TCP-LISTEN:(\d+),bind=127\.0\.0\.1\S* VSOCK-CONNECT:3:(\d+)$`).FindStringSubmatch(strings.Join(args, " "))
	if m == nil {
		return fmt.Errorf("unexpected arguments %q", args)
	}
	return forward("tcp", "127.0.0.1:"+m[1], "unix", filepath.Join(os.Getenv(stage), "vsock-"+m[2]))
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
