package agent

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// TPMKeyKind is the algorithm of a TPM's endorsement or attestation key.
type TPMKeyKind string

// The kinds of keys. Auto is the empty name.
const (
	TPMP256    TPMKeyKind = "ecc-p256"
	TPMP384    TPMKeyKind = "ecc-p384"
	TPMRSA2048 TPMKeyKind = "rsa-2048"
	// TPMGCE, for an attestation key, is the one that Google certifies in a
	// Shielded VM.
	TPMGCE TPMKeyKind = "gce"
)

// tpmIdentity is who a TPM is: its attestation key (AK), and what vouches for it.
// Everything in it is public but for the saved keys, which are sealed.
type tpmIdentity struct {
	about         string // for people
	ak            savedKey
	akCertificate []byte // a cloud's; nil else
	ek            *tpmEK // nil where a cloud's certificate vouches for the AK
}

// tpmEK is the endorsement key (EK), which names the TPM for life.
type tpmEK struct {
	kind        TPMKeyKind
	policy      bool // PolicyA authorizes it
	area        []byte
	certificate *x509.Certificate // nil where the TPM has none
	chain       [][]byte          // DER, between the certificate and its root
	persistent  tpm2.TPMHandle    // where somebody keeps it in the TPM; 0 else
	name        tpm2.TPM2BName
	saved       savedKey // where it is not persistent
}

// identify finds or makes the keys of a TPM. It changes nothing in it: primary
// keys are made from seeds that are there already.
func (t *TPM) identify(s *tpmSession) (*tpmIdentity, error) {
	about, err := s.describe()
	if err != nil {
		return nil, err
	}
	indices, err := s.nvIndices()
	if err != nil {
		return nil, err
	}
	id := &tpmIdentity{about: about}
	if t.options.AK == TPMGCE {
		if id.ak, id.akCertificate, err = s.gceAK(indices); err != nil {
			return nil, err
		}
		id.about += ", AK of GCE"
		return id, nil
	}
	curves, err := s.curves()
	if err != nil {
		return nil, err
	}
	if id.ek, err = s.findEK(indices, curves, t.options.EK); err != nil {
		return nil, err
	}
	kind := t.options.AK
	switch {
	case kind != "":
	case slices.Contains(curves, tpm2.TPMECCNistP256):
		kind = TPMP256
	default:
		kind = TPMRSA2048
	}
	ak, err := s.createPrimary(tpm2.TPMRHEndorsement, akTemplate(kind))
	if err != nil {
		return nil, fmt.Errorf("make the attestation key: %w", err)
	}
	if id.ak, err = s.save(ak); err != nil {
		return nil, err
	}
	certified := "without certificate"
	if id.ek.certificate != nil {
		certified = "certified by " + clip(id.ek.certificate.Issuer.String())
	}
	id.about += fmt.Sprintf(", EK %s %s, AK %s", id.ek.kind, certified, kind)
	return id, s.flush(ak.handle)
}

// describe says whose TPM it is (TPM_PT_…, Part 2, section 6.13).
func (s *tpmSession) describe() (string, error) {
	var text [4]string
	for i, p := range []tpm2.TPMPT{tpm2.TPMPTManufacturer, tpm2.TPMPTVendorString1, tpm2.TPMPTVendorString1 + 1, tpm2.TPMPTVendorString1 + 2} {
		v, err := s.property(p)
		if err != nil {
			return "", err
		}
		text[i] = string(bytes.Trim(binary.BigEndian.AppendUint32(nil, v), "\x00"))
	}
	firmware, err := s.property(tpm2.TPMPTFirmwareVersion1)
	if err != nil {
		return "", err
	}
	model := clip(strings.TrimSpace(strings.Join(text[1:], "")))
	return fmt.Sprintf("TPM 2.0 %s %q, firmware %d.%d", clip(strings.TrimSpace(text[0])), model, firmware>>16, firmware&0xffff), nil
}

// findEK takes the first endorsement key that has a certificate, and where none
// has one the first that the TPM can make: then the server must know it.
func (s *tpmSession) findEK(indices []tpm2.TPMHandle, curves []tpm2.TPMECCCurve, want TPMKeyKind) (*tpmEK, error) {
	var fits []ekTemplate
	for _, t := range ekTemplates() {
		if (want == "" || want == t.kind) && (t.curve == 0 || slices.Contains(curves, t.curve)) {
			fits = append(fits, t)
		}
	}
	for _, t := range fits {
		if !has(indices, t.certificate) {
			continue
		}
		ek, err := s.certifiedEK(t, indices)
		switch {
		case err == nil:
			return ek, nil
		case s.broken:
			return nil, err
		}
		s.warn("a certificate of the TPM's endorsement key is not used", "nv_index", fmt.Sprintf("%08x", uint32(t.certificate)), "kind", string(t.kind), "error", err.Error())
	}
	if len(fits) == 0 {
		return nil, fmt.Errorf("the TPM has no endorsement key of kind %q: %w", want, errNoEK)
	}
	ek, err := s.makeEK(fits[0], indices)
	if err != nil {
		return nil, fmt.Errorf("make the endorsement key: %w", err)
	}
	s.warn("the TPM has no certificate for its endorsement key: the server must have the key in its inventory", "kind", string(ek.kind))
	return ek, nil
}

var errNoEK = errors.New("tpm.ek asks for another kind than the TPM has")

// certifiedEK returns the key that a certificate is for.
func (s *tpmSession) certifiedEK(t ekTemplate, indices []tpm2.TPMHandle) (*tpmEK, error) {
	cert, err := s.readCertificate(t.certificate)
	if err != nil {
		return nil, err
	}
	ek, err := s.persistentEK(t, cert)
	if err == nil && ek == nil {
		ek, err = s.makeEK(t, indices)
	}
	if err != nil {
		return nil, err
	}
	if !isKey(ek.area, cert.PublicKey) {
		return nil, errors.New("it is for another key than the TPM makes from the TCG's template")
	}
	ek.certificate, ek.chain = cert, s.readChain(indices)
	return ek, nil
}

// persistentEK finds the key among those that are kept in the TPM: to make an RSA
// key again can take a minute. nil is none.
func (s *tpmSession) persistentEK(t ekTemplate, cert *x509.Certificate) (*tpmEK, error) {
	// The TCG's range for endorsement keys.
	all, err := s.handles(tpmFirstPersistent|0x00010000, tpmFirstPersistent|0x0001ffff)
	if err != nil {
		return nil, err
	}
	for _, h := range all {
		r, err := tpm2.ReadPublic{ObjectHandle: h}.Execute(s)
		if err != nil {
			return nil, fmt.Errorf("TPM2_ReadPublic: %w", err)
		}
		if isKey(r.OutPublic.Bytes(), cert.PublicKey) {
			return &tpmEK{kind: t.kind, policy: t.policy, area: r.OutPublic.Bytes(), persistent: h, name: r.Name}, nil
		}
	}
	return nil, nil //nolint:nilnil // none is no error
}

// makeEK makes the key from its template, or from what the manufacturer put in its
// place.
func (s *tpmSession) makeEK(t ekTemplate, indices []tpm2.TPMHandle) (*tpmEK, error) {
	public := t.public()
	switch {
	case has(indices, t.template):
		b, err := s.readNV(t.template)
		if err != nil {
			return nil, err
		}
		own, err := tpm2.Unmarshal[tpm2.TPMTPublic](b)
		if err != nil {
			return nil, fmt.Errorf("the template at NV index %08x: %w", uint32(t.template), err)
		}
		public = *own
	case has(indices, t.nonce):
		b, err := s.readNV(t.nonce)
		if err != nil {
			return nil, err
		}
		public = withNonce(public, b)
	}
	usual := s.limit
	s.limit = tpmSlow
	k, err := s.createPrimary(tpm2.TPMRHEndorsement, public)
	s.limit = usual
	if err != nil {
		return nil, err
	}
	saved, err := s.save(k)
	if err != nil {
		return nil, err
	}
	return &tpmEK{kind: t.kind, policy: !public.ObjectAttributes.UserWithAuth, area: k.area, name: k.name, saved: saved}, s.flush(k.handle)
}

// loadEK brings the endorsement key into the TPM, if it is not there. A persistent
// one may have been removed meanwhile: then it is gone like one that was saved.
func (s *tpmSession) loadEK(ek *tpmEK) (tpmKey, error) {
	if ek.persistent == 0 {
		return s.load(ek.saved)
	}
	r, err := tpm2.ReadPublic{ObjectHandle: ek.persistent}.Execute(s)
	switch {
	case errors.Is(err, tpm2.TPMRCHandle), err == nil && !bytes.Equal(r.Name.Buffer, ek.name.Buffer):
		return tpmKey{}, fmt.Errorf("%w: there is another object at handle %08x, or none", errKeyGone, uint32(ek.persistent))
	case err != nil:
		return tpmKey{}, fmt.Errorf("TPM2_ReadPublic: %w", err)
	}
	return tpmKey{handle: ek.persistent, name: ek.name, area: ek.area}, nil
}

// ekAuth authorizes the use of an endorsement key: by a session that satisfies
// PolicyA, which is TPM2_PolicySecret of the endorsement hierarchy, or by its empty
// password.
func ekAuth(ek *tpmEK, k tpmKey) (tpm2.AuthHandle, error) {
	if !ek.policy {
		return k.auth(), nil
	}
	area, err := tpm2.Unmarshal[tpm2.TPMTPublic](ek.area)
	if err != nil {
		return tpm2.AuthHandle{}, nonsense("the endorsement key's public area: %v", err)
	}
	return tpm2.AuthHandle{Handle: k.handle, Name: k.name, Auth: tpm2.Policy(area.NameAlg, 16, policyA)}, nil
}

func policyA(t transport.TPM, session tpm2.TPMISHPolicy, nonce tpm2.TPM2BNonce) error {
	_, err := tpm2.PolicySecret{
		AuthHandle:    tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)},
		PolicySession: session, NonceTPM: nonce,
	}.Execute(t)
	if err != nil {
		return fmt.Errorf("TPM2_PolicySecret: %w", err)
	}
	return nil
}

// gceAK makes the key that Google certifies.
func (s *tpmSession) gceAK(indices []tpm2.TPMHandle) (savedKey, []byte, error) {
	for _, at := range gceAKs() {
		if !has(indices, at.certificate) || !has(indices, at.template) {
			continue
		}
		cert, err := s.readCertificate(at.certificate)
		if err != nil {
			return savedKey{}, nil, err
		}
		b, err := s.readNV(at.template)
		if err != nil {
			return savedKey{}, nil, err
		}
		template, err := tpm2.Unmarshal[tpm2.TPMTPublic](b)
		if err != nil {
			return savedKey{}, nil, fmt.Errorf("the template at NV index %08x: %w", uint32(at.template), err)
		}
		k, err := s.createPrimary(tpm2.TPMRHEndorsement, *template)
		if err != nil {
			return savedKey{}, nil, fmt.Errorf("make the attestation key: %w", err)
		}
		if !isKey(k.area, cert.PublicKey) {
			return savedKey{}, nil, fmt.Errorf("the certificate at NV index %08x is for another key than the template beside it makes", uint32(at.certificate))
		}
		saved, err := s.save(k)
		if err != nil {
			return savedKey{}, nil, err
		}
		return saved, cert.Raw, s.flush(k.handle)
	}
	return savedKey{}, nil, errNoCloudAK
}

var errNoCloudAK = errors.New("the TPM holds no certified attestation key")

// isKey compares a public area with a public key.
func isKey(area []byte, want crypto.PublicKey) bool {
	key, err := publicKey(area)
	if err != nil {
		return false
	}
	k, ok := key.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(want)
}

func publicKey(area []byte) (crypto.PublicKey, error) {
	pub, err := tpm2.Unmarshal[tpm2.TPMTPublic](area)
	if err != nil {
		return nil, nonsense("a public area: %v", err)
	}
	key, err := tpm2.Pub(*pub)
	if err != nil {
		return nil, nonsense("a public area: %v", err)
	}
	return key, nil
}
