package agent

import (
	"context"

	"google.golang.org/grpc"

	"github.com/assay-project/assay/attest"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
)

// logChunk is how much of an event log one message carries, 48 KiB: messages have
// 64 KiB.
const logChunk = 48 << 10

type attestStream = grpc.BidiStreamingClient[assayv1.AttestRequest, assayv1.AttestResponse]

// sendEventLog sends the log in chunks, each full but the last one; nothing where
// there is none.
func sendEventLog(s attestStream, log []byte) error {
	for len(log) > 0 {
		n := min(len(log), logChunk)
		if err := send(s, &assayv1.AttestRequest{Message: &assayv1.AttestRequest_EventLog{EventLog: &assayv1.EventLogChunk{Data: log[:n]}}}); err != nil {
			return err
		}
		log = log[n:]
	}
	return nil
}

// secondRound returns the server's last answer. In between, a server may ask an
// [Activator] for a proof that its keys are in one TPM, once; of others it gets
// nothing but the evidence, and no further word.
func (a *attestation) secondRound(ctx context.Context, s attestStream, b attest.Binding) (*assayv1.AttestResponse, error) {
	hardware, ok := a.attester.(Activator)
	if !ok {
		if err := s.CloseSend(); err != nil {
			return nil, err
		}
		return receive(s)
	}
	reply, err := receive(s)
	if err != nil {
		return nil, err
	}
	if c := reply.GetCredentialChallenge(); c != nil {
		proof, err := hardware.Activate(ctx, c.GetCredential(), b)
		if err != nil {
			return nil, err
		}
		if err := send(s, &assayv1.AttestRequest{Message: &assayv1.AttestRequest_CredentialProof{CredentialProof: &assayv1.CredentialProof{Proof: proof}}}); err != nil {
			return nil, err
		}
		if reply, err = receive(s); err != nil {
			return nil, err
		}
		if reply.GetCredentialChallenge() != nil {
			return nil, replyError("reply_order", "the server asks for a second activation")
		}
	}
	return reply, s.CloseSend()
}

// receive takes the next answer, of a server that must have one.
func receive(s attestStream) (*assayv1.AttestResponse, error) {
	m, err := s.Recv()
	if err != nil {
		return nil, endedEarly(err)
	}
	return m, nil
}
