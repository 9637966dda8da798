package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"

	"github.com/fxamacker/cbor/v2"
)

// loose are bytes in whatever form JSON has them: hex, base64, or numbers.
type loose []byte

// UnmarshalJSON reads any of the three.
func (b *loose) UnmarshalJSON(in []byte) error {
	var numbers []uint16
	if json.Unmarshal(in, &numbers) == nil && numbers != nil {
		for _, n := range numbers {
			if n > 255 {
				return fmt.Errorf("%d is no byte", n)
			}
			*b = append(*b, byte(n))
		}
		return nil
	}
	return (*tpmBytes)(b).UnmarshalJSON(in)
}

// foreign are the fields by which the JSON of other tools is told apart.
type foreign struct {
	wrapped json.RawMessage // of a wrapper: "evidence"

	// Trustee (attester "tpm", "az-snp-vtpm" and "az-tdx-vtpm").
	quote, oldQuote   *trusteeQuote
	akPublic          loose
	report, oldReport loose

	// go-attestation's dump.
	dumpAK    *struct{ Public []byte }
	dumpQuote *struct{ Quote, Signature []byte }
	dumpLog   *struct {
		PCRs []struct {
			Index  int
			Digest []byte
		}
		Raw []byte
	}

	// vaportpm.
	pcrs     map[string]map[string]tpmBytes
	keys     map[string]struct{ X, Y loose }
	attested *vaportpm

	// The answer of Keylime's agent.
	results *struct {
		Quote    string `json:"quote"`
		EventLog loose  `json:"mb_measurement_list"`
	}
}

type trusteeQuote struct {
	Message   loose   `json:"message"`
	Signature loose   `json:"signature"`
	PCRs      []loose `json:"pcrs"`
}

type vaportpm struct {
	TPM map[string]struct {
		Data      loose `json:"attest_data"`
		Signature loose `json:"signature"`
	} `json:"tpm"`
	GCP *struct {
		Chain string `json:"ak_cert_chain"`
	} `json:"gcp"`
}

func foreignJSON(text []byte) (*imported, error) {
	f, err := parseForeign(text)
	if err != nil {
		return nil, importError(err)
	}
	if f.wrapped != nil {
		if f, err = parseForeign(f.wrapped); err != nil {
			return nil, importError(err)
		}
	}
	var in *imported
	switch {
	case f.dumpAK != nil && f.dumpQuote != nil && f.dumpLog != nil:
		in, err = f.goAttestation()
	case f.quote != nil || f.oldQuote != nil:
		in, err = f.trustee()
	case f.attested != nil && f.keys != nil:
		in, err = f.vaportpm()
	case f.results != nil && f.results.Quote != "":
		if in, err = keylimeQuote(f.results.Quote); err == nil {
			in.eventLog = f.results.EventLog
		}
		return in, err
	default:
		err = errors.New("no tool is known that writes this JSON")
	}
	if err != nil {
		return nil, importError(err)
	}
	return in, nil
}

// parseForeign reads JSON. encoding/json does not tell "quote" from "Quote", which
// are two tools' fields: that which does not fit is left out.
func parseForeign(text []byte) (*foreign, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(text, &fields); err != nil {
		return nil, err
	}
	f := &foreign{}
	targets := map[string]any{
		"evidence": &f.wrapped, "tpm_quote": &f.quote, "quote": &f.oldQuote, "ak_public": &f.akPublic, "hcl_report": &f.report, "report": &f.oldReport,
		"AK": &f.dumpAK, "Quote": &f.dumpQuote, "Log": &f.dumpLog, "pcrs": &f.pcrs, "ak_pubkeys": &f.keys, "attestation": &f.attested, "results": &f.results,
	}
	for name, raw := range fields {
		if to, ok := targets[name]; ok {
			if err := json.Unmarshal(raw, to); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	return f, nil
}

// goAttestation reads the dump of go-attestation's attest-tool.
func (f *foreign) goAttestation() (*imported, error) {
	in := &imported{quote: f.dumpQuote.Quote, signature: f.dumpQuote.Signature, area: f.dumpAK.Public, eventLog: f.dumpLog.Raw}
	values := make(map[int][]byte)
	for _, p := range f.dumpLog.PCRs {
		if p.Index < 0 || p.Index > 23 {
			return nil, fmt.Errorf("%d is no index of a PCR", p.Index)
		}
		values[p.Index] = p.Digest
	}
	in.pcrs = registers{banks: map[string]map[int][]byte{"": values}}
	return in, nil
}

// trustee reads evidence of Trustee's attesters, in all versions: the AK is there,
// or in the HCL report of an Azure confidential VM.
func (f *foreign) trustee() (*imported, error) {
	q, report := f.quote, f.report
	if q == nil {
		q, report = f.oldQuote, f.oldReport
	}
	in := &imported{quote: q.Message, signature: q.Signature}
	values := make(map[int][]byte)
	for i, v := range q.PCRs {
		values[i] = v
	}
	in.pcrs = registers{banks: map[string]map[int][]byte{"": values}}
	var err error
	switch {
	case len(f.akPublic) > 0:
		in.key, err = x509.ParsePKIXPublicKey(f.akPublic)
	case len(report) > 0:
		in.key, err = hclKey(report)
	}
	return in, err
}

// hclKey finds the AK in the runtime data of an HCL report: JSON behind the hardware
// report, which binds it.
func hclKey(report []byte) (*rsa.PublicKey, error) {
	const runtime = 32 + 1184 // header and hardware report
	at := -1
	if len(report) > runtime && bytes.HasPrefix(report, []byte("HCLA")) {
		at = bytes.IndexByte(report[runtime:], '{')
	}
	if at < 0 {
		return nil, errors.New("the HCL report holds no runtime data")
	}
	var data struct {
		Keys []struct {
			ID string `json:"kid"`
			E  string `json:"e"`
			N  string `json:"n"`
		} `json:"keys"`
	}
	if err := json.NewDecoder(bytes.NewReader(report[runtime+at:])).Decode(&data); err != nil {
		return nil, fmt.Errorf("the HCL report's runtime data: %w", err)
	}
	for _, k := range data.Keys {
		if k.ID != "HCLAkPub" {
			continue
		}
		e, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(k.E, "="))
		n, nerr := base64.RawURLEncoding.DecodeString(strings.TrimRight(k.N, "="))
		if err = errors.Join(err, nerr); err != nil {
			return nil, fmt.Errorf("the HCL report's AK: %w", err)
		}
		if len(e) == 0 || len(e) > 4 || len(n) > 1024 {
			return nil, errors.New("the HCL report's AK is no RSA key")
		}
		return &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}, nil
	}
	return nil, errors.New("the HCL report has no AK")
}

// vaportpm reads what vaportpm writes: an ECDSA signature in DER, the AK's point,
// and on GCE its certificates.
func (f *foreign) vaportpm() (*imported, error) {
	const kind = "ecc_p256"
	q, ok := f.attested.TPM[kind]
	k, there := f.keys[kind]
	if !ok || !there {
		return nil, errors.New("it has no quote by a key of " + kind)
	}
	if len(k.X) > 32 || len(k.Y) > 32 {
		return nil, errors.New("the AK's point is too long")
	}
	point := make([]byte, 65)
	point[0] = 4
	copy(point[33-len(k.X):], k.X)
	copy(point[65-len(k.Y):], k.Y)
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
	if err != nil {
		return nil, fmt.Errorf("the AK: %w", err)
	}
	in := &imported{quote: q.Data, signature: q.Signature, key: key, pcrs: registers{banks: make(map[string]map[int][]byte)}}
	for bank, values := range f.pcrs {
		one, err := flatRegisters(values)
		if err != nil {
			return nil, err
		}
		in.pcrs.banks[bank] = one.banks[""]
	}
	if f.attested.GCP != nil {
		in.akCert, err = in.chain([]byte(f.attested.GCP.Chain))
	}
	return in, err
}

// keylimeQuote reads a quote as Keylime's agent sends it: a letter, and quote,
// signature and tpm2-tools' file of registers in base64.
func keylimeQuote(text string) (*imported, error) {
	parts := strings.Split(text[1:], ":")
	if len(parts) < 3 || text[0] != 'r' && text[0] != 'd' {
		return nil, importError(errors.New("this is no quote of Keylime's"))
	}
	var b [3][]byte
	for i := range b {
		var err error
		if b[i], err = base64.StdEncoding.DecodeString(parts[i]); err != nil {
			return nil, importError(fmt.Errorf("part %d of Keylime's quote: %w", i+1, err))
		}
	}
	in := &imported{quote: b[0], signature: b[1]}
	var err error
	if in.pcrs, err = readRegisters(b[2]); err != nil {
		return nil, importError(err)
	}
	return in, nil
}

// parsecEvidence reads Parsec's attestation of platform and key
// (draft-ietf-rats-key-attestation): a quote, and TPM2_Certify of a key. No values
// of registers come with it, nor the AK.
func parsecEvidence(raw []byte) (*imported, error) {
	type statement struct {
		Signature []byte `cbor:"sig"`
		Quote     []byte `cbor:"attestInfo"`
		Certify   []byte `cbor:"certInfo"`
		Public    []byte `cbor:"pubArea"`
	}
	var e struct {
		Key      *statement `cbor:"kat"`
		Platform *statement `cbor:"pat"`
	}
	mode, err := cbor.DecOptions{MaxNestedLevels: 4, MaxArrayElements: 16, MaxMapPairs: 16}.DecMode()
	if err != nil {
		return nil, err
	}
	if err := mode.Unmarshal(raw, &e); err != nil {
		return nil, importError(fmt.Errorf("this is CBOR, and no evidence of Parsec's: %w", err))
	}
	if e.Platform == nil {
		return nil, importError(errors.New("this is CBOR, and no evidence of Parsec's with a quote"))
	}
	in := &imported{quote: e.Platform.Quote, signature: e.Platform.Signature}
	if k := e.Key; k != nil {
		in.certified = []tpmCertified{{Public: unsized(k.Public), Attest: slices.Concat(k.Certify, nil), Signature: k.Signature}}
	}
	return in, nil
}

// spki is a public key in DER.
func spki(key any) ([]byte, error) { return x509.MarshalPKIXPublicKey(key) }
