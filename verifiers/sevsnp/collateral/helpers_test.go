package collateral_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/assay-project/assay/attest"
	simsnp "github.com/assay-project/assay/simulators/sevsnp"
	"github.com/assay-project/assay/verifiers/sevsnp"
	"github.com/assay-project/assay/verifiers/sevsnp/collateral"
)

// world is a simulated AMD with its KDS, and what a server trusts of it.
type world struct {
	authority *simsnp.Authority
	kds       *simsnp.KDS
	roots     sevsnp.Roots
	chips     map[simsnp.Product]*simsnp.Chip
}

func newWorld(t testing.TB, o simsnp.KDSOptions) *world {
	t.Helper()
	a, err := simsnp.NewAuthority(simsnp.Options{})
	check(t, err)
	roots, err := sevsnp.SimulatedRoots(a.RootsPEM())
	check(t, err)
	w := &world{authority: a, roots: roots, chips: make(map[simsnp.Product]*simsnp.Chip)}
	for _, p := range simsnp.Products() {
		w.chips[p], err = a.Chip(p, "host-1")
		check(t, err)
		o.Chips = append(o.Chips, w.chips[p])
	}
	w.kds = a.KDS(o)
	return w
}

// report is a report of a guest on the chip, without certificates.
func report(t testing.TB, c *simsnp.Chip, l simsnp.Launch) []byte {
	t.Helper()
	g, err := c.Launch(l)
	check(t, err)
	r, err := g.Report([64]byte{1})
	check(t, err)
	return r
}

func (w *world) fault(t testing.TB, name string) {
	t.Helper()
	if name == "" {
		w.kds.SetFaults()
		return
	}
	f, ok := simsnp.KDSFaultByName(name)
	if !ok {
		t.Fatalf("the simulator has no fault %q", name)
	}
	w.kds.SetFaults(f)
}

// cache opens a cache directory.
func (w *world) cache(t testing.TB, dir string) *collateral.Cache {
	t.Helper()
	c, err := collateral.OpenCache(collateral.CacheConfig{Dir: dir, Roots: w.roots})
	check(t, err)
	t.Cleanup(func() { check(t, c.Close()) })
	return c
}

func allowAll(string, []byte) bool { return true }

// source is a source over a cache directory. rt nil asks the world's KDS directly.
func (w *world) source(t testing.TB, dir string, change func(*collateral.Config, *collateral.KDSConfig)) *collateral.Source {
	t.Helper()
	kc := collateral.KDSConfig{URL: "http://localhost", Transport: direct{w.kds}, Burst: 1000, Interval: time.Millisecond}
	c := collateral.Config{Cache: w.cache(t, dir), Allowed: allowAll}
	if change != nil {
		change(&c, &kc)
	}
	k, err := collateral.NewKDS(kc)
	check(t, err)
	c.KDS = k
	s, err := collateral.New(c)
	check(t, err)
	return s
}

// fetchAndKeep has an endorsement fetched, and says as a verifier does that a
// report has verified with it.
func fetchAndKeep(t testing.TB, s *collateral.Source, k sevsnp.Key) []byte {
	t.Helper()
	der, err := s.Endorsement(t.Context(), k)
	check(t, err)
	s.Keep(t.Context(), k, der)
	return der
}

// offline is a source that knows no KDS.
func (w *world) offline(t testing.TB, dir string) *collateral.Source {
	t.Helper()
	s, err := collateral.New(collateral.Config{Cache: w.cache(t, dir), Allowed: allowAll})
	check(t, err)
	return s
}

func (w *world) verifier(t testing.TB, c sevsnp.Collateral, opts ...sevsnp.Option) *sevsnp.Verifier {
	t.Helper()
	v, err := sevsnp.New(w.roots, append(opts, sevsnp.WithCollateral(c))...)
	check(t, err)
	return v
}

func authenticate(v *sevsnp.Verifier, report []byte, endorsements ...[]byte) (*attest.Claims, error) {
	return v.Authenticate(context.Background(), attest.Evidence{Platform: attest.AMDSEVSNP, Body: report, Endorsements: endorsements}, time.Now())
}

// keyOf is what a verifier asks for, for a chip with its usual TCB.
func keyOf(c *simsnp.Chip) sevsnp.Key {
	t := c.Product().DefaultTCB()
	k := sevsnp.Key{Product: map[simsnp.Product]string{simsnp.Milan: "milan", simsnp.Genoa: "genoa", simsnp.Siena: "genoa", simsnp.Turin: "turin"}[c.Product()], SigningKey: "vcek", ChipID: c.ID()}
	k.TCB = attest.TCB{Bootloader: t.Bootloader, TEE: t.TEE, SNP: t.SNP, Microcode: t.Microcode}
	if k.Product == "turin" {
		k.TCB.FMC = &t.FMC
	}
	return k
}

// direct hands requests to a handler, without a network: what the clock of
// testing/synctest can wait for.
type direct struct{ h http.Handler }

func (d direct) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	in := r.Clone(r.Context())
	in.RemoteAddr = "192.0.2.1:1"
	d.h.ServeHTTP(w, in)
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	return w.Result(), nil
}

// counting counts requests on their way to a handler.
type counting struct {
	n atomic.Int64
	h http.Handler
}

func (c *counting) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.n.Add(1)
	c.h.ServeHTTP(w, r)
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// only is the one file in the directory that matches.
func only(t testing.TB, dir, pattern string) string {
	t.Helper()
	m, err := filepath.Glob(filepath.Join(dir, pattern))
	check(t, err)
	if len(m) != 1 {
		t.Fatalf("%d files match %s, want 1", len(m), pattern)
	}
	return m[0]
}

func files(t testing.TB, dir string) []string {
	t.Helper()
	m, err := filepath.Glob(filepath.Join(dir, "*.der"))
	check(t, err)
	return m
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	check(t, err)
	return b
}

// contextOf is the test's context with a cancel of its own.
func contextOf(t testing.TB) (context.Context, context.CancelFunc) {
	return context.WithCancel(t.Context())
}
