package issuer_test

import (
	"context"
	"crypto/x509"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/assay-project/assay/internal/attestedtest"
	"github.com/assay-project/assay/issuer/ca"
	"github.com/assay-project/assay/issuer/keys"
	"github.com/assay-project/assay/issuer/ledger"
	"github.com/assay-project/assay/issuer/store"
	"github.com/assay-project/assay/issuer/store/postgres"
	"github.com/assay-project/assay/issuer/store/postgres/postgrestest"
	"github.com/assay-project/assay/svid"
)

// BenchmarkIssuingTokens is the two steps of a token that BenchmarkIssuing is of a
// certificate: its entry durable in the ledger, then the signature. The metrics are
// the same.
func BenchmarkIssuingTokens(b *testing.B) {
	b.Run("sqlite", func(b *testing.B) {
		benchmarkIssuingTokens(b, func(dir string) (store.Store, error) {
			return store.OpenSQLite(context.Background(), filepath.Join(dir, "assay.db"))
		})
	})
	b.Run("postgres", func(b *testing.B) {
		c := postgrestest.Start(b)
		benchmarkIssuingTokens(b, func(string) (store.Store, error) {
			return postgres.Open(context.Background(), postgres.Config{ConnString: c.Database(b)})
		})
	})
}

func benchmarkIssuingTokens(b *testing.B, open func(dir string) (store.Store, error)) {
	for name, clients := range map[string]int{"1client": 1, "64clients": 64} {
		b.Run(name, func(b *testing.B) {
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
			l, err := ledger.Open(b.Context(), st, w.TrustDomain, signer, ledger.Options{Now: w.Now})
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
			recorded, err := l.Record(ctx, w.Grant(b, attestedtest.Request{Module: moduleA}), ledger.Origin{})
			must(b, err)
			issued, err := authority.Issue(ctx, recorded)
			must(b, err)
			parent, err := x509.ParseCertificate(issued.SVIDs[0].Chain[0])
			must(b, err)
			result, err := svid.ResultFrom(parent)
			must(b, err)
			item, err := l.BySerial(ctx, fmt.Sprintf("%032x", parent.SerialNumber))
			must(b, err)
			token := ledger.Token{
				SPIFFEID: parent.URIs[0].String(), Audience: []string{"reports"}, Parent: fmt.Sprintf("%032x", parent.SerialNumber),
				Instance: item.Entry.Instance, Policy: item.Entry.Policy,
			}
			signature, _ := bare(b)

			work := make(chan struct{})
			var wg sync.WaitGroup
			b.ReportAllocs()
			b.ResetTimer()
			at, used := time.Now(), processorTime(b)
			for range clients {
				wg.Go(func() {
					for range work {
						next := token
						next.IssuedAt = w.Now().UTC().Truncate(time.Second)
						next.NotAfter = next.IssuedAt.Add(5 * time.Minute)
						r, err := l.RecordToken(ctx, next)
						if err == nil {
							_, err = authority.IssueJWT(ctx, r, ca.TokenContent{Result: result.Result, Issuer: "https://oidc.example.org"})
						}
						if err != nil {
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
			wall, cpu := time.Since(at), processorTime(b)-used
			b.StopTimer()
			n := float64(b.N)
			b.ReportMetric(n/wall.Seconds(), "tokens/s")
			b.ReportMetric(n/cpu.Seconds(), "tokens/cpu-s")
			b.ReportMetric(float64(cpu)/n/float64(signature), "xsignature")
			if s := l.Stats(); s.Commits > 0 {
				b.ReportMetric(float64(s.Records)/float64(s.Commits), "entries/commit")
			}
		})
	}
}
