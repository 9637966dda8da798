package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	agent "github.com/assay-project/assay/enclave-agent"
	"github.com/assay-project/assay/enclave-agent/files"
	"github.com/assay-project/assay/internal/fleet"
	"github.com/assay-project/assay/internal/prebuilt"
	simnitro "github.com/assay-project/assay/simulators/nitro"
	simsnp "github.com/assay-project/assay/simulators/sevsnp"
	simtpm "github.com/assay-project/assay/simulators/tpm"
)

func TestMain(m *testing.M) {
	testscript.Main(tests{m}, map[string]func(){"assay-agent": main})
}

// tests removes what they built together.
type tests struct{ *testing.M }

func (m tests) Run() int {
	code := m.M.Run()
	if built.dir != "" {
		_ = os.RemoveAll(built.dir)
	}
	return code
}

var built struct {
	once sync.Once
	dir  string
	err  error
}

// The sessions without a server: what people meet when something is wrong.
func TestSessions(t *testing.T) {
	testscript.Run(t, params("testdata/script"))
}

// The whole road, with the server and the simulator as they are built.
func TestTheWholeRoadWithTheCommandsThatPeopleType(t *testing.T) {
	bin := binaries(t)
	p := params("testdata/whole")
	setup := p.Setup
	p.Setup = func(e *testscript.Env) error {
		e.Setenv("PATH", bin+string(os.PathListSeparator)+e.Getenv("PATH"))
		return setup(e)
	}
	testscript.Run(t, p)
}

// binaries builds the server and the simulator, once for all tests.
func binaries(t *testing.T) (dir string) {
	t.Helper()
	built.once.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "bin"); built.err != nil {
			return
		}
		built.err = prebuilt.Into(built.dir, "../..", "assayd", "teesim")
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.dir
}

// onDisk makes a folder on a disk, which the one for temporary files need not be.
func onDisk() (string, error) {
	for _, parent := range []string{"", "/var/tmp", "testdata"} {
		dir, err := os.MkdirTemp(parent, "a")
		if err != nil {
			continue
		}
		if dir, err = filepath.Abs(dir); err == nil && !files.InMemory(dir) {
			return dir, nil
		}
		_ = os.RemoveAll(dir)
	}
	return "", errors.New("these tests need a disk")
}

// tmpfs is where every Linux has one.
const tmpfs = "/dev/shm"

func params(dir string) testscript.Params {
	return testscript.Params{
		Dir:                 dir,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			// Sockets need short paths: $R is one.
			short, err := os.MkdirTemp("", "a")
			if err != nil {
				return err
			}
			e.Defer(func() { _ = os.RemoveAll(short) })
			e.Setenv("R", short)
			// Keys go into memory only: $M is on a tmpfs.
			memory, err := os.MkdirTemp(tmpfs, "a")
			if err != nil {
				return err
			}
			e.Defer(func() { _ = os.RemoveAll(memory) })
			if !files.InMemory(memory) {
				return fmt.Errorf("these tests need a tmpfs on %s", tmpfs)
			}
			e.Setenv("M", memory)
			// And $D is on a disk.
			disk, err := onDisk()
			if err != nil {
				return err
			}
			e.Defer(func() { _ = os.RemoveAll(disk) })
			e.Setenv("D", disk)
			return nil
		},
		Condition: func(cond string) (bool, error) {
			switch cond {
			case "root":
				return os.Getuid() == 0, nil
			case "swtpm":
				return simtpm.Installed() == nil, nil
			case "tee":
				_, err := agent.Detect("")
				return err == nil, nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"root":      makeRoot,
			"nsm":       serveNSM,
			"snp":       serveSNP,
			"tpm":       serveTPM,
			"machine":   machine,
			"occupy":    occupy,
			"exitcode":  exitCode,
			"appear":    appear,
			"freeport":  freePort,
			"edit":      edit,
			"untilcode": untilCode,
			"filemode":  fileMode,
		},
	}
}

// root FILE TRUST_DOMAIN [expired] writes a bootstrap root.
func makeRoot(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(bootstrapRoot(ts.MkAbs(args[0]), args[1], len(args) == 3))
}

func writeRoot(t *testing.T, path, td string) {
	t.Helper()
	if err := bootstrapRoot(path, td, false); err != nil {
		t.Fatal(err)
	}
}

// bootstrapRoot writes the root of a trust domain, or "-" for none.
func bootstrapRoot(path, td string, expired bool) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	end := time.Now().Add(time.Hour)
	if expired {
		end = time.Now().Add(-time.Hour)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bootstrap root"},
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: end, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	if td != "-" {
		tmpl.URIs = []*url.URL{{Scheme: "spiffe", Host: td}}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return err
	}
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600)
}

// nsm PATH serves a simulated NSM.
func serveNSM(ts *testscript.TestScript, _ bool, args []string) {
	stop, err := simulatedNSM(args[0])
	ts.Check(err)
	ts.Defer(stop)
}

func testNSM(t *testing.T, path string) {
	t.Helper()
	stop, err := simulatedNSM(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
}

func simulatedNSM(path string) (stop func(), err error) {
	auth, err := simnitro.NewAuthority(simnitro.AuthorityOptions{})
	if err != nil {
		return nil, err
	}
	m, err := auth.Launch(simnitro.Launch{Image: simnitro.ImageFromSeed("orders")})
	if err != nil {
		return nil, err
	}
	l, err := simnitro.Listen(path)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Serve(ctx, l) }()
	return func() { cancel(); <-done }, nil
}

// snp PATH [FAULT] serves a simulated SEV-SNP guest.
func serveSNP(ts *testscript.TestScript, _ bool, args []string) {
	auth, err := simsnp.NewAuthority(simsnp.Options{})
	ts.Check(err)
	chip, err := auth.Chip(simsnp.Genoa, "host")
	ts.Check(err)
	var faults []simsnp.Fault
	for _, name := range args[1:] {
		f, ok := simsnp.FaultByName(name)
		if !ok {
			ts.Fatalf("there is no fault %s", name)
		}
		faults = append(faults, f)
	}
	g, err := chip.Launch(simsnp.Launch{}, faults...)
	ts.Check(err)
	l, err := simsnp.Listen(args[0])
	ts.Check(err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Serve(ctx, l) }()
	ts.Defer(func() { cancel(); <-done })
}

// tpm PATH serves a simulated machine's TPM, and leaves its boot log in PATH.log.
func serveTPM(ts *testscript.TestScript, _ bool, args []string) {
	auth, err := simtpm.NewAuthority(simtpm.Options{})
	ts.Check(err)
	m, err := auth.Start(simtpm.Machine{EKs: []simtpm.EKKind{simtpm.P256}, EventLogFile: args[0] + ".log"})
	ts.Check(err)
	l, err := simtpm.Listen(args[0])
	ts.Check(err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Serve(ctx, l) }()
	ts.Defer(func() { cancel(); <-done; _ = m.Close() })
}

// machine STATE IMAGE FILE puts a machine's endorsement keys in the place of EK in
// FILE, and PCR4 of the image in the place of PCR4.
func machine(ts *testscript.TestScript, _ bool, args []string) {
	eks, err := simtpm.ReadEKs(ts.MkAbs(args[0]))
	ts.Check(err)
	var all []string
	for _, k := range eks {
		all = append(all, fmt.Sprintf("%q", fmt.Sprintf("%x", k.Digest)))
	}
	boot, err := simtpm.Measurements(simtpm.Boot{Image: args[1]})
	ts.Check(err)
	path := ts.MkAbs(args[2])
	b, err := os.ReadFile(path)
	ts.Check(err)
	text := strings.NewReplacer("$EK", strings.Join(all, ", "), "$PCR4", fmt.Sprintf("%x", boot.PCRs[crypto.SHA256][4])).Replace(string(b))
	ts.Check(os.WriteFile(path, []byte(text), 0o600))
}

// occupy PATH listens on a socket that is no agent's.
func occupy(ts *testscript.TestScript, _ bool, args []string) {
	l, err := net.Listen("unix", args[0])
	ts.Check(err)
	ts.Defer(func() { _ = l.Close() })
}

// exitcode N CMD ARGS… wants a command of ours to end with the code. Its output
// goes where exec's does.
func exitCode(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	got := "0"
	if err != nil {
		got = strings.TrimPrefix(err.Error(), "exit status ")
	}
	if got != args[0] {
		ts.Fatalf("exit code %s, want %s", got, args[0])
	}
}

// appear PATH waits for a file.
func appear(ts *testscript.TestScript, _ bool, args []string) {
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if _, err := os.Lstat(args[0]); err == nil {
			return
		}
	}
	ts.Fatalf("%s never appeared", args[0])
}

// freeport NAME sets a variable to a port on which nothing listens.
func freePort(ts *testscript.TestScript, _ bool, args []string) {
	addr, err := fleet.FreeAddress()
	ts.Check(err)
	_, port, err := net.SplitHostPort(addr)
	ts.Check(err)
	ts.Setenv(args[0], port)
}

// edit FILE OLD NEW replaces what occurs once in a file; \n in NEW is a new line.
func edit(ts *testscript.TestScript, _ bool, args []string) {
	name := ts.MkAbs(args[0])
	b, err := os.ReadFile(name)
	ts.Check(err)
	if strings.Count(string(b), args[1]) != 1 {
		ts.Fatalf("%q is not once in %s", args[1], args[0])
	}
	ts.Check(os.WriteFile(name, []byte(strings.Replace(string(b), args[1], strings.ReplaceAll(args[2], `\n`, "\n"), 1)), 0o600))
}

// untilcode N CMD ARGS… runs the command until it ends with the code.
func untilCode(ts *testscript.TestScript, _ bool, args []string) {
	var err error
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if err = ts.Exec(args[1], args[2:]...); err != nil && err.Error() == "exit status "+args[0] {
			return
		}
	}
	ts.Fatalf("%s never ended with %s: %v", strings.Join(args[1:], " "), args[0], err)
}

// filemode FILE MODE wants a file's mode, as in 0600.
func fileMode(ts *testscript.TestScript, _ bool, args []string) {
	st, err := os.Stat(ts.MkAbs(args[0]))
	ts.Check(err)
	if got := st.Mode().Perm().String(); got != args[1] {
		ts.Fatalf("%s has mode %s, want %s", args[0], got, args[1])
	}
}
