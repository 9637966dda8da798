package sevsnp_test

import (
	"bytes"
	"context"
	"sync"
	"testing"
	"time"

	"github.com/assay-project/assay/attest"
	simsnp "github.com/assay-project/assay/simulators/sevsnp"
	"github.com/assay-project/assay/verifiers/sevsnp"
)

// authority is the simulator's well-known AMD, with a clock that stands at epoch.
var authority = sync.OnceValues(func() (*simsnp.Authority, error) {
	return simsnp.NewAuthority(simsnp.Options{Now: func() time.Time { return epoch }})
})

func simulator(t testing.TB) *simsnp.Authority {
	t.Helper()
	a, err := authority()
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// answer launches a guest and has it answer a challenge.
func answer(t testing.TB, p simsnp.Product, l simsnp.Launch, b attest.Binding, faults ...simsnp.Fault) attest.Evidence {
	t.Helper()
	chip, err := simulator(t).Chip(p, "a chip")
	if err != nil {
		t.Fatal(err)
	}
	guest, err := chip.Launch(l, faults...)
	if err != nil {
		t.Fatal(err)
	}
	body, err := guest.Report(sevsnp.ReportData(b))
	if err != nil {
		t.Fatal(err)
	}
	return evidence(body, guest.Endorsements()...)
}

// platforms are the products and signing keys that faults are tried on.
var platforms = []struct {
	product simsnp.Product
	key     simsnp.SigningKey
}{{simsnp.Milan, simsnp.VCEK}, {simsnp.Turin, simsnp.VCEK}, {simsnp.Siena, simsnp.VLEK}}

func TestEveryFaultOfTheSimulatorEndsInItsCheck(t *testing.T) {
	a := simulator(t)
	_, b := challenge(t)
	n := 0
	for _, f := range simsnp.Faults() {
		for _, p := range platforms {
			if !f.Applies(p.product, p.key) {
				continue
			}
			n++
			t.Run(f.Name+"/"+string(p.product)+"/"+string(p.key), func(t *testing.T) {
				roots := a.RootsPEM()
				if f.Intermediate {
					roots = a.ARKsPEM()
				}
				v := verifierOf(t, roots, sevsnp.WithRevocation(sevsnp.RevocationPolicy{Require: true}))
				ev := answer(t, p.product, simsnp.Launch{SigningKey: p.key, CRL: true}, b, f)
				got, err := v.Authenticate(t.Context(), ev, epoch)
				if f.Stage == simsnp.StageBound {
					if err != nil {
						t.Fatalf("refused before the binding was looked at: %v", err)
					}
					got, err = nil, v.Bound(got, b)
				}
				if f.Check == "" {
					if err != nil {
						t.Fatal(err)
					}
					return
				}
				wantRefusal(t, got, err, f.Check)
				if want := kindOf(t, f.Check).String(); f.Kind != want {
					t.Errorf("the simulator expects kind %s, the table says %s", f.Kind, want)
				}
			})
		}
	}
	t.Logf("%d cases of %d faults", n, len(simsnp.Faults()))
}

// The same faults with everything warm: a known chain must not excuse anything.
func TestEveryFaultIsRefusedWithAWarmChainToo(t *testing.T) {
	a := simulator(t)
	_, b := challenge(t)
	v := verifierOf(t, a.RootsPEM(), sevsnp.WithRevocation(sevsnp.RevocationPolicy{Require: true}))
	for _, p := range platforms[:1] {
		accept(t, v, answer(t, p.product, simsnp.Launch{SigningKey: p.key, CRL: true}, b), epoch)
		for _, f := range simsnp.Faults() {
			if f.Intermediate || f.Check == "" || f.Stage == simsnp.StageBound || !f.Applies(p.product, p.key) {
				continue
			}
			t.Run(f.Name+"/"+string(p.product), func(t *testing.T) {
				got, err := v.Authenticate(t.Context(), answer(t, p.product, simsnp.Launch{SigningKey: p.key, CRL: true}, b, f), epoch)
				wantRefusal(t, got, err, f.Check)
			})
		}
	}
}

func TestEveryDeviceOfTheSimulatorVerifies(t *testing.T) {
	a := simulator(t)
	_, b := challenge(t)
	v := verifierOf(t, a.RootsPEM())
	for product, line := range map[simsnp.Product]string{simsnp.Milan: sevsnp.Milan, simsnp.Genoa: sevsnp.Genoa, simsnp.Siena: sevsnp.Genoa, simsnp.Turin: sevsnp.Turin} {
		for version := uint32(2); version <= 5; version++ {
			for _, key := range []simsnp.SigningKey{simsnp.VCEK, simsnp.VLEK} {
				m := simsnp.MeasurementFromSeed("a guest")
				got := accept(t, v, answer(t, product, simsnp.Launch{Version: version, SigningKey: key, Measurement: m}, b), epoch)
				if got.SNP.Product != line || got.SNP.SigningKey != string(key) || !bytes.Equal(got.SNP.Measurement, m) || got.SNP.Version != version {
					t.Errorf("%s, version %d, %s: %+v", product, version, key, got.SNP)
				}
				if err := v.Bound(got, b); err != nil {
					t.Error(err)
				}
			}
		}
	}
}

// An ASK that is newer than the built-in one can come from the collateral.
type issuers struct {
	collateral
	ders [][]byte
}

func (i *issuers) Issuers(context.Context, string, string) [][]byte { return i.ders }

func TestANewerIssuerMayComeFromTheCollateral(t *testing.T) {
	w := newWorld(t, fakeOrg, sharedKeys())
	l := w.lines[sevsnp.Milan]
	newer := w.ca(t, "SEV-Milan", 99, w.keys.asvk.Public(), l.ark, w.keys.ark, nil)
	forged := w.ca(t, "SEV-Milan", 98, w.keys.asvk.Public(), l.ark, w.keys.ask, nil)
	m := w.mint(t, order{issuer: newer, issuerKey: w.keys.asvk})
	accept(t, w.verifier(t, sevsnp.WithCollateral(&issuers{ders: [][]byte{newer.Raw}})), m.evidence(), epoch)
	got, err := w.verifier(t, sevsnp.WithCollateral(&issuers{ders: [][]byte{forged.Raw}})).Authenticate(t.Context(), m.evidence(), epoch)
	wantRefusal(t, got, err, sevsnp.CheckChainSignature)
}
