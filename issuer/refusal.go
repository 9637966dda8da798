package issuer

import (
	"context"
	"errors"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/attest"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
)

// retryAfter is how long an agent waits when the server is at a limit.
const retryAfter = 2 * time.Second

// overloaded is a refusal for want of room. It is not the agent's fault.
func overloaded(limit, what string) error {
	return &attest.Error{Kind: attest.Unavailable, Check: limit, Err: errors.New(what)}
}

// withheld is an error whose cause is for the server's log and not for the
// client.
type withheld struct {
	public string
	cause  error
}

func (w *withheld) Error() string { return w.public }
func (w *withheld) Unwrap() error { return w.cause }

// forOperators is the text of an error with what is withheld from the client.
func forOperators(err error) string {
	var w *withheld
	if errors.As(err, &w) {
		return err.Error() + ": " + w.cause.Error()
	}
	return err.Error()
}

// refusal is the one place where an error becomes an answer. A stranger learns
// the kind, the name of the check and a reference; of a policy denial only that
// it was one: neither text nor detail depends on which rule failed.
func refusal(err error, reference string) error {
	kind, check := attest.KindOf(err), attest.CheckOf(err)
	detail := &assayv1.Denied{Kind: kind.String(), Check: check, Reference: reference}
	var (
		code codes.Code
		text string
	)
	switch kind {
	case attest.Malformed:
		code, text = codes.InvalidArgument, err.Error()
	case attest.Untrusted:
		code, text = codes.Unauthenticated, err.Error()
	case attest.Stale:
		// Aborted asks for a new attempt from the start: with a new challenge.
		code, text = codes.Aborted, err.Error()
	case attest.Denied:
		code, text = codes.PermissionDenied, "policy does not grant this"
		detail.Check = "policy"
	case attest.Unavailable:
		code, text = codes.Unavailable, "the server cannot do this now"
		detail.RetryAfterMs = retryOf(err).Milliseconds()
	case attest.Internal:
		code, text = codes.Internal, "a fault of the server"
		detail.Check = "internal"
	default:
		code, text = codes.Internal, "a fault of the server"
		detail.Kind, detail.Check = attest.Internal.String(), "internal"
	}
	st, derr := status.New(code, clip(text, 512)+"; reference "+reference).WithDetails(detail)
	if derr != nil { // only for a code of OK, which is none of the above
		return status.Error(codes.Internal, "a fault of the server; reference "+reference)
	}
	return st.Err()
}

// gone reports whether the client left, so that nobody hears an answer. What a
// check found counts all the same: hanging up hides nothing.
func gone(ctx context.Context, err error) bool {
	var e *attest.Error
	if errors.As(err, &e) {
		return ctx.Err() != nil && (e.Kind == attest.Unavailable || e.Kind == attest.Internal)
	}
	_, isStatus := status.FromError(err) // of Recv or Send: the stream has ended
	return isStatus || ctx.Err() != nil
}

// clip shortens text that may hold a stranger's bytes, and makes it the UTF-8
// that a gRPC status must be.
func clip(s string, n int) string {
	if len(s) > n {
		s = s[:n] + "…"
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}
