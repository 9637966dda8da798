package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	simsnp "github.com/assay-project/assay/simulators/sevsnp"
)

// TestCollateralSessions runs the scripts in testdata/collateral. KDS is the URL of
// a simulated KDS, DEADKDS one where nothing answers; the files are
//
//	roots.pem                     the simulator's roots
//	milan.bin turin.bin           reports of chips that the KDS knows
//	stranger.bin                  of one that it does not
//	masked.bin vlek.bin           with a masked chip id, signed with a VLEK
//	forged.bin                    a report whose signature is broken
//	key.pem key.pub other.pub     key pair of an exporter, and somebody else's key
func TestCollateralSessions(t *testing.T) {
	dir := t.TempDir()
	put := func(name string, b []byte) { check(t, os.WriteFile(filepath.Join(dir, name), b, 0o600)) }
	a, err := simsnp.NewAuthority(simsnp.Options{})
	check(t, err)
	put("roots.pem", a.RootsPEM())
	var known []*simsnp.Chip
	report := func(name string, p simsnp.Product, seed string, l simsnp.Launch) []byte {
		c, err := a.Chip(p, seed)
		check(t, err)
		if seed == "known" {
			known = append(known, c)
		}
		g, err := c.Launch(l)
		check(t, err)
		b, err := g.Report([64]byte{})
		check(t, err)
		put(name, b)
		return b
	}
	report("milan.bin", simsnp.Milan, "known", simsnp.Launch{})
	report("turin.bin", simsnp.Turin, "known", simsnp.Launch{})
	report("stranger.bin", simsnp.Genoa, "stranger", simsnp.Launch{})
	report("masked.bin", simsnp.Milan, "known", simsnp.Launch{MaskChipID: true})
	report("vlek.bin", simsnp.Milan, "known", simsnp.Launch{SigningKey: simsnp.VLEK})
	forged := report("forged.bin", simsnp.Milan, "known", simsnp.Launch{GuestSVN: 7})
	forged[0x50] ^= 1 // in REPORT_DATA
	put("forged.bin", forged)
	for _, name := range []string{"key", "other"} {
		pub, key, err := ed25519.GenerateKey(rand.Reader)
		check(t, err)
		der, err := x509.MarshalPKCS8PrivateKey(key)
		check(t, err)
		put(name+".pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
		der, err = x509.MarshalPKIXPublicKey(pub)
		check(t, err)
		put(name+".pub", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	}
	kds := httptest.NewServer(a.KDS(simsnp.KDSOptions{Chips: known, Burst: -1}))
	t.Cleanup(kds.Close)
	dead := httptest.NewServer(nil)
	dead.Close()
	testscript.Run(t, testscript.Params{
		Dir:  filepath.Join("testdata", "collateral"),
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){"ends": ends},
		Setup: func(env *testscript.Env) error {
			env.Setenv("KDS", kds.URL)
			env.Setenv("DEADKDS", dead.URL)
			return copyFiles(dir, env.WorkDir)
		},
	})
	if len(known) == 0 {
		t.Error(fmt.Errorf("no chip was known to the KDS"))
	}
}
