package fleet_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/internal/fleet"
)

// callerEnv makes this test's program a caller: it connects the socket that it was
// given to the path in it, and runs the program whose path it then reads.
const callerEnv = "ASSAY_TEST_CALLER"

func beCaller(path string) {
	if err := unix.Connect(3, &unix.SockaddrUnix{Name: path}); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("connected")
	line, _ := bufio.NewReader(os.Stdin).ReadString('\n')
	if next := strings.TrimSpace(line); next != "" {
		_, _ = fmt.Fprintln(os.Stderr, syscall.Exec(next, []string{next, "60"}, nil))
	}
	os.Exit(0)
}

// copied is a program under a path of its own.
func copied(t *testing.T, from, name string) string {
	t.Helper()
	text, err := os.ReadFile(from)
	must(t, err)
	path := filepath.Join(t.TempDir(), name)
	must(t, os.WriteFile(path, text, 0o755))
	return path
}

// calling is a process with a connection to an agent, which this test holds as well:
// what the process may have, the test reads.
type calling struct {
	*exec.Cmd
	stdin io.Writer
	api   workload.SpiffeWorkloadAPIClient
}

func call(t *testing.T, socket, program string) *calling {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	shared := os.NewFile(uintptr(fd), "shared")
	t.Cleanup(func() { _ = shared.Close() })
	c := &calling{Cmd: exec.Command(program)}
	c.Env, c.ExtraFiles, c.Stderr = []string{callerEnv + "=" + strings.TrimPrefix(socket, "unix://")}, []*os.File{shared}, os.Stderr
	c.stdin, err = c.StdinPipe()
	must(t, err)
	out, err := c.StdoutPipe()
	must(t, err)
	must(t, c.Start())
	t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "connected\n" {
		t.Fatalf("the caller says %q, %v", line, err)
	}
	conn, err := net.FileConn(shared)
	must(t, err)
	taken := false
	client, err := grpc.NewClient("passthrough:///agent", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			if taken {
				return nil, io.EOF // there is one connection, and no other
			}
			taken = true
			return conn, nil
		}))
	must(t, err)
	t.Cleanup(func() { _ = client.Close() })
	c.api = workload.NewSpiffeWorkloadAPIClient(client)
	return c
}

// become has the process run another program, and waits until it does.
func (c *calling) become(t *testing.T, program string) {
	t.Helper()
	_, err := io.WriteString(c.stdin, program+"\n")
	must(t, err)
	want, err := filepath.EvalSymlinks(program)
	must(t, err)
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", c.Process.Pid)); err == nil && exe == want {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("it does not run %s", program)
		}
	}
}

func withHeader(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return metadata.AppendToOutgoingContext(ctx, "workload.spiffe.io", "true")
}

// selective grants the image one identity, for one program in the enclave alone.
func selective(revision int, path string) string {
	return fmt.Sprintf(`
      - spiffe_id: "spiffe://{td}/orders"
        attributes: {revision: "r%d"}
        jwt: {ttl: 1m, audiences: [reports]}
        selectors: {unix: {uid: %d, path: %q}}
`, revision, os.Geteuid(), path)
}

// The programs in a real enclave's place, and an agent's process that tells them
// apart: the one that policy names has the identity; a copy of it under another path
// is denied; and one that becomes another program after it connected gets nothing
// more on the connection that it had, not even with the next renewal.
func TestTheAgentTellsTheProgramsOfItsEnclaveApart(t *testing.T) {
	b, plain := binaries(t)
	right := copied(t, plain, "orders")
	o := fleet.NewOffice(t, b, b)
	o.PolicyIssuing(1, selective(1, right))
	o.Start(b)
	s := &site{Office: o, t: t, b: b, agent: o.StartAgent(b, "one")}

	s.agent.Until("the identity of the right program", func() bool {
		out, err := s.once(right, "fetch")
		return err == nil && out == s.name()+"\n"
	})
	wrong := copied(t, plain, "orders") // the same bytes and the same name elsewhere
	if out, err := s.once(wrong, "fetch"); err == nil || !strings.Contains(out, "PermissionDenied") || strings.Contains(out, s.name()) {
		t.Errorf("another program: %v\n%s", err, out)
	}

	// Now the identity is this program's, which can become another.
	self, err := os.Executable()
	must(t, err)
	turncoat := copied(t, self, "turncoat")
	o.PolicyIssuing(2, selective(2, turncoat))
	s.agent.Until("the end of what the first program had", func() bool { _, err := s.once(right, "fetch"); return err != nil })
	c := call(t, s.agent.Socket(), turncoat)
	stream, err := c.api.FetchX509SVID(withHeader(t), &workload.X509SVIDRequest{})
	must(t, err)
	first, err := stream.Recv()
	if err != nil || len(first.GetSvids()) != 1 {
		t.Fatalf("the program that policy names: %v, %v", first, err)
	}
	o.PolicyIssuing(3, selective(3, turncoat))
	if m, err := stream.Recv(); err != nil || string(m.GetSvids()[0].GetX509Svid()) == string(first.GetSvids()[0].GetX509Svid()) {
		t.Fatalf("a renewal: %v, %v", m, err)
	}
	if _, err := c.api.FetchJWTSVID(withHeader(t), &workload.JWTSVIDRequest{Audience: []string{"reports"}}); err != nil {
		t.Fatalf("a token: %v", err)
	}
	c.become(t, "/bin/sleep")
	o.PolicyIssuing(4, selective(4, turncoat))
	if m, err := stream.Recv(); status.Code(err) != codes.PermissionDenied {
		t.Errorf("the renewal after it became another: %v, %v", m, err)
	}
	if m, err := c.api.FetchJWTSVID(withHeader(t), &workload.JWTSVIDRequest{Audience: []string{"reports"}}); err == nil {
		t.Errorf("a token after it became another: %v", m)
	}
	if !strings.Contains(s.agent.Log(), "is not what it was when it connected") {
		t.Errorf("the agent's log says nothing of it:\n%s", s.agent.Log())
	}
	// And where the right program only connected.
	c = call(t, s.agent.Socket(), turncoat)
	c.become(t, "/bin/sleep")
	if m, err := c.api.FetchJWTSVID(withHeader(t), &workload.JWTSVIDRequest{Audience: []string{"reports"}}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a token on a connection of the right program's: %v, %v", m, err)
	}
}

// A ban reaches the programs behind the agent: what would be minted is refused at
// once, with the reference under which the operators find why.
func TestAProgramBehindABannedAgentHearsTheReference(t *testing.T) {
	b, plain := binaries(t)
	o := fleet.NewOffice(t, b, b)
	o.PolicyIssuing(1, identities(1))
	o.Start(b)
	s := &site{Office: o, t: t, b: b, agent: o.StartAgent(b, "one")}
	s.agent.Await()
	if out, err := s.once(plain, "fetch"); err != nil {
		t.Fatalf("before the ban: %v\n%s", err, out)
	}
	var made struct {
		Ban struct {
			ID string `json:"id"`
		} `json:"ban"`
	}
	must(t, json.Unmarshal([]byte(s.assay("agents", "ban", "--id", s.name(), "--reason", "a test", "--output", "json")), &made))
	var said string
	s.agent.Until("the denial", func() bool {
		out, err := s.once(plain, "fetch")
		said = out
		return err != nil && strings.Contains(out, "PermissionDenied") && strings.Contains(out, "reference as-")
	})
	if !strings.Contains(said, "JWT-SVID:") { // the X.509-SVID is good until it ends, or a deny-list ends it
		t.Errorf("it hears:\n%s", said)
	}
	_, rest, _ := strings.Cut(said, "reference ")
	reference := strings.Trim(strings.Fields(rest)[0], ".,;:\"")
	if out := s.assay("ledger", "show", reference); !strings.Contains(out, "ban") {
		t.Errorf("under %s the ledger shows\n%s", reference, out)
	}
	s.assay("agents", "unban", made.Ban.ID, "--reason", "it was a test")
	s.agent.Until("what it had, after the ban was lifted", func() bool { _, err := s.once(plain, "fetch"); return err == nil })
}
