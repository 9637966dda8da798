package agent

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
)

// swtpm is a TPM in a process of its own, the reference implementation.
type swtpm struct {
	t      testing.TB
	dir    string // its state, which outlives a reset
	socket string
	cmd    *exec.Cmd
}

// newTPM2 manufactures a TPM and turns it on. Without swtpm the test is skipped,
// loudly.
func newTPM2(t testing.TB) *swtpm {
	t.Helper()
	if _, err := exec.LookPath("swtpm"); err != nil {
		t.Skip("SKIPPED, NOTHING IS SHOWN: swtpm is not installed (Debian: apt-get install swtpm)")
	}
	dir := shortDir(t)
	m := &swtpm{t: t, dir: dir, socket: filepath.Join(dir, "tpm.sock")}
	t.Cleanup(m.off)
	m.on()
	return m
}

// on starts it: for a TPM that is a reset.
func (m *swtpm) on() {
	m.t.Helper()
	_ = os.Remove(m.socket)
	m.cmd = exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+m.dir, "--server", "type=unixio,path="+m.socket,
		"--ctrl", "type=unixio,path="+m.socket+".ctrl", "--flags", "not-need-init,startup-clear")
	if err := m.cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if c, err := net.Dial("unix", m.socket); err == nil {
			_ = c.Close()
			return
		}
		if time.Now().After(deadline) {
			m.t.Fatal("swtpm did not start")
		}
	}
}

func (m *swtpm) off() {
	if m.cmd != nil {
		_ = m.cmd.Process.Kill()
		_ = m.cmd.Wait()
		m.cmd = nil
	}
}

// reset turns it off and on again.
func (m *swtpm) reset() {
	m.t.Helper()
	m.off()
	m.on()
}

// attester is the agent's side of it.
func (m *swtpm) attester(o TPMOptions) *TPM {
	if o.Log == nil {
		o.Log = testLog(m.t)
	}
	return NewTPMSocket(m.socket, o)
}

// do runs commands of the test's own.
func (m *swtpm) do(f func(s *tpmSession) error) {
	m.t.Helper()
	_, err := withTPM(context.Background(), m.attester(TPMOptions{}), tpmTimeout, func(s *tpmSession) (struct{}, error) { return struct{}{}, f(s) })
	if err != nil {
		m.t.Fatalf("a command of the test: %v", err)
	}
}

// store defines an NV index that everybody may read, larger than its content.
func (m *swtpm) store(index tpm2.TPMHandle, content []byte, padding int) {
	m.t.Helper()
	m.do(func(s *tpmSession) error {
		owner := tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}
		pub := tpm2.TPMSNVPublic{
			NVIndex: index, NameAlg: tpm2.TPMAlgSHA256, DataSize: uint16(len(content) + padding),
			Attributes: tpm2.TPMANV{OwnerWrite: true, AuthWrite: true, AuthRead: true, OwnerRead: true, NoDA: true, NT: tpm2.TPMNTOrdinary},
		}
		if _, err := (tpm2.NVDefineSpace{AuthHandle: owner, PublicInfo: tpm2.New2B(pub)}).Execute(s); err != nil {
			return err
		}
		all := append(append([]byte(nil), content...), make([]byte, padding)...)
		for at := 0; at < len(all); at += tpmNVChunk {
			name, err := tpm2.NVReadPublic{NVIndex: index}.Execute(s)
			if err != nil {
				return err
			}
			end := min(at+tpmNVChunk, len(all))
			if _, err := (tpm2.NVWrite{
				AuthHandle: owner, NVIndex: tpm2.NamedHandle{Handle: index, Name: name.NVName},
				Data: tpm2.TPM2BMaxNVBuffer{Buffer: all[at:end]}, Offset: uint16(at),
			}).Execute(s); err != nil {
				return err
			}
		}
		return nil
	})
}

// transient counts the objects that are loaded.
func (m *swtpm) transient() (n int) {
	m.t.Helper()
	m.do(func(s *tpmSession) error {
		all, err := s.handles(tpmFirstTransient, tpmFirstTransient|0xffffff)
		n = len(all)
		more, err2 := s.handles(tpmFirstSession, tpmFirstSession|0xffffff)
		n += len(more)
		if err == nil {
			err = err2
		}
		return err
	})
	return n
}

// clear is TPM2_Clear, which anybody with physical presence or the lockout
// password can do.
func (m *swtpm) clear() {
	m.t.Helper()
	m.do(func(s *tpmSession) error {
		_, err := tpm2.Clear{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHLockout, Auth: tpm2.PasswordAuth(nil)}}.Execute(s)
		return err
	})
}

// ekAuthority is a manufacturer of TPMs.
type ekAuthority struct{ *authority }

func newEKAuthority(t testing.TB) ekAuthority { return ekAuthority{newAuthority(t, "EK CA")} }

// certify writes a certificate for the key that a template makes into the TPM.
func (a ekAuthority) certify(m *swtpm, kind ekTemplate, padding int) *x509.Certificate {
	m.t.Helper()
	var area []byte
	m.do(func(s *tpmSession) error {
		k, err := s.createPrimary(tpm2.TPMRHEndorsement, kind.public())
		area = k.area
		return err
	})
	c := a.leaf(m.t, must(publicKey(area)))
	m.store(kind.certificate, c.Raw, padding)
	return c
}

func (a ekAuthority) leaf(t testing.TB, pub any) *x509.Certificate {
	t.Helper()
	der, err := a.sign(&x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "a TPM"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}, pub)
	if err != nil {
		t.Fatal(err)
	}
	return must(x509.ParseCertificate(der))
}

func otherKey() any { return &must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)).PublicKey }

// tpm2PCRAllocate turns one bank on and the others off, from the next reset on
// (Part 3, section 22.5). go-tpm has no such command.
func tpm2PCRAllocate(s *tpmSession, bank tpm2.TPMAlgID) ([]byte, error) {
	body := []byte{0x40, 0, 0, 0x0c, 0, 0, 0, 9, 0x40, 0, 0, 0x09, 0, 0, 0, 0, 0} // TPM_RH_PLATFORM, a password session
	var banks []byte
	n := byte(0)
	for _, b := range []tpm2.TPMAlgID{tpm2.TPMAlgSHA1, tpm2.TPMAlgSHA256, tpm2.TPMAlgSHA384, tpm2.TPMAlgSHA512} {
		sel := byte(0)
		if b == bank {
			sel = 0xff
		}
		banks = append(banks, byte(b>>8), byte(b), 3, sel, sel, sel)
		n++
	}
	body = append(append(body, 0, 0, 0, n), banks...)
	cmd := append([]byte{0x80, 0x02, 0, 0, 0, byte(tpmHeader + len(body)), 0, 0, 0x01, 0x2b}, body...)
	return s.exchange(cmd)
}

func bigInt(b []byte) *big.Int { return new(big.Int).SetBytes(b) }

func equal[T comparable](a, b []T) bool { return slices.Equal(a, b) }
