package agent

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	agentv1 "github.com/assay-project/assay/issuer/issuerpb/assay/agent/v1"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
)

// callerEnv makes this test's program a caller: it connects the socket that it was
// given to the path in it, and execs what it reads.
const callerEnv = "ASSAY_TEST_CALLER"

func TestMain(m *testing.M) {
	if path := os.Getenv(callerEnv); path != "" {
		if err := unix.Connect(3, &unix.SockaddrUnix{Name: path}); err != nil {
			_, _ = fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println("connected")
		line, _ := bufio.NewReader(os.Stdin).ReadString('\n')
		if program := strings.TrimSpace(line); program != "" {
			err := syscall.Exec(program, []string{program, "60"}, nil)
			_, _ = fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// calling is a process that connected to the agent, through a socket that this test
// holds as well: what the process may have, the test reads.
type calling struct {
	*exec.Cmd
	stdin io.Writer
	conn  *grpc.ClientConn
}

// call starts a program, which is a copy of this test's own, and has it connect.
func call(t *testing.T, a *Agent, program string) *calling {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	shared := os.NewFile(uintptr(fd), "shared")
	t.Cleanup(func() { _ = shared.Close() })
	c := &calling{Cmd: exec.CommandContext(t.Context(), program)}
	c.Env, c.ExtraFiles, c.Stderr = []string{callerEnv + "=" + a.cfg.Socket}, []*os.File{shared}, os.Stderr
	if c.stdin, err = c.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	if line, err := bufio.NewReader(out).ReadString('\n'); strings.TrimSpace(line) != "connected" {
		t.Fatalf("the caller says %q, %v", line, err)
	}
	conn, err := net.FileConn(shared)
	if err != nil {
		t.Fatal(err)
	}
	taken := false
	c.conn, err = grpc.NewClient("passthrough:///agent", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			if taken {
				return nil, io.EOF // there is one connection, and no other
			}
			taken = true
			return conn, nil
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.conn.Close() })
	return c
}

// exec has the process run another program, and waits until it does.
func (c *calling) exec(t *testing.T, program string) {
	t.Helper()
	if _, err := io.WriteString(c.stdin, program+"\n"); err != nil {
		t.Fatal(err)
	}
	want, err := filepath.EvalSymlinks(program)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the process runs "+program, func() bool {
		exe, err := os.Readlink("/proc/" + strconv.Itoa(c.Process.Pid) + "/exe")
		return err == nil && exe == want
	})
}

// fetched is the names of what the connection gets.
func fetched(ctx context.Context, conn *grpc.ClientConn) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	stream, err := workload.NewSpiffeWorkloadAPIClient(conn).FetchX509SVID(withHeader(ctx, "true"), &workload.X509SVIDRequest{})
	if err != nil {
		return nil, err
	}
	r, err := stream.Recv()
	if err != nil {
		return nil, err
	}
	var out []string
	for _, v := range r.GetSvids() {
		out = append(out, v.GetSpiffeId())
	}
	return out, nil
}

// program is a copy of this test's program, under a path of its own.
func program(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "payments")
	if err := os.WriteFile(path, b, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

const (
	idAll  = "spiffe://simulated.example.org/all"
	idUser = "spiffe://simulated.example.org/user"
	idPath = "spiffe://simulated.example.org/path"
)

// selective serves three identities: one for all, one for this user, one for a
// program.
func selective(t *testing.T, path string, logs io.Writer) *Agent {
	t.Helper()
	s := newFaultyServer(t)
	s.ids = []string{idAll, idUser, idPath}
	s.issue = func(m *assayv1.AttestResponse) {
		for _, v := range m.GetIssued().GetSvids() {
			switch v.GetSpiffeId() {
			case idUser:
				v.Selectors = []*assayv1.Selector{{Type: "unix:uid", Value: strconv.Itoa(os.Geteuid())}}
			case idPath:
				v.Selectors = []*assayv1.Selector{{Type: "unix:uid", Value: strconv.Itoa(os.Geteuid())}, {Type: "unix:path", Value: path}}
			}
		}
	}
	s.start()
	cfg := s.config(t)
	if logs != nil {
		cfg.Log = slog.New(slog.NewTextHandler(logs, nil))
	}
	a, _ := runAgent(t, cfg)
	served(t, a)
	return a
}

func TestAProcessGetsTheIdentitiesThatItsSelectorsAllow(t *testing.T) {
	path := program(t)
	var logs lockedBuffer
	a := selective(t, path, &logs)
	own, _ := callAgent(t, a)
	for name, x := range map[string]struct {
		conn *grpc.ClientConn
		want []string
	}{
		"the program":     {call(t, a, path).conn, []string{idAll, idUser, idPath}},
		"another program": {own, []string{idAll, idUser}},
	} {
		got, err := fetched(t.Context(), x.conn)
		if diff := cmp.Diff(x.want, got); err != nil || diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", name, err, diff)
		}
	}
	if !strings.Contains(logs.String(), "spiffe_id="+idPath) || !strings.Contains(logs.String(), "unix:path="+path) {
		t.Errorf("the log does not say by what it got it:\n%s", logs.String())
	}
}

func TestAProcessWithoutTheRightSelectorsIsDenied(t *testing.T) {
	s := newFaultyServer(t)
	s.issue = func(m *assayv1.AttestResponse) {
		for _, v := range m.GetIssued().GetSvids() {
			v.Selectors = []*assayv1.Selector{{Type: "unix:path", Value: "/usr/bin/nobody"}}
		}
	}
	s.start()
	a, _ := runAgent(t, s.config(t))
	eventually(t, "the agent holds an SVID", func() bool { return a.members[0].state.renewable() != nil })
	conn, c := callAgent(t, a)
	if got, err := fetched(t.Context(), conn); status.Code(err) != codes.PermissionDenied {
		t.Errorf("X.509-SVIDs: %v, %v; want PermissionDenied", got, err)
	}
	ctx := withHeader(t.Context(), "true")
	if r, err := c.FetchJWTSVID(ctx, &workload.JWTSVIDRequest{Audience: []string{"a"}}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a token: %v, %v", r, err)
	}
	if r, err := c.ValidateJWTSVID(ctx, &workload.ValidateJWTSVIDRequest{Audience: "a", Svid: "x"}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a validation: %v, %v", r, err)
	}
	if r, err := secretv3.NewSecretDiscoveryServiceClient(conn).FetchSecrets(ctx, &discovery.DiscoveryRequest{}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("Envoy: %v, %v", r, err)
	}
	bundles, err := c.FetchX509Bundles(ctx, &workload.X509BundlesRequest{})
	if err == nil {
		_, err = bundles.Recv()
	}
	if status.Code(err) != codes.PermissionDenied {
		t.Errorf("bundles: %v", err)
	}
	if r, err := agentv1.NewAgentClient(conn).GetIdentities(ctx, &agentv1.GetIdentitiesRequest{}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("assay.agent.v1: %v, %v", r, err)
	}
}

func TestAProcessThatExecsAfterConnectingGetsNothingMore(t *testing.T) {
	path := program(t)
	var logs lockedBuffer
	a := selective(t, path, &logs)
	c := call(t, a, path)
	stream, err := workload.NewSpiffeWorkloadAPIClient(c.conn).FetchX509SVID(withHeader(t.Context(), "true"), &workload.X509SVIDRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if r, err := stream.Recv(); err != nil || len(r.GetSvids()) != 3 {
		t.Fatalf("%v %v", r, err)
	}
	c.exec(t, "/bin/sleep")
	a.members[0].plan.advance(a.members[0].time.now()) // a renewal has something new for everybody
	if r, err := stream.Recv(); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a renewal came through: %v, %v", r, err)
	}
	eventually(t, "the connection is closed", func() bool {
		_, err := fetched(t.Context(), c.conn)
		return status.Code(err) == codes.Unavailable
	})
	if !strings.Contains(logs.String(), "is not what it was when it connected") {
		t.Errorf("the log says nothing of it:\n%s", logs.String())
	}
}

// The other way round: who connected as another program is not made good by what it
// becomes.
func TestAProcessThatBecomesTheRightProgramAfterConnectingGetsNothing(t *testing.T) {
	path := program(t)
	a := selective(t, "/usr/bin/sleep", nil)
	if real, err := filepath.EvalSymlinks("/bin/sleep"); err != nil || real != "/usr/bin/sleep" {
		t.Skipf("SKIPPED: sleep IS %s HERE (%v)", real, err)
	}
	c := call(t, a, path)
	if got, err := fetched(t.Context(), c.conn); err != nil || slices.Contains(got, idPath) {
		t.Fatalf("%v %v", got, err)
	}
	c.exec(t, "/usr/bin/sleep")
	if got, err := fetched(t.Context(), c.conn); status.Code(err) != codes.PermissionDenied {
		t.Errorf("%v, %v; want PermissionDenied", got, err)
	}
}

func TestEnvoyGetsWhatItsProcessMayHave(t *testing.T) {
	path := program(t)
	a := selective(t, path, nil)
	own, _ := callAgent(t, a)
	for name, x := range map[string]struct {
		conn *grpc.ClientConn
		want []string
	}{
		"the program":     {call(t, a, path).conn, []string{"spiffe://simulated.example.org", idAll, idPath, idUser}},
		"another program": {own, []string{"spiffe://simulated.example.org", idAll, idUser}},
	} {
		// Envoy sets no security header.
		r, err := secretv3.NewSecretDiscoveryServiceClient(x.conn).FetchSecrets(t.Context(), &discovery.DiscoveryRequest{})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var got []string
		for _, x := range r.GetResources() {
			s := &tlsv3.Secret{}
			if err := x.UnmarshalTo(s); err != nil {
				t.Fatal(err)
			}
			got = append(got, s.GetName())
		}
		slices.Sort(got)
		if diff := cmp.Diff(x.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// lockedBuffer is written by the agent and read by the test.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
