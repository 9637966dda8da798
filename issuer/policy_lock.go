package issuer

import (
	"context"
	"errors"

	"github.com/assay-project/assay/attest"
)

// lock is a mutex that nobody waits for longer than somebody waits for them.
type lock chan struct{}

func newLock() lock { return make(lock, 1) }

// take returns an error only when it had to wait and ctx ended.
func (l lock) take(ctx context.Context) error {
	select {
	case l <- struct{}{}:
		return nil
	default:
	}
	select {
	case l <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (l lock) leave() { <-l }

// maxPushes is how many pushes may wait for their turn: each holds a policy in
// memory.
const maxPushes = 8

// enter takes a place among the pushes that wait.
func (p *PolicyFile) enter() error {
	select {
	case p.places <- struct{}{}:
		return nil
	default:
		return &attest.Error{Kind: attest.Unavailable, Check: "policy_busy", Err: errors.New("other policies are being pushed"), Hint: "push again in a moment"}
	}
}

func (p *PolicyFile) exit() { <-p.places }

// compileAlone compiles one policy at a time, and holds up nothing that concerns
// the one in force: a large one takes seconds, and memory. It does not begin for
// who has left.
func (p *PolicyFile) compileAlone(ctx context.Context, file string, raw []byte) (*document, error) {
	if err := p.compiling.take(ctx); err != nil {
		return nil, err
	}
	defer p.compiling.leave()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return p.compile(file, raw)
}
