package eif_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/hex"
	"hash/crc32"
	"math/big"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/policy/measure/eif"
	simnitro "github.com/assay-project/assay/simulators/nitro"
)

// signer makes a self-signed certificate and its key.
func signer(t testing.TB) (*ecdsa.PrivateKey, *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "releases"},
		NotBefore: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return key, cert
}

func small() simnitro.ImageFile {
	return simnitro.ImageFile{Kernel: []byte("kernel"), CommandLine: "quiet", Ramdisks: [][]byte{[]byte("init"), []byte("app")}, Name: "app", Version: "1"}
}

func encode(t testing.TB, f simnitro.ImageFile) []byte {
	t.Helper()
	b, err := f.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func signed(t testing.TB) simnitro.ImageFile {
	f := small()
	f.Key, f.Certificate = signer(t)
	return f
}

func TestAnImageIsMeasuredAsTheHypervisorDoes(t *testing.T) {
	three := small()
	three.Ramdisks = append(three.Ramdisks, []byte("more"))
	one := small()
	one.Ramdisks = one.Ramdisks[:1]
	for name, f := range map[string]simnitro.ImageFile{"plain": small(), "signed": signed(t), "three ramdisks": three, "one ramdisk": one, "of a name": simnitro.ImageFileFromSeed("orders")} {
		t.Run(name, func(t *testing.T) {
			b := encode(t, f)
			got, err := eif.Measure(iotest.OneByteReader(bytes.NewReader(b)))
			if err != nil {
				t.Fatal(err)
			}
			want := f.Image()
			if diff := cmp.Diff([]attest.Bytes{want.PCR0, want.PCR1, want.PCR2, want.PCR8}, []attest.Bytes{got.PCR0, got.PCR1, got.PCR2, got.PCR8}); diff != "" {
				t.Errorf("registers (-simulator +measured):\n%s", diff)
			}
			if got.Size != int64(len(b)) || got.CommandLine != f.CommandLine || got.Name != f.Name || got.Arch != "x86_64" || got.Version != 4 {
				t.Errorf("got %+v", got)
			}
			if (f.Key != nil) != (got.Signer != nil) || got.Signer != nil && got.Signer.Subject != "CN=releases" {
				t.Errorf("signer %+v", got.Signer)
			}
		})
	}
}

// An image without an application ramdisk has a PCR2 that everybody knows: that
// of nothing.
func TestTheRegisterOfNothingIsTheOneThatIsKnown(t *testing.T) {
	f := small()
	f.Ramdisks = f.Ramdisks[:1]
	img, err := eif.Measure(bytes.NewReader(encode(t, f)))
	if err != nil {
		t.Fatal(err)
	}
	const known = "21b9efbc184807662e966d34f390821309eeac6802309798826296bf3e8bec7c10edb30948c90ba67310f7b964fc500a"
	if hex.EncodeToString(img.PCR2) != known {
		t.Errorf("PCR2 is %s", img.PCR2)
	}
}

// repaired writes the checksum that the content now has, so that only what was
// changed can be found fault with.
func repaired(b []byte) []byte {
	sum := crc32.ChecksumIEEE(append(bytes.Clone(b[:544]), b[548:]...))
	binary.BigEndian.PutUint32(b[544:], sum)
	return b
}

func TestEachCheckRefusesForItsOwnReason(t *testing.T) {
	be := binary.BigEndian
	plain := func() []byte { return encode(t, small()) }
	cases := map[string]struct {
		check string
		kind  attest.Kind
		file  func() []byte
	}{
		"another file":        {"eif_magic", attest.Malformed, func() []byte { b := plain(); b[0] = 'E'; return repaired(b) }},
		"a newer format":      {"eif_version", attest.Malformed, func() []byte { b := plain(); be.PutUint16(b[4:], 5); return repaired(b) }},
		"an older format":     {"eif_version", attest.Malformed, func() []byte { b := plain(); be.PutUint16(b[4:], 1); return repaired(b) }},
		"no sections":         {"eif_sections", attest.Malformed, func() []byte { b := plain(); be.PutUint16(b[26:], 0); return repaired(b) }},
		"33 sections":         {"eif_sections", attest.Malformed, func() []byte { b := plain(); be.PutUint16(b[26:], 33); return repaired(b) }},
		"an unknown section":  {"eif_section_type", attest.Malformed, func() []byte { b := plain(); be.PutUint16(b[548:], 6); return repaired(b) }},
		"a section elsewhere": {"eif_section_offset", attest.Malformed, func() []byte { b := plain(); be.PutUint64(b[36:], 600); return repaired(b) }},
		"two sizes":           {"eif_section_size", attest.Malformed, func() []byte { b := plain(); be.PutUint64(b[284:], 7); return repaired(b) }},
		"an absurd size": {"eif_section_size", attest.Malformed, func() []byte {
			b := plain()
			be.PutUint64(b[284:], 1<<62)
			be.PutUint64(b[552:], 1<<62)
			return repaired(b)
		}},
		"a size past the end": {"eif_size", attest.Malformed, func() []byte {
			b := plain()
			be.PutUint64(b[284:], 1<<30)
			be.PutUint64(b[552:], 1<<30)
			return repaired(b)
		}},
		"a long command line":   {"eif_section_size", attest.Malformed, func() []byte { f := small(); f.CommandLine = string(make([]byte, 1<<17)); return encode(t, f) }},
		"a short file":          {"eif_size", attest.Malformed, func() []byte { return plain()[:700] }},
		"bytes after the end":   {"eif_trailing", attest.Malformed, func() []byte { return repaired(append(plain(), 0)) }},
		"damage":                {"eif_crc", attest.Malformed, func() []byte { b := plain(); b[len(b)-1] ^= 1; return b }},
		"a second kernel":       {"eif_sections", attest.Malformed, func() []byte { b := plain(); be.PutUint16(b[be.Uint64(b[36:]):], 1); return repaired(b) }},
		"no ramdisk":            {"eif_sections", attest.Malformed, func() []byte { f := small(); f.Ramdisks = nil; return encode(t, f) }},
		"another's signature":   {"eif_signature", attest.Untrusted, func() []byte { f := signed(t); g := f; g.CommandLine = "loud!"; return transplant(t, f, g) }},
		"another's certificate": {"eif_signature", attest.Untrusted, func() []byte { return foreignCertificate(t) }},
		"a signature of noise":  {"eif_signature_structure", attest.Malformed, func() []byte { return noise(t) }},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			img, err := eif.Measure(bytes.NewReader(c.file()))
			if attest.KindOf(err) != c.kind || attest.CheckOf(err) != c.check {
				t.Errorf("got %v, want %s %s", err, c.kind, c.check)
			}
			if img != nil {
				t.Error("an image came with the error")
			}
		})
	}
}

// transplant puts the signature section of one image, which is its last section,
// onto another of the same length.
func transplant(t *testing.T, from, onto simnitro.ImageFile) []byte {
	a, b := encode(t, from), encode(t, onto)
	n := int(binary.BigEndian.Uint16(a[26:])) - 1
	at := binary.BigEndian.Uint64(a[28+8*n:])
	out := append(bytes.Clone(b[:at]), a[at:]...)
	copy(out[284+8*n:], a[284+8*n:292+8*n])
	return repaired(out)
}

// foreignCertificate is an image that names the certificate of somebody else, to
// get that PCR8.
func foreignCertificate(t *testing.T) []byte {
	f := signed(t)
	other := f
	other.Key, other.Certificate = signer(t)
	good, b := encode(t, f), encode(t, other)
	n := int(binary.BigEndian.Uint16(b[26:])) - 1
	section := func(x []byte) []byte { return x[binary.BigEndian.Uint64(x[28+8*n:])+12:] }
	mark := []byte("\x69signature") // the key of the second entry
	cert := section(b)[:bytes.Index(section(b), mark)]
	signature := section(good)[bytes.Index(section(good), mark):]
	data := append(bytes.Clone(cert), signature...)
	at := binary.BigEndian.Uint64(b[28+8*n:])
	out := append(bytes.Clone(b[:at+12]), data...)
	binary.BigEndian.PutUint64(out[284+8*n:], uint64(len(data)))
	binary.BigEndian.PutUint64(out[at+4:], uint64(len(data)))
	return repaired(out)
}

func noise(t *testing.T) []byte {
	b := encode(t, signed(t))
	n := int(binary.BigEndian.Uint16(b[26:])) - 1
	b[binary.BigEndian.Uint64(b[28+8*n:])+12] = 0xff
	return repaired(b)
}

// Damage anywhere is found: by the checksum, if by nothing else.
func TestNoBitOfAnImageCanBeFlipped(t *testing.T) {
	b := encode(t, signed(t))
	for i := range len(b) * 8 {
		b[i/8] ^= 1 << (i % 8)
		if _, err := eif.Measure(bytes.NewReader(b)); err == nil {
			t.Errorf("bit %d of byte %d", i%8, i/8)
		}
		b[i/8] ^= 1 << (i % 8)
	}
}

func TestNoPartOfAnImageIsAnImage(t *testing.T) {
	b := encode(t, signed(t))
	for n := range b {
		if _, err := eif.Measure(bytes.NewReader(b[:n])); attest.KindOf(err) != attest.Malformed {
			t.Fatalf("the first %d of %d bytes: %v", n, len(b), err)
		}
	}
}

func TestAFileThatCannotBeReadIsNoMalformedImage(t *testing.T) {
	b := encode(t, small())
	for n := 1; n < len(b); n += 50 {
		_, err := eif.Measure(iotest.TimeoutReader(iotest.OneByteReader(bytes.NewReader(b[:n]))))
		if attest.KindOf(err) == attest.Malformed && n > 1 {
			t.Fatalf("after %d bytes: %v", n, err)
		}
	}
}

func FuzzMeasure(f *testing.F) {
	f.Add(encode(f, small()))
	f.Add(encode(f, signed(f)))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, in := range [][]byte{b, mended(b)} {
			img, err := eif.Measure(bytes.NewReader(in))
			if (img == nil) == (err == nil) {
				t.Fatalf("image %v, error %v", img, err)
			}
		}
	})
}

// mended has the checksum of its content, so that fuzzing gets beyond it.
func mended(b []byte) []byte {
	if len(b) < 548 {
		return b
	}
	return repaired(bytes.Clone(b))
}
