package issuer

import (
	"context"
	"fmt"

	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/issuer/ledger"
)

// CheckNotSuperseded compares the policy at start with the one that the newest
// issuance on record was made under: a revision only grows, and that must hold
// over a restart too, or an old policy could be brought back by stopping the
// server. An older revision is an error; other content under the same revision
// is returned as a warning, because only the newest issuance is looked at.
func (p *PolicyFile) CheckNotSuperseded(ctx context.Context, r *ledger.Reader) (warning string, err error) {
	items, err := r.List(ctx, ledger.Filter{Outcome: ledger.Granted, Limit: 1})
	if err != nil || len(items) == 0 {
		return "", err
	}
	now, last := p.Current(), items[0].Entry.Policy
	digest := now.Digest()
	switch {
	case last.Name != now.Name():
		return "", nil
	case last.Revision > now.Revision():
		return "", cli.Usagef(fmt.Sprintf("to go back to older rules, publish them as revision %d", last.Revision+1),
			"%s: revision %d of policy %q is superseded: SVIDs were issued under revision %d", p.path, now.Revision(), now.Name(), last.Revision)
	case last.Revision == now.Revision() && string(last.Digest) != string(digest[:]):
		return fmt.Sprintf("%s: the content of policy %s has changed since SVIDs were issued under it; raise the revision with every change", p.path, now.Version()), nil
	}
	return "", nil
}
