package signed

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"

	"github.com/veraison/go-cose"

	"github.com/assay-project/assay/policy"
)

// Errors of what an approver can mend.
var (
	// ErrClosed: the document is a COSE_Sign1, which has room for one signature.
	ErrClosed = errors.New("the document is closed: it has room for one signature")
	// ErrSignedAlready: the key has signed the document before.
	ErrSignedAlready = errors.New("this key has signed it already")
	// ErrDifferent: the documents do not hold the same policy.
	ErrDifferent = errors.New("the documents do not hold the same policy")
)

// Sign makes a signed policy of one signer, a COSE_Sign1. The policy must
// compile: nobody should sign what no server could load. file is its name in
// messages; the error of a policy that does not compile is a strictyaml.Errors.
func Sign(file string, src []byte, key crypto.Signer) ([]byte, error) {
	h, err := compiled(file, src)
	if err != nil {
		return nil, err
	}
	s, err := newKeySigner(key)
	if err != nil {
		return nil, err
	}
	protected := bodyProtected(h)
	protected[cose.HeaderLabelAlgorithm] = s.Algorithm()
	protected[cose.HeaderLabelKeyID] = s.id[:]
	return cose.Sign1(rand.Reader, s, cose.Headers{Protected: protected, Unprotected: cose.UnprotectedHeader{}}, src, nil)
}

// SignJoint makes a signed policy to which others can add their approval, a
// COSE_Sign, with the signatures of one or more keys. Otherwise it is [Sign].
func SignJoint(file string, src []byte, keys ...crypto.Signer) ([]byte, error) {
	h, err := compiled(file, src)
	if err != nil {
		return nil, err
	}
	if len(keys) == 0 {
		return nil, errors.New("signed: no key to sign with")
	}
	m := cose.NewSignMessage()
	m.Headers.Protected, m.Payload = bodyProtected(h), src
	return approve(m, keys)
}

// Approve adds a signature to a document that [SignJoint] made, offline and
// without the others' keys. What is signed is checked as if the approver had
// written it: it compiles, and the header says of it what it says of itself.
// The signatures that are there are not checked. Errors are those of [Open] and
// [Verify] about the content, ErrClosed, and ErrSignedAlready.
func Approve(file string, doc []byte, keys ...crypto.Signer) ([]byte, error) {
	u, err := Open(doc)
	if err != nil {
		return nil, err
	}
	if !u.Joint {
		return nil, ErrClosed
	}
	if _, err := u.Compile(file); err != nil {
		return nil, err
	}
	for _, key := range keys {
		s, err := newKeySigner(key)
		if err != nil {
			return nil, err
		}
		if slices.Contains(u.KeyIDs, s.id) {
			return nil, fmt.Errorf("%w: %s", ErrSignedAlready, s.id)
		}
	}
	m := cose.NewSignMessage()
	if err := m.UnmarshalCBOR(doc); err != nil {
		return nil, malformed("signed_structure", err)
	}
	return approve(m, keys)
}

// Merge puts the signatures of several documents that hold the same policy into
// one, each key's once. Errors are those of [Open], ErrClosed, and ErrDifferent.
func Merge(docs ...[]byte) ([]byte, error) {
	var out signMessage
	var seen []KeyID
	for i, doc := range docs {
		u, err := Open(doc)
		if err != nil {
			return nil, err
		}
		if !u.Joint {
			return nil, ErrClosed
		}
		var m signMessage
		if err := decodeExact(doc[len(tagSign):], &m); err != nil {
			return nil, malformed("signed_structure", err)
		}
		if i == 0 {
			out.Protected, out.Unprotected, out.Payload = m.Protected, m.Unprotected, m.Payload
		} else if !bytes.Equal(m.Protected, out.Protected) || !bytes.Equal(m.Payload, out.Payload) {
			return nil, ErrDifferent
		}
		for j, id := range u.KeyIDs {
			if !slices.Contains(seen, id) {
				seen = append(seen, id)
				out.Signatures = append(out.Signatures, m.Signatures[j])
			}
		}
	}
	if len(docs) == 0 {
		return nil, errors.New("signed: no document to merge")
	}
	if err := roomFor(len(out.Signatures)); err != nil {
		return nil, err
	}
	b, err := encode(out)
	if err != nil {
		return nil, err
	}
	return append(slices.Clone(tagSign), b...), nil
}

// approve adds signatures to a message and encodes it.
func approve(m *cose.SignMessage, keys []crypto.Signer) ([]byte, error) {
	if err := roomFor(len(m.Signatures) + len(keys)); err != nil {
		return nil, err
	}
	body, err := m.Headers.MarshalProtected()
	if err != nil {
		return nil, err
	}
	var ids []KeyID
	for _, key := range keys {
		s, err := newKeySigner(key)
		if err != nil {
			return nil, err
		}
		if slices.Contains(ids, s.id) {
			return nil, fmt.Errorf("%w: %s is given twice", ErrSignedAlready, s.id)
		}
		ids = append(ids, s.id)
		sig := cose.NewSignature()
		sig.Headers.Protected[cose.HeaderLabelAlgorithm] = s.Algorithm()
		sig.Headers.Protected[cose.HeaderLabelKeyID] = s.id[:]
		if err := sig.Sign(rand.Reader, s, body, m.Payload, nil); err != nil {
			return nil, err
		}
		m.Signatures = append(m.Signatures, sig)
	}
	return m.MarshalCBOR()
}

func roomFor(signatures int) error {
	if signatures > maxSignatures {
		return fmt.Errorf("signed: %d signatures, at most %d fit", signatures, maxSignatures)
	}
	return nil
}

func compiled(file string, src []byte) (Header, error) {
	b, err := policy.Parse(file, src)
	if err != nil {
		return Header{}, err
	}
	return headerOf(b), nil
}

// bodyProtected is bodyHeader as go-cose takes it.
func bodyProtected(h Header) cose.ProtectedHeader {
	return cose.ProtectedHeader{
		cose.HeaderLabelContentType: contentType,
		cose.HeaderLabelType:        messageType,
		"bundle":                    h.Bundle,
		"revision":                  h.Revision,
		"trust_domain":              h.TrustDomain,
	}
}
