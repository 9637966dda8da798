package nitro

import (
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/assay-project/assay/attest"
)

// Unverified is what a document says of itself. Nobody has checked who wrote
// it: it is for people who look at a document, and no decision may rest on it.
// It is no attest.Claims on purpose, and cannot be turned into one.
type Unverified struct {
	Tagged    bool         `json:"tagged"` // COSE tag 18 stands in front
	Protected attest.Bytes `json:"protected"`

	ModuleID     string               `json:"module_id"`
	Digest       string               `json:"digest"`
	Timestamp    *time.Time           `json:"timestamp"` // nil if there is none that is a time
	PCRs         map[int]attest.Bytes `json:"pcrs"`
	NitroTPMPCRs map[int]attest.Bytes `json:"nitrotpm_pcrs,omitempty"` // of a NitroTPM document: another platform
	PublicKey    attest.Bytes         `json:"public_key"`
	UserData     attest.Bytes         `json:"user_data"`
	Nonce        attest.Bytes         `json:"nonce"`

	// Chain holds cabundle and then the document's own certificate, as given.
	Chain []UnverifiedCertificate `json:"chain"`

	// Malformed is the first structural check that the document fails, or nil.
	// Without one it may still be untrusted or stale: only Authenticate can say.
	Malformed error `json:"-"`
}

// UnverifiedCertificate describes one certificate of a document, or says why it
// cannot be read.
type UnverifiedCertificate struct {
	SHA256    attest.Bytes `json:"sha256"` // of the DER
	Subject   string       `json:"subject,omitempty"`
	Issuer    string       `json:"issuer,omitempty"`
	NotBefore time.Time    `json:"not_before,omitzero"`
	NotAfter  time.Time    `json:"not_after,omitzero"`
	Key       string       `json:"key,omitempty"` // "ECDSA on P-384"
	CA        bool         `json:"ca"`
	Problem   string       `json:"problem,omitempty"`
	DER       attest.Bytes `json:"-"` // as given
}

// Inspect decodes a document without trusting it, as far as it can be decoded:
// the first structural fault is in [Unverified.Malformed], and fields that
// cannot be read are empty. The error is for bytes that are no COSE_Sign1 with
// a map in it at all; it is an *attest.Error of kind Malformed.
func Inspect(body []byte) (*Unverified, error) {
	m, err := newModes()
	if err != nil {
		return nil, fmt.Errorf("nitro: CBOR options: %w", err)
	}
	var malformed error
	env, err := m.open(body)
	if err == nil {
		_, err = m.read(env.payload)
	}
	malformed = err
	if len(body) > MaxSize {
		return nil, malformed
	}
	loose, ok := looseParts(body)
	if !ok {
		if malformed == nil {
			malformed = errors.New("not a COSE_Sign1 message")
		}
		return nil, malformed
	}
	u := &Unverified{Tagged: len(body) > 0 && body[0]>>5 == majorTag, Malformed: malformed}
	if p, _, ok := byteString(loose.protected); ok {
		u.Protected = p
	}
	u.fill(loose.fields)
	return u, nil
}

// parts are the pieces of a message that was decoded without strictness.
type parts struct {
	protected []byte
	fields    map[string]cbor.RawMessage
}

func looseParts(body []byte) (parts, bool) {
	for range maxTags {
		var tag cbor.RawTag
		if len(body) == 0 || body[0]>>5 != majorTag || cbor.Unmarshal(body, &tag) != nil {
			break
		}
		body = tag.Content
	}
	var msg []cbor.RawMessage
	if rest, err := cbor.UnmarshalFirst(body, &msg); err != nil || len(msg) < 3 || len(rest) > MaxSize {
		return parts{}, false
	}
	payload, _, ok := byteString(msg[2])
	if !ok {
		return parts{}, false
	}
	p := parts{protected: msg[0]}
	if _, err := cbor.UnmarshalFirst(payload, &p.fields); err != nil || p.fields == nil {
		return parts{}, false
	}
	return p, true
}

// fill copies what can be read.
func (u *Unverified) fill(f map[string]cbor.RawMessage) {
	u.ModuleID, u.Digest = looseText(f[keyModuleID]), looseText(f[keyDigest])
	u.PublicKey, u.UserData, u.Nonce = looseBytes(f[keyPublicKey]), looseBytes(f[keyUserData]), looseBytes(f[keyNonce])
	if major, n, size, _, ok := head(f[keyTimestamp]); ok && major == majorUnsigned && size == len(f[keyTimestamp]) && n <= maxTimestamp {
		t := time.UnixMilli(int64(n)).UTC()
		u.Timestamp = &t
	}
	u.PCRs, u.NitroTPMPCRs = looseIndexed(f[keyPCRs]), looseIndexed(f[keyNitroTPM])
	var bundle []cbor.RawMessage
	_ = cbor.Unmarshal(f[keyCABundle], &bundle) // left empty when it is none
	for _, raw := range append(bundle, f[keyCertificate]) {
		u.Chain = append(u.Chain, describe(looseBytes(raw)))
	}
}

func looseText(raw []byte) string {
	s, _, _ := content(raw, majorText)
	return string(s)
}

func looseBytes(raw []byte) attest.Bytes {
	b, _, ok := byteString(raw)
	if !ok {
		return nil
	}
	return b
}

func looseIndexed(raw []byte) map[int]attest.Bytes {
	var items map[int]cbor.RawMessage
	if len(raw) == 0 || cbor.Unmarshal(raw, &items) != nil {
		return nil
	}
	out := make(map[int]attest.Bytes, len(items))
	for i, it := range items {
		out[i] = looseBytes(it)
	}
	return out
}

func describe(der attest.Bytes) UnverifiedCertificate {
	sum := sha256.Sum256(der)
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return UnverifiedCertificate{SHA256: sum[:], DER: der, Problem: err.Error()}
	}
	return UnverifiedCertificate{
		SHA256: sum[:], Subject: c.Subject.String(), Issuer: c.Issuer.String(),
		NotBefore: c.NotBefore, NotAfter: c.NotAfter, Key: keyKind(c), CA: c.IsCA, DER: der,
	}
}
