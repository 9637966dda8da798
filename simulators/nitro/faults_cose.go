package nitro

import (
	"bytes"
	"encoding/asn1"
	"math/big"
)

// coseFaults are wrong around the payload: the COSE_Sign1 of RFC 9052.
func coseFaults() []Fault {
	return []Fault{
		malformed("oversized", "size", "the document is longer than any NSM can make it (16 KiB)").mintOnly().
			chain(func(d *draft) error {
				for len(d.cabundle) < 40 {
					d.cabundle = append(d.cabundle, d.cabundle[1])
				}
				return nil
			}),
		malformed("empty", "size", "the document has no bytes").
			finished(func(d *draft) error { d.document = []byte{}; return nil }),

		malformed("trailing-bytes", "cose_structure", "a byte follows the COSE_Sign1").
			finished(func(d *draft) error { d.document = append(d.document, 0); return nil }),
		malformed("truncated", "cose_structure", "the last byte is missing").
			finished(func(d *draft) error { d.document = d.document[:len(d.document)-1]; return nil }),
		malformed("cose-not-array", "cose_structure", "a map stands where the COSE_Sign1 array should").
			finished(func(d *draft) error {
				d.document = cborMap(
					pair{cborBytes(d.protected), d.unprotected},
					pair{cborBytes(d.payload), cborBytes(d.signature)})
				return nil
			}),
		malformed("cose-three-items", "cose_structure", "the COSE_Sign1 array lacks its signature").
			finished(func(d *draft) error {
				d.document = cborArray(cborBytes(d.protected), d.unprotected, cborBytes(d.payload))
				return nil
			}),
		malformed("cose-five-items", "cose_structure", "the COSE_Sign1 array has a fifth item").
			finished(func(d *draft) error {
				d.document = cborArray(cborBytes(d.protected), d.unprotected, cborBytes(d.payload),
					cborBytes(d.signature), []byte{cborNull})
				return nil
			}),
		malformed("cose-indefinite", "cose_structure", "the COSE_Sign1 array has indefinite length").
			finished(func(d *draft) error {
				d.document = append(append([]byte{majorArray<<5 | 31}, d.document[1:]...), cborBreak)
				return nil
			}),
		malformed("payload-detached", "cose_structure", "the payload is null: it would have to come from elsewhere").
			finished(func(d *draft) error {
				d.document = cborArray(cborBytes(d.protected), d.unprotected, []byte{cborNull}, cborBytes(d.signature))
				return nil
			}),

		malformed("tag-encrypt0", "cose_tag", "CBOR tag 16 (COSE_Encrypt0) stands in front").headers(tagged(16)),
		malformed("tag-sign", "cose_tag", "CBOR tag 98 (COSE_Sign) stands in front").headers(tagged(98)),
		malformed("tag-cwt", "cose_tag", "CBOR tag 61 (CWT) stands before tag 18").headers(tagged(61, 18)),
		malformed("tag-long", "cose_tag", "tag 18 is written in more bytes than it needs").
			finished(func(d *draft) error { d.document = append([]byte{majorTag<<5 | 24, 18}, d.document...); return nil }),

		malformed("protected-extra", "cose_protected", "the protected header holds a key id beside the algorithm").
			headers(protected(pair{cborUint(1), cborInt(algES384)}, pair{cborUint(4), cborBytes([]byte("kid"))})),
		malformed("protected-critical", "cose_protected", "the protected header declares a critical parameter").
			headers(protected(pair{cborUint(1), cborInt(algES384)}, pair{cborUint(2), cborArray(cborInt(-70000))},
				pair{cborInt(-70000), cborUint(1)})),
		malformed("protected-duplicate", "cose_protected", "the protected header names the algorithm twice").
			headers(protected(pair{cborUint(1), cborInt(algES384)}, pair{cborUint(1), cborInt(algES384)})),
		malformed("protected-empty", "cose_protected", "the protected header is empty").headers(protected()),
		malformed("protected-not-map", "cose_protected", "the protected header is an array").
			headers(func(d *draft) error { d.protected = cborArray(cborUint(1), cborInt(algES384)); return nil }),
		malformed("protected-trailing", "cose_protected", "a byte follows the protected header's map").
			headers(func(d *draft) error { d.protected = append(d.protected, 0); return nil }),

		malformed("alg-string", "cose_alg", `the algorithm is the text "ES384"`).
			headers(protected(pair{cborUint(1), cborText("ES384")})),
		malformed("alg-es256", "cose_alg", "the algorithm is ES256 (-7)").
			headers(protected(pair{cborUint(1), cborInt(-7)})),
		malformed("alg-es512", "cose_alg", "the algorithm is ES512 (-36)").
			headers(protected(pair{cborUint(1), cborInt(-36)})),

		malformed("unprotected-kid", "cose_unprotected", "the unprotected header holds a key id").
			headers(func(d *draft) error {
				d.unprotected = cborMap(pair{cborUint(4), cborBytes([]byte("kid"))})
				return nil
			}),
		malformed("unprotected-alg", "cose_unprotected", "the unprotected header names an algorithm too").
			headers(func(d *draft) error {
				d.unprotected = cborMap(pair{cborUint(1), cborInt(-7)})
				return nil
			}),
		malformed("unprotected-null", "cose_unprotected", "the unprotected header is null instead of an empty map").
			headers(func(d *draft) error { d.unprotected = []byte{cborNull}; return nil }),

		malformed("signature-short", "cose_signature_length", "the signature has 95 bytes").
			signed(func(d *draft) error { d.signature = d.signature[:95]; return nil }),
		malformed("signature-long", "cose_signature_length", "the signature has 97 bytes").
			signed(func(d *draft) error { d.signature = append(d.signature, 0); return nil }),
		malformed("signature-empty", "cose_signature_length", "the signature has no bytes").
			signed(func(d *draft) error { d.signature = nil; return nil }),
		malformed("signature-der", "cose_signature_length", "the signature is in ASN.1 instead of r and s side by side").
			signed(func(d *draft) error {
				der, err := asn1.Marshal(struct{ R, S *big.Int }{
					new(big.Int).SetBytes(d.signature[:48]), new(big.Int).SetBytes(d.signature[48:]),
				})
				d.signature = der
				return err
			}),
	}
}

func tagged(tags ...uint64) hook {
	return func(d *draft) error { d.tags = tags; return nil }
}

func protected(pairs ...pair) hook {
	return func(d *draft) error { d.protected = cborMap(pairs...); return nil }
}

// signatureFaults have the right shape and a signature that does not hold.
func signatureFaults() []Fault {
	return []Fault{
		untrusted("signature-broken", "cose_signature", "one bit of the signature is flipped").
			signed(func(d *draft) error { d.signature[95] ^= 1; return nil }),
		untrusted("signature-zero", "cose_signature", "the signature is all zero").
			signed(func(d *draft) error { d.signature = make([]byte, 96); return nil }),
		untrusted("signature-other-key", "cose_signature", "another P-384 key than the leaf's signed").
			headers(func(d *draft) error {
				key, err := newKey()
				d.signer = key
				return err
			}),
		untrusted("payload-changed", "cose_signature", "one bit of PCR0 was flipped after the signature was made").
			signed(func(d *draft) error {
				d.payload = bytes.Clone(d.payload)
				i := bytes.Index(d.payload, cborText("pcrs"))
				d.payload[i+5+1+1+2+40] ^= 1 // key, map head, index, byte string head, 40 bytes in
				return nil
			}),
	}
}
