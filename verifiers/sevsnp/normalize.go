package sevsnp

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/google/go-sev-guest/abi"
	spb "github.com/google/go-sev-guest/proto/sevsnp"
	"google.golang.org/protobuf/proto"

	"github.com/assay-project/assay/verifiers/internal/check"
)

// maxFile is the largest input of Normalize, in bytes: an extended report in hex,
// with room for line ends and wrapping.
const maxFile = 4 * (ReportSize + maxTableSize)

// Azure's vTPM keeps the report behind a header of 32 bytes that begins with
// this, and puts its own runtime data behind it.
const (
	hclMagic  = "HCLA"
	hclHeader = 32
)

// Normalize finds the report in what people keep in files, and the endorsements
// that lie beside it: the report itself, an extended report (with the host's
// certificate table behind it), go-sev-guest's Attestation message (protobuf),
// and the HCL report of Azure's vTPM, each as binary, hex or base64. It trusts
// nothing and verifies nothing.
//
// The error is an *attest.Error, check "encoding" or "cert_table".
func Normalize(raw []byte) (body []byte, endorsements [][]byte, err error) {
	if len(raw) > maxFile {
		return nil, nil, refuse(CheckEncoding, detail{
			Err: errors.New("too large for a report"), Expected: fmt.Sprintf("at most %d bytes", maxFile), Got: fmt.Sprintf("%d bytes", len(raw)),
		})
	}
	if !isText(raw) {
		return unwrap(raw)
	}
	text := strings.Join(strings.Fields(string(raw)), "")
	text = strings.TrimPrefix(strings.TrimPrefix(text, "0x"), "0X")
	if text == "" {
		return nil, nil, refuse(CheckEncoding, detail{Err: errors.New("nothing there")})
	}
	// A hex text is a base64 text too, so hex goes first; whichever yields a report
	// is right.
	if b, err := hex.DecodeString(text); err == nil {
		if body, endorsements, err := unwrap(b); err == nil {
			return body, endorsements, nil
		}
	}
	trimmed := strings.TrimRight(text, "=")
	for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		if b, err := enc.DecodeString(trimmed); err == nil {
			return unwrap(b)
		}
	}
	return nil, nil, refuse(CheckEncoding, detail{Err: errors.New("the text is neither hex nor base64 of a report"), Got: fmt.Sprintf("%.40q", text)})
}

// isText reports ASCII text. No report in binary is that: its reserved bytes are
// zero.
func isText(b []byte) bool {
	for _, c := range b {
		if (c < 0x20 || c > 0x7e) && c != '\n' && c != '\r' && c != '\t' {
			return false
		}
	}
	return true
}

// unwrap takes the report out of its framing.
func unwrap(b []byte) (body []byte, endorsements [][]byte, err error) {
	switch {
	case bytes.HasPrefix(b, []byte(hclMagic)) && len(b) >= hclHeader+ReportSize:
		return bytes.Clone(b[hclHeader : hclHeader+ReportSize]), nil, nil
	case isReport(b):
		return ParseExtendedReport(b)
	}
	if body, endorsements, ok := fromProto(b); ok {
		return body, endorsements, nil
	}
	return nil, nil, refuse(CheckEncoding, detail{
		Err: errors.New("no report and no extended report"), Expected: fmt.Sprintf("%d bytes that begin with a version, and a certificate table or nothing behind them", ReportSize), Got: check.ClipHex(b),
	})
}

// isReport reports what can only be meant as a report: long enough, and a small
// version in front. Whether it is a good one is for Authenticate to say.
func isReport(b []byte) bool {
	return len(b) >= ReportSize && b[0] < 0x20 && b[1]|b[2]|b[3] == 0 && b[0] != 0
}

// fromProto reads an Attestation message as go-sev-guest's tools write it. The
// report's bytes are put together again from its fields: if they are not those
// that were signed, the signature will say so.
func fromProto(b []byte) (body []byte, endorsements [][]byte, ok bool) {
	var m spb.Attestation
	if len(b) == 0 || proto.Unmarshal(b, &m) != nil || m.GetReport() == nil {
		return nil, nil, false
	}
	body, err := abi.ReportToAbiBytes(m.GetReport())
	if err != nil {
		return nil, nil, false
	}
	chain := m.GetCertificateChain()
	for _, der := range [][]byte{chain.GetVcekCert(), chain.GetVlekCert(), chain.GetAskCert(), chain.GetArkCert()} {
		if len(der) != 0 {
			endorsements = append(endorsements, bytes.Clone(der))
		}
	}
	return body, endorsements, true
}
