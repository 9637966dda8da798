package issuer_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
)

// BenchmarkMintJWTSVID is a token over gRPC and mutual TLS: checks, record,
// signature. The server is a process of its own, whose processor time is reported,
// also as a ratio to the one signature that it cannot avoid.
func BenchmarkMintJWTSVID(b *testing.B) {
	for _, agents := range []int{1, 16} {
		b.Run(fmt.Sprintf("%d-agents", agents), func(b *testing.B) { benchmarkTokens(b, agents) })
	}
}

func benchmarkTokens(b *testing.B, agents int) {
	hw, err := hardware()
	must(b, err)
	p := assaydFor(b, "--simulated-root", hw.RootPEM(), tokenPolicy(1))
	p.hardware = hw
	file := filepath.Join(p.data(), "assayd.yaml")
	src, err := os.ReadFile(file)
	must(b, err)
	must(b, os.WriteFile(file, []byte(string(src)+"\nlimits:\n  tokens_per_instance: 1000000\n"), 0o600))
	p.start()
	clients := make([]assayv1.AttestationClient, agents)
	request := &assayv1.MintJWTSVIDRequest{Audience: []string{"reports"}}
	for i := range clients {
		a := p.attempt(p.connect())
		issued, err := a.run()
		must(b, err)
		leaf, err := x509.ParseCertificate(issued.GetSvids()[0].GetChain()[0])
		must(b, err)
		clients[i] = assayv1.NewAttestationClient(p.connect(identity{a.keys[0], leaf}.certificate()))
		_, err = clients[i].MintJWTSVID(context.Background(), request)
		must(b, err)
	}
	work := make(chan struct{})
	var wg sync.WaitGroup
	b.ResetTimer()
	before := p.cpu()
	for _, c := range clients {
		wg.Go(func() {
			for range work {
				if _, err := c.MintJWTSVID(context.Background(), request); err != nil {
					b.Error(err)
				}
			}
		})
	}
	for range b.N {
		work <- struct{}{}
	}
	close(work)
	wg.Wait()
	cpu := p.cpu() - before
	b.StopTimer()
	floor := signature(b)
	perOp := cpu / time.Duration(b.N)
	b.ReportMetric(float64(perOp.Microseconds()), "server-cpu-µs/op")
	b.ReportMetric(float64(perOp)/float64(floor), "x-ES256-sign")
	b.ReportMetric(float64(time.Second)/float64(perOp), "tokens/s/core")
	p.stop()
	if strings.Contains(p.log, "level=ERROR") {
		b.Errorf("the server's log:\n%s", p.log)
	}
}

// signature is what one ES256 signature costs here and now.
func signature(t testing.TB) time.Duration {
	key, ok := newKey(t, "").signer.(*ecdsa.PrivateKey)
	if !ok {
		t.Fatal("another kind of key")
	}
	sum := sha256.Sum256([]byte("x"))
	const rounds = 500
	begun := time.Now()
	for range rounds {
		_, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
		must(t, err)
	}
	return time.Since(begun) / rounds
}
