package issuer

import (
	"bytes"
	"context"
	"errors"

	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/issuer/store"
	"github.com/assay-project/assay/policy/signed"
)

// What is handed out of the history is published again, and signed again. So a
// policy that is asked for by its number is one that the data directory remembers,
// and one that is asked for by its digest has that digest: a row of the database
// can keep it from being found, and can put no other in its place.

var (
	errNeverInForce = errors.New("no such policy was in force")
	errNotKept      = errors.New("its content is no longer kept")
)

// byRevision is the policy of that revision, of the name of the one in force.
func (p *PolicyFile) byRevision(ctx context.Context, revision uint64) (store.PolicyChange, error) {
	name := p.Current().Name()
	f := store.FindPolicy{Name: name, Revision: revision}
	digest, ok := p.accepted.digest(name, revision)
	if ok {
		f.Digest = &digest
	}
	c, err := p.kept(ctx, f)
	if err == nil && !ok {
		err = cli.Usagef("if you know its digest, and that it is right, ask for that: the ledger names the digest with every decision",
			"the database has a revision %d of policy %q, and this server does not remember that it was in force: it is not handed out", revision, name)
	}
	return c, err
}

// kept is a policy whose content is what its row says.
func (p *PolicyFile) kept(ctx context.Context, f store.FindPolicy) (store.PolicyChange, error) {
	f.Outcome, f.Documents, f.Limit = store.PolicyInForce, true, 1
	rows, err := p.changes(ctx, f)
	switch {
	case err != nil:
		return store.PolicyChange{}, err
	case len(rows) == 0:
		return store.PolicyChange{}, errNeverInForce
	case !rows[0].Kept:
		return store.PolicyChange{}, errNotKept
	}
	return rows[0], intact(rows[0])
}

// checkRevert is nil where a push is the older revision that it says it is, with
// its number and nothing else exchanged.
func (p *PolicyFile) checkRevert(ctx context.Context, in push, d *document) error {
	if in.reverts == 0 {
		return nil
	}
	older, err := p.byRevision(ctx, in.reverts)
	if err != nil {
		return cli.Usagef("push it as a new policy", "whether this is revision %d again cannot be told: %w", in.reverts, err)
	}
	a, err := content(older.Document)
	if err != nil {
		return err
	}
	b, err := content(in.document)
	if err != nil {
		return err
	}
	if d.bundle.Name() != older.Name || d.bundle.Revision() == older.Revision || !differInDigits(a, b) {
		return cli.Usagef("push it as a new policy", "this is not revision %d with another number", in.reverts)
	}
	return nil
}

// content is the policy's own bytes, signed or not.
func content(raw []byte) ([]byte, error) {
	if !signed.Is(raw) {
		return raw, nil
	}
	u, err := signed.Open(raw)
	if err != nil {
		return nil, err
	}
	return u.UnverifiedPayload(), nil
}

// differInDigits reports whether two texts are the same but for one stretch of
// digits. Where they are policies of two revisions, that is where it must be.
func differInDigits(a, b []byte) bool {
	n := 0
	for n < min(len(a), len(b)) && a[n] == b[n] {
		n++
	}
	a, b = a[n:], b[n:]
	for len(a) > 0 && len(b) > 0 && a[len(a)-1] == b[len(b)-1] {
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	const digits = "0123456789"
	return len(bytes.Trim(a, digits)) == 0 && len(bytes.Trim(b, digits)) == 0
}
