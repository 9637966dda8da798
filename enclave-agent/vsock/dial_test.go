package vsock

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Most of what this package does is done to any stream socket. Where a kernel has no
// vsock to itself (vsock_loopback), that is tried on TCP, through the same functions.

// A port that nobody listens on, of this machine itself: the answer comes from this
// kernel, whatever it has.
func TestAVsockThatNobodyListensOnIsRefusedWithAHint(t *testing.T) {
	t.Parallel()
	c, err := Dial(t.Context(), Address{Local, wildcard - 1})
	if err == nil {
		c.Close()
		t.Fatal("somebody listens there")
	}
	var op *net.OpError
	var network net.Error
	var dial *DialError
	if !errors.As(err, &op) || op.Op != "dial" || op.Net != "vsock" || !errors.As(err, &network) || !errors.As(err, &dial) {
		t.Fatalf("%T: %v", err, err)
	}
	if dial.Hint == "" || !strings.Contains(err.Error(), dial.Hint) || !strings.Contains(err.Error(), "vsock:1:4294967294") {
		t.Errorf("the error does not say where, and what to do: %v", err)
	}
	t.Log(err)
}

func TestEveryErrorOfAKernelHasAHint(t *testing.T) {
	t.Parallel()
	for errno, want := range map[unix.Errno]string{
		unix.EAFNOSUPPORT: "CONFIG_VSOCKETS", unix.ENODEV: "CID", unix.ENETUNREACH: "CID",
		unix.ECONNRESET: "vsock-proxy", unix.ETIMEDOUT: "no answer", unix.EPERM: "sandbox",
	} {
		if got := hint(os.NewSyscallError("connect", errno)); !strings.Contains(got, want) {
			t.Errorf("%v: %q, want %q in it", errno, got, want)
		}
	}
	if got := hint(unix.EINVAL); got != "" {
		t.Errorf("a hint for anything: %q", got)
	}
}

// A family that no kernel has stands for AF_VSOCK where there is none.
func TestAKernelWithoutTheFamilyIsNamedAsSuch(t *testing.T) {
	t.Parallel()
	c, err := dial(t.Context(), 255, &unix.SockaddrVM{CID: Parent, Port: 9443}, Address{Parent, 9443})
	if c != nil || !errors.Is(err, unix.EAFNOSUPPORT) || !strings.Contains(err.Error(), "this kernel has no AF_VSOCK") {
		t.Errorf("%v %v", c, err)
	}
}

func TestAContextThatHasEndedDialsNothing(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if c, err := Dial(ctx, Address{Local, 9443}); c != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("%v %v", c, err)
	}
}

// Some kernels ask the hypervisor for this machine itself, and wait for an answer that
// does not come: then it is the context that ends it, else the kernel.
func TestAVsockUnderWayEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(100*time.Millisecond, cancel)
	begin := time.Now()
	c, err := Dial(ctx, Address{Local, wildcard - 1})
	took := time.Since(begin)
	if c != nil || err == nil || took >= 100*time.Millisecond && !errors.Is(err, context.Canceled) || took > 1500*time.Millisecond {
		t.Errorf("after %s: %v %v", took, c, err)
	}
	t.Logf("after %s: %v", took, err)
}

func openFiles(t *testing.T) int {
	t.Helper()
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(d)
}

// full is a listener whose queue has no room: who connects now waits.
func full(t *testing.T) *unix.SockaddrInet4 {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	at := name.(*unix.SockaddrInet4)
	for range 16 {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		c, err := dial(ctx, unix.AF_INET, at, Address{Parent, 9443})
		cancel()
		if errors.Is(err, context.DeadlineExceeded) {
			return at
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
	}
	t.Fatal("the queue takes everybody")
	return nil
}

func TestAConnectionUnderWayEndsWithItsContext(t *testing.T) {
	at := full(t)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	files, begin := openFiles(t), time.Now()
	c, err := dial(ctx, unix.AF_INET, at, Address{Parent, 9443})
	if c != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v %v", c, err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	c, err = dial(ctx, unix.AF_INET, at, Address{Parent, 9443})
	if c != nil || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "no answer") {
		t.Errorf("after the deadline: %v %v", c, err)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
	if n := openFiles(t); n > files {
		t.Errorf("%d files are open, %d were", n, files)
	}
}

func TestAConnectionUnderWayThatIsRefusedSaysSo(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := sockaddr(l)
	l.Close()
	c, err := dial(t.Context(), unix.AF_INET, at, Address{Parent, 9443})
	if c != nil || !errors.Is(err, unix.ECONNREFUSED) || !strings.Contains(err.Error(), "nobody listens") {
		t.Errorf("%v %v", c, err)
	}
}

func sockaddr(l net.Listener) *unix.SockaddrInet4 {
	return &unix.SockaddrInet4{Port: l.Addr().(*net.TCPAddr).Port, Addr: [4]byte{127, 0, 0, 1}}
}

// pair is a connection of ours, and its other end.
func pair(t *testing.T) (*conn, net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	c, err := dial(ctx, unix.AF_INET, sockaddr(l), Address{Parent, 9443})
	if err != nil {
		t.Fatal(err)
	}
	cancel() // a context of the past has no power over the connection
	other, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(); _ = other.Close() })
	return c, other
}

func TestADeadlineEndsAReadAndAWrite(t *testing.T) {
	t.Parallel()
	c, _ := pair(t)
	timedOut := func(err error) bool {
		var n net.Error
		return errors.As(err, &n) && n.Timeout() && errors.Is(err, os.ErrDeadlineExceeded)
	}
	if err := c.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); !timedOut(err) {
		t.Errorf("read: %v", err)
	}
	if err := c.SetWriteDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := c.Write(make([]byte, 1<<20)); err != nil {
			if !timedOut(err) {
				t.Errorf("write: %v", err)
			}
			break
		}
	}
	if err := c.SetDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(20*time.Millisecond, func() { _ = c.Close() })
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("read of a closed connection: %v", err)
	}
	if err := c.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed twice: %v", err)
	}
	if err := c.SetDeadline(time.Time{}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a deadline of a closed connection: %v", err)
	}
}

func TestTheWritingSideCanEndAlone(t *testing.T) {
	t.Parallel()
	c, other := pair(t)
	if _, err := c.Write([]byte("question")); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(other); err != nil || string(b) != "question" {
		t.Fatalf("%q %v", b, err)
	}
	if _, err := other.Write([]byte("answer")); err != nil {
		t.Fatal(err)
	}
	other.Close()
	if b, err := io.ReadAll(c); err != nil || string(b) != "answer" {
		t.Errorf("%q %v", b, err)
	}
	if c.RemoteAddr().String() != "vsock:3:9443" || c.LocalAddr().Network() != "vsock" {
		t.Errorf("%s to %s", c.LocalAddr(), c.RemoteAddr())
	}
	_ = c.Close()
	if err := c.CloseWrite(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the writing side of a closed connection: %v", err)
	}
}

func TestTLSGoesThrough(t *testing.T) {
	t.Parallel()
	c, other := pair(t)
	speakTLS(t, c, other)
}

// Where the kernel has a vsock to itself, everything is tried on it. The listener is
// bound to this machine's own CID: nobody else reaches it.
func TestAVsockOfThisMachineCarriesTLS(t *testing.T) {
	t.Parallel()
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		t.Cleanup(func() { _ = unix.Close(fd) })
		err = unix.Bind(fd, &unix.SockaddrVM{CID: Local, Port: unix.VMADDR_PORT_ANY})
	}
	if err != nil {
		t.Skipf("NOT RUN: this kernel has no vsock to itself (modprobe vsock_loopback): %v", err)
	}
	if err := unix.Listen(fd, 1); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	at := Address{Local, name.(*unix.SockaddrVM).Port}
	c, err := Dial(t.Context(), at)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	accepted, _, err := unix.Accept4(fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	other := &conn{file: os.NewFile(uintptr(accepted), "accepted"), remote: at}
	defer other.Close()
	if a, ok := c.LocalAddr().(Address); !ok || a.CID != Local || a.Port == 0 {
		t.Errorf("its own address is %v", c.LocalAddr())
	}
	speakTLS(t, c, other)
}

// speakTLS sends some megabytes both ways at once, under deadlines.
func speakTLS(t *testing.T, client, server net.Conn) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"server"}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	for _, c := range []net.Conn{client, server} {
		if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	const size = 4 << 20
	echoed := make(chan error, 1)
	go func() {
		s := tls.Server(server, &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: tls.VersionTLS13})
		_, err := io.CopyN(s, s, size)
		echoed <- err
	}()
	c := tls.Client(client, &tls.Config{RootCAs: roots, ServerName: "server", MinVersion: tls.VersionTLS13})
	go func() { _, _ = c.Write(make([]byte, size)) }()
	if n, err := io.CopyN(io.Discard, c, size); err != nil || n != size {
		t.Errorf("%d bytes came back: %v", n, err)
	}
	if err := <-echoed; err != nil {
		t.Error(err)
	}
}
