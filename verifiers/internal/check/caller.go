package check

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifiers"
)

// A Refuser is a verifier's [Refuse] over its own table.
type Refuser func(name string, d Detail) *attest.Error

// Admit checks what the caller handed in besides the evidence's body: the request
// has not been cancelled, the evidence names the verifier's platform, and there is
// a time to verify at. The checks are "context", "platform" and "time".
func Admit(ctx context.Context, ev attest.Evidence, at time.Time, platform attest.Platform, refuse Refuser) error {
	if err := ctx.Err(); err != nil {
		return refuse("context", Detail{Err: err})
	}
	if ev.Platform != platform {
		return refuse("platform", Detail{
			Err: errors.New("the evidence is of another platform"), Expected: string(platform), Got: fmt.Sprintf("%.40q", string(ev.Platform)),
		})
	}
	if at.IsZero() {
		return refuse("time", Detail{Err: errors.New("no time to verify at")})
	}
	return nil
}

// Complete says what a binding lacks to be compared with claims. An empty field
// must never equal one that evidence left empty.
func Complete(b attest.Binding) error {
	if b.B == [32]byte{} || b.Nonce == [32]byte{} || len(b.Keys) == 0 || len(b.Keys[0].SPKI) == 0 {
		return errors.New("the binding lacks B, the nonce or the first key: an empty one means nothing, not anything")
	}
	return nil
}

// Recover, deferred around a call of a library, turns its panic into the error of
// the check "panic", and counts it: evidence comes from strangers, libraries have
// panicked on it before, and the server must go on. Without a panic it leaves err
// alone.
func Recover(err *error, panics *atomic.Uint64, refuse Refuser) {
	if p := recover(); p != nil {
		panics.Add(1)
		*err = refuse("panic", Detail{Err: &verifiers.PanicError{Value: p, Stack: debug.Stack()}})
	}
}
