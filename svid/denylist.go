package svid

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"slices"
	"sort"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/attest"
)

// The deny-list (docs/spec/deny-list.md) names what its trust domain's operators
// have taken back before its time: SVIDs, keys, and results of a policy. It is
// signed by a key of its own, which a document under the verifier root names, and
// which travels in the list: so it may be fetched anywhere.

// The typ headers of the two documents.
const (
	typeDenyList     = "application/assay.deny-list.v1"
	typeDenyListKeys = "application/assay.deny-list-keys.v1"
)

// Sizes of a deny-list.
const (
	// MaxDenyListSize bounds the document, in bytes: some 16,000 SVIDs.
	MaxDenyListSize = 256 << 10
	// SerialSize is that of the serial numbers of this issuer's SVIDs, in bytes.
	SerialSize = 16
	// what is left for the lists beside signature, keys and dates
	denyListRoom = MaxDenyListSize - MaxVerifierKeysSize - 1<<10
)

// Denials is the content of a deny-list. Its lists are sorted, without repeats.
type Denials struct {
	TrustDomain spiffeid.TrustDomain
	// Sequence grows with every list. [DenyList] refuses one that is lower than
	// what it has seen.
	Sequence uint64
	IssuedAt time.Time
	// NextUpdate is when the list stops being good: whoever follows it has fetched
	// a newer one by then, or can no longer tell.
	NextUpdate time.Time
	// Serials are serial numbers of X.509-SVIDs that have not ended.
	Serials [][SerialSize]byte
	// Keys are SHA-256 digests of the SubjectPublicKeyInfo of such SVIDs' keys.
	Keys [][sha256.Size]byte
	// Policies are digests of policies: no result that rests on one counts.
	Policies [][sha256.Size]byte
	// Omitted is how many denied SVIDs are not listed for want of room. While there
	// are any, the list cannot tell of anybody that they are not denied.
	Omitted uint64
}

// signedList is a list with who signed it: a key, and the document that names it.
type signedList struct {
	denials *Denials
	keys    *VerifierKeys
	key     Thumbprint
}

// denyListDocument is the payload.
type denyListDocument struct {
	TrustDomain string `cbor:"1,keyasint"`
	Sequence    uint64 `cbor:"2,keyasint"`
	IssuedAt    int64  `cbor:"3,keyasint"`
	NextUpdate  int64  `cbor:"4,keyasint"`
	Serials     []byte `cbor:"5,keyasint"` // 16 bytes each, ascending
	Keys        []byte `cbor:"6,keyasint"` // 32 bytes each, ascending
	Policies    []byte `cbor:"7,keyasint"` // 32 bytes each, ascending
	Omitted     uint64 `cbor:"8,keyasint"`
	SigningKeys []byte `cbor:"9,keyasint"` // an assay.deny-list-keys.v1 document
}

// DenyListRoom is how many SVIDs a deny-list has room for beside so many policies.
func DenyListRoom(policies int) int {
	return max(denyListRoom-policies*sha256.Size, 0) / SerialSize
}

// SignDenyListKeys writes the document that says which keys sign deny-lists. It
// has the form of the verifier-keys document and is signed by the verifier root
// too, under a type of its own: neither key can be passed off as the other.
func SignDenyListKeys(k *VerifierKeys, root crypto.Signer) ([]byte, error) {
	return k.signAs(typeDenyListKeys, root)
}

// ParseDenyListKeys is [ParseVerifierKeys] for the keys of deny-lists. Its
// checks have the same names, with deny_list_keys_ for verifier_keys_.
func ParseDenyListKeys(doc []byte, root crypto.PublicKey, at time.Time) (*VerifierKeys, error) {
	k, err := parseKeys(doc, typeDenyListKeys, root, at)
	return k, renamed(err, "verifier_keys_", "deny_list_keys_")
}

// Sign writes the list, signed by the key, which must be one of those in the
// document keys at the time of issue. The lists are sorted, and what occurs twice
// is written once. Where there is no room for all, first the keys are left out,
// and then serials beyond it, from the end, which Omitted counts.
func (d *Denials) Sign(key crypto.Signer, keys []byte) ([]byte, error) {
	doc := denyListDocument{
		TrustDomain: d.TrustDomain.Name(), Sequence: d.Sequence, IssuedAt: d.IssuedAt.Unix(), NextUpdate: d.NextUpdate.Unix(),
		Omitted: d.Omitted, SigningKeys: keys, Serials: []byte{}, Keys: []byte{},
	}
	doc.Policies = packed(d.Policies)
	if len(doc.Policies) > denyListRoom/2 {
		return nil, fail(attest.Internal, "deny_list_size", "%d policies do not fit into a deny-list", len(d.Policies))
	}
	room := denyListRoom - len(doc.Policies)
	serials := d.Serials
	if n := room / SerialSize; len(serials) > n {
		doc.Omitted += uint64(len(serials) - n)
		serials = serials[:n]
	}
	doc.Serials = packed(serials)
	if k := packed(d.Keys); len(doc.Serials)+len(k) <= room {
		doc.Keys = k
	}
	payload, err := encMode.Marshal(doc)
	if err != nil {
		return nil, fail(attest.Internal, "deny_list_encode", "%w", err)
	}
	if _, _, err := decodeDenyList(payload); err != nil {
		return nil, fail(attest.Internal, "deny_list_encode", "%w", err)
	}
	out, err := signSign1(key, typeDenyList, payload)
	if err != nil {
		var ae *attest.Error
		if errors.As(err, &ae) {
			return nil, err // a signer that is away says so
		}
		return nil, fail(attest.Internal, "deny_list_sign", "%w", err)
	}
	if len(out) > MaxDenyListSize {
		return nil, fail(attest.Internal, "deny_list_size", "the deny-list has %d bytes, at most %d are allowed", len(out), MaxDenyListSize)
	}
	return out, nil
}

// ParseDenyList reads a deny-list of the trust domain and verifies it against the
// pinned verifier root at a time. It may come from anywhere. A caller that keeps
// lists must also refuse one with a lower sequence than before: [DenyList] does.
// The checks, in order:
//
//	deny_list_size       Malformed: at most MaxDenyListSize bytes
//	cose_…               Malformed: the structure of the COSE_Sign1
//	deny_list_structure  Malformed: deterministic CBOR, types
//	deny_list_keys_…     those of [ParseDenyListKeys], and verifier_root, for the document that is in it
//	deny_list_key        Untrusted: that document names the key
//	deny_list_signature  Untrusted: which signed the list
//	deny_list_content    Malformed: names, times, lists in order without repeats
//	deny_list_domain     Untrusted: both documents are of the trust domain
//	deny_list_window     Untrusted: issued while the key was in use
//	deny_list_future     Stale: issued more than MaxClockSkew ahead
//	deny_list_expired    Stale: next_update has come
//
// NextUpdate is not later than that of the document of keys: a list stands no longer
// than the word for who signed it, whatever it says.
func ParseDenyList(doc []byte, root crypto.PublicKey, td spiffeid.TrustDomain, at time.Time) (*Denials, error) {
	l, err := parseDenyList(doc, root, td, at)
	return l.denials, err
}

func parseDenyList(doc []byte, root crypto.PublicKey, td spiffeid.TrustDomain, at time.Time) (none signedList, err error) {
	if len(doc) > MaxDenyListSize {
		return none, fail(attest.Malformed, "deny_list_size", "the document has %d bytes, at most %d are read", len(doc), MaxDenyListSize)
	}
	s, err := parseSign1(doc, typeDenyList)
	if err != nil {
		return none, err
	}
	var raw denyListDocument
	if err := decode(s.payload, &raw); err != nil {
		return none, fail(attest.Malformed, "deny_list_structure", "%w", err)
	}
	keys, err := ParseDenyListKeys(raw.SigningKeys, root, at)
	if err != nil {
		return none, err
	}
	key, ok := keys.find(s.keyID)
	if !ok {
		return none, fail(attest.Untrusted, "deny_list_key", "signed by key %s, which is none of the deny-list keys of %s", s.keyID, keys.TrustDomain)
	}
	if err := s.verify(key.Key); err != nil {
		return none, fail(attest.Untrusted, "deny_list_signature", "%w", err)
	}
	d, _, err := decodeDenyList(s.payload)
	if err != nil {
		return none, err
	}
	if d.TrustDomain != td || keys.TrustDomain != td {
		return none, mismatch(attest.Untrusted, "deny_list_domain", "the deny-list is of another trust domain", td.Name(), d.TrustDomain.Name())
	}
	if d.IssuedAt.Before(key.NotBefore) || !d.IssuedAt.Before(key.NotAfter) {
		return none, fail(attest.Untrusted, "deny_list_window", "issued at %s by a key that is good from %s to %s", stamp(d.IssuedAt), stamp(key.NotBefore), stamp(key.NotAfter))
	}
	if d.NextUpdate.After(keys.NextUpdate) {
		d.NextUpdate = keys.NextUpdate
	}
	if err := d.current(at); err != nil {
		return none, err
	}
	return signedList{denials: d, keys: keys, key: s.keyID}, nil
}

// replaces checks that the list may take the place of one that is held. Nobody can
// bring back what was denied, nor a key that a newer document of keys leaves out;
// and who had such a key cannot keep its last word by a high sequence.
func (l signedList) replaces(held signedList) error {
	if l.keys.Sequence < held.keys.Sequence {
		return fail(attest.Stale, "deny_list_keys_rollback", "the document of its keys has sequence %d, and %d was seen", l.keys.Sequence, held.keys.Sequence)
	}
	_, stands := l.keys.find(held.key)
	withdrawn := l.keys.Sequence > held.keys.Sequence && !stands
	if got, want := l.denials.Sequence, held.denials.Sequence; !withdrawn && got <= want {
		return fail(attest.Stale, "deny_list_rollback", "sequence %d is not newer than %d, which is held", got, want)
	}
	return nil
}

// current checks the list's own dates.
func (d *Denials) current(at time.Time) error {
	if d.IssuedAt.After(at.Add(MaxClockSkew)) {
		return fail(attest.Stale, "deny_list_future", "the deny-list of %s was issued at %s, which is in the future", d.TrustDomain, stamp(d.IssuedAt))
	}
	if !at.Before(d.NextUpdate) {
		err := fail(attest.Stale, "deny_list_expired", "the deny-list of %s was good until %s", d.TrustDomain, stamp(d.NextUpdate))
		err.Hint = "fetch the current deny-list"
		return err
	}
	return nil
}

func decodeDenyList(payload []byte) (*Denials, []byte, error) {
	var raw denyListDocument
	if err := decode(payload, &raw); err != nil {
		return nil, nil, fail(attest.Malformed, "deny_list_structure", "%w", err)
	}
	bad := func(format string, args ...any) (*Denials, []byte, error) {
		return nil, nil, fail(attest.Malformed, "deny_list_content", format, args...)
	}
	td, err := spiffeid.TrustDomainFromString(raw.TrustDomain)
	if err != nil || td.Name() != raw.TrustDomain {
		return bad("%.140q is not the name of a trust domain", raw.TrustDomain)
	}
	if raw.Sequence == 0 {
		return bad("the sequence is zero")
	}
	if raw.IssuedAt <= 0 || raw.IssuedAt >= raw.NextUpdate || raw.NextUpdate > maxTime {
		return bad("issued at %d, next update at %d", raw.IssuedAt, raw.NextUpdate)
	}
	if len(raw.SigningKeys) == 0 {
		return bad("without the document of the keys that sign deny-lists")
	}
	d := &Denials{TrustDomain: td, Sequence: raw.Sequence, IssuedAt: unix(raw.IssuedAt), NextUpdate: unix(raw.NextUpdate), Omitted: raw.Omitted}
	var ok bool
	if d.Serials, ok = unpacked[[SerialSize]byte](raw.Serials); !ok {
		return bad("the serials are not of %d bytes each, ascending", SerialSize)
	}
	if d.Keys, ok = unpacked[[sha256.Size]byte](raw.Keys); !ok {
		return bad("the keys are not of %d bytes each, ascending", sha256.Size)
	}
	if d.Policies, ok = unpacked[[sha256.Size]byte](raw.Policies); !ok {
		return bad("the policies are not of %d bytes each, ascending", sha256.Size)
	}
	return d, raw.SigningKeys, nil
}

// fixedBytes are the items of the lists.
type fixedBytes interface {
	[SerialSize]byte | [sha256.Size]byte
}

func slice[T fixedBytes](v *T) []byte {
	switch v := any(v).(type) {
	case *[SerialSize]byte:
		return v[:]
	case *[sha256.Size]byte:
		return v[:]
	}
	return nil
}

func order[T fixedBytes](a, b T) int { return bytes.Compare(slice(&a), slice(&b)) }

// packed joins sorted items, each once.
func packed[T fixedBytes](in []T) []byte {
	sorted := slices.Clone(in)
	slices.SortFunc(sorted, order[T])
	sorted = slices.Compact(sorted)
	out := []byte{}
	for i := range sorted {
		out = append(out, slice(&sorted[i])...)
	}
	return out
}

// unpacked is false where the items are not ascending, or one is cut short.
func unpacked[T fixedBytes](b []byte) ([]T, bool) {
	var item T
	size := len(slice(&item))
	if len(b)%size != 0 {
		return nil, false
	}
	out := make([]T, 0, len(b)/size)
	for ; len(b) > 0; b = b[size:] {
		copy(slice(&item), b)
		if n := len(out); n > 0 && order(out[n-1], item) >= 0 {
			return nil, false
		}
		out = append(out, item)
	}
	return out, true
}

func holds[T fixedBytes](list []T, v T) bool {
	i := sort.Search(len(list), func(i int) bool { return order(list[i], v) >= 0 })
	return i < len(list) && list[i] == v
}

// Certificate reports which of the certificate's serial number and key the list
// names: "serial", "key", or "" for neither.
func (d *Denials) Certificate(c *x509.Certificate) string {
	if c == nil || c.SerialNumber == nil {
		return ""
	}
	if n := c.SerialNumber; n.Sign() > 0 && n.BitLen() <= 8*SerialSize {
		if holds(d.Serials, [SerialSize]byte(n.FillBytes(make([]byte, SerialSize)))) {
			return "serial"
		}
	}
	if holds(d.Keys, sha256.Sum256(c.RawSubjectPublicKeyInfo)) {
		return "key"
	}
	return ""
}

// Serial reports whether the list names a serial number: that of an SVID, or of
// the one that a token was minted for.
func (d *Denials) Serial(serial [SerialSize]byte) bool { return holds(d.Serials, serial) }

// Policy reports whether the list names the policy with this digest.
func (d *Denials) Policy(digest []byte) bool {
	return len(digest) == sha256.Size && holds(d.Policies, [sha256.Size]byte(digest))
}

// UnverifiedDenials reads what a deny-list says, without asking who says it: to
// show one that comes from somebody who is trusted anyway. Checks: deny_list_size,
// cose_…, deny_list_structure and deny_list_content, as in [ParseDenyList].
func UnverifiedDenials(doc []byte) (*Denials, error) {
	if len(doc) > MaxDenyListSize {
		return nil, fail(attest.Malformed, "deny_list_size", "the document has %d bytes, at most %d are read", len(doc), MaxDenyListSize)
	}
	s, err := parseSign1(doc, typeDenyList)
	if err != nil {
		return nil, err
	}
	d, _, err := decodeDenyList(s.payload)
	return d, err
}
