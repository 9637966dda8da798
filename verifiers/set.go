package verifiers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"

	"github.com/assay-project/assay/attest"
)

// Set holds one verifier per platform. The zero Set refuses everything.
type Set struct {
	byPlatform map[attest.Platform]Verifier
	simulated  bool
	panics     *atomic.Uint64
}

// NewSet builds a Set. It refuses an empty set, two verifiers for one platform,
// and simulated roots beside hardware roots: a trust domain is one or the other
// for life.
func NewSet(vs ...Verifier) (Set, error) {
	if len(vs) == 0 {
		return Set{}, errors.New("verifiers: no verifier: nothing could attest")
	}
	s := Set{
		byPlatform: make(map[attest.Platform]Verifier, len(vs)),
		simulated:  vs[0].Simulated(),
		panics:     new(atomic.Uint64),
	}
	for _, v := range vs {
		p := v.Platform()
		if _, dup := s.byPlatform[p]; dup {
			return Set{}, fmt.Errorf("verifiers: two verifiers for %s", p)
		}
		if v.Simulated() != s.simulated {
			return Set{}, errors.New("verifiers: simulated roots beside hardware roots: a trust domain holds one kind for life")
		}
		s.byPlatform[p] = v
	}
	return s, nil
}

// Simulated reports whether every root of the set is a simulator's.
func (s Set) Simulated() bool { return s.simulated }

// Platforms lists the platforms that the set can verify, sorted.
func (s Set) Platforms() []attest.Platform {
	out := make([]attest.Platform, 0, len(s.byPlatform))
	for p := range s.byPlatform {
		out = append(out, p)
	}
	slices.Sort(out)
	return out
}

// Panics counts the panics that a verifier, or a library under it, was saved
// from. Each was answered with a Malformed error; any is worth a look.
func (s Set) Panics() uint64 {
	if s.panics == nil {
		return 0
	}
	return s.panics.Load()
}

// Authenticate checks evidence without a challenge, for offline tools: it
// yields claims, and claims alone authorize nothing.
func (s Set) Authenticate(ctx context.Context, ev attest.Evidence, at time.Time) (*attest.Claims, error) {
	v, err := s.verifier(ev.Platform)
	if err != nil {
		return nil, err
	}
	claims, _, err := s.held(ev, func() (*attest.Claims, attest.Evidence, error) {
		c, err := v.Authenticate(ctx, ev, at)
		return c, ev, err
	})
	return claims, err
}

// Verify authenticates the evidence and checks that it is bound to the
// challenge, whose binding it computes itself. The checks run in this order:
//
//  1. platform     a verifier exists, and evidence and challenge name the same platform
//  2. challenge    the challenge is complete
//  3. (platform's) structure, signature, chain, time
//  4. (platform's) binding
//  5. (platform's) second round, where the platform has one
func (s Set) Verify(ctx context.Context, ev attest.Evidence, ch attest.Challenge, x Exchange, at time.Time) (*Verified, error) {
	v, err := s.verifier(ev.Platform)
	if err != nil {
		return nil, err
	}
	if ev.Platform != ch.Platform {
		return nil, &attest.Error{
			Kind: attest.Untrusted, Check: "platform",
			Err:      errors.New("the evidence is of another platform than the challenge"),
			Expected: string(ch.Platform), Got: string(ev.Platform),
		}
	}
	want, err := ch.Binding()
	if err != nil {
		return nil, err
	}
	claims, ev, err := s.held(ev, func() (*attest.Claims, attest.Evidence, error) {
		if c, ok := v.(Completer); ok {
			return c.AuthenticateComplete(ctx, ev, at)
		}
		authenticate := v.Authenticate
		if a, ok := v.(Activator); ok {
			authenticate = a.AuthenticatePending
		}
		c, err := authenticate(ctx, ev, at)
		return c, ev, err
	})
	if err != nil {
		return nil, err
	}
	if err := s.guard(func() error { return v.Bound(claims, want) }); err != nil {
		return nil, err
	}
	if a, ok := v.(Activator); ok {
		if err := s.guard(func() error { return a.Activate(ctx, ev, claims, want, x, at) }); err != nil {
			return nil, err
		}
	}
	return &Verified{&verified{
		claims: *claims, evidence: ev, digest: ev.Digest(), challenge: ch, at: at,
	}}, nil
}

func (s Set) verifier(p attest.Platform) (Verifier, error) {
	v, ok := s.byPlatform[p]
	if !ok {
		return nil, &attest.Error{
			Kind: attest.Malformed, Check: "platform",
			Err:      fmt.Errorf("no verifier for platform %.40q", string(p)),
			Expected: fmt.Sprintf("one of %v", s.Platforms()),
		}
	}
	return v, nil
}

// held runs a verifier's authentication and holds it to its contract: claims of
// the right platform and kind, and the same evidence with all that vouched for
// it; or an error.
func (s Set) held(ev attest.Evidence, authenticate func() (*attest.Claims, attest.Evidence, error)) (claims *attest.Claims, whole attest.Evidence, err error) {
	err = s.guard(func() (err error) {
		claims, whole, err = authenticate()
		return err
	})
	if err != nil {
		return nil, attest.Evidence{}, err
	}
	if claims == nil || claims.Platform != ev.Platform || claims.Simulated != s.simulated || whole.Platform != ev.Platform || !bytes.Equal(whole.Body, ev.Body) {
		return nil, attest.Evidence{}, &attest.Error{
			Kind: attest.Internal, Check: "claims",
			Err: errors.New("the verifier returned claims or evidence of another platform or kind than its own"),
		}
	}
	return claims, whole, nil
}

// guard turns a panic into a Malformed error: evidence comes from strangers,
// and the libraries that read it have panicked on it before.
func (s Set) guard(f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			s.panics.Add(1)
			err = &attest.Error{
				Kind: attest.Malformed, Check: "panic",
				Err: &PanicError{Value: r, Stack: debug.Stack()},
			}
		}
	}()
	return f()
}

// PanicError holds what a library panicked with. Its message leaves the stack
// out: that is for the server's log, not for the stranger.
type PanicError struct {
	Value any
	Stack []byte
}

func (e *PanicError) Error() string {
	return "the evidence made a library fail in a way that it does not report"
}
