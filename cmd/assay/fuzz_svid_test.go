package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/svid"
	"github.com/assay-project/assay/svid/svidtest"
)

// FuzzShown reads a stranger's file as `assay svid` does, and finds nothing in it that
// an authority of the same name, which made none of it, has signed.
func FuzzShown(f *testing.F) {
	dir := f.TempDir()
	svidFixtures(f, dir)
	names, err := filepath.Glob(filepath.Join(dir, "*.*"))
	check(f, err)
	for _, name := range names {
		b, err := os.ReadFile(name)
		check(f, err)
		if len(b) < 32<<10 {
			f.Add(b)
		}
	}
	ours := svidtest.NewAt(f, "example.test", func() time.Time { return fixtureTime })
	src, tokens := ours.Source(), ours.JWTBundle(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		if looksLikeToken(string(b)) {
			if u, err := svid.JWTFrom(string(b)); (u == nil) == (err == nil) {
				t.Fatal("both, or neither")
			}
			if _, err := svid.VerifyJWT(string(b), tokens, "vault", fixtureTime, svid.MemberOf(ours.TrustDomain)); err == nil {
				t.Fatal("it is verified")
			}
			return
		}
		certs, err := parseChain("x", b)
		if err != nil {
			if attest.KindOf(err) != attest.Malformed {
				t.Fatal(err)
			}
			return
		}
		var s shown
		s.split(certs)
		all := len(s.others)
		for _, chain := range s.chains {
			all += len(chain)
			_ = describe(chain[0]).facts()
			_, _ = svid.ResultFrom(chain[0])
			if _, err := svid.Verify(chain, src, fixtureTime); err == nil {
				t.Fatal("it is verified")
			}
		}
		if all != len(certs) {
			t.Fatalf("%d of %d certificates are looked at", all, len(certs))
		}
	})
}
