package sevsnp_test

import (
	"math/big"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifiers/sevsnp"
)

// signatures counts the RSA verifications that f makes.
func signatures(v *sevsnp.Verifier, f func()) uint64 {
	before := v.CacheStats().Signatures
	f()
	return v.CacheStats().Signatures - before
}

// chips are reports of several chips, whose endorsements differ.
func chips(t testing.TB, w *world, n int) []attest.Evidence {
	t.Helper()
	out := make([]attest.Evidence, n)
	for i := range out {
		id := chipID(sevsnp.Milan)
		id[0] = byte(0x80 + i)
		out[i] = w.mint(t, order{report: put(0x1a0, id...), extensions: replaced(amdOID(4), id)}).evidence()
	}
	return out
}

func TestAKnownEndorsementCostsNoSignatureAndANewOneOne(t *testing.T) {
	w := newWorld(t, fakeOrg, sharedKeys())
	v := w.verifier(t)
	evs := chips(t, w, 2)
	for _, step := range []struct {
		what string
		ev   attest.Evidence
		want uint64
	}{
		{"nothing known", evs[0], 1}, {"the same chip", evs[0], 0}, {"another chip", evs[1], 1}, {"the first again", evs[0], 0}, {"the second again", evs[1], 0},
	} {
		if got := signatures(v, func() { accept(t, v, step.ev, epoch) }); got != step.want {
			t.Errorf("%s: %d certificate signatures verified, want %d", step.what, got, step.want)
		}
	}
	want := sevsnp.CacheStats{Endorsements: 2, Size: sevsnp.DefaultCacheSize, Hits: 3, Misses: 2, Signatures: 2}
	if diff := cmp.Diff(want, v.CacheStats()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestAKnownCRLAndAKnownIssuerCostNoSignature(t *testing.T) {
	w := newWorld(t, fakeOrg, sharedKeys())
	l := w.lines[sevsnp.Milan]
	v := verifierOf(t, certPEM(l.ark), sevsnp.WithRevocation(sevsnp.RevocationPolicy{Require: true}))
	list := w.crl(t, crlOrder{})
	evs := chips(t, w, 2)
	for i := range evs {
		evs[i].Endorsements = append(evs[i].Endorsements, l.ask.Raw, list)
	}
	for i, want := range []uint64{3, 1} { // endorsement, issuer and CRL; then the endorsement alone
		if got := signatures(v, func() { accept(t, v, evs[i], epoch) }); got != want {
			t.Errorf("chip %d: %d signatures verified, want %d", i, got, want)
		}
	}
	if s := v.CacheStats(); s.Issuers != 1 || s.CRLs != 1 {
		t.Errorf("%+v", s)
	}
}

func TestTheCacheIsBounded(t *testing.T) {
	const size = 3
	w := newWorld(t, fakeOrg, sharedKeys())
	v := w.verifier(t, sevsnp.WithCacheSize(size))
	for _, ev := range chips(t, w, 8) {
		accept(t, v, ev, epoch)
		if s := v.CacheStats(); s.Endorsements > size {
			t.Fatalf("%d endorsements, want at most %d", s.Endorsements, size)
		}
	}
	if s := v.CacheStats(); s.Evictions != 5 || s.Endorsements != size {
		t.Errorf("%d endorsements, %d evictions: the cache was not used", s.Endorsements, s.Evictions)
	}
}

func TestASizeOfZeroRemembersNothing(t *testing.T) {
	w := newWorld(t, fakeOrg, sharedKeys())
	v := w.verifier(t, sevsnp.WithCacheSize(0))
	ev := w.mint(t, order{}).evidence()
	for range 2 {
		if n := signatures(v, func() { accept(t, v, ev, epoch) }); n != 1 {
			t.Errorf("%d certificate signatures verified, want 1", n)
		}
	}
	if _, err := sevsnp.New(sevsnp.HardwareRoots(), sevsnp.WithCacheSize(-1)); err == nil {
		t.Error("a negative size was accepted")
	}
}

func TestAnEndorsementIsNotUsedPastItsValidity(t *testing.T) {
	w := newWorld(t, fakeOrg, sharedKeys())
	v := w.verifier(t)
	ev := w.mint(t, order{}).evidence()
	accept(t, v, ev, epoch)
	for name, at := range map[string]time.Time{
		"after the endorsement": epoch.AddDate(8, 0, 0), "after the root": epoch.AddDate(40, 0, 0),
		"before the endorsement": epoch.AddDate(0, -2, 0), "before the root": epoch.AddDate(-40, 0, 0),
	} {
		t.Run(name, func(t *testing.T) {
			got, err := v.Authenticate(t.Context(), ev, at)
			wantRefusal(t, got, err, sevsnp.CheckChainValidity)
		})
	}
	if n := signatures(v, func() { accept(t, v, ev, epoch) }); n != 0 {
		t.Errorf("the entry is gone: %d signatures", n)
	}
}

// Only a report whose own signature verified may fill the cache.
func TestTheCacheIsPoisonedByNothingUnverified(t *testing.T) {
	w := newWorld(t, fakeOrg, sharedKeys())
	l := w.lines[sevsnp.Milan]
	list := w.crl(t, crlOrder{})
	for name, o := range map[string]order{
		"report changed":      {signed: put(0x90, 0)},
		"another chip":        {report: put(0x1a0, 0)},
		"endorsement changed": {changeLeaf: func(der []byte) []byte { der[len(der)-1] ^= 1; return der }},
	} {
		v := verifierOf(t, certPEM(l.ark))
		ev := w.mint(t, o).evidence(l.ask.Raw, list)
		for range 2 {
			if _, err := v.Authenticate(t.Context(), ev, epoch); err == nil {
				t.Fatalf("%s: verified", name)
			}
		}
		if s := v.CacheStats(); s.Endorsements+s.Issuers+s.CRLs != 0 || s.Hits != 0 {
			t.Errorf("%s: a refused report left something behind: %+v", name, s)
		}
	}
}

// A known chain must not excuse anything.
func TestEveryMintedFaultIsRefusedWithAWarmCacheToo(t *testing.T) {
	w := newWorld(t, fakeOrg, sharedKeys())
	v := w.verifier(t)
	for _, o := range []order{{}, {kind: sevsnp.VLEK}, {product: sevsnp.Turin, version: 5}, {version: 2}} {
		m := w.mint(t, o)
		accept(t, v, m.evidence(), epoch)
		for name, change := range map[string]func([]byte){
			"another chip": put(0x1a0, 0xee), "reported TCB": put(0x180, 0), "measurement": put(0x90, 0), "signing key none": put(0x48, 7<<2),
		} {
			if o.kind == sevsnp.VLEK && name == "another chip" {
				continue // a claim, which the firmware signs
			}
			bad := slices.Clone(m.body)
			change(bad)
			sign(t, bad, m.key)
			if name == "measurement" {
				bad[0x90] ^= 1
			}
			if got, err := v.Authenticate(t.Context(), evidence(bad, m.leaf), epoch); err == nil || got != nil {
				t.Errorf("%+v, %s: verified", o, name)
			}
		}
	}
}

func TestAForgedEndorsementCostsOneSignature(t *testing.T) {
	w := newWorld(t, fakeOrg, sharedKeys())
	v := w.verifier(t)
	foreign := newWorld(t, fakeOrg, fakeKeys{w.keys.asvk, w.keys.ark, w.keys.ask}).mint(t, order{})
	unknown := newWorld(t, "Somebody else", sharedKeys()).mint(t, order{})
	for name, c := range map[string]struct {
		ev   attest.Evidence
		want uint64
	}{
		"right names, wrong key": {foreign.evidence(), 1},
		"unknown root":           {unknown.evidence(), 0},
		"another chip's":         {w.mint(t, order{report: put(0x1a0, 0)}).evidence(), 0},
		"sixteen of them":        {evidence(foreign.body, slices.Repeat([][]byte{foreign.leaf}, 16)...), 4},
	} {
		n := signatures(v, func() {
			if _, err := v.Authenticate(t.Context(), c.ev, epoch); err == nil {
				t.Fatalf("%s: verified", name)
			}
		})
		if n != c.want {
			t.Errorf("%s: %d signatures verified, want %d", name, n, c.want)
		}
	}
}

func TestARevocationReachesARememberedChain(t *testing.T) {
	w := newWorld(t, fakeOrg, sharedKeys())
	c := &collateral{crl: w.crl(t, crlOrder{})}
	v := w.verifier(t, sevsnp.WithCollateral(c))
	ev := w.mint(t, order{}).evidence()
	if got := accept(t, v, ev, epoch); got.SNP.Revocation != sevsnp.RevocationOK {
		t.Errorf("revocation %q", got.SNP.Revocation)
	}
	c.crl = w.crl(t, crlOrder{revoked: []*big.Int{w.lines[sevsnp.Milan].ask.SerialNumber}})
	got, err := v.Authenticate(t.Context(), ev, epoch)
	wantRefusal(t, got, err, sevsnp.CheckCRLRevokedASK)
}

func TestConcurrentVerificationsAgree(t *testing.T) {
	w := newWorld(t, fakeOrg, sharedKeys())
	v := w.verifier(t, sevsnp.WithCacheSize(2)) // small, so that entries come and go
	evs := chips(t, w, 6)
	list := w.crl(t, crlOrder{})
	bad := w.mint(t, order{signed: put(0x90, 0)}).evidence()
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 8 {
				n := (g + i) % len(evs)
				ev := evs[n]
				ev.Endorsements = append(slices.Clone(ev.Endorsements), list)
				got, err := v.Authenticate(t.Context(), ev, epoch)
				if err != nil || got.SNP.ChipID[0] != byte(0x80+n) || got.SNP.Revocation != sevsnp.RevocationOK {
					t.Errorf("chip %d: %v", n, err)
				}
				if _, err := v.Authenticate(t.Context(), bad, epoch); attest.CheckOf(err) != sevsnp.CheckReportSignature {
					t.Errorf("the broken signature: %v", err)
				}
			}
		})
	}
	wg.Wait()
}
