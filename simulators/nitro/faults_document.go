package nitro

import (
	"fmt"
	"slices"
	"strings"
)

// documentFaults are wrong in the payload's map: its structure and its keys.
func documentFaults() []Fault {
	out := []Fault{
		malformed("payload-not-map", "doc_structure", "the payload is an array").
			headers(func(d *draft) error { d.payload[0] = head(majorArray, uint64(2*len(d.fields)))[0]; return nil }),
		malformed("payload-trailing", "doc_structure", "a byte follows the payload's map").
			headers(func(d *draft) error { d.payload = append(d.payload, 0); return nil }),
		malformed("payload-truncated", "doc_structure", "the payload's map announces one entry more than it has").
			headers(func(d *draft) error {
				d.payload = slices.Concat(head(majorMap, uint64(len(d.fields))+1), d.payload[1:])
				return nil
			}),
		malformed("key-not-text", "doc_structure", "a key of the payload is a number").
			payload(func(d *draft) error { d.fields = append(d.fields, field{cborUint(1), cborUint(1)}); return nil }),
		malformed("module-id-utf8", "doc_structure", "module_id is not valid UTF-8").
			payload(replace("module_id", cborText("i-\xff\xfe-enc"))),
		malformed("module-id-bytes", "doc_structure", "module_id is a byte string").
			payload(replace("module_id", cborBytes([]byte("i-0-enc0")))),
		malformed("digest-null", "doc_structure", "digest is null").
			payload(replace("digest", []byte{cborNull})),
		malformed("timestamp-text", "doc_structure", "timestamp is text").
			payload(replace("timestamp", cborText("2026-01-01T00:00:00Z"))),
		malformed("timestamp-tagged", "doc_structure", "timestamp is tagged as an epoch time").
			payload(func(d *draft) error {
				return d.set("timestamp", append(head(majorTag, 1), cborInt(d.doc.Timestamp.UnixMilli())...))
			}),
		malformed("pcrs-array", "doc_structure", "pcrs is an array").
			payload(func(d *draft) error { return d.set("pcrs", cborArray(cborBytes(d.doc.PCRs[0]))) }),
		malformed("pcr-index-text", "doc_structure", "a register's index is text").
			payload(func(d *draft) error {
				return d.set("pcrs", cborMap(pair{cborText("0"), cborBytes(make([]byte, pcrSize))}))
			}),
		malformed("pcr-text", "doc_structure", "a register's value is text").
			payload(func(d *draft) error {
				return d.set("pcrs", cborMap(pair{cborUint(0), cborText(strings.Repeat("0", pcrSize))}))
			}),
		malformed("certificate-text", "doc_structure", "certificate is text").
			payload(replace("certificate", cborText("-----BEGIN CERTIFICATE-----"))),
		malformed("cabundle-bytes", "doc_structure", "cabundle is one byte string instead of an array").
			payload(func(d *draft) error { return d.set("cabundle", cborBytes(d.cabundle[0])) }),
		malformed("public-key-text", "doc_structure", "public_key is text").
			payload(replace("public_key", cborText("key"))),
		malformed("user-data-array", "doc_structure", "user_data is an array of numbers").
			payload(replace("user_data", cborArray(cborUint(1), cborUint(2)))),
		malformed("nonce-chunked", "doc_structure", "nonce is a byte string of indefinite length").
			payload(replace("nonce", []byte{majorBytes<<5 | 31, majorBytes<<5 | 1, 0, cborBreak})),

		malformed("duplicate-key", "doc_duplicate_key", "the payload has nonce twice").
			payload(func(d *draft) error { d.fields = append(d.fields, d.fields[len(d.fields)-1]); return nil }),
		malformed("duplicate-key-conflicting", "doc_duplicate_key", "the payload has module_id twice, with two values").
			payload(func(d *draft) error {
				d.fields = append(d.fields, field{cborText("module_id"), cborText("i-00000000000000000-enc0000000000000000")})
				return nil
			}),
		malformed("duplicate-pcr", "doc_duplicate_key", "a register occurs twice in pcrs, with two values").
			payload(func(d *draft) error {
				return d.set("pcrs", cborMap(
					pair{cborUint(0), cborBytes(d.doc.PCRs[0])},
					pair{cborUint(0), cborBytes(seeded("image", "another"))}))
			}),

		malformed("nitrotpm", "doc_platform", "the document is a NitroTPM's: nitrotpm_pcrs instead of pcrs").
			payload(func(d *draft) error {
				for i := range d.fields {
					if string(d.fields[i].key) == string(cborText("pcrs")) {
						pcrs := make(map[int][]byte, 24)
						for p := range 24 {
							pcrs[p] = make([]byte, pcrSize)
						}
						d.fields[i] = field{cborText("nitrotpm_pcrs"), encodePCRs(pcrs)}
					}
				}
				return nil
			}),
		malformed("unknown-key", "doc_unknown_key", "the payload has a key that the specification does not").
			payload(func(d *draft) error {
				d.fields = append(d.fields, field{cborText("trust_me"), []byte{cborTrue}})
				return nil
			}),
	}
	for _, key := range []string{"module_id", "digest", "timestamp", "pcrs", "certificate", "cabundle"} {
		out = append(out, malformed("missing-"+strings.ReplaceAll(key, "_", "-"), "doc_missing_key",
			fmt.Sprintf("the payload lacks %s", key)).payload(func(d *draft) error { return d.remove(key) }))
	}
	return out
}

func replace(key string, value []byte) hook {
	return func(d *draft) error { return d.set(key, value) }
}

// maxField is the most that the NSM takes in public_key, user_data and nonce,
// and the longest certificate.
const maxField = 1024

// fieldFaults are wrong in one value of the payload.
func fieldFaults() []Fault {
	out := []Fault{
		malformed("module-id-empty", "module_id", "module_id is empty").payload(replace("module_id", cborText(""))),
		malformed("digest-sha256", "digest", "digest is SHA256").payload(replace("digest", cborText("SHA256"))),
		malformed("digest-sha512", "digest", "digest is SHA512").payload(replace("digest", cborText("SHA512"))),
		malformed("digest-empty", "digest", "digest is empty").payload(replace("digest", cborText(""))),
		malformed("timestamp-zero", "timestamp", "timestamp is 0").payload(replace("timestamp", cborInt(0))),
		malformed("timestamp-negative", "timestamp", "timestamp is before 1970").payload(replace("timestamp", cborInt(-1))),
		malformed("timestamp-overflow", "timestamp", "timestamp is the largest number that CBOR can hold").
			payload(replace("timestamp", cborUint(1<<64-1))),

		malformed("pcrs-none", "pcr_count", "pcrs is empty").payload(replace("pcrs", cborMap())),
		malformed("pcrs-too-many", "pcr_count", "pcrs has 33 registers, so that one has index 32").
			document(func(d *draft) error {
				for i := range 33 {
					if d.doc.PCRs[i] == nil {
						d.doc.PCRs[i] = make([]byte, pcrSize)
					}
				}
				return nil
			}),
		malformed("pcr-index-32", "pcr_index", "a register has index 32").
			document(func(d *draft) error { d.doc.PCRs[32] = make([]byte, pcrSize); return nil }),
		malformed("pcr-index-negative", "pcr_index", "a register has index -1").
			document(func(d *draft) error { d.doc.PCRs[-1] = make([]byte, pcrSize); return nil }),
		malformed("pcr-index-wrapping", "pcr_index", "a register has index 2^32, which is 0 to a careless reader").
			payload(func(d *draft) error {
				return d.set("pcrs", cborMap(
					pair{cborUint(1), cborBytes(make([]byte, pcrSize))},
					pair{cborUint(1 << 32), cborBytes(make([]byte, pcrSize))}))
			}),
	}
	for _, n := range []int{0, 32, 47, 49, 64} {
		out = append(out, malformed(fmt.Sprintf("pcr-%d-bytes", n), "pcr_length",
			fmt.Sprintf("PCR0 has %d bytes instead of 48", n)).
			document(func(d *draft) error { d.doc.PCRs[0] = make([]byte, n); return nil }))
	}
	out = append(out,
		malformed("certificate-empty", "certificate_length", "certificate is empty").
			payload(replace("certificate", cborBytes(nil))),
		malformed("certificate-1025", "certificate_length", "certificate is a good one of 1025 bytes").
			plan(func(_ *draft, p *plan) error { p.leaf.exactSize = maxField + 1; return nil }),
		malformed("cabundle-empty", "cabundle_count", "cabundle is empty").
			chain(func(d *draft) error { d.cabundle = nil; return nil }),
		malformed("cabundle-nine", "cabundle_count", "cabundle has nine certificates, more than any path").
			chain(func(d *draft) error {
				for len(d.cabundle) < 9 {
					d.cabundle = append(d.cabundle, d.cabundle[3])
				}
				return nil
			}),
		malformed("cabundle-item-empty", "cabundle_length", "an item of cabundle is empty").
			chain(func(d *draft) error { d.cabundle[2] = nil; return nil }),
		malformed("cabundle-item-1025", "cabundle_length", "an item of cabundle is a good certificate of 1025 bytes").
			plan(func(_ *draft, p *plan) error { p.instance.exactSize = maxField + 1; return nil }),

		malformed("public-key-empty", "public_key_length", "public_key is empty instead of null").
			document(func(d *draft) error { d.doc.PublicKey = []byte{}; return nil }),
		malformed("public-key-1025", "public_key_length", "public_key has 1025 bytes").
			document(func(d *draft) error { d.doc.PublicKey = make([]byte, maxField+1); return nil }),
		malformed("user-data-1025", "user_data_length", "user_data has 1025 bytes").
			document(func(d *draft) error { d.doc.UserData = make([]byte, maxField+1); return nil }),
		malformed("nonce-1025", "nonce_length", "nonce has 1025 bytes").
			document(func(d *draft) error { d.doc.Nonce = make([]byte, maxField+1); return nil }),

		malformed("certificate-garbage", "chain_parse", "certificate is not a certificate").
			chain(func(d *draft) error { d.certificate = seeded("garbage", ""); return nil }),
		malformed("certificate-trailing", "chain_parse", "a byte follows the certificate").
			chain(func(d *draft) error { d.certificate = append(d.certificate, 0); return nil }),
		malformed("cabundle-item-garbage", "chain_parse", "an item of cabundle is not a certificate").
			chain(func(d *draft) error { d.cabundle[2] = seeded("garbage", ""); return nil }),
	)
	return out
}
