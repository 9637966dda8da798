package agent

import (
	"context"
	"crypto"
	"fmt"

	"github.com/assay-project/assay/attest"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
)

// Attester is the TEE's device. An implementation asks its hardware for
// evidence that carries the binding, in the place that its platform has for
// it, and for nothing else: an agent must not become an oracle that has data
// of somebody else's choice signed. An agent in several trust domains asks for each of
// them when it is its time, so that requests may come at once: hardware that takes
// one at a time is for the implementation to look after.
type Attester interface {
	// Platform names the kind of TEE.
	Platform() attest.Platform
	// Evidence returns evidence bound to want. It gives up when ctx ends. Errors
	// are [attest.Error] with a hint: Unavailable where the device cannot be
	// reached, Internal where it answers with an error or with nonsense.
	Evidence(ctx context.Context, want attest.Binding) (attest.Evidence, error)
}

// Quoter is an Attester whose evidence is a quote over registers that the
// challenge names. An attestation asks it for Quote instead of Evidence.
type Quoter interface {
	// Quote returns evidence bound to want, over the registers. keys are those of
	// the binding, in its order. Errors are those of [Attester].Evidence.
	Quote(ctx context.Context, want attest.Binding, over PCRSelection, keys []crypto.Signer) (attest.Evidence, error)
}

// Activator is an Attester whose keys a server may want to see together in a
// second round.
type Activator interface {
	// Activate answers a CredentialChallenge of the attestation that want belongs
	// to. Errors are those of [Attester].Evidence, and Untrusted where the
	// challenge is nonsense.
	Activate(ctx context.Context, credential []byte, want attest.Binding) (proof []byte, err error)
}

// KeyHolder is an Attester whose hardware makes keys that never leave it.
type KeyHolder interface {
	// NewKey makes a P-256 key. Errors are those of [Attester].Evidence.
	NewKey(ctx context.Context) (crypto.Signer, error)
}

// Preparer is an Attester that does something slow once. It is asked before a
// challenge, which would not wait for it.
type Preparer interface {
	Prepare(ctx context.Context) error
}

// Collector is an Attester that also makes evidence outside of an attestation.
// The caller chooses a nonce, and it alone: what the hardware signs is bound to
// the nonce under a tag that attestation refuses (docs/spec/binding.md).
type Collector interface {
	// Collect returns evidence bound to the nonce. Errors are those of
	// [Attester].Evidence, and Malformed for an empty nonce.
	Collect(ctx context.Context, nonce []byte) (attest.Evidence, error)
}

// Prober is an Attester that can say whether its device works; `assay-agent
// check` and `run` ask.
type Prober interface {
	// Probe returns a line about the device for people. What it asks for is bound
	// to nothing, and no server accepts it.
	Probe(ctx context.Context) (string, error)
}

// evidenceMessage puts evidence into the field of its platform.
func evidenceMessage(ev attest.Evidence) (*assayv1.Evidence, error) {
	m := &assayv1.Evidence{Endorsements: ev.Endorsements}
	switch ev.Platform {
	case attest.AWSNitro:
		m.Body = &assayv1.Evidence_Nitro{Nitro: &assayv1.NitroEvidence{Document: ev.Body}}
	case attest.AMDSEVSNP:
		m.Body = &assayv1.Evidence_Snp{Snp: &assayv1.SnpEvidence{Report: ev.Body}}
	case attest.TPM2:
		m.Body = &assayv1.Evidence_Tpm{Tpm: &assayv1.TpmEvidence{Body: ev.Body, EventLogSize: uint32(len(ev.EventLog))}}
	default:
		return nil, unsupported(ev.Platform)
	}
	return m, nil
}

func unsupported(p attest.Platform) error {
	return &attest.Error{
		Kind: attest.Internal, Check: "platform",
		Err:  fmt.Errorf("this agent has no attester for %q", clip(string(p))),
		Hint: fmt.Sprintf("this version attests on %s, %s and %s", attest.AWSNitro, attest.AMDSEVSNP, attest.TPM2),
	}
}

// deviceNonsense is an answer of a device that cannot be right.
type deviceNonsense struct{ text string }

func (e *deviceNonsense) Error() string { return e.text }

func nonsense(format string, args ...any) error { return &deviceNonsense{fmt.Sprintf(format, args...)} }
