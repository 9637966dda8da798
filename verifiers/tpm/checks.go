package tpm

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

	CheckSize           = "size"
	CheckBody           = "tpm_body"
	CheckEventLogSize   = "event_log_size"
	CheckEventLogDigest = "event_log_digest"
	CheckEndorsements   = "endorsements"

	CheckAKStructure        = "ak_structure"
	CheckQuoteMagic         = "quote_magic"
	CheckQuoteType          = "quote_type"
	CheckQuoteStructure     = "quote_structure"
	CheckPCRBankCount       = "pcr_bank_count"
	CheckPCRBank            = "pcr_bank"
	CheckPCREmpty           = "pcr_empty"
	CheckPCRResettable      = "pcr_resettable"
	CheckPCRValues          = "pcr_values"
	CheckPCRValueLength     = "pcr_value_length"
	CheckSignatureStructure = "signature_structure"
	CheckCertifiedStructure = "certified_structure"
	CheckEKStructure        = "ek_structure"

	CheckAKRestricted          = "ak_restricted"
	CheckAKSign                = "ak_sign"
	CheckAKNotDecrypt          = "ak_not_decrypt"
	CheckAKFixedTPM            = "ak_fixed_tpm"
	CheckAKFixedParent         = "ak_fixed_parent"
	CheckAKSensitiveDataOrigin = "ak_sensitive_data_origin"
	CheckAKCurve               = "ak_curve"
	CheckAKKeySize             = "ak_key_size"
	CheckAKROCA                = "ak_roca"

	CheckQuoteScheme    = "quote_scheme"
	CheckQuoteHash      = "quote_hash"
	CheckQuoteSignature = "quote_signature"
	CheckPCRDigest      = "pcr_digest"

	CheckChainParse            = "chain_parse"
	CheckAKCertificateKey      = "ak_certificate_key"
	CheckAKCertificateUsage    = "ak_certificate_usage"
	CheckAKChain               = "ak_chain"
	CheckAKChainValidity       = "ak_chain_validity"
	CheckAKCertificateInstance = "ak_certificate_instance"
	CheckAKName                = "ak_name"

	CheckEKAttributes     = "ek_attributes"
	CheckEKCurve          = "ek_curve"
	CheckEKKeySize        = "ek_key_size"
	CheckEKROCA           = "ek_roca"
	CheckEKInventory      = "ek_inventory"
	CheckEKCertificateKey = "ek_certificate_key"
	CheckEKEKU            = "ek_eku"
	CheckEKSAN            = "ek_san"
	CheckEKChain          = "ek_chain"
	CheckEKChainValidity  = "ek_chain_validity"
	CheckEKCertificate    = "ek_certificate"
	CheckAKHierarchy      = "ak_hierarchy"
	CheckAKUnactivated    = "ak_unactivated"

	CheckCertifyType          = "certify_type"
	CheckCertifySignature     = "certify_signature"
	CheckBindingCertify       = "binding_certify"
	CheckCertifyName          = "certify_name"
	CheckCertifyHierarchy     = "certify_hierarchy"
	CheckCertifyKeyAttributes = "certify_key_attributes"
	CheckCertifyKey           = "certify_key"
	CheckCertifyClock         = "certify_clock"

	CheckEventLogStructure = "event_log_structure"
	CheckEventLogReplay    = "event_log_replay"
	CheckPanic             = "panic"

	CheckBinding          = "binding"
	CheckBindingEmpty     = "binding_empty"
	CheckBindingExtraData = "binding_extra_data"
	CheckKeyResidency     = "key_residency"
	CheckBindingKey       = "binding_key"
	CheckBindingBank      = "binding_bank"

	CheckActivation         = "activation"
	CheckEKBinding          = "ek_binding"
	CheckActivationExchange = "activation_exchange"
	CheckCredentialProof    = "credential_proof" //nolint:gosec // the name of a check, not a credential
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
	srcPart1    = "TPM 2.0 Library, Part 1"
	srcPart2    = "TPM 2.0 Library, Part 2"
	srcPart3    = "TPM 2.0 Library, Part 3"
	srcPTP      = "TCG PC Client Platform TPM Profile"
	srcEK       = "TCG EK Credential Profile"
	srcFirmware = "TCG PC Client Platform Firmware Profile"
	srcROCA     = "CVE-2017-15361"
	srcX509     = "RFC 5280 section 6.1"
	srcBody     = "docs/spec/tpm-evidence.md"
	srcBinding  = "docs/spec/binding.md"
	srcOwn      = "this verifier"
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
		{CheckPlatform, malformed, "the evidence names platform tpm2", srcOwn},
		{CheckTime, internal, "the caller says at which time to verify", srcOwn},
		{CheckContext, unavailable, "the request has not been cancelled", srcOwn},

		{CheckSize, malformed, "the body has at most 48 KiB", srcBody},
		{CheckBody, malformed, "the body is the deterministic CBOR of the format, with nothing missing, unknown, twice or behind it", srcBody},
		{CheckEventLogSize, malformed, "the event log has at most 1 MiB", srcBody},
		{CheckEventLogDigest, malformed, "an event log comes with its SHA-256 in the body, and a digest with its log", srcBody},
		{CheckEndorsements, malformed, "at most 16 endorsements of at most 8 KiB", srcOwn},

		{CheckAKStructure, malformed, "the AK's public area is a TPMT_PUBLIC of an RSA or ECC key, and nothing behind it", srcPart2 + ", section 12.2.4"},
		{CheckQuoteMagic, malformed, "the quote begins with TPM_GENERATED_VALUE", srcPart2 + ", section 10.12.12"},
		{CheckQuoteType, malformed, "the quote's type is TPM_ST_ATTEST_QUOTE", srcPart2 + ", section 10.12.12"},
		{CheckQuoteStructure, malformed, "the quote is a TPMS_ATTEST, and nothing behind it", srcPart2 + ", section 10.12.12"},
		{CheckPCRBankCount, malformed, "the quote is over exactly one bank", srcOwn},
		{CheckPCRBank, malformed, "that bank is SHA-256 or SHA-384", srcOwn},
		{CheckPCREmpty, malformed, "the quote is over at least one register", srcOwn},
		{CheckPCRResettable, malformed, "the quote is over at least one register of 0 to 15: those above can be reset while the machine runs", srcPTP + ", section 4.6"},
		{CheckPCRValues, malformed, "there is a value for each register that the quote selects, and for no other", srcBody},
		{CheckPCRValueLength, malformed, "each value is as long as the bank's digests", srcPart2 + ", section 10.9.7"},
		{CheckSignatureStructure, malformed, "the signature is a TPMT_SIGNATURE of RSASSA, RSAPSS or ECDSA, and nothing behind it", srcPart2 + ", section 11.3.4"},
		{CheckCertifiedStructure, malformed, "each resident key comes with a TPMT_PUBLIC, a TPMS_ATTEST and a TPMT_SIGNATURE, and nothing behind them", srcPart2},
		{CheckEKStructure, malformed, "the EK's public area is a TPMT_PUBLIC of an RSA or ECC key, and nothing behind it; an EK certificate comes with it", srcPart2 + ", section 12.2.4"},

		{CheckAKRestricted, untrusted, "the AK is restricted: it signs what the TPM made, and nothing that looks like it", srcPart2 + ", section 8.3.3"},
		{CheckAKSign, untrusted, "the AK is a signing key", srcPart2 + ", section 8.3.3"},
		{CheckAKNotDecrypt, untrusted, "the AK is not a decryption key", srcPart2 + ", section 8.3.3"},
		{CheckAKFixedTPM, untrusted, "the AK cannot leave its TPM", srcPart2 + ", section 8.3.3"},
		{CheckAKFixedParent, untrusted, "the AK cannot be moved in its TPM", srcPart2 + ", section 8.3.3"},
		{CheckAKSensitiveDataOrigin, untrusted, "the TPM itself made the AK", srcPart2 + ", section 8.3.3"},
		{CheckAKCurve, untrusted, "an ECC AK is on P-256 or P-384", srcOwn},
		{CheckAKKeySize, untrusted, "an RSA AK has 2048 bits or more", srcOwn},
		{CheckAKROCA, untrusted, "an RSA AK does not have the fingerprint of the weak key generator", srcROCA},

		{CheckQuoteScheme, untrusted, "the signature is of the AK's own scheme", srcPart1 + ", section 27.2"},
		{CheckQuoteHash, untrusted, "the signature's hash is SHA-256 or better", srcOwn},
		{CheckQuoteSignature, untrusted, "the AK signed the quote", srcPart3 + ", section 18.4"},
		{CheckPCRDigest, untrusted, "the registers' values hash to the quoted digest", srcPart3 + ", section 18.4"},

		{CheckChainParse, malformed, "the AK certificate, the EK certificate and the endorsements are certificates, with nothing but zeros behind them", srcX509},
		{CheckAKCertificateKey, untrusted, "the AK certificate is for the AK", srcOwn},
		{CheckAKCertificateUsage, untrusted, "the AK certificate is not a CA's, and for signing: key usage digitalSignature, and extended key usage tcg-kp-AIKCertificate or tcg-kp-EKCertificate (Google's) if there is any", srcEK + ", section 3"},
		{CheckAKChain, untrusted, "the AK certificate is signed by a CA under a pinned root of a cloud", srcX509},
		{CheckAKChainValidity, stale, "each certificate of the AK's chain is valid at the server's time", srcX509},
		{CheckAKCertificateInstance, untrusted, "the AK certificate names a production instance of the cloud whose root it is under, once", "go-tpm-tools, server.GetGCEInstanceInfo"},
		{CheckAKName, untrusted, "where a certificate vouches for the AK: the quote's qualified signer is this public area as a primary", srcPart1 + ", section 16"},

		{CheckEKAttributes, untrusted, "the EK is restricted, for decryption and not for signing, fixed to its TPM and parent, and made by the TPM itself", srcEK + ", annex B"},
		{CheckEKCurve, untrusted, "an ECC EK is on P-256 or P-384", srcEK + ", annex B"},
		{CheckEKKeySize, untrusted, "an RSA EK has 2048 bits or more", srcEK + ", annex B"},
		{CheckEKROCA, untrusted, "an RSA EK does not have the fingerprint of the weak key generator", srcROCA},
		{CheckEKInventory, unavailable, "the operator's inventory can be asked", srcOwn},
		{CheckEKCertificateKey, untrusted, "the EK certificate is for the EK", srcEK + ", section 3"},
		{CheckEKEKU, untrusted, "the EK certificate is not a CA's, and has extended key usage tcg-kp-EKCertificate", srcEK + ", section 3"},
		{CheckEKSAN, untrusted, "the EK certificate names the TPM's manufacturer, model and version, once each, in its subject alternative name", srcEK + ", section 3.1.2"},
		{CheckEKChain, untrusted, "the EK certificate is signed by a CA under a pinned manufacturer's root", srcX509},
		{CheckEKChainValidity, stale, "each certificate of the EK's chain is valid at the server's time", srcX509},
		{CheckEKCertificate, untrusted, "before a second round: the EK has a certificate under a pinned manufacturer's root, or is in the inventory", srcOwn},
		{CheckAKHierarchy, untrusted, "an AK for a second round is a primary of the endorsement hierarchy, whose counters the TPM does not hide", srcPart1 + ", section 36.7"},
		{CheckAKUnactivated, untrusted, "something binds the AK to a TPM: a cloud's certificate, a second round, or (offline) the operator's word", srcPart1 + ", section 24"},

		{CheckCertifyType, untrusted, "the AK certified the resident key: a TPMS_ATTEST of type TPM_ST_ATTEST_CERTIFY", srcPart2 + ", section 10.12.12"},
		{CheckCertifySignature, untrusted, "the AK signed the certification, in its own scheme", srcPart3 + ", section 18.2"},
		{CheckBindingCertify, untrusted, "the certification carries the same qualifyingData as the quote", srcBinding},
		{CheckCertifyName, untrusted, "the certified name is that of the resident key's public area", srcPart1 + ", section 16"},
		{CheckCertifyHierarchy, untrusted, "the resident key is a primary of the NULL hierarchy, whose seed the next TPM Reset ends", srcPart1 + ", section 16"},
		{CheckCertifyKeyAttributes, untrusted, "the resident key is fixed to its TPM and parent, made by it, stClear, for signing, not for decryption, not restricted", srcPart2 + ", section 8.3.3"},
		{CheckCertifyKey, untrusted, "the resident key is on P-256 or P-384, or RSA of 2048 bits or more and not of the weak key generator", srcROCA},
		{CheckCertifyClock, untrusted, "quote and certification are of the same boot: the same resetCount and restartCount", srcPart2 + ", section 10.11.1"},

		{CheckBinding, internal, "the caller compares claims of this platform with a complete binding", srcOwn},
		{CheckBindingEmpty, untrusted, "the quote carries qualifyingData", srcBinding},
		{CheckBindingExtraData, untrusted, "the quote's qualifyingData is B, all 32 bytes", srcBinding},
		{CheckBindingBank, untrusted, "the quote is of the bank that the challenge demands", srcBinding},
		{CheckKeyResidency, untrusted, "every key of the challenge is resident, or none is", srcBinding},
		{CheckBindingKey, untrusted, "resident key i is key i of the challenge", srcBinding},

		{CheckActivation, internal, "the caller activates the claims of the evidence that it verified", srcOwn},
		{CheckEKBinding, unavailable, "the memory of EK and AK can be asked and told", srcOwn},
		{CheckActivationExchange, unavailable, "the challenge reaches the attester and its answer comes back", srcOwn},
		{CheckCredentialProof, untrusted, `the proof is HMAC-SHA256 with the activated secret over "assay/v1 activate" and B`, srcBinding},

		{CheckEventLogStructure, malformed, "the event log is a TCG log that can be read to its end, with at most 8192 events", srcFirmware + ", section 10"},
		{CheckEventLogReplay, untrusted, "the log's digests replay to the quoted registers", srcFirmware + ", section 10"},
		{CheckPanic, malformed, "no library panics on the evidence", srcOwn},
	}
}

// detail is what a refusal may add to its check's name.
type detail = check.Detail

// refuse makes the error of a check, of the kind that the table gives to it.
func refuse(name string, d detail) *attest.Error { return check.Refuse(Checks(), name, d) }
