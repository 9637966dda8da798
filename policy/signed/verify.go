package signed

import (
	"crypto"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/veraison/go-cose"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/policy"
)

// Signers is whose signatures count, and how many of them a policy needs.
type Signers struct {
	threshold int
	keys      map[KeyID]crypto.PublicKey
}

// NewSigners is a set of at least threshold keys. No key may occur twice.
func NewSigners(threshold int, keys ...crypto.PublicKey) (*Signers, error) {
	s := &Signers{threshold: threshold, keys: make(map[KeyID]crypto.PublicKey, len(keys))}
	for i, k := range keys {
		id, err := IDOf(k)
		if err != nil {
			return nil, fmt.Errorf("signer %d: %w", i+1, err)
		}
		if s.keys[id] != nil {
			return nil, fmt.Errorf("signer %d: the key %s is there twice: one person's signature would count as two", i+1, id)
		}
		s.keys[id] = k
	}
	switch {
	case len(keys) == 0:
		return nil, errors.New("no signer: nothing could ever be accepted")
	case len(keys) > maxSignatures:
		return nil, fmt.Errorf("%d signers, at most %d", len(keys), maxSignatures)
	case threshold < 1 || threshold > len(keys):
		return nil, fmt.Errorf("a threshold of %d for %d signers: want 1 to %d", threshold, len(keys), len(keys))
	}
	return s, nil
}

// Threshold is how many different signers a policy needs.
func (s *Signers) Threshold() int { return s.threshold }

// KeyIDs lists the signers' key ids, sorted.
func (s *Signers) KeyIDs() []KeyID { return slices.SortedFunc(maps.Keys(s.keys), compareKeyIDs) }

// Verified is a policy that enough of the signers have signed.
type Verified struct {
	Header Header
	Source []byte         // the policy, byte for byte as it was signed
	Bundle *policy.Bundle // the policy, compiled
	// Signers are those of the set that signed, sorted, each once.
	Signers []KeyID
	// Others are key ids outside of the set, sorted, each once: nothing is known
	// of their signatures.
	Others []KeyID
}

// Verify believes a document if enough different signers have signed it, and
// compiles its policy. file is the name of the document in messages. Errors are
// those of [Open], a strictyaml.Errors for a policy that does not compile, and
//
//	signed_signature     Untrusted: a signature in the name of one of the signers is not theirs
//	signed_threshold     Untrusted: too few of the signers have signed
//	signed_bundle        Malformed: the header names another bundle than the payload
//	signed_revision      Malformed: … another revision
//	signed_trust_domain  Malformed: … another trust domain
//
// A signature of a key outside of the set counts for nothing and harms nothing,
// so that signers can be exchanged one server after the other.
func Verify(file string, doc []byte, s *Signers) (*Verified, error) {
	if s == nil || s.threshold < 1 || len(s.keys) == 0 {
		return nil, errors.New("signed: a set of signers that NewSigners did not make")
	}
	u, err := Open(doc)
	if err != nil {
		return nil, err
	}
	v := &Verified{Header: u.Header, Source: u.payload}
	if err := u.verify(s, v); err != nil {
		return nil, err
	}
	if len(v.Signers) < s.threshold {
		return nil, &attest.Error{
			Kind: attest.Untrusted, Check: "signed_threshold", Err: fmt.Errorf("%s: too few of the policy's signers have signed it", file),
			Expected: fmt.Sprintf("%d of %d", s.threshold, len(s.keys)), Got: fmt.Sprint(len(v.Signers)),
			Hint: "have another signer approve it: `assay policy sign FILE --key KEY`",
		}
	}
	if v.Bundle, err = u.Compile(file); err != nil {
		return nil, err
	}
	return v, nil
}

// verify checks every signature in the name of one of the signers.
func (u *Unverified) verify(s *Signers, v *Verified) error {
	check, err := u.checker()
	if err != nil {
		return err
	}
	for i, id := range u.KeyIDs {
		key, known := s.keys[id]
		if !known {
			v.Others = append(v.Others, id)
			continue
		}
		alg, err := algorithmOf(key)
		if err != nil {
			return err
		}
		if int64(alg.id) != u.signers[i].Algorithm {
			return notTheirs(id, fmt.Errorf("it was made by algorithm %d, this key's is %v", u.signers[i].Algorithm, alg.id))
		}
		verifier, err := cose.NewVerifier(alg.id, key)
		if err != nil {
			return err
		}
		if err := check(i, verifier); err != nil {
			return notTheirs(id, err)
		}
		v.Signers = append(v.Signers, id)
	}
	for _, ids := range []*[]KeyID{&v.Signers, &v.Others} {
		slices.SortFunc(*ids, compareKeyIDs)
		*ids = slices.Compact(*ids)
	}
	return nil
}

// checker returns what verifies the i-th signature. That go-cose reads the same
// bytes in its own way, and signs over what it has read, is a second opinion of
// their form.
func (u *Unverified) checker() (func(i int, v cose.Verifier) error, error) {
	if !u.Joint {
		m := cose.NewSign1Message()
		if err := m.UnmarshalCBOR(u.raw); err != nil {
			return nil, malformed("signed_structure", err)
		}
		return func(_ int, v cose.Verifier) error { return m.Verify(nil, v) }, nil
	}
	m := cose.NewSignMessage()
	if err := m.UnmarshalCBOR(u.raw); err != nil {
		return nil, malformed("signed_structure", err)
	}
	body, err := m.Headers.MarshalProtected()
	if err != nil {
		return nil, malformed("signed_structure", err)
	}
	return func(i int, v cose.Verifier) error { return m.Signatures[i].Verify(v, body, m.Payload, nil) }, nil
}

func notTheirs(id KeyID, err error) error {
	return &attest.Error{
		Kind: attest.Untrusted, Check: "signed_signature", Err: fmt.Errorf("the signature in the name of %s is not that key's: %w", id, err),
		Hint: "the document was changed after it was signed, or somebody pretends to be the signer",
	}
}

// Compile compiles the policy that the document holds, whoever wrote it, and
// holds the header against it. Errors are those of [Verify] about the content.
func (u *Unverified) Compile(file string) (*policy.Bundle, error) {
	b, err := policy.Parse(file, u.payload)
	if err != nil {
		return nil, err
	}
	says := headerOf(b)
	for _, c := range []struct{ check, header, payload string }{
		{"signed_bundle", u.Header.Bundle, says.Bundle},
		{"signed_revision", fmt.Sprint(u.Header.Revision), fmt.Sprint(says.Revision)},
		{"signed_trust_domain", u.Header.TrustDomain, says.TrustDomain},
	} {
		if c.header != c.payload {
			return nil, mismatch(c.check, "its header contradicts its policy", clip(c.payload), clip(c.header))
		}
	}
	return b, nil
}
