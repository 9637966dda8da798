package sevsnp

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

	CheckSize              = "size"
	CheckReportVersion     = "report_version"
	CheckReportAlgorithm   = "report_signature_algorithm"
	CheckReportSigningKey  = "report_signing_key"
	CheckReportPolicy      = "report_policy"
	CheckReportVMPL        = "report_vmpl"
	CheckReportReserved    = "report_reserved"
	CheckSignatureEncoding = "signature_encoding"

	CheckEndorsements           = "endorsements"
	CheckEndorsementMissing     = "endorsement_missing"
	CheckEndorsementUnavailable = "endorsement_unavailable"
	CheckEndorsementExtensions  = "endorsement_extensions"
	CheckCSPID                  = "csp_id"
	CheckChainRoot              = "chain_root"
	CheckChainIssuer            = "chain_issuer"
	CheckChainCA                = "chain_ca"
	CheckChainAlgorithm         = "chain_algorithm"
	CheckChainExtension         = "chain_extension"
	CheckProductMismatch        = "product_mismatch"
	CheckProduct                = "product"
	CheckTCBCertificate         = "tcb_certificate"
	CheckChipID                 = "chip_id"
	CheckChainSignature         = "chain_signature"
	CheckChainValidity          = "chain_validity"

	CheckCRLSignature          = "crl_signature"
	CheckCRLExtension          = "crl_extension"
	CheckCRLRevokedASK         = "crl_revoked_ask"
	CheckCRLRevokedEndorsement = "crl_revoked_endorsement"
	CheckCRLUnavailable        = "crl_unavailable"
	CheckCRLValidity           = "crl_validity"
	CheckCRLMissing            = "crl_missing"

	CheckReportSignature = "report_signature"
	CheckPanic           = "panic"
	CheckTCBReported     = "tcb_reported"
	CheckTCBCommitted    = "tcb_committed"
	CheckTCBLaunch       = "tcb_launch"
	CheckABI             = "abi"

	CheckBinding           = "binding"
	CheckBindingReportData = "binding_report_data"

	CheckEncoding  = "encoding"
	CheckCertTable = "cert_table"
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
	srcABI   = "AMD 56860, SEV-SNP firmware ABI"
	srcKDS   = "AMD 57230, VCEK certificate and KDS interface"
	srcGHCB  = "AMD 56421, GHCB standardization, section 4.1.8"
	srcX509  = "RFC 5280 section 6.1"
	srcCRL   = "RFC 5280 sections 5 and 6.3"
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
		{CheckPlatform, malformed, "the evidence names platform amd-sev-snp", srcOwn},
		{CheckTime, internal, "the caller says at which time to verify", srcOwn},
		{CheckContext, unavailable, "the request has not been cancelled", srcOwn},

		{CheckSize, malformed, "exactly 1184 bytes", srcABI + ", section 7.3"},
		{CheckReportVersion, malformed, "version 2 to 5", srcABI + ", section 7.3"},
		{CheckReportAlgorithm, malformed, "SIGNATURE_ALGO is 1, ECDSA P-384 with SHA-384", srcABI + ", chapter 10"},
		{CheckReportSigningKey, malformed, "SIGNING_KEY is 0 (VCEK) or 1 (VLEK), not 7 (none)", srcABI + ", section 7.3"},
		{CheckReportPolicy, malformed, "the guest policy has bit 17 set and bits 63:26 zero", srcABI + ", section 4.3"},
		{CheckReportVMPL, malformed, "VMPL is 0 to 3: a guest asked for the report, not the host", srcABI + ", section 7.3"},
		{CheckReportReserved, malformed, "every reserved byte and bit is zero, also those that only later versions use, and those of each TCB in the line's layout", srcABI + ", sections 2.2 and 7.3"},
		{CheckSignatureEncoding, malformed, "R and S have at most 48 significant bytes of 72, and zeros follow", srcABI + ", chapter 10"},

		{CheckEndorsements, malformed, "at most 16 endorsements of at most 256 KiB", srcOwn},
		{CheckEndorsementMissing, untrusted, "the attester or the collateral has a certificate for the report's signing key", srcKDS},
		{CheckEndorsementUnavailable, unavailable, "the source of endorsements can be reached", srcOwn},
		{CheckEndorsementExtensions, untrusted, "AMD's extensions occur once each, all of the set that the struct version demands and none beyond it; fmc and 8 bytes of hwid exactly on Turin", srcKDS},
		{CheckCSPID, untrusted, "a VLEK has csp_id, which is not empty, and no hwid; a VCEK has no csp_id", srcKDS},
		{CheckChainRoot, untrusted, "an ASK or ASVK under a pinned ARK has the name of the endorsement's issuer", srcKDS},
		{CheckChainIssuer, untrusted, "an ASK issued the VCEK, an ASVK the VLEK", srcKDS},
		{CheckChainCA, untrusted, "the endorsement is not a CA, and an issuer that comes along is one", srcX509},
		{CheckChainAlgorithm, untrusted, "certificates are signed with RSA-PSS and SHA-384; the endorsement holds an ECDSA key on P-384, an issuer that comes along one of RSA-4096", srcKDS},
		{CheckChainExtension, untrusted, "no certificate has a critical extension that is not understood, or a constraint on names or policies", srcX509},
		{CheckProductMismatch, untrusted, "the endorsement's product name is of its issuer's product line", srcKDS},
		{CheckProduct, untrusted, "CPUID family and model of the report (version 3 on) belong to that product line", srcKDS},
		{CheckTCBCertificate, untrusted, "the endorsement's TCB is the reported TCB", srcABI + ", section 7.3"},
		{CheckChipID, untrusted, "the VCEK's hwid is the report's chip id, unless that is masked (all zero)", srcABI + ", section 7.3"},
		{CheckChainSignature, untrusted, "the endorsement is signed by its issuer, and that by the ARK", srcX509},
		{CheckChainValidity, stale, "endorsement, issuer and ARK are valid at the server's time", srcX509},

		{CheckCRLSignature, untrusted, "a CRL that names the ARK as its issuer is signed by it", srcCRL},
		{CheckCRLExtension, untrusted, "such a CRL has no critical extension that is not understood, and is complete", srcCRL},
		{CheckCRLRevokedASK, untrusted, "no CRL of the ARK names the ASK or ASVK", srcCRL},
		{CheckCRLRevokedEndorsement, untrusted, "no CRL of the ARK names the VCEK or VLEK", srcCRL},
		{CheckCRLUnavailable, unavailable, "where a current CRL is required: its source can be reached", srcOwn},
		{CheckCRLValidity, stale, "where a current CRL is required: thisUpdate and nextUpdate (with the operator's grace) enclose the server's time", srcCRL},
		{CheckCRLMissing, untrusted, "where a current CRL is required: there is one", srcOwn},

		{CheckReportSignature, untrusted, "the endorsement's key signed bytes 0 to 0x29F as they were received, checked by go-sev-guest", srcABI + ", section 7.3"},
		{CheckPanic, malformed, "no library panics on the report", srcOwn},
		{CheckTCBReported, untrusted, "no component of the reported TCB is above the current one", srcABI + ", section 2.2"},
		{CheckTCBCommitted, untrusted, "no component of the committed TCB is above the current one", srcABI + ", section 2.2"},
		{CheckTCBLaunch, untrusted, "the launch TCB is known: not all zero", srcABI + ", section 7.3"},
		{CheckABI, untrusted, "the guest policy's least ABI is at most the firmware's", srcABI + ", section 4.3"},

		{CheckBinding, internal, "the caller compares claims of this platform with a complete binding", srcOwn},
		{CheckBindingReportData, untrusted, `all 64 bytes of REPORT_DATA are B followed by SHA-256("assay/v1 report data")`, srcAssay},

		{CheckEncoding, malformed, "the file is a report or an extended report, as binary, hex or base64", srcOwn},
		{CheckCertTable, malformed, "the certificate table's entries lie inside it, behind its header", srcGHCB},
	}
}

// detail is what a refusal may add to its check's name.
type detail = check.Detail

// refuse makes the error of a check, of the kind that the table gives to it.
func refuse(name string, d detail) *attest.Error { return check.Refuse(Checks(), name, d) }
