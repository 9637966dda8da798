package agent

import (
	"crypto/rand"
	"crypto/sha256"
	"slices"

	"github.com/google/go-tpm/tpm2"
)

// ekTemplate is one way in which the TCG has endorsement keys made (EK Credential
// Profile 2.x, appendix B), and where the certificate is (section 2.2.1).
type ekTemplate struct {
	kind        TPMKeyKind
	certificate tpm2.TPMHandle
	nonce       tpm2.TPMHandle // replaces the unique field, where it exists; 0 never does
	template    tpm2.TPMHandle // replaces the template, where it exists; 0 never does
	curve       tpm2.TPMECCCurve
	policy      bool // a policy (PolicyA) authorizes the key, not its empty password
	public      func() tpm2.TPMTPublic
}

// ekTemplates lists them in the order in which they are tried. Elliptic keys come
// first: a TPM makes one in a moment, and an RSA key in up to a minute.
func ekTemplates() []ekTemplate {
	p256 := func() tpm2.TPMTPublic { return tpm2.ECCEKTemplate }
	rsa := func() tpm2.TPMTPublic { return tpm2.RSAEKTemplate }
	return []ekTemplate{
		{kind: TPMP256, certificate: 0x01c0000a, nonce: 0x01c0000b, template: 0x01c0000c, curve: tpm2.TPMECCNistP256, policy: true, public: p256},
		{kind: TPMP256, certificate: 0x01c00014, curve: tpm2.TPMECCNistP256, public: ekHighP256},
		{kind: TPMP384, certificate: 0x01c00016, curve: tpm2.TPMECCNistP384, public: ekHighP384},
		{kind: TPMRSA2048, certificate: 0x01c00002, nonce: 0x01c00003, template: 0x01c00004, policy: true, public: rsa},
		{kind: TPMRSA2048, certificate: 0x01c00012, public: ekHighRSA},
	}
}

// The templates of the "high range", H-1 to H-3: an empty password authorizes
// them as well, so that PolicyB is never needed here.
var (
	ekPolicyB256 = []byte{
		0xca, 0x3d, 0x0a, 0x99, 0xa2, 0xb9, 0x39, 0x06, 0xf7, 0xa3, 0x34, 0x24, 0x14, 0xef, 0xcf, 0xb3,
		0xa3, 0x85, 0xd4, 0x4c, 0xd1, 0xfd, 0x45, 0x90, 0x89, 0xd1, 0x9b, 0x50, 0x71, 0xc0, 0xb7, 0xa0,
	}
	ekPolicyB384 = []byte{
		0xb2, 0x6e, 0x7d, 0x28, 0xd1, 0x1a, 0x50, 0xbc, 0x53, 0xd8, 0x82, 0xbc, 0xf5, 0xfd, 0x3a, 0x1a,
		0x07, 0x41, 0x48, 0xbb, 0x35, 0xd3, 0xb4, 0xe4, 0xcb, 0x1c, 0x0a, 0xd9, 0xbd, 0xe4, 0x19, 0xca,
		0xcb, 0x47, 0xba, 0x09, 0x69, 0x96, 0x46, 0x15, 0x0f, 0x9f, 0xc0, 0x00, 0xf3, 0xf8, 0x0e, 0x12,
	}
)

func ekHigh(t tpm2.TPMTPublic, policy []byte) tpm2.TPMTPublic {
	t.ObjectAttributes.UserWithAuth = true
	t.AuthPolicy = tpm2.TPM2BDigest{Buffer: policy}
	return t
}

func ekHighP256() tpm2.TPMTPublic {
	t := ekHigh(tpm2.ECCEKTemplate, ekPolicyB256)
	t.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{})
	return t
}

func ekHighP384() tpm2.TPMTPublic {
	t := ekHigh(tpm2.ECCEKTemplate, ekPolicyB384)
	t.NameAlg = tpm2.TPMAlgSHA384
	t.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{Symmetric: aesCFB(256), CurveID: tpm2.TPMECCNistP384})
	t.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{})
	return t
}

func ekHighRSA() tpm2.TPMTPublic {
	t := ekHigh(tpm2.RSAEKTemplate, ekPolicyB256)
	t.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{})
	return t
}

func aesCFB(bits tpm2.TPMKeyBits) tpm2.TPMTSymDefObject {
	return tpm2.TPMTSymDefObject{
		Algorithm: tpm2.TPMAlgAES,
		KeyBits:   tpm2.NewTPMUSymKeyBits(tpm2.TPMAlgAES, bits),
		Mode:      tpm2.NewTPMUSymMode(tpm2.TPMAlgAES, tpm2.TPMAlgCFB),
	}
}

// withNonce puts the manufacturer's nonce into the unique field, filled up with
// zeros to the size of the key.
func withNonce(t tpm2.TPMTPublic, nonce []byte) tpm2.TPMTPublic {
	fill := func(size int) []byte {
		out := make([]byte, size)
		copy(out, nonce)
		return out
	}
	switch t.Type {
	case tpm2.TPMAlgRSA:
		t.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: fill(256)})
	case tpm2.TPMAlgECC:
		t.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
			X: tpm2.TPM2BECCParameter{Buffer: fill(32)}, Y: tpm2.TPM2BECCParameter{Buffer: make([]byte, 32)},
		})
	}
	return t
}

// akLabel sets Assay's attestation key apart from other programs' on the machine,
// which may hold theirs to other rules.
const akLabel = "assay/v1 attestation key"

// akTemplate is the attestation key: restricted, so that it signs nothing but what
// the TPM itself says (Part 1, section 31.4), and always the same, because the
// server remembers it. As a primary of the endorsement hierarchy it sees the TPM's
// counters as they are (section 36.7).
func akTemplate(kind TPMKeyKind) tpm2.TPMTPublic {
	t := tpm2.TPMTPublic{NameAlg: tpm2.TPMAlgSHA256, ObjectAttributes: signingKey()}
	t.ObjectAttributes.Restricted = true
	label := sha256.Sum256([]byte(akLabel))
	if kind == TPMRSA2048 {
		t.Type = tpm2.TPMAlgRSA
		t.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{
			Scheme: tpm2.TPMTRSAScheme{
				Scheme: tpm2.TPMAlgRSASSA, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgRSASSA, &tpm2.TPMSSigSchemeRSASSA{HashAlg: tpm2.TPMAlgSHA256}),
			},
			KeyBits: 2048,
		})
		t.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: label[:]})
		return t
	}
	t.Type = tpm2.TPMAlgECC
	t.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
		Scheme: tpm2.TPMTECCScheme{
			Scheme: tpm2.TPMAlgECDSA, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256}),
		},
		CurveID: tpm2.TPMECCNistP256,
	})
	t.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
		X: tpm2.TPM2BECCParameter{Buffer: label[:]}, Y: tpm2.TPM2BECCParameter{Buffer: make([]byte, 32)},
	})
	return t
}

// residentTemplate is an SVID's key in the TPM. In the NULL hierarchy a key is
// derived from a seed that changes with every reset, and from the template: the
// random unique field makes it a key of its own. The field is not in the public
// area and is forgotten at once, so that nobody can make the key a second time.
//
// The seed stays when the TPM is suspended and another boot follows (TPM Restart,
// Part 1, section 12.2.3), and with it copies of the key could be loaded into that
// boot. stClear voids them: only a resume, which keeps the registers, keeps the key.
func residentTemplate() (tpm2.TPMTPublic, error) {
	var unique [64]byte
	if _, err := rand.Read(unique[:]); err != nil {
		return tpm2.TPMTPublic{}, err
	}
	attributes := signingKey()
	attributes.STClear = true
	return tpm2.TPMTPublic{
		Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256, ObjectAttributes: attributes,
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: tpm2.TPMECCNistP256}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
			X: tpm2.TPM2BECCParameter{Buffer: unique[:32]}, Y: tpm2.TPM2BECCParameter{Buffer: unique[32:]},
		}),
	}, nil
}

// signingKey are the attributes of a key that was made in this TPM and never
// leaves it.
func signingKey() tpm2.TPMAObject {
	return tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, NoDA: true, SignEncrypt: true}
}

// gceAK is an attestation key that Google certifies: template and certificate are
// in the TPM of a Shielded VM.
type gceAK struct{ certificate, template tpm2.TPMHandle }

func gceAKs() []gceAK {
	return []gceAK{{0x01c10002, 0x01c10003}, {0x01c10000, 0x01c10001}} // ECC, RSA
}

// has reports whether an index is there; 0 never is.
func has(indices []tpm2.TPMHandle, h tpm2.TPMHandle) bool {
	return h != 0 && slices.Contains(indices, h)
}
