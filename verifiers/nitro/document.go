package nitro

import (
	"errors"
	"fmt"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/fxamacker/cbor/v2"

	"github.com/assay-project/assay/attest"
)

// Limits of the attestation document (AWS Nitro Enclaves user guide, "Verifying
// the root of trust"), and the two that are this verifier's own.
const (
	maxPCRs        = 32
	pcrSize        = 48 // SHA-384
	maxCertificate = 1024
	maxField       = 1024 // public_key, user_data, nonce
	maxBundle      = 8    // own: AWS's chains have 4
	maxModuleID    = 256  // own
	// maxTimestamp is the last millisecond of the year 9999.
	maxTimestamp = 253402300799999
)

// document is a decoded payload whose signature nobody has verified. Its slices
// are copies: they do not share memory with the evidence.
type document struct {
	moduleID    string
	digest      string
	timestamp   time.Time
	pcrs        map[int]attest.Bytes
	certificate []byte
	cabundle    [][]byte
	publicKey   []byte // nil when absent or null, as are the two below
	userData    []byte
	nonce       []byte
}

// keys of the payload, the first six mandatory.
const (
	keyModuleID    = "module_id"
	keyDigest      = "digest"
	keyTimestamp   = "timestamp"
	keyPCRs        = "pcrs"
	keyCertificate = "certificate"
	keyCABundle    = "cabundle"
	keyPublicKey   = "public_key"
	keyUserData    = "user_data"
	keyNonce       = "nonce"
	// keyNitroTPM is in documents that an EC2 instance's NitroTPM makes. They
	// have the same root and another meaning.
	keyNitroTPM = "nitrotpm_pcrs"
)

func mandatoryKeys() [6]string {
	return [...]string{keyModuleID, keyDigest, keyTimestamp, keyPCRs, keyCertificate, keyCABundle}
}

func optionalKeys() [3]string { return [...]string{keyPublicKey, keyUserData, keyNonce} }

// read decodes a payload and checks everything that can be said of it without
// knowing who signed it.
func (m modes) read(payload []byte) (*document, error) {
	fields, err := m.fields(payload)
	if err != nil {
		return nil, err
	}
	r := reader{modes: m, fields: fields}
	d := &document{
		moduleID:    r.text(keyModuleID),
		digest:      r.text(keyDigest),
		certificate: r.bytes(keyCertificate, false),
		publicKey:   r.bytes(keyPublicKey, true),
		userData:    r.bytes(keyUserData, true),
		nonce:       r.bytes(keyNonce, true),
		cabundle:    r.list(keyCABundle),
	}
	pcrs := r.registers(keyPCRs)
	stamp, negative := r.integer(keyTimestamp)
	if r.err != nil {
		return nil, r.err
	}
	if err := d.check(stamp, negative, pcrs); err != nil {
		return nil, err
	}
	return d, nil
}

// fields splits the payload into its values and holds its keys against the
// specification.
func (m modes) fields(payload []byte) (map[string]cbor.RawMessage, error) {
	if payload[0]>>5 != majorMap {
		return nil, refuse(CheckDocStructure, detail{
			Err: errors.New("the payload is not a map"), Expected: "major type 5", Got: fmt.Sprintf("first byte %02x", payload[0]),
		})
	}
	fields := make(map[string]cbor.RawMessage, 9)
	if err := m.inner.Unmarshal(payload, &fields); err != nil {
		return nil, refuseCBOR("the payload", err)
	}
	if _, ok := fields[keyNitroTPM]; ok {
		return nil, refuse(CheckDocPlatform, detail{
			Err:      errors.New("a NitroTPM document: it speaks of an EC2 instance, not of an enclave"),
			Expected: "key " + keyPCRs, Got: "key " + keyNitroTPM,
			Hint: "aws-nitro verifies Nitro Enclaves only",
		})
	}
	must, may := mandatoryKeys(), optionalKeys()
	mandatory, optional := count(fields, must[:]), count(fields, may[:])
	if mandatory+optional != len(fields) {
		return nil, refuse(CheckDocUnknownKey, detail{
			Err: errors.New("the payload has a key that the specification does not name"), Got: unknownKey(fields),
		})
	}
	if mandatory != len(must) {
		return nil, refuse(CheckDocMissingKey, detail{
			Err: errors.New("the payload lacks a mandatory key"), Expected: missingKey(fields),
		})
	}
	return fields, nil
}

func count(fields map[string]cbor.RawMessage, keys []string) (n int) {
	for _, k := range keys {
		if _, ok := fields[k]; ok {
			n++
		}
	}
	return n
}

// unknownKey names the first key, in sorted order, that is not known.
func unknownKey(fields map[string]cbor.RawMessage) string {
	must, may := mandatoryKeys(), optionalKeys()
	first := ""
	for k := range fields {
		if !slices.Contains(must[:], k) && !slices.Contains(may[:], k) && (first == "" || k < first) {
			first = k
		}
	}
	return fmt.Sprintf("%.40q", first)
}

func missingKey(fields map[string]cbor.RawMessage) string {
	for _, k := range mandatoryKeys() {
		if _, ok := fields[k]; !ok {
			return k
		}
	}
	return ""
}

// refuseCBOR tells a duplicate key from every other fault of encoding.
func refuseCBOR(where string, err error) error {
	var dup *cbor.DupMapKeyError
	if errors.As(err, &dup) {
		return refuse(CheckDocDuplicateKey, detail{
			Err: fmt.Errorf("%s holds one key twice", where), Got: fmt.Sprintf("%.40q", fmt.Sprint(dup.Key)),
		})
	}
	return refuse(CheckDocStructure, detail{Err: fmt.Errorf("%s: %w", where, err)})
}

// reader turns values into Go types, keeping the first error.
type reader struct {
	modes  modes
	fields map[string]cbor.RawMessage
	err    error
}

func (r *reader) wrong(key, want string, raw []byte) {
	if r.err == nil {
		r.err = refuse(CheckDocStructure, detail{
			Err: fmt.Errorf("%s has the wrong type", key), Expected: want, Got: "CBOR " + clipHex(raw),
		})
	}
}

func (r *reader) text(key string) string {
	raw := r.fields[key]
	s, _, ok := content(raw, majorText)
	if !ok || !utf8.Valid(s) {
		r.wrong(key, "a text string of definite length, UTF-8", raw)
		return ""
	}
	return string(s)
}

// bytes returns a byte string, or nil for one that is absent or null.
func (r *reader) bytes(key string, optional bool) []byte {
	raw, there := r.fields[key]
	if optional && (!there || (len(raw) == 1 && raw[0] == cborNull)) {
		return nil
	}
	b, _, ok := byteString(raw)
	if !ok {
		r.wrong(key, "a byte string of definite length", raw)
		return nil
	}
	return b
}

func (r *reader) integer(key string) (n uint64, negative bool) {
	raw := r.fields[key]
	major, arg, size, _, ok := head(raw)
	if !ok || size != len(raw) || (major != majorUnsigned && major != majorNegative) {
		r.wrong(key, "an integer", raw)
		return 0, false
	}
	return arg, major == majorNegative
}

// list returns an array of byte strings.
func (r *reader) list(key string) [][]byte {
	raw := r.fields[key]
	if len(raw) == 0 || raw[0]>>5 != majorArray {
		r.wrong(key, "an array of byte strings", raw)
		return nil
	}
	out := make([][]byte, 0, maxBundle)
	ok := flat(raw, func(item []byte) bool {
		b, _, ok := byteString(item)
		if !ok {
			r.wrong(fmt.Sprintf("%s[%d]", key, len(out)), "a byte string of definite length", item)
		}
		out = append(out, b)
		return ok
	})
	if !ok {
		r.wrong(key, "an array of byte strings of definite length", raw)
		return nil
	}
	return out
}

// registers is the content of pcrs.
type registers struct {
	values map[int]attest.Bytes // those with an index that there is
	count  int                  // all of them
	stray  string               // an index that there is not, or ""
}

// index of a register as it stands in the document.
type index struct {
	n        uint64
	negative bool
}

// registers returns a map from integers to byte strings.
func (r *reader) registers(key string) registers {
	raw := r.fields[key]
	if len(raw) == 0 || raw[0]>>5 != majorMap {
		r.wrong(key, "a map from integers to byte strings", raw)
		return registers{}
	}
	out := registers{values: make(map[int]attest.Bytes, maxPCRs/2)}
	strays := make(map[index]bool) // without an entry it costs nothing
	var at index
	var isValue bool
	ok := flat(raw, func(item []byte) bool {
		if !isValue {
			isValue = true
			major, n, _, _, _ := head(item)
			at = index{n, major == majorNegative}
			if major != majorUnsigned && major != majorNegative {
				r.wrong("an index in "+key, "an integer", item)
			}
			return r.err == nil
		}
		isValue = false
		out.count++
		b, _, ok := byteString(item)
		if !ok {
			r.wrong(fmt.Sprintf("%s[%s]", key, at), "a byte string of definite length", item)
			return false
		}
		if at.negative || at.n >= maxPCRs {
			ok = !strays[at]
			strays[at], out.stray = true, at.String()
		} else {
			_, dup := out.values[int(at.n)]
			ok = !dup
			out.values[int(at.n)] = b
		}
		if !ok && r.err == nil {
			r.err = refuse(CheckDocDuplicateKey, detail{Err: fmt.Errorf("%s holds one index twice", key), Got: at.String()})
		}
		return ok
	})
	if !ok || isValue {
		r.wrong(key, "a map from integers to byte strings of definite length", raw)
	}
	return out
}

// String writes the index as a number. CBOR's negative n stands for -1-n.
func (i index) String() string {
	if i.negative {
		return fmt.Sprintf("-1-%d", i.n)
	}
	return fmt.Sprintf("%d", i.n)
}

// check holds the values against the specification's limits, and fills in the
// timestamp and the PCRs.
func (d *document) check(stamp uint64, negative bool, pcrs registers) error {
	if !printable(d.moduleID) {
		return refuse(CheckModuleID, detail{
			Err:      errors.New("module_id does not name an enclave"),
			Expected: fmt.Sprintf("1 to %d printable ASCII characters", maxModuleID), Got: fmt.Sprintf("%d bytes, %.40q", len(d.moduleID), d.moduleID),
		})
	}
	if d.digest != "SHA384" {
		return refuse(CheckDigest, detail{
			Err: errors.New("the PCRs are made with another digest"), Expected: `"SHA384"`, Got: fmt.Sprintf("%.40q", d.digest),
		})
	}
	if negative || stamp == 0 || stamp > maxTimestamp {
		return refuse(CheckTimestamp, detail{
			Err: errors.New("timestamp is not a time"), Expected: fmt.Sprintf("1 to %d milliseconds", int64(maxTimestamp)), Got: stampText(stamp, negative),
		})
	}
	d.timestamp = time.UnixMilli(int64(stamp)).UTC()
	if err := d.checkPCRs(pcrs); err != nil {
		return err
	}
	if err := checkLength(CheckCertificateLength, keyCertificate, d.certificate, 1, maxCertificate); err != nil {
		return err
	}
	if len(d.cabundle) < 1 || len(d.cabundle) > maxBundle {
		return refuse(CheckCABundleCount, detail{
			Err: errors.New("cabundle holds no chain"), Expected: fmt.Sprintf("1 to %d entries", maxBundle), Got: fmt.Sprintf("%d", len(d.cabundle)),
		})
	}
	for i, c := range d.cabundle {
		if err := checkLength(CheckCABundleLength, fmt.Sprintf("%s[%d]", keyCABundle, i), c, 1, maxCertificate); err != nil {
			return err
		}
	}
	if d.publicKey != nil {
		if err := checkLength(CheckPublicKeyLength, keyPublicKey, d.publicKey, 1, maxField); err != nil {
			return err
		}
	}
	if err := checkLength(CheckUserDataLength, keyUserData, d.userData, 0, maxField); err != nil {
		return err
	}
	return checkLength(CheckNonceLength, keyNonce, d.nonce, 0, maxField)
}

func (d *document) checkPCRs(pcrs registers) error {
	if pcrs.count < 1 || pcrs.count > maxPCRs {
		return refuse(CheckPCRCount, detail{
			Err: errors.New("pcrs is empty or too large"), Expected: fmt.Sprintf("1 to %d entries", maxPCRs), Got: fmt.Sprintf("%d", pcrs.count),
		})
	}
	if pcrs.stray != "" {
		return refuse(CheckPCRIndex, detail{
			Err: errors.New("there is no such PCR"), Expected: fmt.Sprintf("0 to %d", maxPCRs-1), Got: pcrs.stray,
		})
	}
	for i, v := range pcrs.values {
		if len(v) != pcrSize {
			return refuse(CheckPCRLength, detail{
				Err: fmt.Errorf("PCR%d does not have the length of SHA-384", i), Expected: fmt.Sprintf("%d bytes", pcrSize), Got: fmt.Sprintf("%d bytes", len(v)),
			})
		}
	}
	d.pcrs = pcrs.values
	return nil
}

func checkLength(check, name string, b []byte, least, most int) error {
	if len(b) >= least && len(b) <= most {
		return nil
	}
	return refuse(check, detail{
		Err: fmt.Errorf("%s has a length that the specification excludes", name), Expected: fmt.Sprintf("%d to %d bytes", least, most), Got: fmt.Sprintf("%d bytes", len(b)),
	})
}

func printable(s string) bool {
	if s == "" || len(s) > maxModuleID {
		return false
	}
	for _, c := range []byte(s) {
		if c < 0x21 || c > 0x7e {
			return false
		}
	}
	return true
}

func stampText(n uint64, negative bool) string {
	if negative {
		return "a negative number"
	}
	return fmt.Sprintf("%d", n)
}

// debug reports whether the enclave runs in debug mode, which the NSM shows by
// PCR0, PCR1 and PCR2 all zero. A register that is missing says nothing for the
// enclave, so it counts as zero.
func (d *document) debug() bool {
	for i := range 3 {
		for _, b := range d.pcrs[i] {
			if b != 0 {
				return false
			}
		}
	}
	return true
}

// claims copies the document into the vocabulary. Call it for a verified one.
func (d *document) claims(simulated bool) *attest.Claims {
	return &attest.Claims{
		Platform:  attest.AWSNitro,
		Simulated: simulated,
		Nitro: &attest.Nitro{
			ModuleID:  d.moduleID,
			Timestamp: d.timestamp,
			PCRs:      d.pcrs,
			Debug:     d.debug(),
			PublicKey: d.publicKey,
			UserData:  d.userData,
			Nonce:     d.nonce,
		},
	}
}
