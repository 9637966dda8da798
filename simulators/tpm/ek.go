package tpm

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"
)

// EKKind is a kind of endorsement key.
type EKKind string

// The endorsement keys of the TCG EK Credential Profile (section B.3 and B.4 of
// version 2.3) that a machine can have.
const (
	RSA2048 EKKind = "rsa2048" // template L-1
	P256    EKKind = "p256"    // template L-2
	P384    EKKind = "p384"    // template H-3
)

// EKKinds lists them.
func EKKinds() []EKKind { return []EKKind{RSA2048, P256, P384} }

// EK is an endorsement key of a machine.
type EK struct {
	Kind        EKKind
	Public      []byte   // TPMT_PUBLIC
	SPKI        []byte   // DER SubjectPublicKeyInfo
	Digest      [32]byte // SHA-256 of SPKI: how Assay names the machine
	Certificate []byte   // DER; nil when a fault left it out
	Handle      uint32   // where it is persistent, until TPM2_Clear
}

// ekPlace is where an endorsement key of a kind is found.
type ekPlace struct {
	nv     uint32 // the NV index of its certificate (EK Credential Profile, section 2.2.1)
	handle uint32 // its persistent handle (TCG TPM v2.0 Provisioning Guidance, section 7.8, and where swtpm_setup puts more)
}

func (k EKKind) place() (ekPlace, error) {
	switch k {
	case RSA2048:
		return ekPlace{nv: 0x01c00002, handle: 0x81010001}, nil
	case P256:
		return ekPlace{nv: 0x01c0000a, handle: 0x81010002}, nil
	case P384:
		return ekPlace{nv: 0x01c00016, handle: 0x81010016}, nil
	default:
		return ekPlace{}, fmt.Errorf("tpm: there is no kind of endorsement key %.20q: want one of %v", string(k), EKKinds())
	}
}

// nvChain is where certificates between root and EK certificate are (EK
// Credential Profile, section 2.2.1.5.2): DER, one after another.
const nvChain = 0x01c00100

// template is the public area from which TPM2_CreatePrimary makes the key.
func (k EKKind) template() (tpm2.TPMTPublic, error) {
	switch k {
	case RSA2048:
		return tpm2.RSAEKTemplate, nil
	case P256:
		return tpm2.ECCEKTemplate, nil
	case P384:
		return p384Template()
	default:
		_, err := k.place()
		return tpm2.TPMTPublic{}, err
	}
}

// p384Template is template H-3: unlike those of the low range, its user can
// authorize with a password (the empty one), and its policy is PolicyB for
// SHA-384.
func p384Template() (tpm2.TPMTPublic, error) {
	policy, err := hex.DecodeString("b26e7d28d11a50bc53d882bcf5fd3a1a074148bb35d3b4e4cb1c0ad9bde419cacb47ba09699646150f9fc000f3f80e12")
	if err != nil {
		return tpm2.TPMTPublic{}, fmt.Errorf("tpm: %w", err)
	}
	return tpm2.TPMTPublic{
		Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA384,
		ObjectAttributes: tpm2.TPMAObject{
			FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, AdminWithPolicy: true,
			Restricted: true, Decrypt: true,
		},
		AuthPolicy: tpm2.TPM2BDigest{Buffer: policy},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			Symmetric: tpm2.TPMTSymDefObject{
				Algorithm: tpm2.TPMAlgAES,
				KeyBits:   tpm2.NewTPMUSymKeyBits(tpm2.TPMAlgAES, tpm2.TPMKeyBits(256)),
				Mode:      tpm2.NewTPMUSymMode(tpm2.TPMAlgAES, tpm2.TPMAlgCFB),
			},
			CurveID: tpm2.TPMECCNistP384,
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{}),
	}, nil
}

// newEK reads a public area.
func newEK(kind EKKind, public []byte) (*EK, error) {
	place, err := kind.place()
	if err != nil {
		return nil, err
	}
	key, err := publicKey(public)
	if err != nil {
		return nil, err
	}
	spki, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, fmt.Errorf("tpm: %w", err)
	}
	return &EK{Kind: kind, Public: public, SPKI: spki, Digest: sha256.Sum256(spki), Handle: place.handle}, nil
}

// publicKey is the key of a TPMT_PUBLIC.
func publicKey(public []byte) (crypto.PublicKey, error) {
	area, err := tpm2.Unmarshal[tpm2.TPMTPublic](public)
	if err != nil {
		return nil, fmt.Errorf("tpm: public area: %w", err)
	}
	key, err := tpm2.Pub(*area)
	if err != nil {
		return nil, fmt.Errorf("tpm: public area: %w", err)
	}
	return key, nil
}

func (e EK) clone() EK {
	e.Public, e.SPKI, e.Certificate = slices.Clone(e.Public), slices.Clone(e.SPKI), slices.Clone(e.Certificate)
	return e
}
