package sevsnp_test

import (
	"context"
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifiers/internal/checktest"
	"github.com/assay-project/assay/verifiers/sevsnp"
)

// negative is one case that must end in its check, and differs from a good one
// in one thing.
type negative checktest.Case

// put writes bytes at an offset.
func put(off int, b ...byte) func([]byte) { return func(r []byte) { copy(r[off:], b) } }

// mintedCases are reports and endorsements with one fault, verified cold.
func mintedCases(w *world) []negative {
	le := binary.LittleEndian
	bit := func(off int, n uint) func([]byte) {
		return func(r []byte) { le.PutUint64(r[off:], le.Uint64(r[off:])|1<<n) }
	}
	milan, vlek, turin, v2 := order{}, order{kind: sevsnp.VLEK}, order{product: sevsnp.Turin, version: 5}, order{version: 2}
	report := func(o order, f func([]byte)) order { o.report = f; return o }
	exts := func(o order, f func([]pkix.Extension) []pkix.Extension) order { o.extensions = f; return o }
	cert := func(f func(*x509.Certificate)) order { return order{certificate: f} }
	cases := []struct {
		name, check string
		o           order
	}{
		{"version 1", sevsnp.CheckReportVersion, report(v2, put(0, 1))},
		{"version 6", sevsnp.CheckReportVersion, report(order{version: 5}, put(0, 6))},
		{"version in another byte", sevsnp.CheckReportVersion, report(milan, put(1, 1))},
		{"no algorithm", sevsnp.CheckReportAlgorithm, report(milan, put(0x34, 0))},
		{"another algorithm", sevsnp.CheckReportAlgorithm, report(milan, put(0x34, 2))},
		{"signed by none", sevsnp.CheckReportSigningKey, report(milan, put(0x48, 7<<2))},
		{"reserved signing key", sevsnp.CheckReportSigningKey, report(milan, put(0x48, 2<<2))},
		{"policy without bit 17", sevsnp.CheckReportPolicy, report(milan, put(0x0a, 1))},
		{"policy bit 26", sevsnp.CheckReportPolicy, report(milan, bit(0x08, 26))},
		{"policy bit 63", sevsnp.CheckReportPolicy, report(milan, bit(0x08, 63))},
		{"vmpl 4", sevsnp.CheckReportVMPL, report(milan, put(0x30, 4))},
		{"requested by the host", sevsnp.CheckReportVMPL, report(milan, put(0x30, 0xff, 0xff, 0xff, 0xff))},
		{"platform bit 8", sevsnp.CheckReportReserved, report(milan, bit(0x40, 8))},
		{"signer information bit 5", sevsnp.CheckReportReserved, report(milan, put(0x48, 1<<5))},
		{"byte 4C", sevsnp.CheckReportReserved, report(milan, put(0x4c, 1))},
		{"byte 18B", sevsnp.CheckReportReserved, report(milan, put(0x18b, 1))},
		{"byte 19F", sevsnp.CheckReportReserved, report(milan, put(0x19f, 1))},
		{"byte 1EB", sevsnp.CheckReportReserved, report(milan, put(0x1eb, 1))},
		{"byte 1EF", sevsnp.CheckReportReserved, report(milan, put(0x1ef, 1))},
		{"byte 208", sevsnp.CheckReportReserved, report(milan, put(0x208, 1))},
		{"byte 29F", sevsnp.CheckReportReserved, report(milan, put(0x29f, 1))},
		{"CPUID in version 2", sevsnp.CheckReportReserved, report(v2, put(0x188, 0x19, 1, 1))},
		{"launch mitigations in version 4", sevsnp.CheckReportReserved, report(order{version: 4}, put(0x1f8, 1))},
		{"current mitigations in version 3", sevsnp.CheckReportReserved, report(milan, put(0x207, 1))},
		{"reserved byte of the current TCB", sevsnp.CheckReportReserved, report(milan, put(0x3a, 1))},
		{"reserved byte of Turin's launch TCB", sevsnp.CheckReportReserved, report(turin, put(0x1f4, 1))},
		{"reserved byte of Milan's reported TCB", sevsnp.CheckReportReserved, report(milan, put(0x185, 1))},
		{"reserved byte of a version 2 report's committed TCB", sevsnp.CheckReportReserved, report(v2, put(0x1e2, 1))},
		{"R of 49 bytes", sevsnp.CheckSignatureEncoding, order{signed: put(0x2a0+48, 1)}},
		{"S of 72 bytes", sevsnp.CheckSignatureEncoding, order{signed: put(0x2e8+71, 1)}},
		{"something behind the signature", sevsnp.CheckSignatureEncoding, order{signed: put(0x330, 1)}},
		{"something at the very end", sevsnp.CheckSignatureEncoding, order{signed: put(0x49f, 1)}},

		{"no struct version", sevsnp.CheckEndorsementExtensions, exts(milan, replaced(amdOID(1), nil))},
		{"struct version 2", sevsnp.CheckEndorsementExtensions, exts(milan, replaced(amdOID(1), []byte{2, 1, 2}))},
		{"no product name", sevsnp.CheckEndorsementExtensions, exts(milan, replaced(amdOID(2), nil))},
		{"product name in UTF-8", sevsnp.CheckEndorsementExtensions, exts(milan, replaced(amdOID(2), append([]byte{12, 8}, "Milan-B0"...)))},
		{"unknown product name", sevsnp.CheckEndorsementExtensions, exts(milan, replaced(amdOID(2), append([]byte{22, 4}, "Rome"...)))},
		{"bl missing", sevsnp.CheckEndorsementExtensions, exts(milan, replaced(amdOID(3, 1), nil))},
		{"ucode twice", sevsnp.CheckEndorsementExtensions, exts(milan, added(pkix.Extension{Id: amdOID(3, 8), Value: []byte{2, 2, 0, 219}}))},
		{"bl of 256", sevsnp.CheckEndorsementExtensions, exts(milan, replaced(amdOID(3, 1), []byte{2, 2, 1, 0}))},
		{"bl negative", sevsnp.CheckEndorsementExtensions, exts(milan, replaced(amdOID(3, 1), []byte{2, 1, 0xff}))},
		{"bl with bytes behind it", sevsnp.CheckEndorsementExtensions, exts(milan, replaced(amdOID(3, 1), []byte{2, 1, 4, 0}))},
		{"reserved level not zero", sevsnp.CheckEndorsementExtensions, exts(milan, replaced(amdOID(3, 5), []byte{2, 1, 1}))},
		{"fmc on Milan", sevsnp.CheckEndorsementExtensions, exts(milan, added(pkix.Extension{Id: amdOID(3, 9), Value: []byte{2, 1, 1}}))},
		{"Milan in Turin's layout", sevsnp.CheckEndorsementExtensions, exts(milan, replaced(amdOID(1), []byte{2, 1, 1}))},
		{"Turin without fmc", sevsnp.CheckEndorsementExtensions, exts(turin, replaced(amdOID(3, 9), nil))},
		{"Turin with the reserved level 4", sevsnp.CheckEndorsementExtensions, exts(turin, added(pkix.Extension{Id: amdOID(3, 4), Value: []byte{2, 1, 0}}))},
		{"Turin in Milan's layout", sevsnp.CheckEndorsementExtensions, exts(turin, replaced(amdOID(1), []byte{2, 1, 0}))},
		{"unknown AMD extension", sevsnp.CheckEndorsementExtensions, exts(milan, added(pkix.Extension{Id: amdOID(6), Value: []byte{5, 0}}))},
		{"hwid missing", sevsnp.CheckEndorsementExtensions, exts(milan, replaced(amdOID(4), nil))},
		{"hwid of 63 bytes", sevsnp.CheckEndorsementExtensions, exts(milan, replaced(amdOID(4), chipID(sevsnp.Milan)[:63]))},
		{"hwid of 8 bytes on Milan", sevsnp.CheckEndorsementExtensions, exts(milan, replaced(amdOID(4), chipID(sevsnp.Milan)[:8]))},
		{"hwid of 64 bytes on Turin", sevsnp.CheckEndorsementExtensions, exts(turin, replaced(amdOID(4), chipID(sevsnp.Turin)))},
		{"VLEK without csp_id", sevsnp.CheckCSPID, exts(vlek, replaced(amdOID(5), nil))},
		{"VLEK with hwid", sevsnp.CheckCSPID, exts(vlek, added(pkix.Extension{Id: amdOID(4), Value: chipID(sevsnp.Milan)}))},
		{"VCEK with csp_id", sevsnp.CheckCSPID, exts(milan, added(pkix.Extension{Id: amdOID(5), Value: append([]byte{22, 4}, "CN=x"...)}))},
		{"csp_id of 257 bytes", sevsnp.CheckEndorsementExtensions, exts(vlek, replaced(amdOID(5), append([]byte{22, 0x82, 1, 1}, strings.Repeat("x", 257)...)))},
		{"VCEK with an empty csp_id", sevsnp.CheckCSPID, exts(milan, added(pkix.Extension{Id: amdOID(5), Value: []byte{22, 0}}))},
		{"csp_id empty", sevsnp.CheckCSPID, exts(vlek, replaced(amdOID(5), []byte{22, 0}))},

		{"a CA", sevsnp.CheckChainCA, cert(func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true })},
		{"may sign certificates", sevsnp.CheckChainCA, cert(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCertSign })},
		{"signed with PKCS #1", sevsnp.CheckChainAlgorithm, cert(func(c *x509.Certificate) { c.SignatureAlgorithm = x509.SHA384WithRSA })},
		{"signed with SHA-256", sevsnp.CheckChainAlgorithm, cert(func(c *x509.Certificate) { c.SignatureAlgorithm = x509.SHA256WithRSAPSS })},
		{"critical extension", sevsnp.CheckChainExtension, exts(milan, added(pkix.Extension{Id: asn1.ObjectIdentifier{2, 25, 1}, Critical: true, Value: []byte{5, 0}}))},
		{"name constraints", sevsnp.CheckChainExtension, cert(func(c *x509.Certificate) { c.PermittedDNSDomains = []string{"example.org"} })},
		{"issued by an ASVK", sevsnp.CheckChainIssuer, order{issuer: w.lines[sevsnp.Milan].asvk, issuerKey: w.keys.asvk}},
		{"VLEK issued by an ASK", sevsnp.CheckChainIssuer, order{kind: sevsnp.VLEK, issuer: w.lines[sevsnp.Milan].ask, issuerKey: w.keys.ask}},
		{"issued by the ARK itself", sevsnp.CheckChainRoot, order{issuer: w.lines[sevsnp.Milan].ark, issuerKey: w.keys.ark}},
		{"product name of another line", sevsnp.CheckProductMismatch, exts(milan, replaced(amdOID(2), append([]byte{22, 5}, "Genoa"...)))},
		{"CPUID of Genoa", sevsnp.CheckProduct, report(milan, put(0x188, 0x19, 0x11, 1))},
		{"CPUID of nobody", sevsnp.CheckProduct, report(milan, put(0x188, 0x19, 0x21, 1))},
		{"CPUID zero", sevsnp.CheckProduct, report(milan, put(0x188, 0, 0, 0))},
		{"Genoa's endorsement for Milan's processor", sevsnp.CheckProduct, report(order{product: sevsnp.Genoa}, put(0x188, 0x19, 1, 1))},
		{"endorsement for a newer TCB", sevsnp.CheckTCBCertificate, exts(milan, replaced(amdOID(3, 8), []byte{2, 2, 0, 220}))},
		{"endorsement for an older TCB", sevsnp.CheckTCBCertificate, exts(milan, replaced(amdOID(3, 3), []byte{2, 1, 23}))},
		{"another fmc", sevsnp.CheckTCBCertificate, exts(turin, replaced(amdOID(3, 9), []byte{2, 1, 2}))},
		{"endorsement for another chip", sevsnp.CheckChipID, report(milan, put(0x1a0+63, 0))},
		{"Turin with a longer chip id", sevsnp.CheckChipID, report(turin, put(0x1a0+8, 1))},
		{"Turin with another chip id", sevsnp.CheckChipID, report(turin, put(0x1a0, 9))},
		{"endorsement changed", sevsnp.CheckChainSignature, order{changeLeaf: func(der []byte) []byte { der[len(der)-1] ^= 1; return der }}},
		{"endorsement expired", sevsnp.CheckChainValidity, cert(func(c *x509.Certificate) { c.NotAfter = epoch.Add(-time.Second) })},
		{"endorsement not yet valid", sevsnp.CheckChainValidity, cert(func(c *x509.Certificate) { c.NotBefore = epoch.Add(time.Second) })},

		{"measurement changed", sevsnp.CheckReportSignature, order{signed: put(0x90, 0)}},
		{"report data changed", sevsnp.CheckReportSignature, order{signed: put(0x8f, 0)}},
		{"R zero", sevsnp.CheckReportSignature, order{signed: func(r []byte) { clear(r[0x2a0:0x2e8]) }}},
		{"S above the order", sevsnp.CheckReportSignature, order{signed: func(r []byte) { copy(r[0x2e8:0x318], slices.Repeat([]byte{0xff}, 48)) }}},
		{"reported above current", sevsnp.CheckTCBReported, report(milan, put(0x38+7, 218))},
		{"committed above current", sevsnp.CheckTCBCommitted, report(milan, put(0x1e0+6, 25))},
		{"Turin's fmc committed above current", sevsnp.CheckTCBCommitted, report(turin, put(0x1e0, 2))},
		{"launch TCB unknown", sevsnp.CheckTCBLaunch, report(milan, func(r []byte) { clear(r[0x1f0:0x1f8]) })},
		{"policy demands ABI 1.56", sevsnp.CheckABI, report(milan, put(0x08, 56, 1))},
		{"policy demands ABI 2.0", sevsnp.CheckABI, report(milan, put(0x08, 0, 2))},
	}
	var out []negative
	for _, c := range cases {
		out = append(out, negative{c.name, c.check, func(t *testing.T) (*attest.Claims, error) {
			return w.verifier(t).Authenticate(t.Context(), w.mint(t, c.o).evidence(), epoch)
		}})
	}
	return out
}

// collateral is a fixed answer to every question.
type collateral struct {
	leaf, crl       []byte
	leafErr, crlErr error
	asked           []sevsnp.Key
	crls            []string
}

func (c *collateral) Endorsement(_ context.Context, k sevsnp.Key) ([]byte, error) {
	c.asked = append(c.asked, k)
	return c.leaf, c.leafErr
}

func (c *collateral) CRL(_ context.Context, product, signingKey string) ([]byte, error) {
	c.crls = append(c.crls, product+"/"+signingKey)
	return c.crl, c.crlErr
}

var errDead = &attest.Error{Kind: attest.Unavailable, Check: "kds", Err: errors.New("the KDS is dead")}

// endorsementCases are faults of what comes along.
func endorsementCases(w *world) []negative {
	foreign := func(t *testing.T, org string) *world {
		return newWorld(t, org, fakeKeys{w.keys.asvk, w.keys.ark, w.keys.ask})
	}
	run := func(opts []sevsnp.Option, ev func(t *testing.T) attest.Evidence) func(*testing.T) (*attest.Claims, error) {
		return func(t *testing.T) (*attest.Claims, error) {
			return w.verifier(t, opts...).Authenticate(t.Context(), ev(t), epoch)
		}
	}
	plain := func(ev func(t *testing.T) attest.Evidence) func(*testing.T) (*attest.Claims, error) {
		return run(nil, ev)
	}
	require := []sevsnp.Option{sevsnp.WithRevocation(sevsnp.RevocationPolicy{Require: true})}
	graced := []sevsnp.Option{sevsnp.WithRevocation(sevsnp.RevocationPolicy{Require: true, Grace: time.Hour})}
	withCRL := func(o order, c crlOrder) func(t *testing.T) attest.Evidence {
		return func(t *testing.T) attest.Evidence { return w.mint(t, o).evidence(w.crl(t, c)) }
	}
	good := func(t *testing.T) attest.Evidence { return w.mint(t, order{}).evidence() }
	bare := func(t *testing.T) attest.Evidence { return evidence(w.mint(t, order{}).body) }
	ask, asvk := w.lines[sevsnp.Milan].ask.SerialNumber, w.lines[sevsnp.Milan].asvk.SerialNumber
	expired := crlOrder{thisUpdate: epoch.AddDate(0, -2, 0), nextUpdate: epoch.Add(-2 * time.Hour)}
	future := crlOrder{thisUpdate: epoch.Add(time.Hour)}
	return []negative{
		{"1183 bytes", sevsnp.CheckSize, plain(func(t *testing.T) attest.Evidence {
			m := w.mint(t, order{})
			return evidence(m.body[:1183], m.leaf)
		})},
		{"1185 bytes", sevsnp.CheckSize, plain(func(t *testing.T) attest.Evidence {
			m := w.mint(t, order{})
			return evidence(append(m.body, 0), m.leaf)
		})},
		{"no bytes", sevsnp.CheckSize, plain(func(*testing.T) attest.Evidence { return evidence(nil) })},
		{"17 endorsements", sevsnp.CheckEndorsements, plain(func(t *testing.T) attest.Evidence {
			m := w.mint(t, order{})
			return evidence(m.body, slices.Repeat([][]byte{m.leaf}, 17)...)
		})},
		{"an endorsement of 257 KiB", sevsnp.CheckEndorsements, plain(func(t *testing.T) attest.Evidence {
			return w.mint(t, order{}).evidence(make([]byte, 257<<10))
		})},
		{"no endorsement", sevsnp.CheckEndorsementMissing, plain(bare)},
		{"garbage for an endorsement", sevsnp.CheckEndorsementMissing, plain(func(t *testing.T) attest.Evidence {
			return evidence(w.mint(t, order{}).body, []byte("garbage"), []byte{0x30, 0})
		})},
		{"a VLEK for a report by the VCEK", sevsnp.CheckEndorsementMissing, plain(func(t *testing.T) attest.Evidence {
			return evidence(w.mint(t, order{}).body, w.mint(t, order{kind: sevsnp.VLEK}).leaf)
		})},
		{"collateral without the endorsement", sevsnp.CheckEndorsementMissing, run([]sevsnp.Option{sevsnp.WithCollateral(&collateral{leafErr: errors.New("unknown chip")})}, bare)},
		{"collateral with something else", sevsnp.CheckEndorsementMissing, run([]sevsnp.Option{sevsnp.WithCollateral(&collateral{leaf: []byte("something else")})}, bare)},
		{"dead collateral", sevsnp.CheckEndorsementUnavailable, run([]sevsnp.Option{sevsnp.WithCollateral(&collateral{leafErr: errDead})}, bare)},

		{"signed under another root of the same name", sevsnp.CheckChainSignature, plain(func(t *testing.T) attest.Evidence { return foreign(t, fakeOrg).mint(t, order{}).evidence() })},
		{"with that root along", sevsnp.CheckChainSignature, plain(func(t *testing.T) attest.Evidence {
			f := foreign(t, fakeOrg)
			return f.mint(t, order{}).evidence(f.lines[sevsnp.Milan].ask.Raw, f.lines[sevsnp.Milan].ark.Raw)
		})},
		{"under a root of another name", sevsnp.CheckChainRoot, plain(func(t *testing.T) attest.Evidence {
			f := foreign(t, "Somebody else")
			return f.mint(t, order{}).evidence(f.lines[sevsnp.Milan].ask.Raw, f.lines[sevsnp.Milan].ark.Raw)
		})},
		{"an ASK along that may not sign", sevsnp.CheckChainCA, func(t *testing.T) (*attest.Claims, error) {
			l := w.lines[sevsnp.Milan]
			weak := w.ca(t, "SEV-Milan", 9, w.keys.ask.Public(), l.ark, w.keys.ark, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign })
			return verifierOf(t, certPEM(l.ark)).Authenticate(t.Context(), w.mint(t, order{}).evidence(weak.Raw), epoch)
		}},
		{"an ASK along with another algorithm", sevsnp.CheckChainAlgorithm, func(t *testing.T) (*attest.Claims, error) {
			l := w.lines[sevsnp.Milan]
			weak := w.ca(t, "SEV-Milan", 9, w.keys.ask.Public(), l.ark, w.keys.ark, func(c *x509.Certificate) { c.SignatureAlgorithm = x509.SHA384WithRSA })
			return verifierOf(t, certPEM(l.ark)).Authenticate(t.Context(), w.mint(t, order{}).evidence(weak.Raw), epoch)
		}},
		{"an ASK along with name constraints", sevsnp.CheckChainExtension, func(t *testing.T) (*attest.Claims, error) {
			l := w.lines[sevsnp.Milan]
			odd := w.ca(t, "SEV-Milan", 9, w.keys.ask.Public(), l.ark, w.keys.ark, func(c *x509.Certificate) { c.PermittedDNSDomains = []string{"example.org"} })
			return verifierOf(t, certPEM(l.ark)).Authenticate(t.Context(), w.mint(t, order{}).evidence(odd.Raw), epoch)
		}},
		{"an ASK along by somebody else", sevsnp.CheckChainSignature, func(t *testing.T) (*attest.Claims, error) {
			l := w.lines[sevsnp.Milan]
			forged := w.ca(t, "SEV-Milan", 9, w.keys.ask.Public(), l.ark, w.keys.asvk, nil)
			return verifierOf(t, certPEM(l.ark)).Authenticate(t.Context(), w.mint(t, order{}).evidence(forged.Raw), epoch)
		}},
		{"an ASK along that has expired", sevsnp.CheckChainValidity, func(t *testing.T) (*attest.Claims, error) {
			l := w.lines[sevsnp.Milan]
			old := w.ca(t, "SEV-Milan", 9, w.keys.ask.Public(), l.ark, w.keys.ark, func(c *x509.Certificate) { c.NotAfter = epoch.Add(-time.Second) })
			return verifierOf(t, certPEM(l.ark)).Authenticate(t.Context(), w.mint(t, order{}).evidence(old.Raw), epoch)
		}},
		{"key on P-256", sevsnp.CheckChainAlgorithm, plain(func(t *testing.T) attest.Evidence {
			return w.mint(t, order{leafKey: otherKey(t, elliptic.P256()).Public()}).evidence()
		})},
		{"key on P-521", sevsnp.CheckChainAlgorithm, plain(func(t *testing.T) attest.Evidence {
			return w.mint(t, order{leafKey: otherKey(t, elliptic.P521()).Public()}).evidence()
		})},
		{"RSA key", sevsnp.CheckChainAlgorithm, plain(func(t *testing.T) attest.Evidence {
			return w.mint(t, order{leafKey: w.keys.ark.Public()}).evidence()
		})},
		{"another key", sevsnp.CheckReportSignature, plain(func(t *testing.T) attest.Evidence {
			return w.mint(t, order{leafKey: otherKey(t, elliptic.P384()).Public()}).evidence()
		})},

		{"CRL by somebody else", sevsnp.CheckCRLSignature, run(require, withCRL(order{}, crlOrder{key: w.keys.ask}))},
		{"CRL by somebody else, though none is required", sevsnp.CheckCRLSignature, plain(withCRL(order{}, crlOrder{key: w.keys.ask}))},
		{"CRL with PKCS #1", sevsnp.CheckCRLSignature, run(require, withCRL(order{}, crlOrder{algorithm: x509.SHA384WithRSA}))},
		{"delta CRL", sevsnp.CheckCRLExtension, run(require, withCRL(order{}, crlOrder{extensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 27}, Critical: true, Value: []byte{2, 1, 1}}}}))},
		{"CRL with an unknown critical extension", sevsnp.CheckCRLExtension, run(require, withCRL(order{}, crlOrder{extensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 25, 1}, Critical: true, Value: []byte{5, 0}}}}))},
		{"CRL for users' certificates only", sevsnp.CheckCRLExtension, run(require, withCRL(order{}, crlOrder{extensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 28}, Critical: true, Value: []byte{0x30, 3, 0x81, 1, 0xff}}}}))},
		{"ASK revoked", sevsnp.CheckCRLRevokedASK, run(require, withCRL(order{}, crlOrder{revoked: []*big.Int{ask}}))},
		{"ASK revoked, though no CRL is required", sevsnp.CheckCRLRevokedASK, plain(withCRL(order{}, crlOrder{revoked: []*big.Int{big.NewInt(3), ask}}))},
		{"ASK revoked by an expired CRL", sevsnp.CheckCRLRevokedASK, plain(withCRL(order{}, crlOrder{revoked: []*big.Int{ask}, thisUpdate: expired.thisUpdate, nextUpdate: expired.nextUpdate}))},
		{"ASVK revoked", sevsnp.CheckCRLRevokedASK, run(require, withCRL(order{kind: sevsnp.VLEK}, crlOrder{revoked: []*big.Int{asvk}}))},
		{"ASK revoked in the collateral's CRL, not in the one along", sevsnp.CheckCRLRevokedASK, func(t *testing.T) (*attest.Claims, error) {
			v := w.verifier(t, sevsnp.WithCollateral(&collateral{crl: w.crl(t, crlOrder{revoked: []*big.Int{ask}})}))
			return v.Authenticate(t.Context(), withCRL(order{}, crlOrder{})(t), epoch)
		}},
		{"VCEK revoked", sevsnp.CheckCRLRevokedEndorsement, run(require, withCRL(order{}, crlOrder{revoked: []*big.Int{big.NewInt(0x5eed)}}))},
		{"VLEK revoked", sevsnp.CheckCRLRevokedEndorsement, run(require, withCRL(order{kind: sevsnp.VLEK}, crlOrder{revoked: []*big.Int{big.NewInt(0x5eed)}}))},
		{"source of CRLs dead", sevsnp.CheckCRLUnavailable, run(append(slices.Clone(require), sevsnp.WithCollateral(&collateral{crlErr: errDead})), good)},
		{"CRL expired", sevsnp.CheckCRLValidity, run(require, withCRL(order{}, expired))},
		{"CRL expired beyond the grace", sevsnp.CheckCRLValidity, run(graced, withCRL(order{}, expired))},
		{"CRL of tomorrow", sevsnp.CheckCRLValidity, run(require, withCRL(order{}, future))},
		{"CRL of tomorrow, with grace", sevsnp.CheckCRLValidity, run(graced, withCRL(order{}, future))},
		{"CRL older than the collateral's, which has expired", sevsnp.CheckCRLValidity, func(t *testing.T) (*attest.Claims, error) {
			newest := crlOrder{number: 7, thisUpdate: expired.thisUpdate, nextUpdate: expired.nextUpdate}
			v := w.verifier(t, append(slices.Clone(require), sevsnp.WithCollateral(&collateral{crl: w.crl(t, newest)}))...)
			return v.Authenticate(t.Context(), withCRL(order{}, crlOrder{number: 3})(t), epoch)
		}},
		{"no CRL", sevsnp.CheckCRLMissing, run(require, good)},
		{"CRL of another line", sevsnp.CheckCRLMissing, run(require, withCRL(order{}, crlOrder{product: sevsnp.Genoa}))},
		{"garbage for a CRL", sevsnp.CheckCRLMissing, run(require, func(t *testing.T) attest.Evidence {
			return w.mint(t, order{}).evidence([]byte{0x30, 5, 0x30, 3, 2, 1, 1})
		})},
		{"CRL of another distribution point", sevsnp.CheckCRLMissing, run(require, withCRL(order{kind: sevsnp.VLEK}, crlOrder{extensions: []pkix.Extension{distributionPoint("https://kdsintf.amd.com/vcek/v1/Milan/crl")}}))},
		{"collateral without a CRL", sevsnp.CheckCRLMissing, run(append(slices.Clone(require), sevsnp.WithCollateral(&collateral{crlErr: errors.New("none")})), good)},
	}
}

// distributionPoint is an issuing distribution point with one URI.
func distributionPoint(uri string) pkix.Extension {
	in := append([]byte{0x86, byte(len(uri))}, uri...)
	for _, tag := range []byte{0xa0, 0xa0, 0x30} {
		in = append([]byte{tag, byte(len(in))}, in...)
	}
	return pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 28}, Critical: true, Value: in}
}

// callerCases are the checks that no evidence can fail.
func callerCases(t *testing.T, w *world) []negative {
	v := w.verifier(t)
	_, b := challenge(t)
	data := sevsnp.ReportData(b)
	good := w.mint(t, order{report: put(0x50, data[:]...)})
	claims := accept(t, v, good.evidence(), epoch)
	authenticate := func(ctx context.Context, ev attest.Evidence, at time.Time) func(*testing.T) (*attest.Claims, error) {
		return func(*testing.T) (*attest.Claims, error) { return v.Authenticate(ctx, ev, at) }
	}
	bound := func(c *attest.Claims, b attest.Binding) func(*testing.T) (*attest.Claims, error) {
		return func(*testing.T) (*attest.Claims, error) { return nil, v.Bound(c, b) }
	}
	changed := func(i int) func(*testing.T) (*attest.Claims, error) {
		return func(t *testing.T) (*attest.Claims, error) {
			d := data
			d[i] ^= 1
			got := accept(t, v, w.mint(t, order{report: put(0x50, d[:]...)}).evidence(), epoch)
			return nil, v.Bound(got, b)
		}
	}
	normalize := func(raw string) func(*testing.T) (*attest.Claims, error) {
		return func(*testing.T) (*attest.Claims, error) {
			_, _, err := sevsnp.Normalize([]byte(raw))
			return nil, err
		}
	}
	table := func(raw ...byte) func(*testing.T) (*attest.Claims, error) {
		return func(*testing.T) (*attest.Claims, error) {
			_, err := sevsnp.ParseCertTable(raw)
			return nil, err
		}
	}
	if err := v.Bound(claims, b); err != nil {
		t.Fatalf("the good case: %v", err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	noKeys, noB, noNonce, noSPKI := b, b, b, b
	noKeys.Keys = nil
	noB.B = [32]byte{}
	noNonce.Nonce = [32]byte{}
	noSPKI.Keys = []attest.BoundKey{{}}
	vcek := unhex(t, "63da758de6644564adc5f4b93be8accd")
	entry := func(off, size uint32) []byte {
		e := append(slices.Clone(vcek), make([]byte, 8)...)
		binary.LittleEndian.PutUint32(e[16:], off)
		binary.LittleEndian.PutUint32(e[20:], size)
		return append(e, make([]byte, 24)...)
	}
	return []negative{
		{"another platform", sevsnp.CheckPlatform, authenticate(t.Context(), attest.Evidence{Platform: attest.AWSNitro, Body: good.body}, epoch)},
		{"no platform", sevsnp.CheckPlatform, authenticate(t.Context(), attest.Evidence{Body: good.body}, epoch)},
		{"no time", sevsnp.CheckTime, authenticate(t.Context(), good.evidence(), time.Time{})},
		{"cancelled", sevsnp.CheckContext, authenticate(cancelled, good.evidence(), epoch)},
		{"no claims", sevsnp.CheckBinding, bound(nil, b)},
		{"claims without a guest", sevsnp.CheckBinding, bound(&attest.Claims{Platform: attest.AMDSEVSNP}, b)},
		{"claims of another platform", sevsnp.CheckBinding, bound(&attest.Claims{Platform: attest.TPM2, SNP: claims.SNP}, b)},
		{"binding without keys", sevsnp.CheckBinding, bound(claims, noKeys)},
		{"binding with an empty key", sevsnp.CheckBinding, bound(claims, noSPKI)},
		{"binding without B", sevsnp.CheckBinding, bound(claims, noB)},
		{"binding without nonce", sevsnp.CheckBinding, bound(claims, noNonce)},
		{"first byte of REPORT_DATA", sevsnp.CheckBindingReportData, changed(0)},
		{"last byte of B", sevsnp.CheckBindingReportData, changed(31)},
		{"first byte of the tag", sevsnp.CheckBindingReportData, changed(32)},
		{"last byte of REPORT_DATA", sevsnp.CheckBindingReportData, changed(63)},
		{"claims without REPORT_DATA", sevsnp.CheckBindingReportData, bound(&attest.Claims{Platform: attest.AMDSEVSNP, SNP: &attest.SNP{}}, b)},
		{"empty file", sevsnp.CheckEncoding, normalize("")},
		{"a sentence", sevsnp.CheckEncoding, normalize("this is not a report")},
		{"binary that is no report", sevsnp.CheckEncoding, normalize("\xff\x00\x01")},
		{"too large a file", sevsnp.CheckEncoding, normalize(strings.Repeat("8", 2<<20))},
		{"report with garbage behind it", sevsnp.CheckCertTable, normalize(string(good.body) + "garbage")},
		{"table that is not closed", sevsnp.CheckCertTable, table(entry(48, 0)[:47]...)},
		{"entry inside the header", sevsnp.CheckCertTable, table(entry(24, 4)...)},
		{"entry beyond the end", sevsnp.CheckCertTable, table(append(entry(48, 5), 1, 2, 3, 4)...)},
		{"entry that wraps around", sevsnp.CheckCertTable, table(append(entry(48, 0xffffffff), 1, 2, 3, 4)...)},
		{"entry far away", sevsnp.CheckCertTable, table(append(entry(0xfffffff0, 0x20), 1, 2, 3, 4)...)},
		{"PEM of something else", sevsnp.CheckCertTable, table(certTable(tableEntry{vcek, []byte("-----BEGIN KEY-----\nAA==\n-----END KEY-----\n")})...)},
		{"too many entries", sevsnp.CheckCertTable, table(certTable(slices.Repeat([]tableEntry{{vcek, nil}}, 17)...)...)},
		{"too large a table", sevsnp.CheckCertTable, table(make([]byte, 1<<18+1)...)},
	}
}

// coveredElsewhere names checks whose negative test needs the inside of the
// package.
var coveredElsewhere = map[string]string{
	sevsnp.CheckPanic: "TestAPanicOfTheLibraryIsAMalformedError",
}

func TestEveryCheckRefusesForItsOwnReasonAlone(t *testing.T) {
	w := newWorld(t, fakeOrg, sharedKeys())
	cases := slices.Concat(mintedCases(w), endorsementCases(w), callerCases(t, w))
	checktest.EachRefuses(t, sevsnp.Checks(), cases, coveredElsewhere)
}

// What every case above differs from: without this, a minter that makes nothing
// good would pass them all.
func TestWhatTheNegativeCasesStartFromVerifies(t *testing.T) {
	w := newWorld(t, fakeOrg, sharedKeys())
	for _, product := range sevsnp.Products() {
		for version := uint32(2); version <= 5; version++ {
			for _, kind := range []string{sevsnp.VCEK, sevsnp.VLEK} {
				v := w.verifier(t, sevsnp.WithRevocation(sevsnp.RevocationPolicy{Require: true}))
				m := w.mint(t, order{product: product, version: version, kind: kind})
				got := accept(t, v, m.evidence(w.crl(t, crlOrder{product: product})), epoch)
				if s := got.SNP; s.Product != product || s.SigningKey != kind || s.Version != version || s.Revocation != sevsnp.RevocationOK || !got.Simulated {
					t.Errorf("%s %s version %d: %+v", product, kind, version, s)
				}
			}
		}
	}
}

func TestTheTableOfChecksIsComplete(t *testing.T) { checktest.Whole(t, sevsnp.Checks()) }

func TestTheSpecificationListsEveryCheckWithItsKind(t *testing.T) {
	spec := checktest.Specified(t, sevsnp.Checks(), "sevsnp-checks.md", checktest.NameAndKind)
	for product, pin := range sevsnp.HardwareRoots().Fingerprints() {
		if !strings.Contains(spec, pin) {
			t.Errorf("docs/spec/sevsnp-checks.md does not name the ARK of %s, %s", product, pin)
		}
	}
}
