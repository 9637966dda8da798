package tpm

import (
	"bytes"
	"crypto"
	"testing"

	"github.com/google/go-tpm/tpm2"
)

// commands are such as faults take apart.
func commands() [][]byte {
	password := []byte{0x40, 0, 0, 9, 0, 0, 0, 0, 0}
	seal := func(p parts) []byte { return p.command() }
	create := append(put2B(nil, tpm2.Marshal(tpm2.TPMSSensitiveCreate{Data: tpm2.NewTPMUSensitiveCreate(&tpm2.TPM2BSensitiveData{})})),
		put2B(nil, tpm2.Marshal(testAK()))...)
	resident := testAK()
	resident.ObjectAttributes.Restricted = false
	quote := append(put2B(nil, []byte("data")), 0, 0x10)
	return [][]byte{
		startup(tpm2.TPMSUClear),
		seal(parts{tag: tagSessions, code: ccCreatePrimary, handles: []uint32{0x4000000b}, authorizations: password, parameters: append(create, 0, 0, 0, 0, 0, 0)}),
		seal(parts{tag: tagSessions, code: ccCreate, handles: []uint32{0x81000001}, authorizations: password,
			parameters: append(append(put2B(nil, []byte{0, 0, 0, 0}), put2B(nil, tpm2.Marshal(resident))...), 0, 0, 0, 0, 0, 0)}),
		seal(parts{tag: tagSessions, code: ccQuote, handles: []uint32{0x80000000}, authorizations: password,
			parameters: append(bytes.Clone(quote), tpm2.Marshal(selection(tpm2.TPMAlgSHA256, 0xff, 0xff, 0))...)}),
		seal(parts{tag: tagSessions, code: ccCertify, handles: []uint32{0x80000001, 0x80000000}, authorizations: append(bytes.Clone(password), password...), parameters: quote}),
		seal(parts{tag: tagNoSessions, code: ccReadPublic, handles: []uint32{0x81010001}}),
		seal(parts{tag: tagNoSessions, code: ccPCRRead, parameters: tpm2.Marshal(selection(tpm2.TPMAlgSHA256, 0xff, 0, 0))}),
		seal(parts{tag: tagSessions, code: ccActivateCredential, handles: []uint32{0x80000000, 0x80000001}, authorizations: password, parameters: []byte{0, 0, 0, 0}}),
	}
}

func TestACommandThatIsTakenApartIsPutTogetherAgain(t *testing.T) {
	for _, c := range commands()[1:] {
		p, err := splitCommand(c)
		if err != nil {
			t.Errorf("%x: %v", c, err)
			continue
		}
		if got := p.command(); !bytes.Equal(got, c) {
			t.Errorf("%x became %x", c, got)
		}
	}
}

// FuzzCommand has every fault change any command: what comes out is a message
// still, and nothing panics.
func FuzzCommand(f *testing.F) {
	for _, c := range commands() {
		f.Add(c)
	}
	tpm := &TPM{}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := splitCommand(b)
		if err != nil {
			return
		}
		if got := p.command(); !bytes.Equal(got, b) {
			t.Fatalf("%x became %x", b, got)
		}
		for _, fault := range Faults() {
			p, err := splitCommand(b)
			if err != nil {
				t.Fatal(err)
			}
			x := &exchange{tamper: newTamper(tpm, []Fault{fault}), command: p}
			x.apply(fault.onCommand)
			if out := x.command.command(); len(out) <= maxMessage && checkCommand(out) != nil {
				t.Fatalf("%s made %x of %x", fault.Name, out, b)
			}
		}
	})
}

// FuzzResponse does the same with responses.
func FuzzResponse(f *testing.F) {
	for _, c := range commands()[1:] {
		f.Add(codeOf(c), message(0, 0, 0, 0, 0))
	}
	quote := put2B(nil, []byte("\xffTCG\x80\x18"))
	f.Add(uint32(ccQuote), parts{tag: tagSessions, parameters: append(quote, 0, 0x18), authorizations: []byte{0, 0, 1, 0, 0}}.response())
	values := append(tpm2.Marshal(selection(tpm2.TPMAlgSHA256, 3)), tpm2.Marshal(tpm2.TPMLDigest{Digests: []tpm2.TPM2BDigest{
		{Buffer: make([]byte, 32)}, {Buffer: make([]byte, 32)}}})...)
	f.Add(uint32(ccPCRRead), message(0, append([]byte{0, 0, 0, 1}, values...)...))
	f.Add(uint32(ccReadPublic), message(0, append(put2B(nil, tpm2.Marshal(tpm2.ECCEKTemplate)), 0, 0, 0, 0)...))
	tpm := &TPM{}
	f.Fuzz(func(t *testing.T, code uint32, b []byte) {
		p, err := splitResponse(code, b)
		if err != nil {
			return
		}
		if got := p.response(); !bytes.Equal(got, b) {
			t.Fatalf("%x became %x", b, got)
		}
		for _, fault := range Faults() {
			p, err := splitResponse(code, b)
			if err != nil {
				t.Fatal(err)
			}
			x := &exchange{tamper: newTamper(tpm, []Fault{fault}), command: parts{code: code, tag: tagNoSessions}, response: p}
			x.apply(fault.onResponse)
			if out := x.response.response(); len(out) <= maxMessage && checkCommand(out) != nil {
				t.Fatalf("%s made %x of %x", fault.Name, out, b)
			}
		}
	})
}

// FuzzMessage reads one message from any bytes.
func FuzzMessage(f *testing.F) {
	for _, c := range commands() {
		f.Add(c)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := readMessage(bytes.NewReader(b))
		if err != nil {
			return
		}
		if checkCommand(m) != nil || !bytes.HasPrefix(b, m) {
			t.Fatalf("read %x from %x", m, b)
		}
	})
}

// FuzzBoot measures any boot: an independent parser replays the log.
func FuzzBoot(f *testing.F) {
	f.Add("image", "ro", "1.0", false, false)
	f.Add("", "", "", true, true)
	f.Fuzz(func(t *testing.T, image, line, firmware string, systemd, insecure bool) {
		b := Boot{Image: image, CommandLine: line, Firmware: firmware, SecureBootOff: insecure}
		if systemd {
			b.Loader = SystemdBoot
		}
		m, err := Measurements(b)
		if err != nil {
			return
		}
		if _, err := replayed(m.Log, crypto.SHA256, m.PCRs[crypto.SHA256]); err != nil {
			t.Fatal(err)
		}
	})
}
