package agent

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

func TestTrustDomainsThatCannotBeTogetherAreRefused(t *testing.T) {
	s, p := newFaultyServer(t), newFaultyServerIn(t, partnerDomain)
	s.address, p.address = "127.0.0.1:8443", "vsock:parent:9443"
	good := s.config(t)
	for name, c := range map[string]struct {
		further []Membership
		want    string
	}{
		"twice":            {[]Membership{p.membership(t), p.membership(t)}, "twice"},
		"the first again":  {[]Membership{s.membership(t)}, "twice"},
		"too many":         {make([]Membership, MaxTrustDomains), "at most 8"},
		"without a server": {[]Membership{{TrustDomain: p.td, BootstrapRoots: p.bootstrap.roots(t)}}, "server address"},
		"without a root":   {[]Membership{{TrustDomain: p.td, Server: p.address}}, "no bootstrap root"},
		"another's root":   {[]Membership{{TrustDomain: p.td, Server: p.address, BootstrapRoots: s.bootstrap.roots(t)}}, "root is that of trust domain"},
		"another's name":   {[]Membership{{TrustDomain: p.td, Server: p.address, BootstrapRoots: p.bootstrap.roots(t), Identities: []spiffeid.ID{spiffeid.RequireFromString(oursID)}}}, "not in the trust domain"},
		"of hardware":      {[]Membership{{TrustDomain: spiffeid.RequireTrustDomainFromString("partner.example"), Server: p.address, BootstrapRoots: newAuthorityIn(t, "root", spiffeid.RequireTrustDomainFromString("partner.example")).roots(t)}}, "simulated"},
		"no vsock address": {[]Membership{{TrustDomain: p.td, Server: "vsock:3", BootstrapRoots: p.bootstrap.roots(t)}}, "vsock:CID:PORT"},
	} {
		cfg := good
		cfg.Further = c.further
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	good.Further = []Membership{p.membership(t)}
	must(New(good))
}

func TestAFurtherTrustDomainCostsLittleMemory(t *testing.T) {
	if raceDetector {
		t.Skip("SKIPPED: the race detector has memory of its own")
	}
	measure := func(n int) (heap uint64, goroutines int) {
		var servers []*faultyServer
		var want []string
		for i := range n {
			td := spiffeid.RequireTrustDomainFromString(fmt.Sprintf("simulated.n%d.example", i))
			s := newFaultyServerIn(t, td)
			s.start()
			servers, want = append(servers, s), append(want, "spiffe://"+td.Name()+"/orders")
		}
		cfg := servers[0].config(t)
		for _, s := range servers[1:] {
			cfg.Further = append(cfg.Further, s.membership(t))
		}
		before := liveHeap()
		g := runtime.NumGoroutine()
		a, stop := runAgent(t, cfg)
		serves(t, a, want...)
		for _, s := range servers {
			eventually(t, "the agent watches", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.watching > 0 })
		}
		heap, goroutines = max(liveHeap(), before)-before, runtime.NumGoroutine()-g
		stop()
		return heap, goroutines
	}
	one, gone := measure(1)
	all, gall := measure(MaxTrustDomains)
	each, geach := (int64(all)-int64(one))/(MaxTrustDomains-1), (gall-gone)/(MaxTrustDomains-1)
	t.Logf("a further trust domain costs %d KiB of heap and %d goroutines, the server's side of its connections included", each>>10, geach)
	if each > 1<<20 || geach > 40 {
		t.Errorf("a further trust domain costs %d KiB and %d goroutines", each>>10, geach)
	}
}

func liveHeap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
