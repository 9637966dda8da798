package issuer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"

	"github.com/assay-project/assay/attest"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
)

// patience is how long one stream may take, from its opening to its end. A gRPC
// server cannot give Recv a deadline of its own, so the stream's context gets
// one when the stream is opened, and Recv ends with it: no timer and no goroutine
// beside each message. It leaves a quarter more than a challenge allows, for the
// Hello before it and the work after it.
func (s *Server) patience() time.Duration { return s.challengeTTL * 5 / 4 }

// patience of a stream whose trust domain is not known yet: gRPC's tap has no
// peer. All trust domains have the same.
func (f *Front) patience() time.Duration {
	if s := f.home(); s != nil {
		return s.patience()
	}
	return challengeTTL * 5 / 4
}

// limitPatience is the tap that gRPC calls before it creates a stream.
func (f *Front) limitPatience(ctx context.Context, info *tap.Info) (context.Context, error) {
	if info.FullMethodName != assayv1.Attestation_Attest_FullMethodName {
		return ctx, nil
	}
	ctx, cancel := context.WithTimeout(ctx, f.patience())
	// gRPC cancels the parent when the stream ends. Who gives up a place to
	// another is cancelled through the value.
	return context.WithValue(ctx, streamCancel{}, cancel), nil
}

// streamCancel is the context key of what ends a stream from outside.
type streamCancel struct{}

// cancelOf is what ends the stream.
func cancelOf(ctx context.Context) func() {
	if cancel, ok := ctx.Value(streamCancel{}).(context.CancelFunc); ok {
		return cancel
	}
	return func() {}
}

// receive waits for the client's next message, while there is patience.
func (a *attestation) receive() (*assayv1.AttestRequest, error) {
	msg, err := a.stream.Recv()
	return msg, receiveError(err)
}

// receiveError classifies what Recv failed with.
func receiveError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, io.EOF):
		return outOfOrder("the client closed its side before its last message")
	}
	switch status.Code(err) { //nolint:exhaustive // what Recv returns; the rest is the transport's end
	case codes.ResourceExhausted:
		return &attest.Error{Kind: attest.Malformed, Check: "message_size", Err: errors.New("a message is too large"), Expected: fmt.Sprintf("at most %d bytes", maxMessage)}
	case codes.DeadlineExceeded:
		return late("nothing more arrived in time")
	case codes.Internal, codes.Unimplemented:
		return &attest.Error{Kind: attest.Malformed, Check: "message", Err: errors.New("a message cannot be decoded")}
	}
	return status.Error(codes.Canceled, "the stream ended") // see gone
}

func late(what string) error {
	return &attest.Error{Kind: attest.Stale, Check: "deadline", Err: errors.New(what), Hint: "attest again, with a new challenge"}
}

func outOfOrder(what string) error {
	return &attest.Error{Kind: attest.Malformed, Check: "protocol_order", Err: errors.New(what), Expected: "Hello, then Evidence; of a TPM then EventLogChunk …, and CredentialProof when asked for"}
}

// receiveHello is step 2.
func (a *attestation) receiveHello() (*hello, error) {
	msg, err := a.receive()
	if err != nil {
		return nil, err
	}
	h := msg.GetHello()
	if h == nil {
		return nil, outOfOrder("the first message is not a Hello")
	}
	return a.checkHello(h)
}

// receiveBy is receive with the deadline that the challenge gave. The clock that
// decides is the server's own, the one that the deadline was given by; patience
// only ends the waiting.
func (a *attestation) receiveBy(deadline time.Time) (*assayv1.AttestRequest, error) {
	msg, err := a.receive()
	if err != nil {
		return nil, err
	}
	if now := a.now(); now.After(deadline) {
		return nil, late(fmt.Sprintf("the answer came %s after the deadline", now.Sub(deadline).Round(time.Millisecond)))
	}
	return msg, nil
}

// receiveEvidence is step 4. Checks: deadline (stale), protocol_order,
// evidence_platform, endorsements, renewal (malformed), and those of
// receiveEventLog.
func (a *attestation) receiveEvidence(h *hello, p *place, deadline time.Time) (attest.Evidence, *assayv1.Renewal, error) {
	msg, err := a.receiveBy(deadline)
	if err != nil {
		return attest.Evidence{}, nil, err
	}
	e := msg.GetEvidence()
	if e == nil {
		return attest.Evidence{}, nil, outOfOrder("the second message is not an Evidence")
	}
	evidence, err := platformEvidence(e)
	if err != nil {
		return attest.Evidence{}, nil, err
	}
	if evidence.Platform != h.platform {
		return attest.Evidence{}, nil, &attest.Error{
			Kind: attest.Malformed, Check: "evidence_platform", Err: errors.New("the evidence is of another platform than the Hello"),
			Expected: string(h.platform), Got: string(evidence.Platform),
		}
	}
	switch has := e.GetRenewal() != nil; {
	case has && h.purpose != attest.Renew:
		return attest.Evidence{}, nil, &attest.Error{Kind: attest.Malformed, Check: "renewal", Err: errors.New("a renewal proof in an attestation whose purpose is boot")}
	case !has && h.purpose == attest.Renew:
		return attest.Evidence{}, nil, &attest.Error{Kind: attest.Malformed, Check: "renewal", Err: errors.New("no renewal proof"), Hint: "without the previous key, attest with the purpose boot"}
	}
	if t := e.GetTpm(); t != nil {
		if evidence.EventLog, err = a.receiveEventLog(p, t.GetEventLogSize(), deadline); err != nil {
			return attest.Evidence{}, nil, err
		}
	}
	return evidence, e.GetRenewal(), nil
}

// maxEndorsements is more certificates and CRLs than any platform's chain has.
const maxEndorsements = 16

// platformEvidence takes the platform's own bytes from the message. A field for
// each platform: nobody can name one and send another.
func platformEvidence(e *assayv1.Evidence) (attest.Evidence, error) {
	if n := len(e.GetEndorsements()); n > maxEndorsements {
		return attest.Evidence{}, &attest.Error{
			Kind: attest.Malformed, Check: "endorsements", Err: errors.New("too many endorsements"),
			Expected: fmt.Sprintf("at most %d", maxEndorsements), Got: fmt.Sprint(n),
		}
	}
	switch body := e.GetBody().(type) {
	case *assayv1.Evidence_Nitro:
		return attest.Evidence{Platform: attest.AWSNitro, Body: body.Nitro.GetDocument(), Endorsements: e.GetEndorsements()}, nil
	case *assayv1.Evidence_Snp:
		return attest.Evidence{Platform: attest.AMDSEVSNP, Body: body.Snp.GetReport(), Endorsements: e.GetEndorsements()}, nil
	case *assayv1.Evidence_Tpm:
		return attest.Evidence{Platform: attest.TPM2, Body: body.Tpm.GetBody(), Endorsements: e.GetEndorsements()}, nil
	}
	return attest.Evidence{}, &attest.Error{Kind: attest.Malformed, Check: "evidence_platform", Err: errors.New("the message holds no evidence of a known platform")}
}
