package collateral

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	simsnp "github.com/assay-project/assay/simulators/sevsnp"
	"github.com/assay-project/assay/verifiers/sevsnp"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newASK is an ASK of Milan that the roots do not hold.
func newASK(t testing.TB, a *simsnp.Authority) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "..", "simulators", "sevsnp", "testdata", "authority", "milan-ark.key"))
	must(t, err)
	block, _ := pem.Decode(text)
	if block == nil {
		t.Fatal("no PEM")
		return nil
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	must(t, err)
	chain := a.Chain(simsnp.Milan)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(77), RawSubject: chain.ASK.RawSubject, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		SignatureAlgorithm: x509.SHA384WithRSAPSS, BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}, chain.ARK, chain.ASK.PublicKey, key.(*rsa.PrivateKey))
	must(t, err)
	return der
}

func TestAnIssuerWhoseFileCannotBeReadForAMomentIsNotForgotten(t *testing.T) {
	a, err := simsnp.NewAuthority(simsnp.Options{})
	must(t, err)
	roots, err := sevsnp.SimulatedRoots(a.RootsPEM())
	must(t, err)
	dir := t.TempDir()
	c, err := OpenCache(CacheConfig{Dir: dir, Roots: roots})
	must(t, err)
	defer func() { _ = c.Close() }()
	o, _, err := c.PutCertificate(newASK(t, a))
	must(t, err)
	n, ok := parseName(fileOf(o))
	if !ok {
		t.Fatalf("%s is no name", fileOf(o))
	}
	var old syscall.Rlimit
	must(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &old))
	none := old
	none.Cur = 3
	must(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &none))
	c.loadCAs([]fileName{n}) // as a Rescan does
	must(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &old))
	if got := len(c.Issuers("milan", "vcek")); got != 1 || !c.unread || len(c.bad) != 0 {
		t.Errorf("%d issuers, to be read again: %t, bad files %v; want 1, true, none", got, c.unread, c.bad)
	}
	for range 2 {
		must(t, c.Rescan())
	}
	if got := len(c.Issuers("milan", "vcek")); got != 1 || c.unread {
		t.Errorf("after a rescan: %d issuers, to be read again: %t; want 1, false", got, c.unread)
	}
}

func TestTheDirectoryOfAnotherUserIsRefused(t *testing.T) {
	for _, c := range []struct {
		owner, user int
		want        bool
	}{{1000, 1000, true}, {0, 1000, true}, {1000, 0, true}, {0, 0, true}, {1001, 1000, false}, {65534, 1000, false}} {
		if got := mayOwn(c.owner, c.user); got != c.want {
			t.Errorf("user %d with the directory of %d: %t, want %t", c.user, c.owner, got, c.want)
		}
	}
}
