package deploy

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"debug/elf"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	agentconfig "github.com/assay-project/assay/enclave-agent/config"
	"github.com/assay-project/assay/enclave-agent/vsock"
	"github.com/assay-project/assay/internal/prebuilt"
	simnitro "github.com/assay-project/assay/simulators/nitro"
)

// instruction is a line of a Dockerfile.
type instruction struct{ name, argument string }

func dockerfile(t *testing.T, text string) (out []instruction) {
	t.Helper()
	for line := range strings.Lines(strings.ReplaceAll(text, "\\\n", " ")) {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, argument, ok := strings.Cut(line, " ")
		if !ok {
			t.Fatalf("not an instruction: %q", line)
		}
		out = append(out, instruction{name, argument})
	}
	return out
}

// command is the one command line of an image, in the form that no shell reads.
func command(t *testing.T, image []instruction) (args []string) {
	t.Helper()
	for _, i := range image {
		if i.name != "ENTRYPOINT" {
			continue
		}
		if args != nil || json.Unmarshal([]byte(i.argument), &args) != nil || len(args) == 0 {
			t.Fatalf("ENTRYPOINT %s: want one, as a list", i.argument)
		}
	}
	return args
}

func TestTheEnclaveImageHoldsTheAgentAndYourProgramAndNothingElse(t *testing.T) {
	t.Parallel()
	image := dockerfile(t, read(t, "nitro/Dockerfile"))
	if len(image) == 0 || image[0] != (instruction{"FROM", "scratch"}) {
		t.Fatalf("it begins with %v", image)
	}
	copied := map[string]bool{}
	for _, i := range image[1:] {
		switch i.name {
		case "COPY":
			if strings.Contains(i.argument, "--") {
				t.Errorf("COPY %s: the interface that nitro-cli builds with knows no options", i.argument)
			}
			f := strings.Fields(i.argument)
			for _, source := range f[:len(f)-1] {
				copied[source] = true
			}
		case "ENV", "ENTRYPOINT":
		default: // RUN has no shell to run in; CMD would run in ENTRYPOINT's place
			t.Errorf("%s %s", i.name, i.argument)
		}
	}
	for _, want := range []string{"assay-agent", "assay-agent.yaml", "bootstrap-root.pem", "payload"} {
		if !copied[want] {
			t.Errorf("%s is not in it", want)
		}
		delete(copied, want)
	}
	if len(copied) > 0 {
		t.Errorf("and it holds %v", copied)
	}
	if !slices.ContainsFunc(image, func(i instruction) bool { return i.name == "ENV" }) {
		t.Error("nitro-cli wants an environment")
	}
	args := command(t, image)
	user := slices.Index(args, "--user")
	if len(args) < 6 || args[0] != "/usr/bin/assay-agent" || args[1] != "exec" || user < 0 || strings.HasPrefix(args[user+1], "0") || !slices.Equal(args[len(args)-2:], []string{"--", "/payload"}) {
		t.Errorf("it runs %q", args)
	}
	// The guide that builds one builds this one.
	guide := regexp.MustCompile("(?s)cat > image/Dockerfile <<'EOF'\n(.*?)\nEOF\n").FindStringSubmatch(read(t, "../docs/guides/first-enclave.md"))
	if guide == nil {
		t.Fatal("the guide has no Dockerfile")
	}
	if got := dockerfile(t, guide[1]); !slices.Equal(got, image) {
		t.Errorf("the guide's image is another one:\n%v\n%v", got, image)
	}
}

// The image as a folder: what the Dockerfile copies, and the directories that nitro-cli
// adds. In there, and nowhere else, the agent checks what it would run with: nothing
// of this machine is in reach.
func TestTheEnclaveImagesAgentRunsWithNothingButTheImage(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("NOT RUN: only root can look at the image from within (chroot); the other tests read it")
	}
	context := t.TempDir()
	if err := prebuilt.Into(context, "..", "assay-agent"); err != nil {
		t.Fatal(err)
	}
	simulator, err := simnitro.NewAuthority(simnitro.AuthorityOptions{})
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(context, "bootstrap-root.pem"), bootstrapRoot(t, "simulated.attested.example.org"))
	// The hardware is simulated, and what is dialled is this machine itself, where nobody
	// listens: CID 3 is whatever this machine's hypervisor makes of it.
	config := strings.NewReplacer("trust_domain: ", "trust_domain: simulated.", "vsock:parent:", "vsock:1:").Replace(read(t, "nitro/assay-agent.yaml"))
	write(t, filepath.Join(context, "assay-agent.yaml"), config+"\nnitro: {socket: /run/nsm.sock}\n")
	write(t, filepath.Join(context, "payload"), "")

	root := filepath.Join(t.TempDir(), "rootfs")
	for _, dir := range []string{"dev", "run", "sys", "var", "proc", "tmp"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	image := dockerfile(t, read(t, "nitro/Dockerfile"))
	for _, i := range image {
		if i.name == "COPY" {
			copyInto(t, context, root, strings.Fields(i.argument))
		}
	}
	args := command(t, image)
	agent := filepath.Join(root, args[0])
	static(t, agent)

	socket := filepath.Join(root, "run/nsm.sock")
	serve(t, simulator, socket)
	inside := func(args ...string) (string, error) {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
		cmd.Dir = "/"
		cmd.Env = []string{}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	out, err := inside(args[0], "check")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"trust domain simulated.attested.example.org, server vsock:", "socket /run/assay/agent.sock", "tee aws-nitro", "module i-"} {
		if !strings.Contains(out, want) {
			t.Errorf("check does not say %q:\n%s", want, out)
		}
	}
	// The image's own command line, but for how long it waits: it starts the agent,
	// which finds nobody behind the vsock here.
	out, err = inside(append([]string{args[0], args[1], "--timeout", "1s"}, args[2:]...)...)
	var ended *exec.ExitError
	if !errors.As(err, &ended) || ended.ExitCode() != 7 || !strings.Contains(out, "waiting for an identity") || !strings.Contains(out, "command=/payload") {
		t.Errorf("%v, want exit code 7:\n%s", err, out)
	}
}

// bootstrapRoot is a root as `assayd bootstrap export` prints it.
func bootstrapRoot(t *testing.T, td string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bootstrap root"}, URIs: []*url.URL{{Scheme: "spiffe", Host: td}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil { // as an image's files: anybody may read and run them
		t.Fatal(err)
	}
}

// copyInto does what a line COPY does: sources of the context, and where they go.
func copyInto(t *testing.T, context, root string, f []string) {
	t.Helper()
	to := f[len(f)-1]
	for _, source := range f[:len(f)-1] {
		target := to
		if strings.HasSuffix(to, "/") {
			target = path.Join(to, source)
		} else if len(f) > 2 {
			t.Fatalf("COPY %v: several files need a directory", f)
		}
		if err := os.MkdirAll(filepath.Join(root, path.Dir(target)), 0o755); err != nil {
			t.Fatal(err)
		}
		// Another process writes it: what this one has open for writing, as a child of
		// another test would too for a moment, cannot be run.
		if out, err := exec.Command("cp", filepath.Join(context, source), filepath.Join(root, target)).CombinedOutput(); err != nil {
			t.Fatalf("COPY %v: %v\n%s", f, err, out)
		}
	}
}

// static wants a program that needs no loader, of less than 20 MiB.
func static(t *testing.T, program string) {
	t.Helper()
	f, err := elf.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("%s is linked with libraries", program)
		}
	}
	st, err := os.Stat(program)
	if err != nil {
		t.Fatal(err)
	}
	if st.Size() >= 20<<20 {
		t.Errorf("%s has %d bytes, want less than 20 MiB", program, st.Size())
	}
	t.Logf("%.1f MiB", float64(st.Size())/(1<<20))
}

// serve runs a simulated security module until the test ends.
func serve(t *testing.T, a *simnitro.Authority, socket string) {
	t.Helper()
	m, err := a.Launch(simnitro.Launch{Image: simnitro.ImageFromSeed("payments")})
	if err != nil {
		t.Fatal(err)
	}
	l, err := simnitro.Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Serve(ctx, l) }()
	t.Cleanup(func() { cancel(); <-done })
}

// What the agent dials, the proxy's port, its list and the units are one way.
func TestTheWayFromTheEnclaveToTheServerIsOne(t *testing.T) {
	t.Parallel()
	var list struct {
		Allowlist []struct {
			Address string
			Port    int
		}
	}
	d := yaml.NewDecoder(strings.NewReader(read(t, "nitro/vsock-proxy.yaml")))
	d.KnownFields(true)
	if err := d.Decode(&list); err != nil {
		t.Fatal(err)
	}
	if len(list.Allowlist) != 1 || list.Allowlist[0].Address != "assay.example.org" || list.Allowlist[0].Port != 8443 {
		t.Errorf("the proxy may go to %+v", list.Allowlist)
	}
	for _, unit := range nitroUnits {
		u := parseUnit(t, "../nitro/"+unit)
		if got := u["Environment"]; !slices.Equal(got, []string{"ASSAY_SERVER=assay.example.org ASSAY_PORT=8443"}) {
			t.Errorf("%s: %q", unit, got)
		}
	}
	proxy := parseUnit(t, "../nitro/assay-vsock-proxy.service")
	at := "/etc/nitro_enclaves/assay-vsock-proxy.yaml"
	if !slices.Equal(proxy["ConditionPathExists"], []string{at}) || !strings.Contains(read(t, "nitro/vsock-proxy.yaml"), "# "+at) {
		t.Errorf("the unit wants %q", proxy["ConditionPathExists"])
	}
	// vsock-proxy [OPTIONS] <local_port> <remote_addr> <remote_port>
	if got, want := proxy["ExecStart"], "/usr/bin/vsock-proxy --num_workers 64 --config "+at+" 9443 ${ASSAY_SERVER} ${ASSAY_PORT}"; !slices.Equal(got, []string{want}) {
		t.Errorf("it runs %q, want %q", got, want)
	}
	socat := parseUnit(t, "../nitro/assay-vsock-socat.service")
	if got := socat["ExecStart"]; len(got) != 1 || !strings.HasPrefix(got[0], "/usr/bin/socat VSOCK-LISTEN:9443,") || !strings.Contains(got[0], " TCP:${ASSAY_SERVER}:${ASSAY_PORT}") {
		t.Errorf("it runs %q", got)
	}
	if !slices.Equal(socat["Conflicts"], []string{"assay-vsock-proxy.service"}) {
		t.Error("both would listen on one port")
	}

	dir := t.TempDir()
	var c agentconfig.Config
	if err := yaml.Unmarshal([]byte(read(t, "nitro/assay-agent.yaml")), &c); err != nil {
		t.Fatal(err)
	}
	if a, ok, err := vsock.Parse(c.Server); err != nil || !ok || a != (vsock.Address{CID: vsock.Parent, Port: 9443}) {
		t.Errorf("the agent dials %s: %v %v", c.Server, a, err)
	}
	// The program's own parser reads it to the root, which is the operator's.
	write(t, filepath.Join(dir, "assay-agent.yaml"), read(t, "nitro/assay-agent.yaml"))
	if _, err := agentconfig.Load(filepath.Join(dir, "assay-agent.yaml")); err != nil && !strings.Contains(err.Error(), "bootstrap-root.pem") {
		t.Error(err)
	}
}

var nitroUnits = []string{"assay-vsock-proxy.service", "assay-vsock-socat.service"}

func TestTheParentsUnitsAreHardened(t *testing.T) {
	t.Parallel()
	agent := parseUnit(t, "assayd.service")
	for _, name := range nitroUnits {
		u := parseUnit(t, "../nitro/"+name)
		for _, key := range []string{
			"NoNewPrivileges", "CapabilityBoundingSet", "AmbientCapabilities", "ProtectSystem", "ProtectHome", "PrivateTmp", "PrivateDevices", "DevicePolicy",
			"ProtectClock", "ProtectHostname", "ProtectKernelLogs", "ProtectKernelModules", "ProtectKernelTunables", "ProtectControlGroups", "ProtectProc", "ProcSubset",
			"RestrictNamespaces", "RestrictRealtime", "RestrictSUIDSGID", "RemoveIPC", "KeyringMode", "LockPersonality", "MemoryDenyWriteExecute",
			"SystemCallArchitectures", "SystemCallFilter", "UMask", "LimitCORE",
		} {
			if !slices.Equal(u[key], agent[key]) {
				t.Errorf("%s: %s is %q, want %q", name, key, u[key], agent[key])
			}
		}
		if !slices.Equal(u["DynamicUser"], []string{"yes"}) || !slices.Equal(u["RestrictAddressFamilies"], []string{"AF_VSOCK AF_UNIX AF_INET AF_INET6"}) {
			t.Errorf("%s: user %q, sockets %q", name, u["DynamicUser"], u["RestrictAddressFamilies"])
		}
	}
	if _, err := exec.LookPath("systemd-analyze"); errors.Is(err, exec.ErrNotFound) {
		t.Skip("NOT RUN: systemd-analyze is not here; the directives were checked")
	}
	dir := t.TempDir()
	for _, name := range nitroUnits {
		text := regexp.MustCompile(`/usr/bin/[a-z-]+`).ReplaceAllString(read(t, "nitro/"+name), "/bin/true")
		at := filepath.Join(dir, name)
		write(t, at, text)
		if err := os.Chmod(at, 0o644); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("systemd-analyze", "security", "--offline=true", "--threshold=20", at).CombinedOutput(); err != nil {
			t.Errorf("systemd-analyze security: %v\n%s", err, out)
		}
		if out, err := exec.Command("systemd-analyze", "verify", "--man=no", at).CombinedOutput(); err != nil || len(bytes.TrimSpace(out)) > 0 {
			t.Errorf("systemd-analyze verify: %v\n%s", err, out)
		}
	}
}
