package agent

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"io"
	"testing"

	"github.com/assay-project/assay/attest"
)

// scripted is a TPM that answers whatever a fuzzer wants: each answer after its
// length, one byte of 16.
type scripted struct{ answers []byte }

func (s *scripted) shared() bool { return false }
func (s *scripted) Close() error { return nil }

func (s *scripted) exchange(context.Context, []byte) ([]byte, error) {
	if len(s.answers) == 0 {
		return nil, io.ErrUnexpectedEOF
	}
	n := min(16*int(s.answers[0]), len(s.answers)-1)
	out := s.answers[1 : 1+n]
	s.answers = s.answers[1+n:]
	if len(out) >= 10 { // say the right length, so that there is something to decode
		out = bytes.Clone(out)
		out[2], out[3], out[4], out[5] = 0, 0, byte(len(out)>>8), byte(len(out))
	}
	return out, nil
}

func FuzzTPMAnswers(f *testing.F) {
	f.Add([]byte{1, 0x80, 1, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Add(bytes.Repeat([]byte{2, 0x80, 2, 0, 0, 0, 32, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 6, 0, 0, 0, 1, 0, 0, 1, 5, 0x49, 0x42, 0x4d, 0, 0, 0}, 20))
	want := bindingOf(f)
	f.Fuzz(func(t *testing.T, answers []byte) {
		tpm := newTPM("fuzz", func(context.Context) (tpmConn, error) { return &scripted{answers}, nil }, TPMOptions{EventLog: NoEventLog})
		for _, try := range []func() error{
			func() error { _, err := tpm.Evidence(t.Context(), want); return err },
			func() error { _, err := tpm.NewKey(t.Context()); return err },
			func() error {
				_, err := tpm.Activate(t.Context(), []byte{0, 1, 1, 0, 1, 1}, want)
				return err
			},
		} {
			var e *attest.Error
			if err := try(); err != nil && !errors.As(err, &e) {
				t.Fatalf("an error without a check: %v", err)
			}
		}
	})
}

func FuzzCredential(f *testing.F) {
	f.Add([]byte{0, 1, 7, 0, 2, 8, 9})
	f.Fuzz(func(t *testing.T, b []byte) {
		blob, secret, err := splitCredential(b)
		if err == nil && len(blob)+len(secret)+4 != len(b) {
			t.Fatal("bytes were lost")
		}
	})
}

func FuzzTPMCertificates(f *testing.F) {
	c := newAuthority(f, "CA").cert.Raw
	f.Add(append(append([]byte(nil), c...), 0, 0))
	f.Add(append(append([]byte(nil), c...), c...))
	f.Fuzz(func(t *testing.T, b []byte) {
		out, _ := splitChain(b)
		n := 0
		for _, der := range out {
			if _, err := x509.ParseCertificate(der); err != nil {
				t.Fatal(err)
			}
			n += len(der)
		}
		if n > maxTPMChain || n > len(b) {
			t.Fatalf("%d bytes of certificates from %d", n, len(b))
		}
		if der, rest, err := trimDER(b); err == nil && len(der)+len(rest) != len(b) {
			t.Fatal("bytes were lost")
		}
	})
}
