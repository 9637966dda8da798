package issuer_test

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
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

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/internal/prebuilt"
	"github.com/assay-project/assay/issuer/ca"
	"github.com/assay-project/assay/issuer/ledger"
	"github.com/assay-project/assay/issuer/store"
)

// process is assayd itself: the binary, in a process of its own.
type process struct {
	office // for its client only; there is no server in this process
	dir    string
	binary string
	cmd    *exec.Cmd
	logged chan struct{} // closed when its log has been read to the end
	log    string        // all of it, from then on
}

// assayd builds the binary and a data directory whose policy grants payments.
func assayd(t testing.TB) *process {
	t.Helper()
	hw, err := hardware()
	must(t, err)
	p := assaydFor(t, "--simulated-root", hw.RootPEM(), policyText(1))
	p.hardware = hw
	return p
}

// assaydFor is assayd for the hardware under another root, with another policy.
func assaydFor(t testing.TB, rootFlag string, rootPEM []byte, policy string) *process {
	t.Helper()
	p := &process{office: office{t: t, clock: &clock{}}, dir: t.TempDir()}
	var err error
	p.binary, err = binary()
	must(t, err)
	root := filepath.Join(p.dir, "root.pem")
	must(t, os.WriteFile(root, rootPEM, 0o600))
	data := p.data()
	p.cfg.AdminSocket = filepath.Join(data, "admin.sock")
	init := exec.Command(p.binary, "init", "--trust-domain", trustDomain, "--data-dir", data, rootFlag, root)
	if out, err := init.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	must(t, os.WriteFile(filepath.Join(data, "policy.yaml"), []byte(policy), 0o600))
	file := filepath.Join(data, "assayd.yaml")
	src, err := os.ReadFile(file)
	must(t, err)
	text := strings.Replace(string(src), `listen: ":8443"`, `listen: "127.0.0.1:0"`, 1)
	text = strings.Replace(text, `metrics_listen: "127.0.0.1:9464"`, `metrics_listen: ""`, 1)
	must(t, os.WriteFile(file, []byte(text), 0o600))
	p.bootstrap, err = os.ReadFile(filepath.Join(data, "bootstrap-root.pem"))
	must(t, err)
	t.Cleanup(p.kill)
	return p
}

// binary builds assayd once for all tests.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "assayd-test-")
	if err != nil {
		return "", err
	}
	removeAtEnd(dir)
	return filepath.Join(dir, "assayd"), prebuilt.Into(dir, "..", "assayd")
})

func (p *process) data() string { return filepath.Join(p.dir, "data") }

var servingAt = regexp.MustCompile(`msg=serving (?:trust_domain=\S+ )?attestation=(\S+)`)

// start runs the server and returns when it listens.
func (p *process) start() {
	p.t.Helper()
	p.cmd = exec.Command(p.binary, "run", "--data-dir", p.data())
	stderr, err := p.cmd.StderrPipe()
	must(p.t, err)
	must(p.t, p.cmd.Start())
	p.logged = make(chan struct{})
	addr := make(chan string, 1)
	go func() {
		var all strings.Builder
		defer func() {
			p.log = all.String()
			close(p.logged)
		}()
		for s := bufio.NewScanner(stderr); s.Scan(); {
			if m := servingAt.FindStringSubmatch(s.Text()); m != nil {
				addr <- m[1]
			}
			if all.Len() < 64<<10 {
				all.WriteString(s.Text() + "\n")
			}
		}
		select {
		case addr <- "\n" + all.String(): // it ended before it served
		default:
		}
	}()
	select {
	case p.addr = <-addr:
	case <-time.After(15 * time.Second):
		p.t.Fatal("assayd does not serve")
	}
	if strings.HasPrefix(p.addr, "\n") {
		p.t.Fatalf("assayd ended:%s", p.addr)
	}
}

// kill is kill -9.
func (p *process) kill() {
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Signal(syscall.SIGKILL)
	<-p.logged
	_ = p.cmd.Wait()
	p.cmd = nil
}

// stop is SIGTERM; the server must end well.
func (p *process) stop() {
	p.t.Helper()
	must(p.t, p.cmd.Process.Signal(syscall.SIGTERM))
	<-p.logged
	must(p.t, p.cmd.Wait())
	p.cmd = nil
}

// cpu is the processor time that the server has used.
func (p *process) cpu() time.Duration {
	p.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	must(p.t, err)
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	user, err := strconv.ParseInt(f[11], 10, 64)
	must(p.t, err)
	system, err := strconv.ParseInt(f[12], 10, 64)
	must(p.t, err)
	return time.Duration(user+system) * 10 * time.Millisecond // USER_HZ is 100 (proc(5))
}

func (p *process) reader() (*ledger.Reader, func()) {
	p.t.Helper()
	st, err := store.OpenSQLiteReadOnly(context.Background(), ca.DatabasePath(p.data()))
	must(p.t, err)
	return ledger.NewReader(st, trustDomain, ""), func() { must(p.t, st.Close()) }
}

// Whenever the server is killed, it starts again with the same CA and an intact
// ledger, and nobody holds an SVID that the ledger does not know.
func TestAKilledServerHasIssuedNothingThatItsLedgerDoesNotKnow(t *testing.T) {
	p := assayd(t)
	var (
		mu      sync.Mutex
		serials = map[string]bool{}
		bundle  []byte
	)
	const rounds, agents = 6, 4
	for round := range rounds {
		p.start()
		var wg sync.WaitGroup
		for range agents {
			wg.Go(func() {
				conn := p.connect()
				for {
					issued, err := p.attempt(conn).run()
					if err != nil {
						return // it was killed
					}
					mu.Lock()
					for _, s := range issued.GetSvids() {
						serials[serialOf(t, s.GetChain()[0])] = true
					}
					authority := issued.GetBundle().GetX509Authorities()[0]
					if bundle != nil && string(bundle) != string(authority) {
						t.Error("another CA after a restart")
					}
					bundle = authority
					mu.Unlock()
				}
			})
		}
		// At any moment: the first round before the CA may be finished.
		time.Sleep(time.Duration(rand.IntN(120)+20*round) * time.Millisecond)
		p.kill()
		wg.Wait()
	}
	// The last start is an ordinary one, and ends well.
	p.start()
	if _, err := p.attempt(p.connect()).run(); err != nil {
		t.Errorf("after %d kills: %v", rounds, err)
	}
	p.stop()

	r, done := p.reader()
	defer done()
	for serial := range serials {
		known, err := r.HasSerial(t.Context(), serial)
		if err != nil || !known {
			t.Errorf("SVID %s was issued and is not in the ledger: %v", serial, err)
		}
	}
	text, err := ca.CheckpointKeyText(p.data())
	must(t, err)
	key, err := ledger.ParseVerifierKey(text)
	must(t, err)
	report, err := r.Verify(t.Context(), key, nil)
	if err != nil {
		t.Errorf("the ledger is not intact: %v", err)
	}
	if len(serials) == 0 {
		t.Error("nothing was issued between the kills: the test shows nothing")
	}
	t.Logf("%d SVIDs over %d kills; %+v", len(serials), rounds, report)
}

func TestSIGHUPHasThePolicyReadAgain(t *testing.T) {
	p := assayd(t)
	p.start()
	conn := p.connect()
	if _, err := p.attempt(conn).run(); err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(policyText(2), "mode: enforce", "mode: audit", 1)
	must(t, os.WriteFile(filepath.Join(p.data(), "policy.yaml"), []byte(text), 0o600))
	must(t, p.cmd.Process.Signal(syscall.SIGHUP))
	eventually(t, "the new policy, which grants nothing", func() bool {
		_, err := p.attempt(conn).run()
		return status.Code(err) == codes.PermissionDenied
	})
	p.stop()
	if !contains(p.log, "asked to reload the policy") {
		t.Errorf("the signal was not heard:\n%s", p.log)
	}
}

func BenchmarkFromStartToFirstSVID(b *testing.B) {
	// Starting writes keys and certificates, so that each round needs a domain
	// that is initialised and empty.
	var total time.Duration
	for range b.N {
		b.StopTimer()
		p := assayd(b)                           // stops with the benchmark, so it is killed below
		_, err := p.hardware.Mint(documentOf(p)) // the simulator's own keys are not the server's time
		must(b, err)
		b.StartTimer()
		start := time.Now()
		p.start()
		if _, err := p.attempt(p.connect()).run(); err != nil {
			b.Fatal(err)
		}
		total += time.Since(start)
		b.StopTimer()
		p.kill()
		b.StartTimer()
	}
	b.ReportMetric(float64(total.Milliseconds())/float64(b.N), "ms-to-first-svid")
}

// BenchmarkAttestation is the whole attestation over gRPC and TLS, from Hello
// to Issued. What the client and the simulated hardware cost is not the
// server's: the server is a process of its own, whose processor time is
// reported, also as a ratio to the cryptography that it cannot avoid.
func BenchmarkAttestation(b *testing.B) {
	for _, c := range []struct {
		name  string
		fresh bool
	}{{"warm-chain", false}, {"new-leaf", true}} {
		b.Run(c.name, func(b *testing.B) { benchmarkAttestation(b, 1, c.fresh) })
		b.Run(c.name+"-16-agents", func(b *testing.B) { benchmarkAttestation(b, 16, c.fresh) })
	}
}

func benchmarkAttestation(b *testing.B, agents int, fresh bool) {
	p := assayd(b)
	p.start()
	conns := make([]*grpc.ClientConn, agents)
	for i := range conns {
		conns[i] = p.connect()
		if _, err := p.attempt(conns[i]).run(); err != nil {
			b.Fatal(err)
		}
	}
	work := make(chan int)
	var wg sync.WaitGroup
	b.ResetTimer()
	before := p.cpu()
	for _, conn := range conns {
		wg.Go(func() {
			for range work {
				a := p.attempt(conn) // with a key of its own: no two SVIDs share one
				a.document.FreshLeaf = fresh
				if _, err := a.run(); err != nil {
					b.Error(err)
				}
			}
		})
	}
	for i := range b.N {
		work <- i
	}
	close(work)
	wg.Wait()
	cpu := p.cpu() - before
	b.StopTimer()
	floor := unavoidable(fresh)
	perOp := cpu / time.Duration(b.N)
	b.ReportMetric(float64(perOp.Microseconds()), "server-cpu-µs/op")
	b.ReportMetric(float64(floor.Microseconds()), "floor-µs/op")
	b.ReportMetric(float64(perOp)/float64(floor), "x-floor")
	p.stop()
}
