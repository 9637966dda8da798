package sevsnp

import (
	"crypto/x509"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-sev-guest/abi"
	"github.com/google/go-sev-guest/kds"
	spb "github.com/google/go-sev-guest/proto/sevsnp"
	"github.com/google/go-sev-guest/verify"
	"github.com/google/go-sev-guest/verify/trust"
)

// The authorities that the package's tests share: making one parses nine keys.
var (
	shared      = sync.OnceValues(func() (*Authority, error) { return NewAuthority(Options{}) })
	sharedNamed = sync.OnceValues(func() (*Authority, error) { return NewAuthority(Options{AMDNames: true}) })
)

func testAuthority(t testing.TB) *Authority {
	t.Helper()
	a, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// namedAuthority has the names that go-sev-guest insists on.
func namedAuthority(t testing.TB) *Authority {
	t.Helper()
	a, err := sharedNamed()
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func testChip(t testing.TB, a *Authority, p Product) *Chip {
	t.Helper()
	c, err := a.Chip(p, "test")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func testGuest(t testing.TB, c *Chip, l Launch, faults ...Fault) *Guest {
	t.Helper()
	g, err := c.Launch(l, faults...)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func testReport(t testing.TB, g *Guest) []byte {
	t.Helper()
	r, err := g.Report([64]byte{1, 2, 3, 63: 9})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func faultNamed(t testing.TB, name string) Fault {
	t.Helper()
	f, ok := FaultByName(name)
	if !ok {
		t.Fatalf("there is no fault %s", name)
	}
	return f
}

// libraryOptions have go-sev-guest trust the simulated roots and nothing else.
func libraryOptions(a *Authority, p Product) *verify.Options {
	line := p.Line()
	c := a.Chain(p)
	root := trust.AMDRootCertsProduct(line)
	root.ProductCerts = &trust.ProductCerts{Ark: c.ARK, Ask: c.ASK, Asvk: c.ASVK}
	return &verify.Options{
		DisableCertFetching: true, Now: time.Now(),
		TrustedRoots: map[string][]*trust.AMDRootCerts{line: {root}},
	}
}

// libraryVerify is go-sev-guest's judgement of a guest's extended report.
func libraryVerify(t testing.TB, g *Guest, o *verify.Options) error {
	t.Helper()
	b, err := g.ExtendedReport([64]byte{1, 2, 3, 63: 9})
	if err != nil {
		t.Fatal(err)
	}
	at, err := abi.ReportCertsToProto(b)
	if err != nil {
		return err
	}
	return verify.SnpAttestation(at, o)
}

func TestReportsVerifyWithTheLibraryUnderTheSimulatedRoots(t *testing.T) {
	a := namedAuthority(t)
	for _, p := range []Product{Milan, Genoa} {
		for v := uint32(2); v <= 5; v++ {
			for _, k := range []SigningKey{VCEK, VLEK} {
				t.Run(fmt.Sprint(p, v, k), func(t *testing.T) {
					if p == Genoa && v == 2 && k == VCEK {
						t.Skip("the library knows no VCEK of version 2 reports that says \"Genoa\", as AMD's do")
					}
					g := testGuest(t, testChip(t, a, p), Launch{Version: v, SigningKey: k})
					if err := libraryVerify(t, g, libraryOptions(a, p)); err != nil {
						t.Error(err)
					}
					foreign := libraryOptions(a, p)
					l, err := a.foreignLine(p.Line(), a.names)
					if err != nil {
						t.Fatal(err)
					}
					foreign.TrustedRoots[p.Line()][0].ProductCerts = &trust.ProductCerts{
						Ark: l.ark.cert, Ask: l.ask.cert, Asvk: l.asvk.cert,
					}
					if libraryVerify(t, g, foreign) == nil {
						t.Error("the report verifies under somebody else's roots, too")
					}
				})
			}
		}
	}
}

func TestCertificatesAreWhatTheLibraryExpects(t *testing.T) {
	a := testAuthority(t)
	for _, p := range []Product{Milan, Genoa, Siena} {
		c := testChip(t, a, p)
		tcb := TCB{Bootloader: 3, TEE: 1, SNP: 20, Microcode: 209}
		der, err := c.VCEK(tcb)
		if err != nil {
			t.Fatal(err)
		}
		x := parse(t, der)
		e, err := kds.VcekCertificateExtensions(x)
		if err != nil {
			t.Fatal(err)
		}
		want, err := kds.ComposeTCBParts(kds.TCBParts{BlSpl: 3, TeeSpl: 1, SnpSpl: 20, UcodeSpl: 209})
		if err != nil {
			t.Fatal(err)
		}
		if e.TCBVersion != want || string(e.HWID) != string(c.ID()) || e.CspID != "" || e.StructVersion != 0 {
			t.Errorf("%s: %+v", p, e)
		}
		der, err = a.VLEK(p, "CN=cloud", tcb)
		if err != nil {
			t.Fatal(err)
		}
		if e, err = kds.VlekCertificateExtensions(parse(t, der)); err != nil {
			t.Fatal(err)
		}
		if e.TCBVersion != want || e.HWID != nil || e.CspID != "CN=cloud" || e.ProductName != p.Line() {
			t.Errorf("%s: %+v", p, e)
		}
	}
}

func parse(t testing.TB, der []byte) *x509.Certificate {
	t.Helper()
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// What the library reads in a report is what the guest was launched with.
func TestTheLibraryReadsWhatTheGuestSays(t *testing.T) {
	a := testAuthority(t)
	host := make([]byte, 32)
	host[0], host[31] = 5, 6
	g := testGuest(t, testChip(t, a, Genoa), Launch{
		Version: 5, HostData: host, GuestSVN: 7, VMPL: 1, Policy: DefaultPolicy | PolicyDebug | 1<<8 | 50,
		FamilyID: []byte("family"), ImageID: []byte("image"), AuthorKeyDigest: make([]byte, 48),
	})
	r, err := abi.ReportToProto(testReport(t, g))
	if err != nil {
		t.Fatal(err)
	}
	want := &spb.Report{
		Version: 5, GuestSvn: 7, Vmpl: 1, Policy: 0xb0132, SignatureAlgo: 1, SignerInfo: 1, PlatformInfo: 0x25,
		CurrentTcb: 0x541700000000000a, ReportedTcb: 0x541700000000000a, CommittedTcb: 0x541700000000000a, LaunchTcb: 0x541700000000000a,
		CurrentMajor: 1, CurrentMinor: 55, CurrentBuild: 40, CommittedMajor: 1, CommittedMinor: 55, CommittedBuild: 40,
		Cpuid1EaxFms: 0xa10f11, LaunchMitVector: 0xb, CurrentMitVector: 0xb,
	}
	for name, got := range map[string][2]any{
		"version":   {r.GetVersion(), want.GetVersion()},
		"svn":       {r.GetGuestSvn(), want.GetGuestSvn()},
		"vmpl":      {r.GetVmpl(), want.GetVmpl()},
		"policy":    {r.GetPolicy(), want.GetPolicy()},
		"algorithm": {r.GetSignatureAlgo(), want.GetSignatureAlgo()},
		"signer":    {r.GetSignerInfo(), want.GetSignerInfo()},
		"platform":  {r.GetPlatformInfo(), want.GetPlatformInfo()},
		"current":   {r.GetCurrentTcb(), want.GetCurrentTcb()},
		"reported":  {r.GetReportedTcb(), want.GetReportedTcb()},
		"committed": {r.GetCommittedTcb(), want.GetCommittedTcb()},
		"launch":    {r.GetLaunchTcb(), want.GetLaunchTcb()},
		"build":     {r.GetCurrentBuild()<<16 | r.GetCurrentMajor()<<8 | r.GetCurrentMinor(), uint32(40<<16 | 1<<8 | 55)},
		"cpuid":     {r.GetCpuid1EaxFms(), want.GetCpuid1EaxFms()},
		"launchmit": {r.GetLaunchMitVector(), want.GetLaunchMitVector()},
		"currmit":   {r.GetCurrentMitVector(), want.GetCurrentMitVector()},
		"host":      {string(r.GetHostData()), string(host)},
		"family":    {string(r.GetFamilyId()), "family\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"},
		"image":     {string(r.GetImageId()), "image\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"},
		"measure":   {string(r.GetMeasurement()), string(MeasurementFromSeed(""))},
		"chip":      {string(r.GetChipId()), string(g.Chip().ID())},
		"id":        {string(r.GetReportId()), string(g.ReportID())},
	} {
		if got[0] != got[1] {
			t.Errorf("%s: %v, want %v", name, got[0], got[1])
		}
	}
}
