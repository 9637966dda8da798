package sevsnp_test

import (
	"crypto/x509"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-sev-guest/abi"
	"github.com/google/go-sev-guest/kds"
	spb "github.com/google/go-sev-guest/proto/sevsnp"
	"github.com/google/go-sev-guest/verify"
	"github.com/google/go-sev-guest/verify/trust"

	"github.com/assay-project/assay/attest"
	simsnp "github.com/assay-project/assay/simulators/sevsnp"
	"github.com/assay-project/assay/verifiers/sevsnp"
)

// libraryKnows tells the processors that go-sev-guest reads rightly: those of
// Milan and Genoa, without Bergamo and Siena, and reports of version 2.
func libraryKnows(body []byte) bool {
	return body[0] == 2 || body[0x188] == 0x19 && body[0x189] < 0x20
}

// libraryAlone verifies with go-sev-guest, over the given roots.
func libraryAlone(body, leaf []byte, roots sevsnp.Roots, at time.Time) error {
	r, err := abi.ReportToProto(body)
	if err != nil {
		return err
	}
	a := &spb.Attestation{Report: r, CertificateChain: &spb.CertificateChain{}}
	if body[0x48]>>2&7 == 1 {
		a.CertificateChain.VlekCert = leaf
	} else {
		a.CertificateChain.VcekCert = leaf
	}
	o := &verify.Options{DisableCertFetching: true, Now: at, TrustedRoots: make(map[string][]*trust.AMDRootCerts)}
	for _, p := range roots.Products() {
		o.TrustedRoots[title(p)] = []*trust.AMDRootCerts{{ProductLine: title(p), ProductCerts: &trust.ProductCerts{
			Ark: roots.Root(p), Ask: roots.Issuers(p, sevsnp.VCEK)[0], Asvk: roots.Issuers(p, sevsnp.VLEK)[0],
		}}}
	}
	return verify.SnpAttestation(a, o)
}

// Where the library is right, it must agree with whatever is admitted here.
func TestWeAdmitNothingThatTheLibraryRefuses(t *testing.T) {
	admitted, refused, unknown := 0, 0, 0
	compare := func(t *testing.T, v *sevsnp.Verifier, roots sevsnp.Roots, ev attest.Evidence, at time.Time) {
		t.Helper()
		if _, err := v.Authenticate(t.Context(), ev, at); err != nil {
			refused++
			return
		}
		if !libraryKnows(ev.Body) {
			unknown++
			return
		}
		admitted++
		if err := libraryAlone(ev.Body, ev.Endorsements[0], roots, at); err != nil {
			t.Errorf("we admit what the library refuses: %v", err)
		}
	}
	t.Run("the library's own report", func(t *testing.T) {
		ev, at := moduleReport()
		compare(t, hardware(t), sevsnp.HardwareRoots(), ev, at)
	})
	t.Run("simulated", func(t *testing.T) {
		a, err := simsnp.NewAuthority(simsnp.Options{Now: func() time.Time { return epoch }, AMDNames: true})
		if err != nil {
			t.Fatal(err)
		}
		roots, err := sevsnp.SimulatedRoots(a.RootsPEM())
		if err != nil {
			t.Fatal(err)
		}
		for _, key := range []simsnp.SigningKey{simsnp.VCEK, simsnp.VLEK} {
			chip, err := a.Chip(simsnp.Genoa, "a chip")
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range append(simsnp.Faults(), simsnp.Fault{}) {
				if !f.Applies(simsnp.Genoa, key) || f.Name == "endorsement-missing" {
					continue
				}
				guest, err := chip.Launch(simsnp.Launch{SigningKey: key}, f)
				if err != nil {
					t.Fatal(err)
				}
				body, err := guest.Report([64]byte{1})
				if err != nil {
					t.Fatal(err)
				}
				compare(t, verifierOf(t, a.RootsPEM()), roots, evidence(body, guest.Endorsements()...), epoch)
			}
		}
	})
	if admitted < 8 || refused < 100 {
		t.Errorf("%d admitted and %d refused: the comparison shows little", admitted, refused)
	}
	t.Run("recorded", func(t *testing.T) {
		for _, r := range recordings(t) {
			compare(t, hardware(t), sevsnp.HardwareRoots(), r.evidence(), r.at)
		}
		if unknown != 2 {
			t.Errorf("%d recordings of hardware that the library does not know, want 2", unknown)
		}
	})
	t.Logf("%d admitted by both, %d refused here, %d on hardware that the library does not know", admitted, refused, unknown)
}

func TestOurClaimsEqualTheLibrarysReport(t *testing.T) {
	check := func(t *testing.T, ev attest.Evidence, at time.Time) {
		t.Helper()
		got := accept(t, hardware(t), ev, at).SNP
		r, err := abi.ReportToProto(ev.Body)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(fromLibrary(t, r, ev.Endorsements[0], got), got); diff != "" {
			t.Errorf("(-library +ours):\n%s", diff)
		}
	}
	ev, at := moduleReport()
	check(t, ev, at)
	for _, r := range recordings(t) {
		if _, refused := refusedRecordings[r.name]; refused || !libraryKnows(r.body) {
			continue
		}
		t.Run(r.name, func(t *testing.T) { check(t, r.evidence(), r.at) })
	}
}

// fromLibrary puts the library's report and extensions into our words.
func fromLibrary(t *testing.T, r *spb.Report, leaf []byte, got *attest.SNP) *attest.SNP {
	t.Helper()
	tcb := func(n uint64) attest.TCB {
		p := kds.DecomposeTCBVersion(kds.TCBVersion(n))
		return attest.TCB{Bootloader: p.BlSpl, TEE: p.TeeSpl, SNP: p.SnpSpl, Microcode: p.UcodeSpl}
	}
	policy, err := abi.ParseSnpPolicy(r.GetPolicy())
	if err != nil {
		t.Fatal(err)
	}
	platform, err := abi.ParseSnpPlatformInfo(r.GetPlatformInfo())
	if err != nil {
		t.Fatal(err)
	}
	signer, err := abi.ParseSignerInfo(r.GetSignerInfo())
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(leaf)
	if err != nil {
		t.Fatal(err)
	}
	exts, err := kds.CertificateExtensions(c, signer.SigningKey)
	if err != nil {
		t.Fatal(err)
	}
	line, _, _ := strings.Cut(exts.ProductName, "-")
	s := &attest.SNP{
		Version: r.GetVersion(), Product: strings.ToLower(line), SigningKey: strings.ToLower(signer.SigningKey.String()), CSPID: exts.CspID,
		Measurement: r.GetMeasurement(), HostData: r.GetHostData(), ReportData: r.GetReportData(), GuestSVN: r.GetGuestSvn(), VMPL: r.GetVmpl(),
		IDKeyDigest: r.GetIdKeyDigest(), AuthorKeyDigest: r.GetAuthorKeyDigest(), FamilyID: r.GetFamilyId(), ImageID: r.GetImageId(),
		ReportID: r.GetReportId(), ReportIDMA: r.GetReportIdMa(), ChipID: r.GetChipId(),
		Policy: attest.SNPPolicy{
			ABIMajor: policy.ABIMajor, ABIMinor: policy.ABIMinor, SMT: policy.SMT, MigrateMA: policy.MigrateMA, Debug: policy.Debug,
			SingleSocket: policy.SingleSocket, CXLAllow: policy.CXLAllowed, MemAES256XTS: policy.MemAES256XTS, RAPLDis: policy.RAPLDis,
			CiphertextHiding: policy.CipherTextHidingDRAM, PageSwapDisable: policy.PageSwapDisable,
		},
		Platform: attest.SNPPlatform{
			SMT: platform.SMTEnabled, TSME: platform.TSMEEnabled, ECC: platform.ECCEnabled, RAPLDis: platform.RAPLDisabled,
			CiphertextHiding: platform.CiphertextHidingDRAMEnabled, AliasCheck: platform.AliasCheckComplete,
		},
		CurrentTCB: tcb(r.GetCurrentTcb()), ReportedTCB: tcb(uint64(exts.TCBVersion)), CommittedTCB: tcb(r.GetCommittedTcb()), LaunchTCB: tcb(r.GetLaunchTcb()),
		CurrentFirmware:   attest.Firmware{Major: uint8(r.GetCurrentMajor()), Minor: uint8(r.GetCurrentMinor()), Build: uint8(r.GetCurrentBuild())},
		CommittedFirmware: attest.Firmware{Major: uint8(r.GetCommittedMajor()), Minor: uint8(r.GetCommittedMinor()), Build: uint8(r.GetCommittedBuild())},
		Provisional:       got.Provisional, Revocation: got.Revocation,
	}
	if r.GetVersion() >= 5 {
		l, m := r.GetLaunchMitVector(), r.GetCurrentMitVector()
		s.LaunchMitigations, s.CurrentMitigations = &l, &m
	}
	return s
}
