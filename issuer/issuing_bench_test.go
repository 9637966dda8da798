package issuer_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/assay-project/assay/internal/attestedtest"
	"github.com/assay-project/assay/issuer/ca"
	"github.com/assay-project/assay/issuer/keys"
	"github.com/assay-project/assay/issuer/ledger"
	"github.com/assay-project/assay/issuer/store"
	"github.com/assay-project/assay/issuer/store/postgres"
	"github.com/assay-project/assay/issuer/store/postgres/postgrestest"
	"github.com/assay-project/assay/policy"
)

// BenchmarkIssuing is from a grant to an X.509-SVID with its attestation result: the
// entry durable in the ledger, then both signatures. Verification of the evidence and
// policy come before it; they are measured in their packages.
//
//	svids/s           with so many clients at once, on this machine
//	svids/cpu-s       for each second of processor time of this process (without the
//	                  database's, where that is another process)
//	xsignature        processor time of one, in bare P-256 signatures
//	xCreateCertificate  likewise, in calls of x509.CreateCertificate
func BenchmarkIssuing(b *testing.B) {
	b.Run("sqlite", func(b *testing.B) {
		benchmarkIssuing(b, func(dir string) (store.Store, error) {
			return store.OpenSQLite(context.Background(), filepath.Join(dir, "assay.db"))
		})
	})
	b.Run("postgres", func(b *testing.B) {
		c := postgrestest.Start(b)
		benchmarkIssuing(b, func(string) (store.Store, error) {
			return postgres.Open(context.Background(), postgres.Config{ConnString: c.Database(b)})
		})
	})
}

func benchmarkIssuing(b *testing.B, open func(dir string) (store.Store, error)) {
	for _, bm := range []struct {
		name    string
		clients int
	}{{"1client", 1}, {"64clients", 64}} {
		b.Run(bm.name, func(b *testing.B) {
			w := attestedtest.New(b)
			dir := filepath.Join(b.TempDir(), "data")
			st, err := open(b.TempDir())
			must(b, err)
			defer func() { must(b, st.Close()) }()
			_, err = ca.Init(b.Context(), ca.InitConfig{
				DataDir: dir, TrustDomain: w.TrustDomain, Simulated: true, Now: w.Now,
				Open: func(context.Context) (store.Store, error) { return keptOpen{st}, nil },
			})
			must(b, err)
			ring, err := keys.OpenDir(ca.KeysPath(dir))
			must(b, err)
			signer, err := ca.CheckpointSigner(b.Context(), ring)
			must(b, err)
			l, err := ledger.Open(b.Context(), st, w.TrustDomain, signer, ledger.Options{Now: w.Now, Quotas: ledger.Quotas{EvidencePerInstance: 1 << 30}})
			must(b, err)
			authority, err := ca.Open(b.Context(), ca.Config{TrustDomain: w.TrustDomain, Simulated: true, DataDir: dir, Keys: ring, Store: st, Results: l, Now: w.Now})
			must(b, err)
			ctx, cancel := context.WithCancel(context.Background())
			ran := make(chan error, 1)
			go func() { ran <- l.Run(ctx) }()
			defer func() {
				cancel()
				must(b, <-ran)
			}()
			signature, certificate := bare(b)

			const batch = 512
			var wall, cpu time.Duration
			b.ReportAllocs()
			b.ResetTimer()
			for left := b.N; left > 0; left -= batch {
				b.StopTimer()
				grants := make(chan *policy.Grant, batch)
				for range min(left, batch) {
					grants <- w.Grant(b, attestedtest.Request{Module: "i-0123456789abcdef0-enc0123456789abcdef"})
				}
				close(grants)
				b.StartTimer()
				at, used := time.Now(), processorTime(b)
				var wg sync.WaitGroup
				for range bm.clients {
					wg.Go(func() {
						for g := range grants {
							r, err := l.Record(ctx, g, ledger.Origin{})
							if err == nil {
								_, err = authority.Issue(ctx, r)
							}
							if err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
				wall, cpu = wall+time.Since(at), cpu+processorTime(b)-used
			}
			b.StopTimer()
			n := float64(b.N)
			b.ReportMetric(n/wall.Seconds(), "svids/s")
			b.ReportMetric(n/cpu.Seconds(), "svids/cpu-s")
			b.ReportMetric(float64(cpu)/n/float64(signature), "xsignature")
			b.ReportMetric(float64(cpu)/n/float64(certificate), "xCreateCertificate")
			if s := l.Stats(); s.Commits > 0 {
				b.ReportMetric(float64(s.Records)/float64(s.Commits), "entries/commit")
			}
		})
	}
}

// keptOpen is a store that somebody else closes.
type keptOpen struct{ store.Store }

func (keptOpen) Close() error { return nil }

// bare measures what cannot be avoided: a P-256 signature, and
// x509.CreateCertificate, which verifies its own.
func bare(b *testing.B) (signature, certificate time.Duration) {
	b.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(b, err)
	sum := sha256.Sum256([]byte("x"))
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "x"}, NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<32, 0), IsCA: true, BasicConstraintsValid: true}
	const rounds = 500
	at := processorTime(b)
	for range rounds {
		_, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
		must(b, err)
	}
	signature = (processorTime(b) - at) / rounds
	at = processorTime(b)
	for range rounds {
		_, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
		must(b, err)
	}
	certificate = (processorTime(b) - at) / rounds
	if signature <= 0 || certificate <= 0 {
		b.Fatal(errors.New("this machine's clock is too coarse"))
	}
	return signature, certificate
}

// processorTime is what this process has used, which others on the machine do not
// change much: their noise is in the wall clock.
func processorTime(tb testing.TB) time.Duration {
	tb.Helper()
	var u syscall.Rusage
	must(tb, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
