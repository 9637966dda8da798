package sevsnp_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"slices"
	"testing"
	"time"

	"github.com/google/go-sev-guest/abi"
	"github.com/google/go-sev-guest/kds"
	spb "github.com/google/go-sev-guest/proto/sevsnp"
	"github.com/google/go-sev-guest/validate"
	"github.com/google/go-sev-guest/verify"
	"github.com/google/go-sev-guest/verify/trust"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifiers/sevsnp"
)

// Each test here shows one thing that go-sev-guest alone lets pass, or fails on,
// and that this package does not.

// libraryAttestation is the evidence in the library's words.
func libraryAttestation(t testing.TB, m minted) *spb.Attestation {
	t.Helper()
	r, err := abi.ReportToProto(m.body)
	if err != nil {
		t.Fatal(err)
	}
	c := &spb.CertificateChain{}
	if m.body[0x48]>>2&7 == 1 {
		c.VlekCert = m.leaf
	} else {
		c.VcekCert = m.leaf
	}
	return &spb.Attestation{Report: r, CertificateChain: c}
}

// libraryRoots are a world's CAs in the library's words.
func libraryRoots(w *world, product string) *trust.AMDRootCerts {
	l := w.lines[product]
	return &trust.AMDRootCerts{ProductLine: title(product), ProductCerts: &trust.ProductCerts{Ark: l.ark, Ask: l.ask, Asvk: l.asvk}}
}

func libraryOptions(w *world, product string, at time.Time) *verify.Options {
	return &verify.Options{
		DisableCertFetching: true, Now: at,
		TrustedRoots: map[string][]*trust.AMDRootCerts{title(product): {libraryRoots(w, product)}},
	}
}

// crlGetter answers every request with one CRL.
type crlGetter []byte

func (g crlGetter) Get(string) ([]byte, error) { return g, nil }

func amdWorld(t testing.TB) *world {
	t.Helper()
	return newWorld(t, amdOrg, sharedKeys())
}

// Below v0.15.0 the library took a chain's own ARK for a root when it was given
// none. Since then a caller can still do that for it, and the report's signature
// alone says nothing of the chain.
func TestAForgedChainPassesTheLibraryAloneAndIsRefusedHere(t *testing.T) {
	forged := amdWorld(t)
	m := forged.mint(t, order{})
	leaf, err := x509.ParseCertificate(m.leaf)
	if err != nil {
		t.Fatal(err)
	}
	if err := verify.SnpReportSignature(m.body, leaf); err != nil {
		t.Fatalf("the library refuses the signature: %v", err)
	}
	if err := verify.SnpAttestation(libraryAttestation(t, m), libraryOptions(forged, sevsnp.Milan, epoch)); err != nil {
		t.Fatalf("the library refuses a chain whose roots came with it: %v", err)
	}
	l := forged.lines[sevsnp.Milan]
	got, err := hardware(t).Authenticate(t.Context(), m.evidence(l.ask.Raw, l.asvk.Raw, l.ark.Raw), epoch)
	wantRefusal(t, got, err, sevsnp.CheckChainRoot)

	// With the very bytes of AMD's names, only the signature tells.
	names := slices.Clone(sevsnp.HardwareRoots().Issuers(sevsnp.Milan, sevsnp.VCEK)[0].RawSubject)
	issuer := *l.ask
	issuer.RawSubject = names
	m = forged.mint(t, order{issuer: &issuer})
	got, err = hardware(t).Authenticate(t.Context(), m.evidence(l.ask.Raw, l.ark.Raw), epoch)
	wantRefusal(t, got, err, sevsnp.CheckChainSignature)
}

func TestARevokedASVKPassesTheLibraryAloneAndIsRefusedHere(t *testing.T) {
	w := amdWorld(t)
	m := w.mint(t, order{kind: sevsnp.VLEK})
	list := w.crl(t, crlOrder{revoked: []*big.Int{w.lines[sevsnp.Milan].asvk.SerialNumber}})
	o := libraryOptions(w, sevsnp.Milan, epoch)
	o.CheckRevocations, o.Getter = true, crlGetter(list)
	if err := verify.SnpAttestation(libraryAttestation(t, m), o); err != nil {
		t.Fatalf("the library refuses it: %v", err)
	}
	got, err := w.verifier(t).Authenticate(t.Context(), m.evidence(list), epoch)
	wantRefusal(t, got, err, sevsnp.CheckCRLRevokedASK)
}

func TestAnExpiredCRLPassesTheLibraryAloneAndIsRefusedHere(t *testing.T) {
	w := amdWorld(t)
	m := w.mint(t, order{})
	list := w.crl(t, crlOrder{thisUpdate: epoch.AddDate(-2, 0, 0), nextUpdate: epoch.AddDate(-1, 0, 0)})
	o := libraryOptions(w, sevsnp.Milan, epoch)
	o.CheckRevocations, o.Getter = true, crlGetter(list)
	if err := verify.SnpAttestation(libraryAttestation(t, m), o); err != nil {
		t.Fatalf("the library refuses it: %v", err)
	}
	v := w.verifier(t, sevsnp.WithRevocation(sevsnp.RevocationPolicy{Require: true}))
	got, err := v.Authenticate(t.Context(), m.evidence(list), epoch)
	wantRefusal(t, got, err, sevsnp.CheckCRLValidity)
	if got := accept(t, w.verifier(t), m.evidence(list), epoch); got.SNP.Revocation != sevsnp.RevocationNotChecked {
		t.Errorf("an expired CRL counts as %q where none is required", got.SNP.Revocation)
	}
}

func TestNilFieldsPassTheLibraryAloneAndAreRefusedHere(t *testing.T) {
	w := amdWorld(t)
	m := w.mint(t, order{})
	o := &validate.Options{GuestPolicy: abi.SnpPolicy{SMT: true}}
	if err := validate.SnpAttestation(libraryAttestation(t, m), o); err != nil {
		t.Fatalf("the library refuses a report of which nothing was expected: %v", err)
	}
	v := w.verifier(t)
	got := accept(t, v, m.evidence(), epoch)
	_, b := challenge(t)
	wantRefusal(t, nil, v.Bound(got, b), sevsnp.CheckBindingReportData)
	wantRefusal(t, nil, v.Bound(got, attest.Binding{}), sevsnp.CheckBinding)
}

func TestSigningKeyNonePassesTheLibraryAloneAndIsRefusedHere(t *testing.T) {
	w := amdWorld(t)
	m := w.mint(t, order{report: func(r []byte) {
		r[0x48] = 7 << 2
		clear(r[0x180:0x188]) // the library compares with the TCB of no certificate
	}})
	leaf, err := x509.ParseCertificate(m.leaf)
	if err != nil {
		t.Fatal(err)
	}
	if err := verify.SnpReportSignature(m.body, leaf); err != nil {
		t.Fatalf("the library refuses the signature: %v", err)
	}
	o := &validate.Options{GuestPolicy: abi.SnpPolicy{SMT: true}}
	if err := validate.SnpAttestation(libraryAttestation(t, m), o); err != nil {
		t.Fatalf("the library's validation refuses it: %v", err)
	}
	got, err := w.verifier(t).Authenticate(t.Context(), m.evidence(), epoch)
	wantRefusal(t, got, err, sevsnp.CheckReportSigningKey)

	// csp_id is a claim here, and nothing to the library.
	vlek := w.mint(t, order{kind: sevsnp.VLEK})
	if got := accept(t, w.verifier(t), vlek.evidence(), epoch); got.SNP.CSPID != "CN=cc.test.example" {
		t.Errorf("csp_id %q", got.SNP.CSPID)
	}
}

func TestTurinsTCBIsMisreadByTheLibraryAndNotHere(t *testing.T) {
	w := amdWorld(t)
	// A chip whose bootloader is 0: Turin's bytes are fmc, bl, tee, snp.
	old := []byte{9, 0, 0, 0, 0, 0, 0, 81}
	m := w.mint(t, order{product: sevsnp.Turin, version: 5, report: func(r []byte) {
		for _, off := range []int{0x38, 0x180, 0x1e0, 0x1f0} {
			copy(r[off:], old)
		}
	}, extensions: tcbExtensions(old)})
	got := accept(t, w.verifier(t), m.evidence(), epoch)
	if tcb := got.SNP.ReportedTCB; tcb.FMC == nil || *tcb.FMC != 9 || tcb.Bootloader != 0 || tcb.SNP != 0 || tcb.Microcode != 81 {
		t.Errorf("read here as %v", tcb)
	}
	r, err := abi.ReportToProto(m.body)
	if err != nil {
		t.Fatal(err)
	}
	floor := kds.TCBParts{BlSpl: 9, UcodeSpl: 81}
	if parts := kds.DecomposeTCBVersion(kds.TCBVersion(r.GetReportedTcb())); !kds.TCBPartsLE(floor, parts) {
		t.Fatalf("the library reads %+v: it has learnt Turin", parts)
	}
	fmc := uint8(0)
	if got.SNP.ReportedTCB.AtLeast(attest.TCB{FMC: &fmc, Bootloader: 9, Microcode: 81}) {
		t.Error("bootloader 0 meets a floor of 9")
	}
	leaf, err := x509.ParseCertificate(m.leaf)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kds.VcekCertificateExtensions(leaf); err == nil {
		t.Error("the library has learnt Turin's extensions: use it")
	}
	if _, err := sevsnp.ParseExtensions(leaf); err != nil {
		t.Error(err)
	}
}

// tcbExtensions sets the patch levels of a Turin endorsement.
func tcbExtensions(tcb []byte) func([]pkix.Extension) []pkix.Extension {
	return func(xs []pkix.Extension) []pkix.Extension {
		for i, n := range []int{9, 1, 2, 3} {
			xs = replaced(amdOID(3, n), []byte{2, 1, tcb[i]})(xs)
		}
		return xs
	}
}

func TestZen4cIsUnknownToTheLibraryAndVerifiesHere(t *testing.T) {
	w := amdWorld(t)
	m := w.mint(t, order{product: sevsnp.Genoa, version: 5, report: put(0x188, 0x19, 0xa0, 2)})
	if err := verify.SnpAttestation(libraryAttestation(t, m), libraryOptions(w, sevsnp.Genoa, epoch)); err == nil {
		t.Error("the library has learnt model A0h: use it")
	}
	if got := accept(t, w.verifier(t), m.evidence(), epoch); got.SNP.Product != sevsnp.Genoa {
		t.Errorf("product %q", got.SNP.Product)
	}
}
