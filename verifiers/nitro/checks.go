package nitro

import (
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifiers/internal/check"
)

// The names of the checks, in the order in which they run. They are stable:
// ledgers, metrics and scripts hold them.
const (
	CheckPlatform = "platform"
	CheckTime     = "time"
	CheckContext  = "context"

	CheckSize            = "size"
	CheckCOSETag         = "cose_tag"
	CheckCOSEStructure   = "cose_structure"
	CheckCOSEProtected   = "cose_protected"
	CheckCOSEAlg         = "cose_alg"
	CheckCOSEUnprotected = "cose_unprotected"
	CheckCOSESigLength   = "cose_signature_length"

	CheckDocStructure      = "doc_structure"
	CheckDocDuplicateKey   = "doc_duplicate_key"
	CheckDocPlatform       = "doc_platform"
	CheckDocUnknownKey     = "doc_unknown_key"
	CheckDocMissingKey     = "doc_missing_key"
	CheckModuleID          = "module_id"
	CheckDigest            = "digest"
	CheckTimestamp         = "timestamp"
	CheckPCRCount          = "pcr_count"
	CheckPCRIndex          = "pcr_index"
	CheckPCRLength         = "pcr_length"
	CheckCertificateLength = "certificate_length"
	CheckCABundleCount     = "cabundle_count"
	CheckCABundleLength    = "cabundle_length"
	CheckPublicKeyLength   = "public_key_length"
	CheckUserDataLength    = "user_data_length"
	CheckNonceLength       = "nonce_length"

	CheckChainRoot       = "chain_root"
	CheckChainParse      = "chain_parse"
	CheckChainOrder      = "chain_order"
	CheckChainIssuer     = "chain_issuer"
	CheckChainAlgorithm  = "chain_algorithm"
	CheckChainExtension  = "chain_extension"
	CheckChainCA         = "chain_ca"
	CheckChainPathLength = "chain_path_length"
	CheckLeafIsCA        = "leaf_is_ca"
	CheckLeafKeyUsage    = "leaf_key_usage"
	CheckLeafCurve       = "leaf_curve"
	CheckChainSignature  = "chain_signature"
	CheckChainValidity   = "chain_validity"

	CheckCOSESignature   = "cose_signature"
	CheckPanic           = "panic"
	CheckTimestampLeaf   = "timestamp_leaf"
	CheckTimestampWindow = "timestamp_window"

	CheckBinding          = "binding"
	CheckBindingUserData  = "binding_user_data"
	CheckBindingNonce     = "binding_nonce"
	CheckBindingPublicKey = "binding_public_key"

	CheckEncoding = "encoding"
)

// Check describes one named check.
type Check struct {
	Name    string      // what attest.Error.Check holds
	Kind    attest.Kind // the kind of the error when it fails
	Demands string      // what must hold
	Source  string      // who says so
}

// Sources that the table below names.
const (
	srcAWS   = "AWS, Verifying the root of trust (attestation document specification)"
	srcCOSE  = "RFC 9052 section 4.2"
	srcCBOR  = "RFC 8949 section 5.3"
	srcX509  = "RFC 5280 section 6.1"
	srcAssay = "docs/spec/binding.md"
	srcOwn   = "this verifier"
)

// Checks lists every check, in the order in which they run.
func Checks() []Check {
	const (
		internal    = attest.Internal
		malformed   = attest.Malformed
		untrusted   = attest.Untrusted
		stale       = attest.Stale
		unavailable = attest.Unavailable
	)
	return []Check{
		{CheckPlatform, malformed, "the evidence names platform aws-nitro", srcOwn},
		{CheckTime, internal, "the caller says at which time to verify", srcOwn},
		{CheckContext, unavailable, "the request has not been cancelled", srcOwn},

		{CheckSize, malformed, "1 to 16384 bytes", srcOwn},
		{CheckCOSETag, malformed, "no CBOR tag, or tag 18 in its shortest form", srcCOSE},
		{CheckCOSEStructure, malformed, "an array of four: byte string, map, byte string, byte string; definite, shortest lengths, nothing behind it", srcCOSE},
		{CheckCOSEProtected, malformed, "the protected header is a map that holds alg and nothing else, in its shortest form", "RFC 9052 section 3.1"},
		{CheckCOSEAlg, malformed, "alg is the integer -35, ES384", "RFC 9053 section 2.1"},
		{CheckCOSEUnprotected, malformed, "the unprotected header is an empty map", srcAWS},
		{CheckCOSESigLength, malformed, "the signature has 96 bytes", "RFC 9053 section 2.1"},

		{CheckDocStructure, malformed, "the payload is one CBOR map of text keys, well-formed, UTF-8, untagged, every value of its type, strings of definite length", srcAWS + "; " + srcCBOR},
		{CheckDocDuplicateKey, malformed, "no key occurs twice, in the payload or in pcrs", srcCBOR},
		{CheckDocPlatform, malformed, "the payload has no nitrotpm_pcrs: that is a NitroTPM document, of another platform", srcAWS},
		{CheckDocUnknownKey, malformed, "the payload has no key beyond the nine of the specification", srcAWS},
		{CheckDocMissingKey, malformed, "module_id, digest, timestamp, pcrs, certificate and cabundle are there", srcAWS},
		{CheckModuleID, malformed, "module_id is 1 to 256 printable ASCII characters", srcAWS},
		{CheckDigest, malformed, "digest is SHA384", srcAWS},
		{CheckTimestamp, malformed, "timestamp is a positive number of milliseconds, before the year 10000", srcAWS},
		{CheckPCRCount, malformed, "pcrs has 1 to 32 entries", srcAWS},
		{CheckPCRIndex, malformed, "every index in pcrs is 0 to 31", srcAWS},
		{CheckPCRLength, malformed, "every PCR has 48 bytes, the length of SHA-384", srcAWS},
		{CheckCertificateLength, malformed, "certificate has 1 to 1024 bytes", srcAWS},
		{CheckCABundleCount, malformed, "cabundle has 1 to 8 entries", srcAWS + "; the upper bound: this verifier"},
		{CheckCABundleLength, malformed, "every entry of cabundle has 1 to 1024 bytes", srcAWS},
		{CheckPublicKeyLength, malformed, "public_key is absent, null, or 1 to 1024 bytes", srcAWS},
		{CheckUserDataLength, malformed, "user_data is absent, null, or 0 to 1024 bytes", srcAWS},
		{CheckNonceLength, malformed, "nonce is absent, null, or 0 to 1024 bytes", srcAWS},

		{CheckChainRoot, untrusted, "the first entry of cabundle is a pinned root, by SHA-256 of its DER; nothing is verified before that", srcAWS},
		{CheckChainParse, malformed, "every other certificate is an X.509 certificate and nothing else", "RFC 5280 section 4.1"},
		{CheckChainOrder, untrusted, "each certificate stands right after its issuer", srcAWS},
		{CheckChainIssuer, untrusted, "each certificate names the one before it as its issuer", srcX509},
		{CheckChainAlgorithm, untrusted, "every key that signs certificates is P-384, every certificate signature is ECDSA with SHA-384", srcAWS},
		{CheckChainExtension, untrusted, "no critical extension but basic constraints and key usage, no name or policy constraints", srcX509},
		{CheckChainCA, untrusted, "every certificate but the leaf is a CA with key usage keyCertSign", srcX509},
		{CheckChainPathLength, untrusted, "no path length constraint is exceeded", srcX509},
		{CheckLeafIsCA, untrusted, "the leaf is not a CA", srcAWS},
		{CheckLeafKeyUsage, untrusted, "the leaf's key usage has digitalSignature, and neither keyCertSign nor cRLSign", srcAWS},
		{CheckLeafCurve, untrusted, "the leaf's key is P-384", srcAWS},
		{CheckChainSignature, untrusted, "each certificate is signed by the one before it", srcX509},
		{CheckChainValidity, stale, "every certificate, the root too, is valid at the server's time", srcX509},

		{CheckCOSESignature, untrusted, "the leaf's key signed the envelope: ES384 over Sig_structure, checked by hf/nitrite", "RFC 9052 section 4.4"},
		{CheckPanic, malformed, "no library panics on the document", srcOwn},
		{CheckTimestampLeaf, stale, "timestamp lies within the leaf's validity", srcOwn},
		{CheckTimestampWindow, stale, "timestamp is within 5 minutes of the server's time", srcOwn},

		{CheckBinding, internal, "the caller compares claims of this platform with a complete binding", srcOwn},
		{CheckBindingUserData, untrusted, `user_data is "assay/v1\0" followed by B`, srcAssay},
		{CheckBindingNonce, untrusted, "nonce is the challenge's nonce", srcAssay},
		{CheckBindingPublicKey, untrusted, "public_key is the SPKI of the challenge's first key", srcAssay},

		{CheckEncoding, malformed, "the file is a document, or an NSM response that holds one, as binary, hex or base64", srcOwn},
	}
}

// detail is what a refusal may add to its check's name.
type detail = check.Detail

// refuse makes the error of a check, of the kind that the table gives to it.
func refuse(name string, d detail) *attest.Error { return check.Refuse(Checks(), name, d) }
