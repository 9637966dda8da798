package agent_test

import (
	"context"
	"go/parser"
	"go/token"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

func TestTheClientKnowsGoSPIFFEAlone(t *testing.T) {
	f, err := parser.ParseFile(token.NewFileSet(), "gospiffe_client_test.go", nil, parser.ImportsOnly)
	if err != nil {
		t.Fatal(err)
	}
	spiffe := false
	for _, i := range f.Imports {
		path, err := strconv.Unquote(i.Path.Value)
		if err != nil || strings.HasPrefix(path, "github.com/assay-project/") {
			t.Errorf("the client imports %s", i.Path.Value)
		}
		spiffe = spiffe || strings.HasPrefix(path, "github.com/spiffe/go-spiffe/")
	}
	if !spiffe {
		t.Error("and nothing of go-spiffe")
	}
}

// A program that was written for any SPIFFE implementation runs unchanged: all of
// go-spiffe's sources, mTLS, gRPC and tokens, through three renewals under load, and
// no call fails.
func TestAProgramOfGoSPIFFERunsUnchangedThroughThreeRenewals(t *testing.T) {
	s := newServerWith(t, tokens(policyText(1, ordersID, adminID)))
	cfg := s.enclave(orders())
	start(t, cfg)
	names(t, cfg, ordersID, adminID)
	t.Setenv(workloadapi.SocketEnv, "unix://"+cfg.Socket)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	p, err := startProgram(ctx)
	if err != nil {
		t.Fatal(err)
	}
	td := spiffeid.RequireTrustDomainFromString(realDomain)
	if x, j := p.trusts(td); len(x) == 0 || j == 0 {
		t.Errorf("the bundle source has %d X.509 and %d JWT authorities of %s", len(x), j, td)
	}
	if x, j := p.trusts(spiffeid.RequireTrustDomainFromString("other.example.org")); x != nil || j != 0 {
		t.Error("it trusts a trust domain that nobody federates with")
	}

	var (
		wg   sync.WaitGroup
		done = make(chan struct{})
		made = map[string]*atomic.Int64{}
	)
	for what, call := range p.calls() {
		n := new(atomic.Int64)
		made[what] = n
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if err := call(ctx); err != nil {
					t.Errorf("%s: call %d: %v", what, n.Load(), err)
					return
				}
				n.Add(1)
			}
		})
	}
	waitFor(t, "a call of each kind", func() bool {
		for _, n := range made {
			if n.Load() == 0 && !t.Failed() {
				return false
			}
		}
		return true
	})
	for i := range 3 {
		before := must(p.serial())
		s.reattest(t)
		waitFor(t, "renewal "+strconv.Itoa(i+1), func() bool { return must(p.serial()) != before })
	}
	close(done)
	wg.Wait()
	for what, n := range made {
		t.Logf("%s: %d calls", what, n.Load())
	}
	if err := p.close(); err != nil {
		t.Error(err)
	}
}
