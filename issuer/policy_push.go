package issuer

import (
	"context"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/issuer/store"
	"github.com/assay-project/assay/policy"
)

// recordTimeout is how long the record of a change may take. It does not end
// with the operator's patience: an operator who left must not leave a change
// behind that is on record and not in force.
const recordTimeout = 20 * time.Second

// maxPolicyNote bounds what an operator says about a change, in bytes.
const maxPolicyNote = 512

// push is a policy that an operator hands to the running server.
type push struct {
	document []byte
	reverts  uint64 // the revision whose content this is again; 0: none
	actor    string // who, as the server knows it
	note     string // why, in their words
	dryRun   bool   // make every check, and change nothing
}

func (in push) source() string {
	if in.reverts != 0 {
		return sourceRevert
	}
	return sourcePush
}

// pushed is what became of it.
type pushed struct {
	policy    *policy.Bundle
	previous  string // "name@revision"
	unchanged bool   // it was in force already
	signers   []string
}

// push puts a policy into force: it is checked as one from the file, on record
// before anything is decided by it, and stays in force over a restart. Pushing
// what is in force already is no error, so that an operator whose answer got
// lost can ask again. A push has the name of the policy in force: a policy of
// another name is another policy, and comes with the configuration.
func (p *PolicyFile) push(ctx context.Context, in push) (*pushed, error) {
	if len(in.note) > maxPolicyNote || !utf8.ValidString(in.note) {
		// Before anything is recorded: a refusal keeps the note.
		return nil, cli.Usagef("", "the note is not text of at most %d bytes", maxPolicyNote)
	}
	if p.store == nil {
		return nil, errNoHistory
	}
	if p.pushes == "" {
		return nil, errNoPushes
	}
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer p.exit()
	d, err := p.compileAlone(ctx, "policy", in.document)
	if err != nil {
		return nil, p.refusePush(ctx, in, d, err)
	}
	if err := p.checkRevert(ctx, in, d); err != nil {
		return nil, p.refusePush(ctx, in, d, err)
	}
	if err := p.changing.take(ctx); err != nil {
		return nil, err
	}
	defer p.changing.leave()
	out, f, err := p.judge(in, d)
	if err != nil {
		return nil, p.refusePush(ctx, in, d, err)
	}
	if in.dryRun || out.unchanged {
		return out, nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
	defer cancel()
	if err := p.keepPushed(&document{raw: in.document, bundle: f.bundle}); err != nil {
		return nil, err
	}
	if err := p.record(ctx, f); err != nil {
		return nil, err
	}
	p.enforce(ctx, f)
	if file := p.file.Load(); file.refused == "" {
		p.file.Store(&fileState{holds: file.holds, outrun: p.behind(file.holds, f)})
	}
	return out, nil
}

// refusePush puts a refusal on record, and returns the reason. A dry run, and
// who left before they were heard, leave no trace.
func (p *PolicyFile) refusePush(ctx context.Context, in push, d *document, err error) error {
	if in.dryRun || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	p.result("refused")
	p.log.ErrorContext(ctx, "a pushed policy is refused", "actor", in.actor, "in_force", policyName(p.Current()), "error", err)
	p.recordRefusal(ctx, p.refusal(in.document, d, in.source(), in.actor, in.note, err))
	return err
}

// judge checks a push against what is in force.
func (p *PolicyFile) judge(in push, d *document) (*pushed, *inForce, error) {
	now := p.current.Load()
	out := &pushed{policy: d.bundle, previous: now.bundle.Version(), signers: d.signers}
	if d.is(now.bundle) {
		out.unchanged = true
		return out, now, nil
	}
	if d.bundle.Name() != now.bundle.Name() {
		return nil, nil, cli.Usagef("a policy of another name is another policy: put it into the file that the configuration names",
			"the policy is called %q, the one in force %q", d.bundle.Name(), now.bundle.Name())
	}
	if err := p.grows(d, now); err != nil {
		return nil, nil, err
	}
	return out, &inForce{bundle: d.bundle, PolicyChange: p.change(d, in.source(), in.actor, in.note)}, nil
}

// changes reads the history.
func (p *PolicyFile) changes(ctx context.Context, f store.FindPolicy) ([]store.PolicyChange, error) {
	if p.store == nil {
		return nil, errNoHistory
	}
	return p.store.PolicyChanges(ctx, p.trustDomain, f)
}

// past is a policy that was in force once, by its digest, for comparing with: it
// can decide nothing any more. It is nil where its content is no longer kept.
func (p *PolicyFile) past(ctx context.Context, digest [32]byte) (*policy.Bundle, error) {
	rows, err := p.changes(ctx, store.FindPolicy{Outcome: store.PolicyInForce, Digest: &digest, Documents: true, Limit: 1})
	if errors.Is(err, errNoHistory) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if len(rows) == 0 || !rows[0].Kept {
		return nil, nil
	}
	p.log.DebugContext(ctx, "reading a policy of the past", "policy", fmt.Sprintf("%s@%d", rows[0].Name, rows[0].Revision))
	b, err := p.reopen(rows[0])
	if err != nil {
		// A later release may read less than the one that accepted it.
		p.log.WarnContext(ctx, "a policy of the past cannot be read any more", "policy", fmt.Sprintf("%s@%d", rows[0].Name, rows[0].Revision), "error", err)
		return nil, nil //nolint:nilerr // who asks does without
	}
	return b, nil
}
