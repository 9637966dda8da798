package signed_test

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"slices"
	"testing"

	"github.com/fxamacker/cbor/v2"
	"github.com/veraison/go-cose"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/policy"
	"github.com/assay-project/assay/policy/signed"
)

// The forging itself must be good, or the tests below would prove nothing.
func TestAForgedDocumentWithoutAFaultVerifies(t *testing.T) {
	k := p256(t)
	if _, err := signed.Verify(file, forge(t, k, header(t, k), prod(7)), signers(t, 1, k)); err != nil {
		t.Error(err)
	}
}

func TestEachFaultOfADocumentIsRefusedForItsOwnReason(t *testing.T) {
	k, stranger := p256(t), p256(t)
	who := signers(t, 1, k)
	good := forge(t, k, header(t, k), prod(7))
	with := func(change func(h cose.ProtectedHeader)) []byte {
		h := header(t, k)
		change(h)
		return forge(t, k, h, prod(7))
	}
	without := func(label any) []byte { return with(func(h cose.ProtectedHeader) { delete(h, label) }) }
	set := func(label, value any) []byte { return with(func(h cose.ProtectedHeader) { h[label] = value }) }
	for _, c := range []struct {
		name  string
		doc   []byte
		kind  attest.Kind
		check string
	}{
		{"empty", nil, attest.Malformed, "signed_tag"},
		{"a plain policy", prod(7), attest.Malformed, "signed_tag"},
		{"untagged", good[1:], attest.Malformed, "signed_tag"},
		{"too large", append(slices.Clone(good), make([]byte, signed.MaxSize)...), attest.Malformed, "signed_size"},
		{"a byte after it", append(slices.Clone(good), 0), attest.Malformed, "signed_structure"},
		{"a second one after it", append(slices.Clone(good), good...), attest.Malformed, "signed_structure"},
		{"cut short", good[:len(good)-1], attest.Malformed, "signed_structure"},
		{"a length in a long form", longForm(t, good), attest.Malformed, "signed_structure"},
		{"an array of another length", respell(t, good, func(p []any) { p[3] = []any{p[3]} }), attest.Malformed, "signed_structure"},
		{"a payload that is text", respell(t, good, func(p []any) { p[2] = string(p[2].([]byte)) }), attest.Malformed, "signed_structure"},
		{"a payload that is numbers", respell(t, good, func(p []any) { p[2] = numbers(p[2].([]byte)[:40]) }), attest.Malformed, "signed_structure"},
		{"no payload", respell(t, good, func(p []any) { p[2] = nil }), attest.Malformed, "signed_payload"},
		{"an empty payload", respell(t, good, func(p []any) { p[2] = []byte{} }), attest.Malformed, "signed_payload"},
		{"an unprotected parameter", respell(t, good, func(p []any) { p[1] = map[any]any{99: 1} }), attest.Malformed, "signed_unprotected"},
		{"the key id unprotected", respell(t, good, func(p []any) { p[1] = map[any]any{4: make([]byte, 32)} }), attest.Malformed, "signed_unprotected"},
		{"no protected header", respell(t, good, func(p []any) { p[0] = []byte{} }), attest.Malformed, "signed_header"},
		{"duplicate keys in the header", respell(t, good, func(p []any) { p[0] = duplicate(t, p[0].([]byte)) }), attest.Malformed, "signed_header"},
		{"header keys out of order", respell(t, good, func(p []any) { p[0] = reordered(t, p[0].([]byte)) }), attest.Malformed, "signed_header"},
		{"bytes after the header", respell(t, good, func(p []any) { p[0] = append(p[0].([]byte), 0) }), attest.Malformed, "signed_header"},
		{"an unknown parameter", set(int64(99), "x"), attest.Malformed, "signed_header"},
		{"an unknown parameter by name", set("valid_until", "never"), attest.Malformed, "signed_header"},
		{"an unknown critical parameter", with(func(h cose.ProtectedHeader) {
			h[int64(99)], h[cose.HeaderLabelCritical] = "x", []any{int64(99)}
		}), attest.Malformed, "signed_header"},
		{"no bundle", without("bundle"), attest.Malformed, "signed_header"},
		{"no revision", without("revision"), attest.Malformed, "signed_header"},
		{"no trust domain", without("trust_domain"), attest.Malformed, "signed_header"},
		{"no typ", without(cose.HeaderLabelType), attest.Malformed, "signed_header"},
		{"no key id", without(cose.HeaderLabelKeyID), attest.Malformed, "signed_header"},
		{"a revision that is text", set("revision", "7"), attest.Malformed, "signed_header"},
		{"signed as something else", set(cose.HeaderLabelType, "application/assay.verifier-keys.v1"), attest.Malformed, "signed_type"},
		{"another content type", set(cose.HeaderLabelContentType, "application/json"), attest.Malformed, "signed_content_type"},
		{"a short key id", set(cose.HeaderLabelKeyID, []byte{1, 2, 3}), attest.Malformed, "signed_key_id"},
		{"an algorithm that nobody has", algorithm(t, good, -257), attest.Malformed, "signed_algorithm"},
		{"a short signature", respell(t, good, func(p []any) { p[3] = p[3].([]byte)[:63] }), attest.Malformed, "signed_signature_length"},
		{"another algorithm's signature length", algorithm(t, good, int64(cose.AlgorithmES384)), attest.Malformed, "signed_signature_length"},
		{"another algorithm than the key's", algorithm(t, good, int64(cose.AlgorithmEdDSA)), attest.Untrusted, "signed_signature"},
		{"a signature that was changed", respell(t, good, func(p []any) { p[3].([]byte)[5] ^= 1 }), attest.Untrusted, "signed_signature"},
		{"a payload that was changed", respell(t, good, func(p []any) { p[2] = bytes.Replace(p[2].([]byte), []byte("comment"), []byte("Comment"), 1) }), attest.Untrusted, "signed_signature"},
		{"another's signature in the signer's name", inTheNameOf(t, good, stranger), attest.Untrusted, "signed_signature"},
		{"signed by a stranger", forge(t, stranger, header(t, stranger), prod(7)), attest.Untrusted, "signed_threshold"},
		{"another bundle in the header", set("bundle", "staging"), attest.Malformed, "signed_bundle"},
		{"another revision in the header", set("revision", uint64(8)), attest.Malformed, "signed_revision"},
		{"another trust domain in the header", set("trust_domain", "other.example.org"), attest.Malformed, "signed_trust_domain"},
	} {
		v, err := signed.Verify(file, c.doc, who)
		wantCheck(t, c.name, err, c.kind, c.check)
		if v != nil {
			t.Errorf("%s: a result and an error", c.name)
		}
	}
}

func TestEachFaultOfAJointDocumentIsRefusedForItsOwnReason(t *testing.T) {
	alice, bob := p256(t), ed(t)
	who := signers(t, 2, alice, bob)
	good, err := signed.SignJoint(file, prod(7), alice, bob)
	must(t, err)
	_, err = signed.Verify(file, good, who)
	must(t, err)
	one, err := signed.Sign(file, prod(7), alice)
	must(t, err)
	spoil := func(change func(parts []any)) []byte {
		return append(bytes.Clone(good[:2]), respell(t, append([]byte{0}, good[2:]...), change)[1:]...)
	}
	sigs := func(p []any) []any { return p[3].([]any) }
	sig := func(p []any, i int) []any { return sigs(p)[i].([]any) }
	for _, c := range []struct {
		name  string
		doc   []byte
		kind  attest.Kind
		check string
	}{
		{"no signature", spoil(func(p []any) { p[3] = []any{} }), attest.Malformed, "signed_signatures"},
		{"33 signatures", repeatSignature(t, good, 33), attest.Malformed, "signed_signatures"},
		{"a byte after it", append(slices.Clone(good), 0), attest.Malformed, "signed_structure"},
		{"an unprotected parameter", spoil(func(p []any) { p[1] = map[any]any{99: 1} }), attest.Malformed, "signed_unprotected"},
		{"an unprotected parameter of a signature", spoil(func(p []any) { sig(p, 1)[1] = map[any]any{99: 1} }), attest.Malformed, "signed_unprotected"},
		{"a body header with a signer's parameters", spoil(func(p []any) { p[0] = sign1Protected(t, one) }), attest.Malformed, "signed_header"},
		{"a signer's header with the body's", spoil(func(p []any) { sig(p, 0)[0] = sign1Protected(t, one) }), attest.Malformed, "signed_header"},
		{"a signature under the other's name", spoil(func(p []any) { sig(p, 0)[2], sig(p, 1)[2] = sig(p, 1)[2], sig(p, 0)[2] }), attest.Untrusted, "signed_signature"},
		{"one signature that was changed", spoil(func(p []any) { sig(p, 1)[2].([]byte)[9] ^= 1 }), attest.Untrusted, "signed_signature"},
		{"one signature that was taken away", spoil(func(p []any) { p[3] = sigs(p)[:1] }), attest.Untrusted, "signed_threshold"},
		{"a payload that was changed", spoil(func(p []any) { p[2] = append(p[2].([]byte), '\n') }), attest.Untrusted, "signed_signature"},
		{"a COSE_Sign1's signature in a COSE_Sign", spoil(func(p []any) { sig(p, 0)[2] = sign1Signature(t, one) }), attest.Untrusted, "signed_signature"},
	} {
		v, err := signed.Verify(file, c.doc, who)
		wantCheck(t, c.name, err, c.kind, c.check)
		if v != nil {
			t.Errorf("%s: a result and an error", c.name)
		}
	}
}

// What an approver signs is checked as what an author signs.
func TestNobodyApprovesAPolicyThatTheHeaderBelies(t *testing.T) {
	alice, bob := p256(t), p256(t)
	kid := id(t, alice)
	m := cose.NewSignMessage()
	h := header(t, alice)
	delete(h, cose.HeaderLabelAlgorithm)
	delete(h, cose.HeaderLabelKeyID)
	h["revision"] = uint64(9)
	m.Headers.Protected, m.Payload = h, prod(7)
	s := cose.NewSignature()
	s.Headers.Protected[cose.HeaderLabelAlgorithm] = cose.AlgorithmES256
	s.Headers.Protected[cose.HeaderLabelKeyID] = kid[:]
	m.Signatures = []*cose.Signature{s}
	signer, err := cose.NewSigner(cose.AlgorithmES256, alice)
	must(t, err)
	must(t, m.Sign(rand.Reader, nil, signer))
	doc, err := m.MarshalCBOR()
	must(t, err)
	_, err = signed.Approve(file, doc, bob)
	wantCheck(t, "approval", err, attest.Malformed, "signed_revision")
}

func TestTheLargestPolicyFitsIntoASignedOne(t *testing.T) {
	src := prod(7)
	src = append(src, bytes.Repeat([]byte("# padding\n"), (policy.MaxSize-len(src))/10)...)
	k := p256(t)
	doc, err := signed.Sign(file, src, k)
	must(t, err)
	if _, err := signed.Verify(file, doc, signers(t, 1, k)); err != nil {
		t.Error(err)
	}
}

// repeatSignature gives a COSE_Sign its first signature n times.
func repeatSignature(t *testing.T, doc []byte, n int) []byte {
	t.Helper()
	return append(bytes.Clone(doc[:2]), respell(t, append([]byte{0}, doc[2:]...), func(p []any) {
		first := p[3].([]any)[0]
		all := make([]any, n)
		for i := range all {
			all[i] = first
		}
		p[3] = all
	})[1:]...)
}

func sign1Protected(t *testing.T, doc []byte) (out []byte) {
	respell(t, doc, func(p []any) { out = p[0].([]byte) })
	return out
}

func sign1Signature(t *testing.T, doc []byte) (out []byte) {
	respell(t, doc, func(p []any) { out = p[3].([]byte) })
	return out
}

// longForm writes the head of the array in two bytes.
func longForm(t *testing.T, doc []byte) []byte {
	t.Helper()
	if doc[1] != 0x84 {
		t.Fatalf("the message begins with %#x", doc[1])
	}
	return slices.Concat(doc[:1], []byte{0x98, 4}, doc[2:])
}

func numbers(b []byte) []any {
	out := make([]any, len(b))
	for i, x := range b {
		out[i] = uint64(x)
	}
	return out
}

// duplicate adds the first pair of a map once more.
func duplicate(t *testing.T, m []byte) []byte {
	t.Helper()
	var first cbor.RawMessage
	rest, err := cbor.UnmarshalFirst(m[1:], &first)
	must(t, err)
	var value cbor.RawMessage
	_, err = cbor.UnmarshalFirst(rest, &value)
	must(t, err)
	return slices.Concat([]byte{m[0] + 1}, first, value, m[1:])
}

// reordered puts the first pair of a map last.
func reordered(t *testing.T, m []byte) []byte {
	t.Helper()
	var first, value cbor.RawMessage
	rest, err := cbor.UnmarshalFirst(m[1:], &first)
	must(t, err)
	rest, err = cbor.UnmarshalFirst(rest, &value)
	must(t, err)
	return slices.Concat(m[:1], rest, first, value)
}

// algorithm exchanges the algorithm in the header; nothing is signed anew.
func algorithm(t *testing.T, doc []byte, alg int64) []byte {
	t.Helper()
	return respell(t, doc, func(p []any) {
		var h map[any]any
		must(t, cbor.Unmarshal(p[0].([]byte), &h))
		h[uint64(1)] = alg
		p[0] = coreDet(t, h)
	})
}

// inTheNameOf has another key sign the same content.
func inTheNameOf(t *testing.T, doc []byte, other crypto.Signer) []byte {
	t.Helper()
	m := cose.NewSign1Message()
	must(t, m.UnmarshalCBOR(doc))
	m.Signature = nil
	s, err := cose.NewSigner(cose.AlgorithmES256, other)
	must(t, err)
	must(t, m.Sign(rand.Reader, nil, s))
	out, err := m.MarshalCBOR()
	must(t, err)
	return out
}

func coreDet(t *testing.T, v any) []byte {
	t.Helper()
	mode, err := cbor.CoreDetEncOptions().EncMode()
	must(t, err)
	b, err := mode.Marshal(v)
	must(t, err)
	return b
}
