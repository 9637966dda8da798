package collateral_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/assay-project/assay/attest"
	simsnp "github.com/assay-project/assay/simulators/sevsnp"
	"github.com/assay-project/assay/verifiers/sevsnp"
	"github.com/assay-project/assay/verifiers/sevsnp/collateral"
)

func TestABadFileIsCountedNeverUsedAndFetchedAnew(t *testing.T) {
	w := newWorld(t, simsnp.KDSOptions{Burst: -1})
	own, err := w.chips[simsnp.Milan].VCEK(simsnp.Milan.DefaultTCB())
	check(t, err)
	other, err := w.chips[simsnp.Genoa].VCEK(simsnp.Genoa.DefaultTCB())
	check(t, err)
	flipped := bytes.Clone(own)
	flipped[len(flipped)-1] ^= 1 // in the signature
	for name, spoil := range map[string]func(path string) error{
		"one bit flipped":     func(p string) error { return os.WriteFile(p, flipped, 0o600) },
		"of another chip":     func(p string) error { return os.WriteFile(p, other, 0o600) },
		"cut":                 func(p string) error { return os.WriteFile(p, own[:len(own)/2], 0o600) },
		"empty":               func(p string) error { return os.WriteFile(p, nil, 0o600) },
		"followed by a byte":  func(p string) error { return os.WriteFile(p, append(bytes.Clone(own), 0), 0o600) },
		"too large":           func(p string) error { return os.WriteFile(p, make([]byte, 1<<20), 0o600) },
		"writable for others": func(p string) error { return os.Chmod(p, 0o666) },
		"unreadable nonsense": func(p string) error { return os.WriteFile(p, []byte("nonsense"), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if _, _, err := w.cache(t, dir).PutCertificate(own); err != nil {
				t.Fatal(err)
			}
			check(t, spoil(only(t, dir, "vcek.*")))
			s := w.offline(t, dir)
			k := keyOf(w.chips[simsnp.Milan])
			for range 3 {
				if der, err := s.Endorsement(t.Context(), k); err == nil {
					t.Fatalf("it was used: %x", der)
				}
			}
			if st := s.Stats(); st.Corrupt != 1 || st.FileReads != 1 {
				t.Errorf("counted %d times, read %d times; want once each", st.Corrupt, st.FileReads)
			}
			s = w.source(t, dir, nil)
			if der := fetchAndKeep(t, s, k); !bytes.Equal(der, own) {
				t.Errorf("fetched anew: %x, want %x", der, own)
			}
			// And the file is good again.
			if _, err := w.offline(t, dir).Endorsement(t.Context(), k); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestWhatIsNoFileOfTheCacheIsLeftAlone(t *testing.T) {
	w := newWorld(t, simsnp.KDSOptions{})
	dir := t.TempDir()
	own, err := w.chips[simsnp.Milan].VCEK(simsnp.Milan.DefaultTCB())
	check(t, err)
	_, _, err = w.cache(t, dir).PutCertificate(own)
	check(t, err)
	path := only(t, dir, "vcek.*")
	target := filepath.Join(t.TempDir(), "target")
	check(t, os.Rename(path, target))
	check(t, os.Symlink(target, path)) // even to what is good
	check(t, os.WriteFile(filepath.Join(dir, "notes.txt"), []byte("x"), 0o600))
	check(t, os.Mkdir(filepath.Join(dir, "vlek.milan.00000000000000000000000000000000.1-2-3-4.der"), 0o700))
	check(t, syscall.Mkfifo(filepath.Join(dir, strings.Replace(filepath.Base(path), "vcek.milan.", "vcek.genoa.", 1)), 0o600))
	s := w.offline(t, dir)
	if _, err := s.Endorsement(t.Context(), keyOf(w.chips[simsnp.Milan])); err == nil {
		t.Error("a symbolic link was followed")
	}
	if st := s.Stats(); st.Foreign != 4 || st.Endorsements != 0 {
		t.Errorf("%d foreign files, %d endorsements; want 4 and 0", st.Foreign, st.Endorsements)
	}
}

func TestADirectoryThatOthersMayWriteIsRefused(t *testing.T) {
	w := newWorld(t, simsnp.KDSOptions{})
	dir := filepath.Join(t.TempDir(), "cache")
	w.cache(t, dir)
	info, err := os.Stat(dir)
	check(t, err)
	if info.Mode().Perm() != 0o700 {
		t.Errorf("the directory was made with mode %v, want 0700", info.Mode())
	}
	check(t, os.Chmod(dir, 0o777))
	_, err = collateral.OpenCache(collateral.CacheConfig{Dir: dir, Roots: w.roots})
	if err == nil || !strings.Contains(err.Error(), "chmod go-w") {
		t.Errorf("%v, want a refusal that says what to do", err)
	}
}

func TestAnEndorsementIsWrittenOnceUntilItExpires(t *testing.T) {
	w := newWorld(t, simsnp.KDSOptions{})
	// The same chip, whose certificate is made at another time.
	minted := func(at time.Time) []byte {
		a, err := simsnp.NewAuthority(simsnp.Options{Now: func() time.Time { return at }})
		check(t, err)
		c, err := a.Chip(simsnp.Milan, "host-1")
		check(t, err)
		der, err := c.VCEK(simsnp.Milan.DefaultTCB())
		check(t, err)
		return der
	}
	dir := t.TempDir()
	c := w.cache(t, dir)
	put := func(der []byte, want bool, why string) {
		t.Helper()
		_, stored, err := c.PutCertificate(der)
		if err != nil || stored != want {
			t.Errorf("%s: stored %t, %v; want %t", why, stored, err, want)
		}
	}
	expired, first, second := minted(time.Now().AddDate(-10, 0, 0)), minted(time.Now()), minted(time.Now().Add(-time.Hour))
	put(expired, true, "there is none")
	put(first, true, "the one that is there has expired")
	put(second, false, "there is one that is good")
	put(expired, false, "there is one that is good")
	if !bytes.Equal(read(t, only(t, dir, "vcek.*")), first) {
		t.Error("the file was replaced")
	}
}

func TestAnExpiredEndorsementIsFetchedAnewAndHandedOutIfThatFails(t *testing.T) {
	w := newWorld(t, simsnp.KDSOptions{Burst: -1})
	a, err := simsnp.NewAuthority(simsnp.Options{Now: func() time.Time { return time.Now().AddDate(-10, 0, 0) }})
	check(t, err)
	c, err := a.Chip(simsnp.Milan, "host-1")
	check(t, err)
	old, err := c.VCEK(simsnp.Milan.DefaultTCB())
	check(t, err)
	dir := t.TempDir()
	_, _, err = w.cache(t, dir).PutCertificate(old)
	check(t, err)
	r := report(t, w.chips[simsnp.Milan], simsnp.Launch{})
	if _, err := authenticate(w.verifier(t, w.offline(t, dir)), r); attest.CheckOf(err) != sevsnp.CheckChainValidity {
		t.Errorf("%v, want a refusal by %s", err, sevsnp.CheckChainValidity)
	}
	if _, err := authenticate(w.verifier(t, w.source(t, dir, nil)), r); err != nil {
		t.Errorf("with a KDS: %v", err)
	}
}

func TestACertificateThatDoesNotVerifyIsNotKept(t *testing.T) {
	w := newWorld(t, simsnp.KDSOptions{})
	good, err := w.chips[simsnp.Turin].VCEK(simsnp.Turin.DefaultTCB())
	check(t, err)
	flipped := bytes.Clone(good)
	flipped[len(flipped)/2] ^= 4
	chain := w.authority.Chain(simsnp.Turin)
	dir := t.TempDir()
	c := w.cache(t, dir)
	for name, der := range map[string][]byte{
		"nothing": nil, "nonsense": []byte("nonsense"), "one bit flipped": flipped, "an ARK": chain.ARK.Raw,
		"too large": make([]byte, 1<<20), "of AMD": sevsnp.HardwareRoots().Issuers("milan", "vcek")[0].Raw,
	} {
		if _, _, err := c.PutCertificate(der); err == nil {
			t.Errorf("%s was kept", name)
		}
	}
	// What the roots hold already is not written either.
	if _, stored, err := c.PutCertificate(chain.ASK.Raw); err != nil || stored {
		t.Errorf("the root's own ASK: stored %t, %v", stored, err)
	}
	if f := files(t, dir); len(f) != 0 {
		t.Errorf("files: %q", f)
	}
}

func TestVLEKsComeFromTheCache(t *testing.T) {
	w := newWorld(t, simsnp.KDSOptions{})
	der, err := w.authority.VLEK(simsnp.Milan, simsnp.DefaultCSP, simsnp.Milan.DefaultTCB())
	check(t, err)
	dir := t.TempDir()
	_, _, err = w.cache(t, dir).PutCertificate(der)
	check(t, err)
	c, err := authenticate(w.verifier(t, w.offline(t, dir)), report(t, w.chips[simsnp.Milan], simsnp.Launch{SigningKey: simsnp.VLEK, MaskChipID: true}))
	if err != nil || c.SNP.CSPID != simsnp.DefaultCSP {
		t.Errorf("%v", err)
	}
}

func TestWhatAnotherProcessStoresIsSeenAfterARescan(t *testing.T) {
	w := newWorld(t, simsnp.KDSOptions{})
	dir := t.TempDir()
	server := w.cache(t, dir)
	s, err := collateral.New(collateral.Config{Cache: server})
	check(t, err)
	k := keyOf(w.chips[simsnp.Genoa])
	if _, err := s.Endorsement(t.Context(), k); err == nil {
		t.Fatal("found in an empty directory")
	}
	der, err := w.chips[simsnp.Genoa].VCEK(simsnp.Genoa.DefaultTCB())
	check(t, err)
	_, _, err = w.cache(t, dir).PutCertificate(der)
	check(t, err)
	check(t, server.Rescan())
	if _, err := s.Endorsement(t.Context(), k); err != nil {
		t.Error(err)
	}
}

func TestWhatAKilledWriterLeftIsRemoved(t *testing.T) {
	w := newWorld(t, simsnp.KDSOptions{})
	dir := t.TempDir()
	old, fresh := filepath.Join(dir, ".new-0011"), filepath.Join(dir, ".new-2233")
	check(t, os.WriteFile(old, []byte("half"), 0o600))
	check(t, os.WriteFile(fresh, []byte("half"), 0o600))
	long := time.Now().Add(-2 * time.Hour)
	check(t, os.Chtimes(old, long, long))
	w.cache(t, dir)
	if _, err := os.Stat(old); err == nil {
		t.Error("an unfinished file of two hours ago is still there")
	}
	if _, err := os.Stat(fresh); err != nil {
		t.Error("the file that another process is writing was removed")
	}
}

func TestAListNamesWhatIsGoodAndCountsWhatIsNot(t *testing.T) {
	w := newWorld(t, simsnp.KDSOptions{Burst: -1})
	dir := t.TempDir()
	s := w.source(t, dir, nil)
	for _, p := range []simsnp.Product{simsnp.Milan, simsnp.Turin} {
		fetchAndKeep(t, s, keyOf(w.chips[p]))
	}
	check(t, s.Refresh(t.Context(), "milan", "vcek"))
	check(t, os.WriteFile(only(t, dir, "vcek.turin.*"), []byte("x"), 0o600))
	good, bad, err := w.cache(t, dir).List()
	check(t, err)
	if len(good) != 2 || good[0].Kind != collateral.CRL || good[1].Kind != collateral.VCEK || bad != 1 {
		t.Errorf("%d good, %d bad; want a CRL and a VCEK, and 1", len(good), bad)
	}
}
