package collateral_test

import (
	"bytes"
	"context"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/assay-project/assay/attest"
	simsnp "github.com/assay-project/assay/simulators/sevsnp"
	"github.com/assay-project/assay/verifiers/sevsnp"
	"github.com/assay-project/assay/verifiers/sevsnp/collateral"
)

// vlekKey is what a verifier asks for, for a Milan guest with a provider's key.
func vlekKey() sevsnp.Key {
	t := simsnp.Milan.DefaultTCB()
	return sevsnp.Key{
		Product: "milan", SigningKey: "vlek", ChipID: make([]byte, 64),
		TCB: attest.TCB{Bootloader: t.Bootloader, TEE: t.TEE, SNP: t.SNP, Microcode: t.Microcode},
	}
}

// vlek is a provider's certificate of Milan, made at another time.
func vlek(t testing.TB, csp string, at time.Time) []byte {
	t.Helper()
	a, err := simsnp.NewAuthority(simsnp.Options{Now: func() time.Time { return at }})
	check(t, err)
	der, err := a.VLEK(simsnp.Milan, csp, simsnp.Milan.DefaultTCB())
	check(t, err)
	return der
}

func TestAnExpiredEndorsementInMemoryDoesNotHideTheRenewedFile(t *testing.T) {
	w := newWorld(t, simsnp.KDSOptions{})
	expired, renewed := vlek(t, "csp-a", time.Now().AddDate(-3, 0, 0)), vlek(t, "csp-a", time.Now())
	dir := t.TempDir()
	server := w.cache(t, dir)
	_, _, err := server.PutCertificate(expired)
	check(t, err)
	s, err := collateral.New(collateral.Config{Cache: server})
	check(t, err)
	for range 3 {
		if got, err := s.Endorsement(t.Context(), vlekKey()); err != nil || !bytes.Equal(got, expired) {
			t.Fatalf("%v, want the expired one: there is no other", err)
		}
	}
	if n := s.Stats().FileReads; n > 1 {
		t.Errorf("the expired file was read %d times, want once: nothing has changed", n)
	}
	_, stored, err := w.cache(t, dir).PutCertificate(renewed) // another process
	if err != nil || !stored {
		t.Fatalf("stored %t, %v", stored, err)
	}
	future := time.Now().Add(time.Hour) // whatever the file system's clock can tell apart
	check(t, os.Chtimes(dir, future, future))
	check(t, server.Rescan())
	if got, err := s.Endorsement(t.Context(), vlekKey()); err != nil || !bytes.Equal(got, renewed) {
		t.Errorf("%v, want the renewed one", err)
	}
}

func TestAnExpiredEndorsementOfOneProviderDoesNotHideAnothers(t *testing.T) {
	w := newWorld(t, simsnp.KDSOptions{})
	for _, csp := range [][2]string{{"csp-a", "csp-b"}, {"csp-b", "csp-a"}} {
		expired, valid := vlek(t, csp[0], time.Now().AddDate(-3, 0, 0)), vlek(t, csp[1], time.Now())
		dir := t.TempDir()
		c := w.cache(t, dir)
		for _, der := range [][]byte{valid, expired} {
			_, _, err := c.PutCertificate(der)
			check(t, err)
		}
		s, err := collateral.New(collateral.Config{Cache: c})
		check(t, err)
		for name, s := range map[string]*collateral.Source{"from memory": s, "after a restart": w.offline(t, dir)} {
			if got, err := s.Endorsement(t.Context(), vlekKey()); err != nil || !bytes.Equal(got, valid) {
				t.Errorf("%s expired, %s valid, %s: %v, want the valid one", csp[0], csp[1], name, err)
			}
		}
	}
}

// blind runs f with files that cannot be opened: all descriptors are in use.
func blind(t *testing.T, f func()) {
	t.Helper()
	var old syscall.Rlimit
	check(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &old))
	none := old
	none.Cur = 3
	check(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &none))
	f()
	check(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &old))
}

func TestAFileThatCannotBeReadForAMomentIsNotForgotten(t *testing.T) {
	w := newWorld(t, simsnp.KDSOptions{})
	dir := t.TempDir()
	der, err := w.chips[simsnp.Milan].VCEK(simsnp.Milan.DefaultTCB())
	check(t, err)
	_, _, err = w.cache(t, dir).PutCertificate(der)
	check(t, err)
	s := w.offline(t, dir) // nothing in memory
	k := keyOf(w.chips[simsnp.Milan])
	var blinded error
	blind(t, func() { _, blinded = s.Endorsement(context.Background(), k) })
	if attest.KindOf(blinded) != attest.Unavailable {
		t.Errorf("while it cannot be read: %v, want kind unavailable", blinded)
	}
	if blinded != nil && strings.Contains(blinded.Error(), "vcek.") {
		t.Errorf("%q names the chip", blinded)
	}
	if got, err := s.Endorsement(t.Context(), k); err != nil || !bytes.Equal(got, der) {
		t.Errorf("afterwards: %v", err)
	}
}
