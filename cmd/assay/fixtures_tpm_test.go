package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/assay-project/assay/attest"
)

// softTPM is a TPM's part in a quote, without a TPM: an attestation key that is a
// primary of the endorsement hierarchy, and signs what it is told to.
type softTPM struct {
	key  *ecdsa.PrivateKey
	area []byte // TPMT_PUBLIC
}

func newSoftTPM(t testing.TB) softTPM {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	area, err := akArea(key.Public(), akAttributes|userWithAuth, tpmECDSA, tpmSHA256, 0)
	check(t, err)
	return softTPM{key, area}
}

// softQuote is what a quote says.
type softQuote struct {
	extra []byte
	pcrs  map[int][]byte
	log   []byte
}

func (s softTPM) quote(t testing.TB, q softQuote) *tpmEvidence {
	t.Helper()
	be := binary.BigEndian
	sized := func(b, v []byte) []byte { return append(be.AppendUint16(b, uint16(len(v))), v...) }
	signer := nameOf(append(be.AppendUint32(nil, uint32(tpm2.TPMRHEndorsement)), nameOf(s.area)...))
	out := sized(sized([]byte{0xff, 'T', 'C', 'G', 0x80, 0x18}, signer), q.extra)
	out = append(out, make([]byte, 8)...)                  // clock
	out = be.AppendUint32(be.AppendUint32(out, 7), 2)      // reset, restart
	out = append(out, 1, 0, 7, 0, 85, 0x11, 0xcb, 0, 0)    // safe, firmware
	out = be.AppendUint16(be.AppendUint32(out, 1), 0x000b) // one selection, SHA-256
	var bits [3]byte
	var all []byte
	e := &tpmEvidence{AKPublic: s.area, PCRs: make(map[string]tpmBytes), EventLog: q.log}
	for i := range 24 {
		if v, ok := q.pcrs[i]; ok {
			bits[i/8] |= 1 << (i % 8)
			all = append(all, v...)
			e.PCRs[strconv.Itoa(i)] = v
		}
	}
	digest := sha256.Sum256(all)
	e.Quote = sized(append(append(out, 3), bits[:]...), digest[:])
	sum := sha256.Sum256(e.Quote)
	der, err := ecdsa.SignASN1(rand.Reader, s.key, sum[:])
	check(t, err)
	e.Signature, err = tpmSignature(der, s.key.Public())
	check(t, err)
	return e
}

// softEvent is an event of a boot log; of is what was hashed, where that is not data.
type softEvent struct {
	pcr, kind int
	data, of  []byte
}

// softBoot is a boot log, and the registers that it leaves.
func softBoot(events ...softEvent) (log []byte, pcrs map[int][]byte) {
	le := func(b []byte, v ...int) []byte {
		for _, x := range v {
			b = binary.LittleEndian.AppendUint32(b, uint32(x))
		}
		return b
	}
	pcrs = make(map[int][]byte)
	for i := range 16 {
		pcrs[i] = make([]byte, 32)
	}
	spec := slices.Concat([]byte("Spec ID Event03\x00"), le(nil, 0), []byte{0, 2, 0, 2}, le(nil, 1), []byte{11, 0, 32, 0, 0})
	log = slices.Concat(le(nil, 0, 3), make([]byte, 20), le(nil, len(spec)), spec)
	for _, e := range events {
		of := e.of
		if of == nil {
			of = e.data
		}
		d := sha256.Sum256(of)
		log = slices.Concat(log, le(nil, e.pcr, e.kind, 1), []byte{11, 0}, d[:], le(nil, len(e.data)), e.data)
		v := sha256.Sum256(append(slices.Clone(pcrs[e.pcr]), d[:]...))
		pcrs[e.pcr] = v[:]
	}
	return log, pcrs
}

// softEvents is a boot whose command line is hostile to terminals.
func softEvents(kernel string) []softEvent {
	wide := func(s string) []byte {
		var out []byte
		for _, r := range s {
			out = append(out, byte(r), 0)
		}
		return append(out, 0, 0)
	}
	secure := slices.Concat([]byte("\x61\xdf\xe4\x8b\xca\x93\xd2\x11\xaa\x0d\x00\xe0\x98\x03\x2b\x8c"), []byte{10, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0}, wide("SecureBoot")[:20], []byte{1})
	out := []softEvent{{0, 8, wide("Firmware 1.0"), nil}, {7, 0x80000001, secure, nil}}
	for pcr := range 8 {
		out = append(out, softEvent{pcr, 4, make([]byte, 4), nil})
	}
	line := "/vmlinuz quiet\x1b[2J"
	return append(out, softEvent{4, 0x80000003, []byte("a path"), []byte("shim")}, softEvent{4, 0x80000003, []byte("a path"), []byte(kernel)},
		softEvent{8, 13, []byte("grub_cmd: linux " + line + "\x00"), []byte("linux " + line)}, softEvent{8, 13, []byte("kernel_cmdline: " + line + "\x00"), []byte(line)},
		softEvent{9, 13, []byte("/initrd\x00"), []byte("an initrd")})
}

// tpmFixtures writes quotes of a TPM, and what goes with them:
//
//	tpm.json .cbor                 a quote with a binding; tpm.log is its event log, which .json holds
//	tpm-bare.cbor .hex .b64        the same without an event log
//	tpm-nonce.json tpm-collected.json   qualifyingData is the nonce, or what `evidence collect` makes of it
//	tpm-empty.json tpm-zero.json   no qualifyingData; all registers zero
//	tpm-forged.json tpm-otherlog.json   refused
//	tpm-cert.json                  with a cloud's certificate for the AK, under azure-root.pem
//	tpm-crl.json                   the same, naming a CRL: azure.crl, azure-revoked.crl
//	tpm-ak.pem .der .tpmt .tpm2b   the AK              tpm-stranger.pem   another
//	quote.msg quote.sig quote.der quote.pcrs quote.json    as other tools write them
//	tpm-policy.yaml                admits tpm.json         tpm-other.yaml   does not
func tpmFixtures(t testing.TB, dir string) {
	t.Helper()
	put := func(name string, b []byte) {
		t.Helper()
		check(t, os.WriteFile(filepath.Join(dir, name), b, 0o600))
	}
	write := func(name string, e *tpmEvidence) {
		t.Helper()
		b, err := e.file()
		check(t, err)
		put(name, b)
	}
	s, stranger := newSoftTPM(t), newSoftTPM(t)
	log, pcrs := softBoot(softEvents("a kernel")...)
	otherLog, _ := softBoot(softEvents("another kernel")...)
	put("tpm.log", log)
	good := s.quote(t, softQuote{fixtureBinding[:], pcrs, log})
	write("tpm.json", good)
	body := func(e *tpmEvidence) []byte {
		t.Helper()
		ev, err := e.evidence()
		check(t, err)
		return ev.Body
	}
	put("tpm.cbor", body(good))
	bare := *good
	bare.EventLog = nil
	put("tpm-bare.cbor", body(&bare))
	put("tpm-bare.hex", fmt.Appendf(nil, "%x\n", body(&bare)))
	put("tpm-bare.b64", []byte(base64.StdEncoding.EncodeToString(body(&bare))+"\n"))
	write("tpm-nonce.json", s.quote(t, softQuote{[]byte(fixtureNonce), pcrs, log}))
	collected, err := attest.CollectedBinding([]byte(fixtureNonce))
	check(t, err)
	write("tpm-collected.json", s.quote(t, softQuote{collected[:], pcrs, log}))
	write("tpm-empty.json", s.quote(t, softQuote{nil, pcrs, log}))
	_, zeros := softBoot()
	write("tpm-zero.json", s.quote(t, softQuote{fixtureBinding[:], zeros, nil}))
	write("tpm-resettable.json", s.quote(t, softQuote{fixtureBinding[:], map[int][]byte{16: pcrs[0], 23: pcrs[0]}, nil}))
	forged := *good
	forged.Signature = s.quote(t, softQuote{nil, pcrs, log}).Signature
	write("tpm-forged.json", &forged)
	wrong := *good
	wrong.EventLog = otherLog
	write("tpm-otherlog.json", &wrong)

	pemOf := func(s softTPM) []byte {
		t.Helper()
		b, err := akPEM(s.key.Public())
		check(t, err)
		return b
	}
	put("tpm-ak.pem", pemOf(s))
	put("tpm-stranger.pem", pemOf(stranger))
	block, _ := pem.Decode(pemOf(s))
	put("tpm-ak.der", block.Bytes)
	put("tpm-ak.tpmt", s.area)
	put("tpm-ak.tpm2b", append(binary.BigEndian.AppendUint16(nil, uint16(len(s.area))), s.area...))
	onlyKey := *good
	onlyKey.AKPublic = block.Bytes
	write("tpm-key.json", &onlyKey)

	// As other tools write it.
	put("quote.msg", good.Quote)
	put("quote.sig", good.Signature)
	put("quote.tpm2b", append(binary.BigEndian.AppendUint16(nil, uint16(len(good.Quote))), good.Quote...))
	size := binary.BigEndian.Uint16(good.Signature[4:])
	r, sv := good.Signature[6:6+size], good.Signature[8+size:]
	der, err := asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(r), new(big.Int).SetBytes(sv)})
	check(t, err)
	put("quote.der", der)
	var row []byte
	text := "sha256:\n"
	for i := range 16 {
		row = append(row, pcrs[i]...)
		text += fmt.Sprintf("  %-2d: 0x%X\n", i, pcrs[i])
	}
	put("quote.pcrs", row)
	put("quote.txt", []byte(text))
	banks, err := json.Marshal(map[string]map[string]tpmBytes{"sha256": good.PCRs})
	check(t, err)
	put("quote-pcrs.json", banks)
	put("keylime.txt", []byte("r"+base64.StdEncoding.EncodeToString(good.Quote)+":"+base64.StdEncoding.EncodeToString(good.Signature)+":"+base64.StdEncoding.EncodeToString(row)))
	cloudFixtures(t, s, good, put, write)
	put("tpm-policy.yaml", tpmPolicy(pcrs[4]))
	put("tpm-other.yaml", tpmPolicy(pcrs[7]))
}

// cloudFixtures makes a cloud that certifies the AK.
func cloudFixtures(t testing.TB, s softTPM, good *tpmEvidence, put func(string, []byte), write func(string, *tpmEvidence)) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "a cloud's root"}, NotBefore: fixtureTime.Add(-time.Hour), NotAfter: fixtureTime.AddDate(1, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	rootDER, err := x509.CreateCertificate(rand.Reader, root, root, key.Public(), key)
	check(t, err)
	parsed, err := x509.ParseCertificate(rootDER)
	check(t, err)
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "0123456789ab.ConfidentialVM.Azure.windows.net"}, NotBefore: fixtureTime.Add(-time.Hour), NotAfter: fixtureTime.AddDate(0, 1, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, UnknownExtKeyUsage: []asn1.ObjectIdentifier{{2, 23, 133, 8, 3}},
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, parsed, s.key.Public(), key)
	check(t, err)
	put("azure-root.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: rootDER}))
	padded := append(slices.Clone(der), make([]byte, 500)...)
	put("tpm-akcert.nv", padded)
	with := *good
	with.AKCert = padded
	write("tpm-cert.json", &with)
	only := with
	only.AKPublic = nil
	write("tpm-onlycert.json", &only)

	leaf.SerialNumber, leaf.CRLDistributionPoints = big.NewInt(3), []string{"http://crl.example.org/ak.crl"}
	if with.AKCert, err = x509.CreateCertificate(rand.Reader, leaf, parsed, s.key.Public(), key); err != nil {
		t.Fatal(err)
	}
	write("tpm-crl.json", &with)
	list := func() *x509.RevocationList {
		return &x509.RevocationList{ThisUpdate: fixtureTime.Add(-time.Hour), NextUpdate: fixtureTime.Add(time.Hour)}
	}
	put("azure.crl", newCRL(t, parsed, key, list(), big.NewInt(4)))
	put("azure-revoked.crl", newCRL(t, parsed, key, list(), big.NewInt(3)))
}

func tpmPolicy(pcr4 []byte) []byte {
	return fmt.Appendf(nil, `version: 1
bundle: prod
revision: 7
trust_domain: attested.example.org
workloads:
  - name: machine
    tee: tpm2
    mode: enforce
    ownership: {none: "a test", owner: security, expires: 2030-01-01}
    match:
      pcr4: {eq: "%s"}
      secure_boot: {eq: true}
    issue:
      - spiffe_id: "spiffe://{td}/machine"
`, hex.EncodeToString(pcr4))
}

// A fixture that verified by accident would prove nothing.
func TestTheSoftTPMMakesWhatATPMMakes(t *testing.T) {
	s := newSoftTPM(t)
	key, err := publicKey(s.area)
	check(t, err)
	if !s.key.PublicKey.Equal(key) {
		t.Error("the public area holds another key")
	}
	_, pcrs := softBoot(softEvents("a kernel")...)
	q, err := tpm2.Unmarshal[tpm2.TPMSAttest](s.quote(t, softQuote{[]byte("x"), pcrs, nil}).Quote)
	check(t, err)
	if !bytes.Equal(q.ExtraData.Buffer, []byte("x")) || q.Type != tpm2.TPMSTAttestQuote {
		t.Errorf("%+v", q)
	}
}
