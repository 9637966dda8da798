package main

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	attestpb "github.com/google/go-tpm-tools/proto/attest"
	tpmpb "github.com/google/go-tpm-tools/proto/tpm"
	"google.golang.org/protobuf/proto"

	"github.com/assay-project/assay/attest"
)

// tpmEvidence is evidence of a TPM as tools exchange it: everything in one file,
// the event log too (docs/spec/tpm-evidence.md). Structures are the TPM's own bytes,
// without a TPM2B's size in front.
type tpmEvidence struct {
	Quote     tpmBytes            `json:"quote"`     // TPMS_ATTEST
	Signature tpmBytes            `json:"signature"` // TPMT_SIGNATURE
	PCRs      map[string]tpmBytes `json:"pcrs"`      // of the quoted bank, by index
	// AKPublic is the TPMT_PUBLIC, or the key in DER where only that is known; it may
	// be left out when there is a certificate.
	AKPublic     tpmBytes       `json:"ak_public,omitempty"`
	AKCert       tpmBytes       `json:"ak_cert,omitempty"` // DER
	EKPublic     tpmBytes       `json:"ek_public,omitempty"`
	EKCert       tpmBytes       `json:"ek_cert,omitempty"`
	Certified    []tpmCertified `json:"certified,omitempty"`
	Endorsements []tpmBytes     `json:"endorsements,omitempty"` // certificates above those, DER
	EventLog     tpmBytes       `json:"event_log,omitempty"`
}

type tpmCertified struct {
	Public    tpmBytes `json:"public"`
	Attest    tpmBytes `json:"attest"`
	Signature tpmBytes `json:"signature"`
}

// tpmBytes are written in hex. What is read may also be base64: a text that reads
// as hex is hex.
type tpmBytes []byte

// MarshalJSON writes lower-case hex.
func (b tpmBytes) MarshalJSON() ([]byte, error) { return json.Marshal(hex.EncodeToString(b)) }

// UnmarshalJSON reads hex or base64, standard or URL alphabet, padded or not.
func (b *tpmBytes) UnmarshalJSON(in []byte) error {
	var s string
	if err := json.Unmarshal(in, &s); err != nil {
		return errors.New("want a string with hex or base64")
	}
	out, err := decodeText(s)
	if err != nil {
		return err
	}
	*b = out
	return nil
}

func decodeText(s string) ([]byte, error) {
	s = strings.Join(strings.Fields(s), "")
	if out, err := hex.DecodeString(strings.TrimPrefix(s, "0x")); err == nil {
		return out, nil
	}
	for _, e := range []*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding, base64.URLEncoding, base64.RawURLEncoding} {
		if out, err := e.Strict().DecodeString(s); err == nil {
			return out, nil
		}
	}
	return nil, fmt.Errorf("%.40q is neither hex nor base64", s)
}

func tpmFormat(err error) error {
	return &attest.Error{
		Kind: attest.Malformed, Check: "tpm_body", Err: err,
		Hint: "want Assay's JSON or CBOR (docs/spec/tpm-evidence.md) or go-tpm-tools' Attestation; `assay evidence import` converts what other tools write",
	}
}

// tpmNormalize finds evidence in a file: Assay's JSON, its CBOR body (binary, hex or
// base64), or an Attestation message of go-tpm-tools.
func tpmNormalize(raw []byte) (attest.Evidence, error) {
	if text := bytes.TrimSpace(raw); len(text) > 0 && text[0] == '{' {
		var e tpmEvidence
		if err := strictJSON(text, &e); err != nil {
			return attest.Evidence{}, tpmFormat(err)
		}
		return e.evidence()
	}
	for _, b := range [][]byte{raw, textual(raw)} {
		if len(b) == 0 {
			continue
		}
		// A map of the body has 4 to 9 entries.
		if b[0] >= 0xa4 && b[0] <= 0xa9 {
			if _, err := attest.DecodeTPMEvidence(b); err != nil {
				return attest.Evidence{}, err
			}
			return attest.Evidence{Platform: attest.TPM2, Body: b}, nil
		}
		if e, err := fromAttestation(b); err == nil {
			return e.evidence()
		}
	}
	return attest.Evidence{}, tpmFormat(errors.New("this is no evidence of a TPM"))
}

// textual is the content of a file with hex or base64, or nil.
func textual(raw []byte) []byte {
	out, err := decodeText(string(raw))
	if err != nil {
		return nil
	}
	return out
}

// strictJSON reads one JSON object, without fields that are not known, in another
// case, or there twice: encoding/json would take any of these.
func strictJSON(text []byte, v any) error {
	if err := exactFields(text, v); err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the JSON object")
	}
	return nil
}

// exactFields compares the fields of an object with those of a struct.
func exactFields(text []byte, v any) error {
	known := make(map[string]bool)
	for f := range reflect.TypeOf(v).Elem().Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		known[name] = true
	}
	d := json.NewDecoder(bytes.NewReader(text))
	if _, err := d.Token(); err != nil { // the brace
		return err
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return err
		}
		field, _ := name.(string)
		switch fresh, ok := known[field]; {
		case !ok:
			return fmt.Errorf("unknown field %.40q", field)
		case !fresh:
			return fmt.Errorf("field %q is there twice", field)
		}
		known[field] = false
		var skipped json.RawMessage
		if err := d.Decode(&skipped); err != nil {
			return err
		}
	}
	return nil
}

// evidence makes the evidence that a verifier takes. Nothing is checked beyond what
// that needs.
func (e *tpmEvidence) evidence() (attest.Evidence, error) {
	body := attest.TPMEvidence{
		Quote: e.Quote, Signature: e.Signature, EKPublic: e.EKPublic, EKCertificate: trimDER(e.EKCert), AKCertificate: trimDER(e.AKCert),
		PCRs: make(map[uint32][]byte, len(e.PCRs)),
	}
	if len(e.EKCert) == 0 {
		body.EKCertificate = nil
	}
	if len(e.AKCert) == 0 {
		body.AKCertificate = nil
	}
	for index, value := range e.PCRs {
		i, err := strconv.ParseUint(index, 10, 8)
		if err != nil || strconv.FormatUint(i, 10) != index {
			return attest.Evidence{}, tpmFormat(fmt.Errorf("pcrs: %.20q is no index of a PCR", index))
		}
		body.PCRs[uint32(i)] = value
	}
	for _, c := range e.Certified {
		body.Certified = append(body.Certified, attest.TPMCertified{Public: c.Public, Attest: c.Attest, Signature: c.Signature})
	}
	var err error
	if body.AKPublic, err = e.area(); err != nil {
		return attest.Evidence{}, tpmFormat(fmt.Errorf("ak_public: %w", err))
	}
	ev := attest.Evidence{Platform: attest.TPM2, EventLog: e.EventLog}
	if len(e.EventLog) > 0 {
		sum := sha256.Sum256(e.EventLog)
		body.EventLogDigest = sum[:]
	}
	for _, c := range e.Endorsements {
		ev.Endorsements = append(ev.Endorsements, c)
	}
	ev.Body, err = body.Encode()
	return ev, err
}

// area is the AK's public area: as it is, or rebuilt around its key.
func (e *tpmEvidence) area() ([]byte, error) {
	key, area, err := e.ak()
	if err != nil || area != nil {
		return area, err
	}
	if len(e.Signature) < 4 {
		return nil, errors.New("without a signature, there is no telling which scheme the key has")
	}
	signer, err := quoteSigner(e.Quote)
	if err != nil {
		return nil, err
	}
	built, err := rebuildArea(key, binary.BigEndian.Uint16(e.Signature), binary.BigEndian.Uint16(e.Signature[2:]), signer)
	return built.area, err
}

// ak is the key and, where it is known, the public area.
func (e *tpmEvidence) ak() (key any, area []byte, err error) {
	switch {
	case len(e.AKPublic) > 0 && e.AKPublic[0] != 0x30:
		return nil, e.AKPublic, nil // as it is: the verifier reads it
	case len(e.AKPublic) > 0:
		key, err = x509.ParsePKIXPublicKey(e.AKPublic)
	case len(e.AKCert) > 0:
		if key, err = certificateKey(e.AKCert); err != nil {
			err = fmt.Errorf("the certificate: %w", err)
		}
	default:
		err = errors.New("neither ak_public nor ak_cert is there")
	}
	return key, nil, err
}

// quoteSigner reads qualifiedSigner, which a TPMS_ATTEST begins with.
func quoteSigner(quote []byte) ([]byte, error) {
	if len(quote) < 8 || len(quote)-8 < int(binary.BigEndian.Uint16(quote[6:])) {
		return nil, errors.New("the quote is too short")
	}
	return quote[8 : 8+int(binary.BigEndian.Uint16(quote[6:]))], nil
}

// fromAttestation reads go-tpm-tools' Attestation, of whose quotes it takes that of
// the SHA-256 bank, else of SHA-384, else of any.
func fromAttestation(raw []byte) (*tpmEvidence, error) {
	var a attestpb.Attestation
	if err := proto.Unmarshal(raw, &a); err != nil {
		return nil, err
	}
	quotes := a.GetQuotes()
	rank := func(q *tpmpb.Quote) int {
		return slices.Index([]tpmpb.HashAlgo{tpmpb.HashAlgo_SHA1, tpmpb.HashAlgo_SHA384, tpmpb.HashAlgo_SHA256}, q.GetPcrs().GetHash())
	}
	if len(quotes) == 0 || len(a.GetAkPub()) == 0 {
		return nil, errors.New("no quote")
	}
	best := slices.MaxFunc(quotes, func(x, y *tpmpb.Quote) int { return rank(x) - rank(y) })
	e := &tpmEvidence{
		Quote: best.GetQuote(), Signature: best.GetRawSig(), AKPublic: a.GetAkPub(), AKCert: a.GetAkCert(), EventLog: a.GetEventLog(),
		PCRs: make(map[string]tpmBytes),
	}
	for i, v := range best.GetPcrs().GetPcrs() {
		e.PCRs[strconv.FormatUint(uint64(i), 10)] = v
	}
	for _, c := range a.GetIntermediateCerts() {
		e.Endorsements = append(e.Endorsements, c)
	}
	return e, nil
}

// ofEvidence is evidence as one file.
func ofEvidence(ev attest.Evidence) (*tpmEvidence, error) {
	body, err := attest.DecodeTPMEvidence(ev.Body)
	if err != nil {
		return nil, err
	}
	e := &tpmEvidence{
		Quote: body.Quote, Signature: body.Signature, AKPublic: body.AKPublic, AKCert: body.AKCertificate, EKPublic: body.EKPublic, EKCert: body.EKCertificate,
		PCRs: make(map[string]tpmBytes), EventLog: ev.EventLog,
	}
	for _, i := range slices.Sorted(maps.Keys(body.PCRs)) {
		e.PCRs[strconv.FormatUint(uint64(i), 10)] = body.PCRs[i]
	}
	for _, c := range body.Certified {
		e.Certified = append(e.Certified, tpmCertified{c.Public, c.Attest, c.Signature})
	}
	for _, c := range ev.Endorsements {
		e.Endorsements = append(e.Endorsements, c)
	}
	return e, nil
}

// file is what is written.
func (e *tpmEvidence) file() ([]byte, error) {
	out, err := json.MarshalIndent(e, "", "  ")
	return append(out, '\n'), err
}
