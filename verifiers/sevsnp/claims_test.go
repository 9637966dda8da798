package sevsnp_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifiers"
	"github.com/assay-project/assay/verifiers/sevsnp"
)

func TestClaimsAreWhatTheReportSays(t *testing.T) {
	w := newWorld(t, fakeOrg, sharedKeys())
	b := goodReport(order{product: sevsnp.Turin, version: 5, kind: sevsnp.VLEK})
	m := w.mint(t, order{product: sevsnp.Turin, version: 5, kind: sevsnp.VLEK, report: func(r []byte) {
		put(0x08, 2, 1, 0xbf, 2)(r)              // ABI 1.2; everything but migrate_ma and ciphertext hiding
		put(0x30, 2)(r)                          // VMPL
		put(0x38, 2, 2, 3, 4, 0, 0, 0, 82)(r)    // current
		put(0x1e0, 0, 1, 2, 3, 0, 0, 0, 4)(r)    // committed
		put(0x1f0, 9, 9, 9, 9, 0, 0, 0, 9)(r)    // launch
		put(0x40, 0b1111_1010, 0)(r)             // all of the platform's but SMT and ECC
		put(0x1e8, 30, 56, 1)(r)                 // current firmware
		put(0x1ec, 29, 55, 1)(r)                 // committed firmware
		put(0x1f8, 1, 0, 0, 0, 0, 0, 0, 0x80)(r) // launch mitigations
		put(0x200, 0xff, 0, 0, 0, 0, 0, 0, 0)(r) // current mitigations
		put(0x1a0, chipID(sevsnp.Turin)...)(r)   // a host with a VLEK need not mask it
		put(0x04, 0x01, 0x02, 0x03, 0x04)(r)     // guest SVN
	}})
	bytes := func(from, to int) attest.Bytes { return attest.Bytes(b[from:to]) }
	tcb := func(fmc, bl, tee, snp, ucode uint8) attest.TCB {
		return attest.TCB{FMC: &fmc, Bootloader: bl, TEE: tee, SNP: snp, Microcode: ucode}
	}
	launch, current := uint64(1|0x80<<56), uint64(0xff)
	want := &attest.Claims{Platform: attest.AMDSEVSNP, Simulated: true, SNP: &attest.SNP{
		Version: 5, Product: sevsnp.Turin, SigningKey: sevsnp.VLEK, CSPID: "CN=cc.test.example", Revocation: sevsnp.RevocationNotChecked,
		Measurement: bytes(0x90, 0xc0), HostData: bytes(0xc0, 0xe0), ReportData: bytes(0x50, 0x90), GuestSVN: 0x04030201, VMPL: 2,
		IDKeyDigest: bytes(0xe0, 0x110), AuthorKeyDigest: bytes(0x110, 0x140), FamilyID: bytes(0x10, 0x20), ImageID: bytes(0x20, 0x30),
		Policy:     attest.SNPPolicy{ABIMajor: 1, ABIMinor: 2, SMT: true, Debug: true, SingleSocket: true, CXLAllow: true, RAPLDis: true, PageSwapDisable: true, MigrateMA: true},
		Platform:   attest.SNPPlatform{TSME: true, RAPLDis: true, CiphertextHiding: true, AliasCheck: true},
		CurrentTCB: tcb(2, 2, 3, 4, 82), ReportedTCB: tcb(1, 2, 3, 4, 81), CommittedTCB: tcb(0, 1, 2, 3, 4), LaunchTCB: tcb(9, 9, 9, 9, 9),
		CurrentFirmware: attest.Firmware{Major: 1, Minor: 56, Build: 30}, CommittedFirmware: attest.Firmware{Major: 1, Minor: 55, Build: 29}, Provisional: true,
		LaunchMitigations: &launch, CurrentMitigations: &current,
		ReportID: bytes(0x140, 0x160), ReportIDMA: bytes(0x160, 0x180), ChipID: chipID(sevsnp.Turin),
	}}
	if diff := cmp.Diff(want, accept(t, w.verifier(t), m.evidence(), epoch)); diff != "" {
		t.Errorf("(-said +claimed):\n%s", diff)
	}
}

func TestEveryPolicyBitIsTheRightClaim(t *testing.T) {
	w := newWorld(t, fakeOrg, sharedKeys())
	for n, want := range map[int]attest.SNPPolicy{
		16: {SMT: true}, 18: {MigrateMA: true}, 19: {Debug: true}, 20: {SingleSocket: true}, 21: {CXLAllow: true},
		22: {MemAES256XTS: true}, 23: {RAPLDis: true}, 24: {CiphertextHiding: true}, 25: {PageSwapDisable: true},
	} {
		p := uint64(1<<17 | 1<<n)
		got := accept(t, w.verifier(t), w.mint(t, order{report: put(0x08, byte(p), byte(p>>8), byte(p>>16), byte(p>>24))}).evidence(), epoch)
		if got.SNP.Policy != want || got.Debug() != want.Debug {
			t.Errorf("bit %d: %+v", n, got.SNP.Policy)
		}
	}
	for n, want := range map[int]attest.SNPPlatform{
		0: {SMT: true}, 1: {TSME: true}, 2: {ECC: true}, 3: {RAPLDis: true}, 4: {CiphertextHiding: true}, 5: {AliasCheck: true}, 6: {}, 7: {},
	} {
		got := accept(t, w.verifier(t), w.mint(t, order{report: put(0x40, 1<<n)}).evidence(), epoch)
		if got.SNP.Platform != want {
			t.Errorf("bit %d: %+v", n, got.SNP.Platform)
		}
	}
}

func TestAMaskedChipIsAClaimAndNoFailure(t *testing.T) {
	w := newWorld(t, fakeOrg, sharedKeys())
	for _, p := range sevsnp.Products() {
		got := accept(t, w.verifier(t), w.mint(t, order{product: p, masked: true}).evidence(), epoch)
		if len(got.SNP.ChipID) != 64 || slices.ContainsFunc(got.SNP.ChipID, func(b byte) bool { return b != 0 }) {
			t.Errorf("%s: chip id %s", p, got.SNP.ChipID)
		}
		// AMD's certificate names it all the same, as an unmasked report would.
		named := accept(t, w.verifier(t), w.mint(t, order{product: p}).evidence(), epoch)
		if !slices.Equal(got.SNP.VCEKHWID, named.SNP.ChipID) || named.SNP.VCEKHWID != nil {
			t.Errorf("%s: the certificate's chip is %s, want %s; of an unmasked report %s", p, got.SNP.VCEKHWID, named.SNP.ChipID, named.SNP.VCEKHWID)
		}
	}
}

func TestVMPL1VerifiesAndSaysSo(t *testing.T) {
	w := newWorld(t, fakeOrg, sharedKeys())
	for vmpl := range byte(4) {
		if got := accept(t, w.verifier(t), w.mint(t, order{report: put(0x30, vmpl)}).evidence(), epoch); got.SNP.VMPL != uint32(vmpl) {
			t.Errorf("vmpl %d, want %d", got.SNP.VMPL, vmpl)
		}
	}
}

func TestProvisionalFirmwareIsAClaimAndNoFailure(t *testing.T) {
	w := newWorld(t, fakeOrg, sharedKeys())
	for name, c := range map[string]struct {
		change func([]byte)
		want   bool
	}{
		"committed": {func([]byte) {}, false}, "older TCB committed": {put(0x1e0+7, 200), true}, "older firmware committed": {put(0x1ec, 28), true},
	} {
		if got := accept(t, w.verifier(t), w.mint(t, order{report: c.change}).evidence(), epoch); got.SNP.Provisional != c.want {
			t.Errorf("%s: provisional %t", name, got.SNP.Provisional)
		}
	}
}

func TestAnHwidInAnOctetStringIsTakenToo(t *testing.T) {
	w := newWorld(t, fakeOrg, sharedKeys())
	for p, id := range map[string][]byte{sevsnp.Milan: chipID(sevsnp.Milan), sevsnp.Turin: chipID(sevsnp.Turin)[:8]} {
		m := w.mint(t, order{product: p, extensions: replaced(amdOID(4), append([]byte{4, byte(len(id))}, id...))})
		accept(t, w.verifier(t), m.evidence(), epoch)
	}
}

func TestClaimsDoNotShareMemoryWithTheEvidence(t *testing.T) {
	w := newWorld(t, fakeOrg, sharedKeys())
	_, b := challenge(t)
	data := sevsnp.ReportData(b)
	m := w.mint(t, order{report: put(0x50, data[:]...)})
	v := w.verifier(t)
	got := accept(t, v, m.evidence(), epoch)
	clear(m.body)
	clear(m.leaf)
	if err := v.Bound(got, b); err != nil {
		t.Errorf("the claims changed with the evidence: %v", err)
	}
	first := got.SNP.Measurement[0] // stands right behind REPORT_DATA in the report
	if _ = append(got.SNP.ReportData, ^first); got.SNP.Measurement[0] != first {
		t.Error("two claims share memory")
	}
}

func TestAReportThatAnswersAChallengeIsVerified(t *testing.T) {
	w := newWorld(t, fakeOrg, sharedKeys())
	ch, b := challenge(t)
	data := sevsnp.ReportData(b)
	m := w.mint(t, order{report: put(0x50, data[:]...)})
	set, err := verifiers.NewSet(w.verifier(t))
	if err != nil {
		t.Fatal(err)
	}
	got, err := set.Verify(t.Context(), m.evidence(), ch, nil, epoch)
	if err != nil {
		t.Fatal(err)
	}
	if got.Claims().SNP == nil || got.Claims().Instance() == "" {
		t.Errorf("%+v", got.Claims())
	}
	ch.Nonce[0] ^= 1
	if got, err := set.Verify(t.Context(), m.evidence(), ch, nil, epoch); got != nil || attest.CheckOf(err) != sevsnp.CheckBindingReportData {
		t.Errorf("another nonce: %v, %v", got, err)
	}
	collected, err := attest.CollectedBinding([]byte("nonce"))
	if err != nil {
		t.Fatal(err)
	}
	m = w.mint(t, order{report: put(0x50, collected[:]...)})
	if got, err := set.Verify(t.Context(), m.evidence(), ch, nil, epoch); got != nil || attest.CheckOf(err) != sevsnp.CheckBindingReportData {
		t.Errorf("collected evidence: %v, %v", got, err)
	}
}

// The revocation claim says how good the CRL was.
func TestEveryResultSaysWhatIsKnownOfRevocation(t *testing.T) {
	w := newWorld(t, fakeOrg, sharedKeys())
	expired := crlOrder{thisUpdate: epoch.AddDate(0, -2, 0), nextUpdate: epoch.Add(-2 * time.Hour)}
	vcekPoint := crlOrder{extensions: []pkix.Extension{distributionPoint("https://kdsintf.amd.com/vcek/v1/Milan/crl")}}
	vlekPoint := crlOrder{extensions: []pkix.Extension{distributionPoint("https://kdsintf.amd.com/vlek/v1/Milan/crl")}}
	grace := func(d time.Duration) sevsnp.RevocationPolicy { return sevsnp.RevocationPolicy{Grace: d, Require: true} }
	for name, c := range map[string]struct {
		o      order
		crl    *crlOrder
		policy sevsnp.RevocationPolicy
		want   string
	}{
		"none":                               {want: sevsnp.RevocationNotChecked},
		"current":                            {crl: &crlOrder{}, want: sevsnp.RevocationOK},
		"expired, none required":             {crl: &expired, want: sevsnp.RevocationNotChecked},
		"expired within the grace":           {crl: &expired, policy: grace(2 * time.Hour), want: sevsnp.RevocationGrace},
		"current, though there is a grace":   {crl: &crlOrder{}, policy: grace(time.Hour), want: sevsnp.RevocationOK},
		"of tomorrow":                        {crl: &crlOrder{thisUpdate: epoch.Add(time.Hour)}, want: sevsnp.RevocationNotChecked},
		"of the ASK's distribution point":    {crl: &vcekPoint, want: sevsnp.RevocationOK},
		"of the ASVK's distribution point":   {crl: &vlekPoint, want: sevsnp.RevocationNotChecked},
		"VLEK, the ASVK's":                   {o: order{kind: sevsnp.VLEK}, crl: &vlekPoint, want: sevsnp.RevocationOK},
		"VLEK, a CRL without a distribution": {o: order{kind: sevsnp.VLEK}, crl: &crlOrder{}, want: sevsnp.RevocationOK},
	} {
		var list [][]byte
		if c.crl != nil {
			list = append(list, w.crl(t, *c.crl))
		}
		m := w.mint(t, c.o)
		v := w.verifier(t, sevsnp.WithRevocation(c.policy))
		if got := accept(t, v, m.evidence(list...), epoch); got.SNP.Revocation != c.want {
			t.Errorf("%s, brought along: %q, want %q", name, got.SNP.Revocation, c.want)
		}
		if c.crl != nil {
			v = w.verifier(t, sevsnp.WithRevocation(c.policy), sevsnp.WithCollateral(&collateral{crl: list[0]}))
			if got := accept(t, v, m.evidence(), epoch); got.SNP.Revocation != c.want {
				t.Errorf("%s, held by the collateral: %q, want %q", name, got.SNP.Revocation, c.want)
			}
		}
	}
}

func TestCollateralIsAskedOnlyForWhatIsMissing(t *testing.T) {
	w := newWorld(t, fakeOrg, sharedKeys())
	m := w.mint(t, order{product: sevsnp.Turin, version: 5})
	c := &collateral{leaf: m.leaf}
	v := w.verifier(t, sevsnp.WithCollateral(c))
	accept(t, v, m.evidence(), epoch)
	if len(c.asked) != 0 {
		t.Errorf("asked for what was brought along: %+v", c.asked)
	}
	accept(t, v, evidence(m.body), epoch)
	fmc := uint8(1)
	want := []sevsnp.Key{{Product: sevsnp.Turin, SigningKey: sevsnp.VCEK, ChipID: chipID(sevsnp.Turin), TCB: attest.TCB{FMC: &fmc, Bootloader: 2, TEE: 3, SNP: 4, Microcode: 81}}}
	if diff := cmp.Diff(want, c.asked); diff != "" {
		t.Errorf("(-want +asked):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"turin/vcek", "turin/vcek"}, c.crls); diff != "" {
		t.Errorf("CRLs (-want +asked):\n%s", diff)
	}
	if n := signatures(v, func() { accept(t, v, evidence(m.body), epoch) }); n != 0 {
		t.Errorf("%d signatures for a known endorsement", n)
	}
	// A malformed report, or one of an unknown processor, asks nothing.
	c.asked = nil
	for name, change := range map[string]func([]byte){"reserved byte": put(0x4c, 1), "unknown processor": put(0x188, 0x17)} {
		if _, err := v.Authenticate(t.Context(), evidence(w.mint(t, order{product: sevsnp.Turin, version: 5, report: change}).body), epoch); err == nil {
			t.Errorf("%s: verified", name)
		}
	}
	if len(c.asked) != 0 {
		t.Errorf("asked for %+v", c.asked)
	}
}

// A report of version 2 does not say what it runs on.
func TestCollateralIsAskedForEveryLineThatAnOldReportCanBeOf(t *testing.T) {
	w := newWorld(t, fakeOrg, sharedKeys())
	m := w.mint(t, order{version: 2, product: sevsnp.Genoa})
	c := &collateral{leafErr: errDead}
	got, err := w.verifier(t, sevsnp.WithCollateral(c)).Authenticate(t.Context(), evidence(m.body), epoch)
	wantRefusal(t, got, err, sevsnp.CheckEndorsementUnavailable)
	var lines []string
	for _, k := range c.asked {
		lines = append(lines, k.Product)
	}
	if diff := cmp.Diff([]string{sevsnp.Milan, sevsnp.Genoa}, lines); diff != "" {
		t.Errorf("(-want +asked):\n%s", diff)
	}
	c = &collateral{leaf: m.leaf}
	if got := accept(t, w.verifier(t, sevsnp.WithCollateral(c)), evidence(m.body), epoch); got.SNP.Product != sevsnp.Genoa {
		t.Errorf("product %q", got.SNP.Product)
	}
}

// The one that fits is picked, wherever it stands.
func TestTheEndorsementThatFitsIsPicked(t *testing.T) {
	w := newWorld(t, fakeOrg, sharedKeys())
	m := w.mint(t, order{})
	older := w.mint(t, order{extensions: replaced(amdOID(3, 3), []byte{2, 1, 23})}).leaf
	another := w.mint(t, order{extensions: replaced(amdOID(4), make([]byte, 64))}).leaf
	forged := newWorld(t, fakeOrg, fakeKeys{w.keys.asvk, w.keys.ark, w.keys.ask}).mint(t, order{}).leaf
	for _, ders := range [][][]byte{{older, another, forged, m.leaf}, {m.leaf, forged, older}, {[]byte("garbage"), forged, forged, forged, m.leaf}} {
		accept(t, w.verifier(t), evidence(m.body, ders...), epoch)
	}
	got, err := w.verifier(t).Authenticate(t.Context(), evidence(m.body, another, older), epoch)
	wantRefusal(t, got, err, sevsnp.CheckChipID)
}

// AMD has issued a second ASK for Genoa: one that the pinned ARK signed counts,
// wherever it comes from.
func TestANewerIssuerMayComeAlong(t *testing.T) {
	w := newWorld(t, fakeOrg, sharedKeys())
	l := w.lines[sevsnp.Milan]
	newer := w.ca(t, "SEV-Milan", 99, w.keys.asvk.Public(), l.ark, w.keys.ark, nil)
	m := w.mint(t, order{issuer: newer, issuerKey: w.keys.asvk})
	got, err := w.verifier(t).Authenticate(t.Context(), m.evidence(), epoch)
	wantRefusal(t, got, err, sevsnp.CheckChainSignature)
	accept(t, w.verifier(t), m.evidence(newer.Raw), epoch)
	forged := w.ca(t, "SEV-Milan", 99, w.keys.asvk.Public(), l.ark, w.keys.ask, func(c *x509.Certificate) { c.SerialNumber.SetInt64(98) })
	got, err = w.verifier(t).Authenticate(t.Context(), m.evidence(forged.Raw), epoch)
	wantRefusal(t, got, err, sevsnp.CheckChainSignature)
}
