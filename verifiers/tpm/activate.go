package tpm

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifiers"
)

// activateTag is in front of what a credential proof is made over.
const activateTag = "assay/v1 activate"

// secretSize is that of an activated secret, at most the digest of the EK's name
// algorithm (Part 3, section 12.6).
const secretSize = 32

// Proof is what a TPM that holds AK and EK answers a credential challenge with:
// HMAC-SHA256 with the activated secret as the key, over "assay/v1 activate"
// followed by B.
func Proof(secret []byte, b [32]byte) []byte {
	m := hmac.New(sha256.New, secret)
	m.Write([]byte(activateTag)) // never fails
	m.Write(b[:])
	return m.Sum(nil)
}

// Activate implements [verifiers.Activator]: it completes the claims of
// [Verifier.AuthenticatePending]. An AK that a cloud's certificate vouches for, and
// an AK that is remembered for its EK and whose counters did not go back, need no
// second round. For all others a credential is made that only a TPM with both keys
// can open (TPM2_ActivateCredential), and what comes back through x is checked.
// Counters that went back void what is remembered: the TPM was cleared, which is
// recorded in the claims.
//
// What costs time, and what may have changed meanwhile, comes last: the inventory is
// asked again, and then the event log is replayed, so that only who has a TPM has that
// done. When all of it has succeeded, the binding is remembered.
func (v *Verifier) Activate(ctx context.Context, ev attest.Evidence, c *attest.Claims, want attest.Binding, x verifiers.Exchange, at time.Time) error {
	err := v.activate(ctx, ev, c, want, x, at)
	if c != nil && c.TPM != nil {
		v.cache.activated(c.TPM, err == nil)
	}
	return err
}

func (v *Verifier) activate(ctx context.Context, ev attest.Evidence, c *attest.Claims, want attest.Binding, x verifiers.Exchange, at time.Time) error {
	if c == nil || c.TPM == nil || c.Platform != platform || want.B == [32]byte{} || at.IsZero() {
		return refuse(CheckActivation, detail{Err: errors.New("no claims of a TPM, no binding or no time")})
	}
	t := c.TPM
	if t.AKTrust == attest.AKCertificate && t.EK == nil {
		return v.replay(ctx, ev, t)
	}
	if t.AKTrust != "" || len(t.EK) != sha256.Size {
		return refuse(CheckAKUnactivated, detail{
			Err: errors.New("nothing binds the AK to a TPM"), Expected: "claims that await activation", Got: fmt.Sprintf("AK trusted by %.20q", t.AKTrust),
		})
	}
	now := Binding{EK: [32]byte(t.EK), AK: t.AK, At: at}
	if t.Clock != nil {
		now.Reset, now.Restart, now.HasClock = t.Clock.ResetCount, t.Clock.RestartCount, true
	}
	r, err := v.recall(ctx, now)
	if err != nil {
		return err
	}
	if !r.known {
		if err := v.challenge(ctx, ev, now, want, x); err != nil {
			return err
		}
	}
	if err := v.relist(ctx, t); err != nil {
		return err
	}
	if err := v.replay(ctx, ev, t); err != nil {
		return err
	}
	if !r.known || r.newer {
		if err := v.remember(ctx, now); err != nil {
			return err
		}
	}
	t.AKTrust, t.Cleared = attest.AKActivated, r.cleared
	return nil
}

// recalled is how a quote stands to what is remembered of its EK.
type recalled struct {
	known   bool // this AK, with counters that did not go back
	newer   bool // and that went on
	cleared bool // the counters went back
}

// recall asks the memory for the EK's binding. Counters that went back mean that the
// TPM was cleared: the AK must be activated again, and that replaces the binding.
// Nothing is written here: an AK beside another's EK can be anybody's, and one who
// lets the second round fail must not have the TPM's clearing forgotten.
func (v *Verifier) recall(ctx context.Context, now Binding) (recalled, error) {
	if v.bindings == nil {
		return recalled{}, nil
	}
	old, ok, err := v.bindings.Lookup(ctx, now.EK)
	if err != nil {
		return recalled{}, refuse(CheckEKBinding, detail{Err: fmt.Errorf("the memory of AKs cannot be asked: %w", err)})
	}
	if !ok {
		return recalled{}, nil
	}
	if old.HasClock && now.HasClock && before(now, old) {
		return recalled{cleared: true}, nil
	}
	if !bytes.Equal(old.AK, now.AK) || old.HasClock != now.HasClock {
		return recalled{}, nil
	}
	return recalled{known: true, newer: before(old, now)}, nil
}

// relist asks the inventory again: the second round takes as long as the attester
// likes, and the operator may have removed the EK meanwhile.
func (v *Verifier) relist(ctx context.Context, t *attest.TPM) error {
	group, listed, err := v.group(ctx, [32]byte(t.EK))
	if err != nil {
		return err
	}
	if !listed && t.EKCertificate == nil {
		return refuse(CheckEKCertificate, detail{Err: errors.New("nobody vouches for the EK any more: it left the inventory"), Hint: "add the EK with `assay ek add`"})
	}
	t.EKInventory = group
	return nil
}

// before compares the counters in order: resetCount, and then restartCount, which
// starts again at each reset.
func before(a, b Binding) bool {
	return a.Reset < b.Reset || a.Reset == b.Reset && a.Restart < b.Restart
}

func (v *Verifier) remember(ctx context.Context, b Binding) error {
	if v.bindings == nil {
		return nil
	}
	if err := v.bindings.Remember(ctx, b); err != nil {
		return refuse(CheckEKBinding, detail{Err: fmt.Errorf("the memory of AKs cannot be told: %w", err)})
	}
	return nil
}

// challenge runs the second round.
func (v *Verifier) challenge(ctx context.Context, ev attest.Evidence, now Binding, want attest.Binding, x verifiers.Exchange) error {
	if x == nil {
		return refuse(CheckAKUnactivated, detail{
			Err: errors.New("the AK must be activated, and there is no second round here"), Hint: "attest in a stream that takes a credential challenge",
		})
	}
	secret := make([]byte, secretSize)
	if _, err := rand.Read(secret); err != nil {
		return refuse(CheckActivation, detail{Err: err})
	}
	credential, err := v.credential(ev, now, secret)
	if err != nil {
		return err
	}
	proof, err := x(ctx, credential)
	if err != nil {
		if attest.CheckOf(err) != "" {
			return err
		}
		return refuse(CheckActivationExchange, detail{Err: fmt.Errorf("the second round failed: %w", err)})
	}
	if !hmac.Equal(proof, Proof(secret, want.B)) {
		return refuse(CheckCredentialProof, detail{
			Err: errors.New("the attester could not open the credential"), Got: fmt.Sprintf("%d bytes", len(proof)), Hint: "AK and EK are not in one TPM",
		})
	}
	return nil
}

// credential is TPM2B_ID_OBJECT and TPM2B_ENCRYPTED_SECRET, as TPM2_MakeCredential
// returns them, made by go-tpm without a TPM. The claims must be those of the
// evidence: its EK is what the secret is encrypted to.
func (v *Verifier) credential(ev attest.Evidence, now Binding, secret []byte) ([]byte, error) {
	body, err := attest.DecodeTPMEvidence(ev.Body)
	if err != nil {
		return nil, err
	}
	ek, err := parsePublic(body.EKPublic)
	if err != nil {
		return nil, refuse(CheckActivation, detail{Err: fmt.Errorf("the EK: %w", err)})
	}
	ak, err := parsePublic(body.AKPublic)
	if err != nil {
		return nil, refuse(CheckActivation, detail{Err: fmt.Errorf("the AK: %w", err)})
	}
	if ek.digest() != now.EK || !bytes.Equal(ak.name, now.AK) || checkEK(ek) != nil {
		return nil, refuse(CheckActivation, detail{Err: errors.New("the claims are not those of the evidence")})
	}
	var out []byte
	err = v.guard(func() error {
		area, err := tpm2.Unmarshal[tpm2.TPMTPublic](body.EKPublic)
		if err != nil {
			return err
		}
		key, err := tpm2.ImportEncapsulationKey(area)
		if err != nil {
			return err
		}
		object, encrypted, err := tpm2.CreateCredential(rand.Reader, key, ak.name, secret)
		if err != nil {
			return err
		}
		for _, b := range [][]byte{object, encrypted} {
			out = append(binary.BigEndian.AppendUint16(out, uint16(len(b))), b...)
		}
		return nil
	})
	if err == nil {
		return out, nil
	}
	if attest.CheckOf(err) != "" {
		return nil, err
	}
	return nil, refuse(CheckActivation, detail{Err: fmt.Errorf("no credential can be made for the EK: %w", err)})
}
