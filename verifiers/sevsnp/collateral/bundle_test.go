package collateral_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/veraison/go-cose"

	"github.com/assay-project/assay/attest"
	simsnp "github.com/assay-project/assay/simulators/sevsnp"
	"github.com/assay-project/assay/verifiers/sevsnp"
	"github.com/assay-project/assay/verifiers/sevsnp/collateral"
)

func ed25519Key(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	_, k, err := ed25519.GenerateKey(rand.Reader)
	check(t, err)
	return k
}

// filled is a cache with the certificates of every chip, a VLEK and two CRLs.
func (w *world) filled(t testing.TB) *collateral.Cache {
	t.Helper()
	dir := t.TempDir()
	s := w.source(t, dir, nil)
	for _, c := range w.chips {
		fetchAndKeep(t, s, keyOf(c))
	}
	check(t, s.Refresh(t.Context(), "milan", "vcek"))
	check(t, s.Refresh(t.Context(), "turin", "vlek"))
	c := w.cache(t, dir)
	der, err := w.authority.VLEK(simsnp.Milan, simsnp.DefaultCSP, simsnp.Milan.DefaultTCB())
	check(t, err)
	_, _, err = c.PutCertificate(der)
	check(t, err)
	return c
}

// bundle exports a cache at a time and lets the caller change it.
func bundle(t testing.TB, c *collateral.Cache, key crypto.Signer, at time.Time, change func(*collateral.Bundle)) []byte {
	t.Helper()
	objects, bad, err := c.List()
	check(t, err)
	if bad != 0 {
		t.Fatalf("%d bad files", bad)
	}
	b := collateral.NewBundle(objects, at, 24*time.Hour)
	if change != nil {
		change(b)
	}
	doc, err := b.Sign(key)
	check(t, err)
	return doc
}

func TestABundleCarriesACacheToAServerWithoutANetwork(t *testing.T) {
	w := newWorld(t, simsnp.KDSOptions{Burst: -1})
	from := w.filled(t)
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	check(t, err)
	for name, key := range map[string]crypto.Signer{"Ed25519": ed25519Key(t), "P-256": p256, "P-384": p384} {
		dir := t.TempDir()
		doc := bundle(t, from, key, time.Now(), nil)
		for _, want := range []struct{ stored, kept int }{{7, 0}, {0, 7}} { // twice the same: no harm
			done, err := w.cache(t, dir).Import(doc, []crypto.PublicKey{ed25519Key(t).Public(), key.Public()})
			if err != nil || done.Stored != want.stored || done.Kept != want.kept {
				t.Fatalf("%s: %+v, %v; want %+v", name, done, err, want)
			}
		}
		v := w.verifier(t, w.offline(t, dir), sevsnp.WithRevocation(sevsnp.RevocationPolicy{Require: true}))
		if _, err := authenticate(v, report(t, w.chips[simsnp.Milan], simsnp.Launch{})); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestABundleThatIsNotRightIsRefusedAndNothingIsImported(t *testing.T) {
	w := newWorld(t, simsnp.KDSOptions{Burst: -1})
	from, key, now := w.filled(t), ed25519Key(t), time.Now()
	good := bundle(t, from, key, now, nil)
	flip := func(at int) []byte {
		b := bytes.Clone(good)
		b[(at+len(b))%len(b)] ^= 1
		return b
	}
	signed := func(change func(*collateral.Bundle)) []byte { return bundle(t, from, key, now, change) }
	headers := func(change func(p cose.ProtectedHeader, u cose.UnprotectedHeader), body []byte) []byte {
		m := cose.NewSign1Message()
		check(t, m.UnmarshalCBOR(good))
		m.Headers.RawProtected, m.Headers.RawUnprotected = nil, nil
		change(m.Headers.Protected, m.Headers.Unprotected)
		if body != nil {
			m.Payload = body
		}
		s, err := cose.NewSigner(cose.AlgorithmEdDSA, key)
		check(t, err)
		m.Signature = nil
		check(t, m.Sign(rand.Reader, nil, s))
		out, err := m.MarshalCBOR()
		check(t, err)
		return out
	}
	same := func(cose.ProtectedHeader, cose.UnprotectedHeader) {}
	foreign := sevsnp.HardwareRoots().Issuers("milan", "vcek")[0].Raw
	for _, c := range []struct {
		name, check string
		kind        attest.Kind
		doc         []byte
	}{
		{"nothing", "bundle_structure", attest.Malformed, nil},
		{"nonsense", "bundle_structure", attest.Malformed, []byte("nonsense")},
		{"too large", "bundle_size", attest.Malformed, make([]byte, collateral.MaxBundleSize+1)},
		{"cut", "bundle_structure", attest.Malformed, good[:len(good)-1]},
		{"followed by a byte", "bundle_structure", attest.Malformed, append(bytes.Clone(good), 0)},
		{"an unprotected header", "bundle_header", attest.Malformed, headers(func(_ cose.ProtectedHeader, u cose.UnprotectedHeader) { u[int64(99)] = int64(1) }, nil)},
		{"another protected parameter", "bundle_header", attest.Malformed, headers(func(p cose.ProtectedHeader, _ cose.UnprotectedHeader) { p[int64(99)] = int64(1) }, nil)},
		{"another type", "bundle_header", attest.Malformed, headers(func(p cose.ProtectedHeader, _ cose.UnprotectedHeader) {
			p[cose.HeaderLabelType] = "application/assay.verifier-keys.v1"
		}, nil)},
		{"no key id", "bundle_header", attest.Malformed, headers(func(p cose.ProtectedHeader, _ cose.UnprotectedHeader) { delete(p, cose.HeaderLabelKeyID) }, nil)},
		{"a key that is not trusted", "bundle_key", attest.Untrusted, bundle(t, from, ed25519Key(t), now, nil)},
		{"a bit of the signature", "bundle_signature", attest.Untrusted, flip(-1)},
		{"a bit of the payload", "bundle_signature", attest.Untrusted, flip(len(good) / 2)},
		{"a payload that is none", "bundle_content", attest.Malformed, headers(same, []byte{0xa0})},
		{"an unknown member", "bundle_content", attest.Malformed, headers(same, []byte{0xa1, 0x18, 0x63, 0x00})},
		{"issued in the future", "bundle_future", attest.Stale, signed(func(b *collateral.Bundle) { b.IssuedAt = now.Add(time.Hour) })},
		{"expired", "bundle_expired", attest.Stale, signed(func(b *collateral.Bundle) { b.IssuedAt, b.Expires = now.Add(-2*time.Hour), now.Add(-time.Second) })},
		{"a certificate of another root", "bundle_item", attest.Untrusted, signed(func(b *collateral.Bundle) { b.Certificates = append(b.Certificates, foreign) })},
		{"a CRL of another line", "bundle_item", attest.Untrusted, signed(func(b *collateral.Bundle) { b.CRLs[0].Product = "genoa" })},
		{"a CRL from the future", "bundle_item", attest.Untrusted, signed(func(b *collateral.Bundle) {
			b.CRLs = append(b.CRLs, collateral.BundleCRL{Product: "milan", SigningKey: "vcek", DER: w.crl(t, 1, now.Add(time.Hour), now.Add(2*time.Hour))})
		})},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			done, err := w.cache(t, dir).Import(c.doc, []crypto.PublicKey{key.Public()})
			if done != nil || attest.CheckOf(err) != c.check || attest.KindOf(err) != c.kind {
				t.Errorf("%+v, %v; want a refusal by %s, %s", done, err, c.check, c.kind)
			}
			if f := files(t, dir); len(f) != 0 {
				t.Errorf("files were stored: %q", f)
			}
		})
	}
}

func TestAnOlderBundleOfTheSameKeyIsRefused(t *testing.T) {
	w := newWorld(t, simsnp.KDSOptions{Burst: -1})
	from, key, other, now := w.filled(t), ed25519Key(t), ed25519Key(t), time.Now()
	at := func(k crypto.Signer, sequence uint64, certificates int) []byte {
		return bundle(t, from, k, now, func(b *collateral.Bundle) { b.Sequence, b.Certificates = sequence, b.Certificates[:certificates] })
	}
	dir := t.TempDir()
	trust := []crypto.PublicKey{key.Public(), other.Public()}
	for _, c := range []struct {
		name, check string
		doc         []byte
	}{
		{"the first", "", at(key, 7, 3)},
		{"older", "bundle_rollback", at(key, 6, 3)},
		{"the same number, another content", "bundle_rollback", at(key, 7, 2)},
		{"newer", "", at(key, 8, 3)},
		{"the first again", "bundle_rollback", at(key, 7, 3)},
		{"another key's own numbers", "", at(other, 1, 3)},
	} {
		// A new process each time: the directory remembers.
		if _, err := w.cache(t, dir).Import(c.doc, trust); attest.CheckOf(err) != c.check {
			t.Errorf("%s: %v, want check %q", c.name, err, c.check)
		}
	}
	check(t, os.WriteFile(filepath.Join(dir, "bundles.json"), []byte("{"), 0o600))
	if _, err := w.cache(t, dir).Import(at(key, 9, 3), trust); attest.CheckOf(err) != "bundle_record" {
		t.Errorf("with a damaged record: %v, want a refusal by bundle_record", err)
	}
}

func TestNoBitOfABundleCanBeFlipped(t *testing.T) {
	w := newWorld(t, simsnp.KDSOptions{Burst: -1})
	key, now := ed25519Key(t), time.Now()
	doc := bundle(t, w.filled(t), key, now, func(b *collateral.Bundle) { b.Certificates = b.Certificates[:1]; b.CRLs = b.CRLs[:1] })
	n := 0
	for i := range len(doc) * 8 {
		if i/8 > 300 && i/8 < len(doc)-300 && i%97 != 0 {
			continue // the middle is the certificates' own bytes
		}
		n++
		b := bytes.Clone(doc)
		b[i/8] ^= 1 << (i % 8)
		if _, _, err := collateral.OpenBundle(b, []crypto.PublicKey{key.Public()}, now); err == nil {
			t.Errorf("bit %d of byte %d was flipped, and the bundle opened", i%8, i/8)
		}
	}
	t.Logf("%d bits", n)
}

func TestABundleReadsBackAsItWasWritten(t *testing.T) {
	w := newWorld(t, simsnp.KDSOptions{Burst: -1})
	key, now := ed25519Key(t), time.Now().Truncate(time.Second).UTC()
	objects, _, err := w.filled(t).List()
	check(t, err)
	want := collateral.NewBundle(objects, now, time.Hour)
	doc, err := want.Sign(key)
	check(t, err)
	got, _, err := collateral.OpenBundle(doc, []crypto.PublicKey{key.Public()}, now)
	check(t, err)
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(collateral.BundleCRL{})); diff != "" {
		t.Error(diff)
	}
}

func TestABundleIsSignedWithKnownKeysAndSaneDatesOnly(t *testing.T) {
	weak, err := rsa.GenerateKey(rand.Reader, 2048)
	check(t, err)
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	check(t, err)
	now := time.Now()
	for name, c := range map[string]struct {
		key  crypto.Signer
		life time.Duration
	}{"RSA": {weak, time.Hour}, "P-224": {p224, time.Hour}, "no life": {ed25519Key(t), 0}, "a negative life": {ed25519Key(t), -time.Hour}, "twenty years": {ed25519Key(t), 20 * 366 * 24 * time.Hour}} {
		if _, err := collateral.NewBundle(nil, now, c.life).Sign(c.key); err == nil {
			t.Errorf("%s: signed", name)
		}
	}
}
