package agent_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"

	agent "github.com/assay-project/assay/enclave-agent"
)

func socketClient(t testing.TB, cfg agent.Config) *grpc.ClientConn {
	t.Helper()
	c, err := grpc.NewClient("unix://"+cfg.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func spiffeHeader(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "workload.spiffe.io", "true")
}

// fetch is one FetchX509SVID that is left after its first message.
func fetch(ctx context.Context, c *grpc.ClientConn) error {
	ctx, cancel := context.WithCancel(spiffeHeader(ctx))
	defer cancel()
	s, err := workload.NewSpiffeWorkloadAPIClient(c).FetchX509SVID(ctx, &workload.X509SVIDRequest{})
	if err != nil {
		return err
	}
	_, err = s.Recv()
	return err
}

const bareCall = "a-call-that-asks-for-nothing"

// BenchmarkWorkloadAPI is fetches a second from an agent as it is shipped, beside
// what a gRPC call on its socket costs that asks for nothing. Clients run in this
// process.
func BenchmarkWorkloadAPI(b *testing.B) {
	s := newServerWith(b, tokens(policyText(1, ordersID)))
	_, cfg := s.launch(b, buildAgent(b))
	names(b, cfg, ordersID)
	c := socketClient(b, cfg)
	api := workload.NewSpiffeWorkloadAPIClient(c)
	ctx := spiffeHeader(context.Background())
	token := must(api.FetchJWTSVID(ctx, &workload.JWTSVIDRequest{Audience: []string{"reports"}})).GetSvids()[0].GetSvid()
	var bare float64
	for _, x := range []struct {
		name string
		call func() error
	}{
		{bareCall, func() error {
			_, err := healthpb.NewHealthClient(c).Check(ctx, &healthpb.HealthCheckRequest{})
			return err
		}},
		{"FetchX509SVID", func() error { return fetch(context.Background(), c) }},
		{"FetchX509SVID-new-connection", func() error {
			own, err := grpc.NewClient("unix://"+cfg.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
			if err != nil {
				return err
			}
			defer func() { _ = own.Close() }()
			return fetch(context.Background(), own)
		}},
		{"FetchJWTSVID-kept", func() error {
			_, err := api.FetchJWTSVID(ctx, &workload.JWTSVIDRequest{Audience: []string{"reports"}})
			return err
		}},
		{"ValidateJWTSVID", func() error {
			_, err := api.ValidateJWTSVID(ctx, &workload.ValidateJWTSVIDRequest{Audience: "reports", Svid: token})
			return err
		}},
	} {
		b.Run(x.name, func(b *testing.B) {
			b.RunParallel(func(p *testing.PB) {
				for p.Next() {
					if err := x.call(); err != nil {
						b.Error(err)
						return
					}
				}
			})
			each := float64(b.Elapsed()) / float64(b.N)
			if x.name == bareCall {
				bare = each // of the longest run, which is the last
			}
			b.ReportMetric(1e9/each, "calls/s")
			b.ReportMetric(each/bare, "x-bare-call")
		})
	}
}

// BenchmarkConnectedWorkloads is what a workload costs the agent that is connected
// and waits for the next renewal: resident memory of an agent's own process. The
// workloads are processes that know go-spiffe alone, a few connections in each: no
// process may have many.
func BenchmarkConnectedWorkloads(b *testing.B) {
	const (
		processes = 16
		each      = 32
	)
	program := filepath.Join(b.TempDir(), "plainspiffe")
	if out, err := exec.Command("go", "build", "-o", program, "github.com/assay-project/assay/internal/fleet/plainspiffe").CombinedOutput(); err != nil {
		b.Fatalf("go build: %v\n%s", err, out)
	}
	s := newServerWith(b, tokens(policyText(1, ordersID)))
	p, cfg := s.launch(b, buildAgent(b))
	names(b, cfg, ordersID)
	for b.Loop() {
		time.Sleep(time.Second)
		before := p.resident(b)
		var workloads []*exec.Cmd
		for range processes {
			c := exec.Command(program, "hold", strconv.Itoa(each))
			c.Env = append(os.Environ(), "SPIFFE_ENDPOINT_SOCKET=unix://"+cfg.Socket)
			out := must(c.StdoutPipe())
			if err := c.Start(); err != nil {
				b.Fatal(err)
			}
			workloads = append(workloads, c)
			if line, err := bufio.NewReader(out).ReadString('\n'); line != fmt.Sprintf("holding %d\n", each) {
				b.Fatalf("a workload says %q, %v", line, err)
			}
		}
		time.Sleep(2 * time.Second) // and a collection or two
		b.ReportMetric(float64(p.resident(b)-before)/(processes*each)/1024, "KiB/workload")
		b.ReportMetric(float64(before)/(1<<20), "MiB-before")
		for _, c := range workloads {
			_ = c.Process.Signal(os.Interrupt)
			if err := c.Wait(); err != nil {
				b.Error(err)
			}
		}
	}
}

// boot runs an agent until a workload has its first SVID, and says how long it took.
func boot(t testing.TB, cfg agent.Config) time.Duration {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	began := time.Now()
	listening := make(chan string, 1)
	cfg.Log, cfg.Listening = nil, func(a string) { listening <- a }
	a := must(agent.New(cfg))
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := a.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	defer func() { cancel(); wg.Wait() }()
	<-listening
	c := socketClient(t, cfg)
	for fetch(ctx, c) != nil {
		time.Sleep(200 * time.Microsecond)
	}
	took := time.Since(began)
	_ = c.Close()
	return took
}

// world is what is there before an attestation: a device, an authority.
func world(t testing.TB) (device, authority *ecdsa.PrivateKey, root *x509.Certificate) {
	t.Helper()
	device = must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	authority = must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "x"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der := must(x509.CreateCertificate(rand.Reader, tmpl, tmpl, authority.Public(), authority))
	return device, authority, must(x509.ParseCertificate(der))
}

// bareAttestation is the cryptography that a first attestation cannot be without, at
// both ends and in the device: a key and its request, a TLS handshake with one
// certificate, the device's signature and its verification, the certificate.
func bareAttestation(device, authority *ecdsa.PrivateKey, root *x509.Certificate) error {
	// The agent: a key, and a request for it.
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return err
	}
	// The connection.
	near, far := net.Pipe()
	server := tls.Server(far, &tls.Config{MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true, Certificates: []tls.Certificate{{Certificate: [][]byte{root.Raw}, PrivateKey: authority}}})
	client := tls.Client(near, &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true})
	done := make(chan error, 1)
	go func() { done <- server.Handshake() }()
	if err := client.Handshake(); err != nil {
		return err
	}
	if err := <-done; err != nil {
		return err
	}
	if err := root.CheckSignatureFrom(root); err != nil {
		return err
	}
	// The device signs, the server verifies.
	digest := sha512.Sum384(der)
	sig, err := ecdsa.SignASN1(rand.Reader, device, digest[:])
	if err != nil {
		return err
	}
	if !ecdsa.VerifyASN1(&device.PublicKey, digest[:], sig) {
		return errors.New("the device's signature does not verify")
	}
	// The request, the result and the certificate; and the agent's look at it.
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return err
	}
	if err := csr.CheckSignature(); err != nil {
		return err
	}
	if _, err := ecdsa.SignASN1(rand.Reader, authority, digest[:32]); err != nil {
		return err
	}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: root.NotBefore, NotAfter: root.NotAfter, KeyUsage: x509.KeyUsageDigitalSignature}
	signed, err := x509.CreateCertificate(rand.Reader, leaf, root, csr.PublicKey, authority)
	if err != nil {
		return err
	}
	got, err := x509.ParseCertificate(signed)
	if err != nil {
		return err
	}
	return got.CheckSignatureFrom(root)
}

// BenchmarkBootToFirstSVID is from the agent's start to a workload's first SVID, on the
// simulator, at a real server in the same process, beside the cryptography that it
// cannot be without.
func BenchmarkBootToFirstSVID(b *testing.B) {
	s := newRealServer(b, ordersID)
	boot(b, s.enclave(orders())) // what the server does once: the chain above the device
	device, authority, root := world(b)
	var floor, took time.Duration
	best := time.Hour
	for b.Loop() {
		b.StopTimer()
		began := time.Now()
		if err := bareAttestation(device, authority, root); err != nil {
			b.Fatal(err)
		}
		floor += time.Since(began)
		cfg := s.enclave(orders())
		b.StartTimer()
		t := boot(b, cfg)
		took += t
		best = min(best, t)
	}
	b.ReportMetric(float64(took)/float64(floor), "x-floor")
	b.ReportMetric(float64(floor)/float64(b.N)/1e6, "floor-ms")
	b.ReportMetric(float64(best)/1e6, "best-ms")
}
