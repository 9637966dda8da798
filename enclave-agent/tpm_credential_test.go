package agent

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/assay-project/assay/attest"
)

// credential is what TPM2_MakeCredential returns for a secret.
func credential(ekArea, akArea, secret []byte) ([]byte, error) {
	ek, err := tpm2.Unmarshal[tpm2.TPMTPublic](ekArea)
	if err != nil {
		return nil, err
	}
	to, err := tpm2.ImportEncapsulationKey(ek)
	if err != nil {
		return nil, err
	}
	ak, err := tpm2.Unmarshal[tpm2.TPMTPublic](akArea)
	if err != nil {
		return nil, err
	}
	name, err := tpm2.ObjectName(ak)
	if err != nil {
		return nil, err
	}
	id, enc, err := tpm2.CreateCredential(rand.Reader, to, name.Buffer, secret)
	if err != nil {
		return nil, err
	}
	out := append(binary.BigEndian.AppendUint16(nil, uint16(len(id))), id...)
	return append(binary.BigEndian.AppendUint16(out, uint16(len(enc))), enc...), nil
}

// proved is whether a proof is that of the secret for B.
func proved(proof, secret []byte, b [32]byte) bool {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte("assay/v1 activate"))
	mac.Write(b[:])
	return hmac.Equal(proof, mac.Sum(nil))
}

func TestTheTPMActivatesACredentialForItsOwnTwoKeys(t *testing.T) {
	t.Parallel()
	secret := bytes.Repeat([]byte{9}, 32)
	for _, kind := range []TPMKeyKind{TPMP256, TPMP384, TPMRSA2048} {
		m := newTPM2(t)
		if kind == TPMP384 {
			newEKAuthority(t).certify(m, ekTemplates()[2], 0)
		}
		tpm, want := m.attester(TPMOptions{EK: kind}), bindingOf(t)
		body, _ := quoted(t, must(tpm.Evidence(t.Context(), want)), want.B)
		proof, err := tpm.Activate(t.Context(), must(credential(body.EKPublic, body.AKPublic, secret)), want)
		if err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		if !proved(proof, secret, want.B) || proved(proof, secret, [32]byte{1}) {
			t.Errorf("%s: the proof is not that of the secret and B", kind)
		}
		if n := m.transient(); n != 0 {
			t.Errorf("%s: %d objects are left in the TPM", kind, n)
		}
		// One for another attestation key of the same TPM, and one for another TPM.
		other := m.attester(TPMOptions{EK: kind, AK: TPMRSA2048})
		foreign, _ := quoted(t, must(other.Evidence(t.Context(), want)), want.B)
		_, err = tpm.Activate(t.Context(), must(credential(body.EKPublic, foreign.AKPublic, secret)), want)
		wantCheck(t, err, attest.Internal, "tpm")
		second := newTPM2(t)
		_, err = second.attester(TPMOptions{}).Activate(t.Context(), must(credential(body.EKPublic, body.AKPublic, secret)), want)
		wantCheck(t, err, attest.Internal, "tpm")
		if a, b := m.transient(), second.transient(); a+b != 0 {
			t.Errorf("%s: %d and %d objects are left after a refusal", kind, a, b)
		}
	}
}

func TestACredentialThatIsNoneIsTheServersMistake(t *testing.T) {
	t.Parallel()
	good := append([]byte{0, 1, 7}, 0, 2, 8, 9)
	if a, b, err := splitCredential(good); err != nil || !bytes.Equal(a, []byte{7}) || !bytes.Equal(b, []byte{8, 9}) {
		t.Fatalf("%v %v %v", a, b, err)
	}
	tpm := NewTPMSocket("/nowhere", TPMOptions{})
	for _, bad := range [][]byte{nil, {0}, {0, 0}, good[:4], good[:6], append(bytes.Clone(good), 1), {0, 1, 7, 0, 0}, make([]byte, maxCredential+1)} {
		_, err := tpm.Activate(t.Context(), bad, attest.Binding{})
		wantCheck(t, err, attest.Untrusted, "credential")
	}
}
