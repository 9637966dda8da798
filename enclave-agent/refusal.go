package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/attest"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
)

// Refusal is a server's refusal of an attestation, in the server's words.
// [attest.KindOf] and [attest.CheckOf] see its kind and check.
type Refusal struct {
	Kind       attest.Kind
	Check      string        // for Denied it is the constant "policy"
	Reference  string        // names the refusal in the server's ledger or log
	RetryAfter time.Duration // how long the server asks to wait; may be 0
}

// Error says what was refused, and where operators find out why.
func (r *Refusal) Error() string {
	s := fmt.Sprintf("the server refused: %s, check %s", r.Kind, r.Check)
	if r.Reference != "" {
		s += ", reference " + r.Reference
	}
	return s
}

// Unwrap makes the kind visible to [attest.KindOf].
func (r *Refusal) Unwrap() error {
	e := &attest.Error{Kind: r.Kind, Check: r.Check}
	switch {
	case r.Reference == "":
	case r.Kind == attest.Denied:
		e.Hint = "on the server: assay ledger show " + r.Reference
	default: // the ledger has what policy decided, and this was refused before
		e.Hint = "the server's log has it under the reference " + r.Reference
	}
	return e
}

// renewalChecks begins the names of the server's checks of the renewal proof.
const renewalChecks = "renewal"

// ofRenewal reports whether it is the proof of the previous key that was
// refused: then the agent can still attest as at boot.
func (r *Refusal) ofRenewal() bool { return strings.HasPrefix(r.Check, renewalChecks) }

// rpcError turns the status that ended a stream into a [Refusal], where the
// server gave one, or an [attest.Error]. l may be nil.
func rpcError(l *link, err error) error {
	var known *attest.Error
	if errors.As(err, &known) {
		return err
	}
	st, ok := status.FromError(err)
	if !ok {
		return &attest.Error{Kind: attest.Unavailable, Check: "server", Err: err}
	}
	for _, d := range st.Details() {
		if m, ok := d.(*assayv1.Denied); ok {
			return refusal(m)
		}
	}
	switch st.Code() { //nolint:exhaustive // every other code is the server's fault
	case codes.Unavailable:
		if l != nil {
			// A handshake that failed on our side explains more than gRPC's text.
			var ours *attest.Error
			if errors.As(l.handshakeError(), &ours) {
				return ours
			}
		}
		return &attest.Error{Kind: attest.Unavailable, Check: "server", Err: errors.New(clipTo(st.Message(), clipMessageAt)), Hint: "is the server running, and does the network let the TEE reach it?"}
	case codes.DeadlineExceeded, codes.Canceled:
		return &attest.Error{Kind: attest.Unavailable, Check: "server", Err: fmt.Errorf("%s: %w", clipTo(st.Message(), clipMessageAt), contextError(st.Code()))}
	case codes.ResourceExhausted:
		return &attest.Error{Kind: attest.Unavailable, Check: "server", Err: fmt.Errorf("the server or a limit refused: %s", clip(st.Message()))}
	}
	return &attest.Error{Kind: attest.Internal, Check: "server", Err: fmt.Errorf("the server failed with %s: %s", st.Code(), clip(st.Message()))}
}

func contextError(c codes.Code) error {
	if c == codes.Canceled {
		return context.Canceled
	}
	return context.DeadlineExceeded
}

func refusal(m *assayv1.Denied) *Refusal {
	r := &Refusal{Check: clip(m.GetCheck()), Reference: clip(m.GetReference())}
	if err := r.Kind.UnmarshalText([]byte(m.GetKind())); err != nil {
		r.Kind = attest.Internal
	}
	if ms := m.GetRetryAfterMs(); ms > 0 {
		r.RetryAfter = min(time.Duration(min(ms, maxRetryAfter.Milliseconds()))*time.Millisecond, maxRetryAfter)
	}
	return r
}
