package sevsnp_test

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"slices"
	"testing"

	"github.com/google/go-sev-guest/abi"
	"github.com/google/go-sev-guest/kds"

	"github.com/assay-project/assay/attest"
	simsnp "github.com/assay-project/assay/simulators/sevsnp"
	"github.com/assay-project/assay/verifiers/sevsnp"
)

// checkRefusal fails for an error that no check of the table explains.
func checkRefusal(t *testing.T, got *attest.Claims, err error) {
	t.Helper()
	if got != nil {
		t.Error("claims beside an error")
	}
	if attest.KindOf(err) != kindOf(t, attest.CheckOf(err)) {
		t.Errorf("kind %s: %v", attest.KindOf(err), err)
	}
}

// Whatever the report: no panic, no claims beside an error, every error is one of
// the table, and what is admitted is admitted by the library too.
func FuzzAuthenticate(f *testing.F) {
	w := newWorld(f, amdOrg, sharedKeys())
	orders := []order{{}, {kind: sevsnp.VLEK, version: 5}, {product: sevsnp.Genoa}, {product: sevsnp.Turin, version: 5}, {version: 2}}
	var leaves [][]byte
	for _, o := range orders {
		m := w.mint(f, o)
		f.Add(m.body)
		leaves = append(leaves, m.leaf)
	}
	for _, fault := range simsnp.Faults() {
		if fault.Applies(simsnp.Milan, simsnp.VCEK) && fault.Stage == simsnp.StageAuthenticate {
			_, b := challenge(f)
			f.Add(answer(f, simsnp.Milan, simsnp.Launch{}, b, fault).Body)
		}
	}
	v := w.verifier(f)
	roots, err := sevsnp.SimulatedRoots(w.pem())
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		got, err := v.Authenticate(t.Context(), evidence(body, leaves...), epoch)
		if err != nil {
			checkRefusal(t, got, err)
			return
		}
		if !bytes.Equal(got.SNP.ReportData, body[0x50:0x90]) || !bytes.Equal(got.SNP.Measurement, body[0x90:0xc0]) {
			t.Error("claims that the report does not make")
		}
		if !libraryKnows(body) {
			return
		}
		if !slices.ContainsFunc(leaves, func(leaf []byte) bool { return libraryAlone(body, leaf, roots, epoch) == nil }) {
			t.Error("we admit what the library refuses")
		}
	})
}

// Whatever comes along: no panic, and a certificate that nobody signed admits
// nothing.
func FuzzEndorsement(f *testing.F) {
	w := newWorld(f, fakeOrg, sharedKeys())
	m, l := w.mint(f, order{}), w.lines[sevsnp.Milan]
	for _, der := range [][]byte{m.leaf, l.ask.Raw, l.ark.Raw, w.mint(f, order{kind: sevsnp.VLEK}).leaf, w.mint(f, order{product: sevsnp.Turin}).leaf, {0x30, 0}} {
		f.Add(der)
	}
	v := w.verifier(f, sevsnp.WithCacheSize(0))
	f.Fuzz(func(t *testing.T, der []byte) {
		got, err := v.Authenticate(t.Context(), evidence(m.body, der), epoch)
		if err != nil {
			checkRefusal(t, got, err)
		} else if c, err := x509.ParseCertificate(der); err != nil || c.CheckSignatureFrom(l.ask) != nil {
			t.Error("an endorsement that nobody signed was admitted") // seeds are made anew in each process
		}
		_ = sevsnp.InspectEndorsement(der) // must not panic
	})
}

// Whatever the CRL: no panic, and only one that the ARK signed counts.
func FuzzCRL(f *testing.F) {
	w := newWorld(f, fakeOrg, sharedKeys())
	m := w.mint(f, order{})
	for _, o := range []crlOrder{
		{}, {extensions: []pkix.Extension{distributionPoint("https://kdsintf.amd.com/vcek/v1/Milan/crl")}}, {product: sevsnp.Genoa}, {key: w.keys.ask},
		{revoked: []*big.Int{big.NewInt(3)}}, {thisUpdate: epoch.AddDate(-1, 0, 0), nextUpdate: epoch.AddDate(0, 0, -1)},
	} {
		f.Add(w.crl(f, o))
	}
	f.Add([]byte{0x30, 5, 0x30, 3, 2, 1, 1})
	v := w.verifier(f, sevsnp.WithRevocation(sevsnp.RevocationPolicy{Require: true}))
	f.Fuzz(func(t *testing.T, der []byte) {
		got, err := v.Authenticate(t.Context(), m.evidence(der), epoch)
		if err != nil {
			checkRefusal(t, got, err)
			return
		}
		list, err := x509.ParseRevocationList(der)
		if got.SNP.Revocation != sevsnp.RevocationOK || err != nil || list.CheckSignatureFrom(w.lines[sevsnp.Milan].ark) != nil {
			t.Errorf("a CRL that the ARK did not sign counts as %q", got.SNP.Revocation)
		}
	})
}

// Whatever the extensions: no panic, and what is accepted of struct version 0 the
// library accepts with the same meaning.
func FuzzExtensions(f *testing.F) {
	add := func(xs []pkix.Extension) { f.Add(marshal(f, xs, "")) }
	for _, o := range []order{{product: sevsnp.Milan, kind: sevsnp.VCEK}, {product: sevsnp.Genoa, kind: sevsnp.VLEK}, {product: sevsnp.Turin, kind: sevsnp.VCEK}} {
		xs := goodExtensions(f, o)
		add(xs)
		add(added(pkix.Extension{Id: amdOID(3, 9), Value: []byte{2, 1, 1}})(xs))
		add(replaced(amdOID(4), []byte{4, 1, 1})(xs))
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		var xs []pkix.Extension
		if rest, err := asn1.Unmarshal(der, &xs); err != nil || len(rest) != 0 {
			return
		}
		c := &x509.Certificate{Extensions: xs}
		got, err := sevsnp.ParseExtensions(c)
		if err != nil {
			if got != nil || attest.CheckOf(err) != sevsnp.CheckEndorsementExtensions {
				t.Errorf("%v, %v", got, err)
			}
			return
		}
		key := abi.VcekReportSigner
		if got.CSPID != "" {
			key = abi.VlekReportSigner
		}
		if got.Struct != 0 || (got.HWID == nil) == (got.CSPID == "") || slices.ContainsFunc(xs, func(x pkix.Extension) bool { return !x.Id[:min(8, len(x.Id))].Equal(amdOID()) }) {
			return
		}
		lib, err := kds.CertificateExtensions(c, key)
		if err != nil {
			// The library limits most levels to 127, which the specification does not.
			if tcb := got.TCB; tcb.Bootloader > 127 || tcb.TEE > 127 || tcb.SNP > 127 {
				return
			}
			t.Fatalf("we accept what the library refuses: %v", err)
		}
		p := kds.DecomposeTCBVersion(lib.TCBVersion)
		if want := (attest.TCB{Bootloader: p.BlSpl, TEE: p.TeeSpl, SNP: p.SnpSpl, Microcode: p.UcodeSpl}); got.TCB != want || !bytes.Equal(got.HWID, lib.HWID) || got.CSPID != lib.CspID || got.ProductName != lib.ProductName {
			t.Errorf("ours %+v, the library's %+v", got, lib)
		}
	})
}

// Whatever the table: no panic, and the items lie in it.
func FuzzCertTable(f *testing.F) {
	w := newWorld(f, fakeOrg, sharedKeys())
	m := w.mint(f, order{})
	f.Add(hostTable(f, w, m, w.crl(f, crlOrder{})))
	f.Add(certTable())
	f.Add(certTable(tableEntry{unhex(f, guidVCEK), []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")}))
	f.Fuzz(func(t *testing.T, table []byte) {
		items, err := sevsnp.ParseCertTable(table)
		if err != nil {
			if items != nil || attest.CheckOf(err) != sevsnp.CheckCertTable {
				t.Errorf("%d items, %v", len(items), err)
			}
			return
		}
		for _, it := range items {
			if len(it) > len(table) {
				t.Error("an item is larger than its table")
			}
		}
		body, again, err := sevsnp.ParseExtendedReport(append(slices.Clone(m.body), table...))
		if err != nil || !bytes.Equal(body, m.body) || len(again) != len(items) {
			t.Errorf("behind a report: %d items, %v", len(again), err)
		}
	})
}

// Whatever the file: no panic, and a report that was found is found again in
// itself.
func FuzzNormalize(f *testing.F) {
	w := newWorld(f, fakeOrg, sharedKeys())
	for _, raw := range wrapped(f, w.mint(f, order{}).body) {
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		body, items, err := sevsnp.Normalize(raw)
		if err != nil {
			if body != nil || items != nil || kindOf(t, attest.CheckOf(err)) != attest.Malformed {
				t.Errorf("%x, %v", body, err)
			}
			return
		}
		if len(body) != sevsnp.ReportSize {
			t.Fatalf("%d bytes", len(body))
		}
		if again, _, err := sevsnp.Normalize(body); err == nil && !bytes.Equal(again, body) {
			t.Error("a report became another")
		}
		if _, err := sevsnp.Inspect(body); err != nil {
			t.Error(err)
		}
	})
}
