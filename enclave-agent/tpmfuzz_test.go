package agent

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/hex"
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

// certificateSeed is a small self-signed certificate, DER.
const certificateSeed = "3081ce308181a003020102020101300506032b65703010310e300c06035504031305612054504d3020170d3730303130313030303030305a180f323130303031303130303030" +
	"30305a3010310e300c06035504031305612054504d302a300506032b65700321003b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29300506032b" +
	"657003410075c08c75748b0b8d4568eec7f9ae846045330b1314dfde2e4940fc0790ac2dbebc706a127a5ebca444f61c21c1c06082f9f23fcf56b8a2b1fd329fa9f4b35606"

func FuzzTPMCertificates(f *testing.F) {
	c := must(hex.DecodeString(certificateSeed))
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
