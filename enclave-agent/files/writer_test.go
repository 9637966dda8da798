package files

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
)

// endpoint is a Workload API with one identity, which counts who asks.
type endpoint struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	asked  atomic.Int64
	answer *workload.X509SVIDResponse
}

// FetchX509SVID implements the Workload API.
func (e *endpoint) FetchX509SVID(_ *workload.X509SVIDRequest, s grpc.ServerStreamingServer[workload.X509SVIDResponse]) error {
	e.asked.Add(1)
	if err := s.Send(e.answer); err != nil {
		return err
	}
	<-s.Context().Done()
	return nil
}

// serveEndpoint serves spiffe://example.org/a on a socket.
func serveEndpoint(t *testing.T) (*endpoint, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), URIs: []*url.URL{{Scheme: "spiffe", Host: "example.org", Path: "/a"}},
		NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	e := &endpoint{answer: &workload.X509SVIDResponse{Svids: []*workload.X509SVID{{SpiffeId: "spiffe://example.org/a", X509Svid: der, X509SvidKey: pkcs8, Bundle: der}}}}
	socket := filepath.Join(memory(t), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer()
	workload.RegisterSpiffeWorkloadAPIServer(srv, e)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l)
	}()
	t.Cleanup(func() { srv.Stop(); <-done })
	return e, socket
}

func TestAWriterWhoseFilesCannotBeWrittenAsksLessAndLess(t *testing.T) {
	t.Parallel()
	e, socket := serveEndpoint(t)
	w, err := NewWriter(Config{Socket: socket, Dir: open(t, filepath.Join(memory(t), "d"), Options{}), ID: "spiffe://example.org/other"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if err := w.Run(ctx); err != nil {
		t.Fatal(err)
	}
	// 50, 100, 200, … ms: seven in three seconds.
	if n := e.asked.Load(); n < 2 || n > 10 {
		t.Errorf("it asked %d times in 3 s", n)
	}
}

func TestFilesAreWrittenAgainIntoADirectoryThatWasMadeAnew(t *testing.T) {
	t.Parallel()
	_, socket := serveEndpoint(t)
	path := filepath.Join(memory(t), "d")
	w, err := NewWriter(Config{Socket: socket, Dir: open(t, path, Options{}), AWS: &AWS{Role: "arn:aws:iam::123456789012:role/a", Session: "assay"}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	written := func() {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			_, err := os.ReadFile(filepath.Join(path, "svid.key"))
			_, aerr := os.ReadFile(filepath.Join(path, "aws.env"))
			if err = errors.Join(err, aerr); err == nil {
				return
			}
			if time.Now().After(end) {
				t.Fatal(err)
			}
		}
	}
	written()
	if err := errors.Join(os.RemoveAll(path), os.Mkdir(path, 0o700)); err != nil {
		t.Fatal(err)
	}
	written()
	if err := errors.Join(os.Rename(path, path+".old")); err != nil {
		t.Fatal(err)
	}
	written()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestASecondWriterInADirectoryIsRefusedAtOnce(t *testing.T) {
	t.Parallel()
	path := memory(t)
	if _, err := NewWriter(Config{Dir: open(t, path, Options{})}); err != nil {
		t.Fatal(err)
	}
	if _, err := NewWriter(Config{Dir: open(t, path, Options{})}); !errors.Is(err, ErrBusy) {
		t.Errorf("the second: %v", err)
	}
}
