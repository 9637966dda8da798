package issuer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/issuer/store"
	"github.com/assay-project/assay/policy"
)

// A revision only grows, and that must hold over a restart too: or an old
// policy, with what has been withdrawn since, could be brought back by stopping
// the server. So the store remembers each revision that was in force, whether
// or not anything was issued under it. Another name is another policy.

// CheckNotSuperseded compares the policy with the newest revision of its name
// that was in force, and changes nothing: for `assayd check`.
func (p *PolicyFile) CheckNotSuperseded(ctx context.Context, st store.PolicyStore) error {
	now := p.Current()
	last, err := st.LatestPolicy(ctx, p.trustDomain, now.Name())
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return p.superseded(now, last)
}

// Remember puts the policy on record as in force, or refuses it as superseded.
// From then on a reload is on record before it is in force.
func (p *PolicyFile) Remember(ctx context.Context, st store.PolicyStore, now func() time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.record = func(ctx context.Context, b *policy.Bundle) error {
		return p.put(ctx, st, b, now())
	}
	return p.record(ctx, p.Current())
}

func (p *PolicyFile) put(ctx context.Context, st store.PolicyStore, b *policy.Bundle, at time.Time) error {
	err := st.PutPolicy(ctx, store.Policy{TrustDomain: p.trustDomain, Name: b.Name(), Revision: b.Revision(), Digest: b.Digest(), At: at})
	if !errors.Is(err, store.ErrConflict) {
		return err
	}
	last, lerr := st.LatestPolicy(ctx, p.trustDomain, b.Name())
	if lerr != nil {
		return errors.Join(err, lerr)
	}
	if serr := p.superseded(b, last); serr != nil {
		return serr
	}
	return err
}

// superseded is nil for the very revision that was in force last, and for a
// later one.
func (p *PolicyFile) superseded(b *policy.Bundle, last store.Policy) error {
	at := last.At.UTC().Format(time.RFC3339)
	switch {
	case b.Revision() < last.Revision:
		return cli.Usagef(fmt.Sprintf("to go back to older rules, publish them as revision %d", last.Revision+1),
			"%s: revision %d of policy %q is superseded: revision %d was in force from %s", p.path, b.Revision(), b.Name(), last.Revision, at)
	case b.Revision() == last.Revision && b.Digest() != last.Digest:
		return cli.Usagef(fmt.Sprintf("raise the revision with every change: make it %d", last.Revision+1),
			"%s: the content of policy %s has changed since it was in force, from %s", p.path, b.Version(), at)
	}
	return nil
}
