package issuer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/issuer/store"
	"github.com/assay-project/assay/policy"
)

// A revision only grows, and that must hold over a restart too: or an old
// policy, with what has been withdrawn since, could be brought back by stopping
// the server. So the store remembers each revision that was in force, whether
// or not anything was issued under it. Another name is another policy.

// What the store keeps of policies: every change that came into force, for ever;
// the documents of the newest of them, up to documentBytes in all; and the
// newest refusals.
const (
	documentBytes = 256 << 20
	keptRefusals  = 200
)

// Resume takes up what was in force last, and changes nothing in the store: for
// the start, and for `assayd check`.
//
// A policy that was pushed stays in force over a restart, until the file holds a
// newer revision. It comes from the server's own directory, and is judged anew, as if it came now: its signatures count
// only if they are those that are required today. A file that is older than what
// came from the file before is an error, as is one of another name where
// signatures are required.
func (p *PolicyFile) Resume(ctx context.Context, st store.PolicyStore) error {
	if err := p.accepted.read(); err != nil {
		return err
	}
	file := p.current.Load().bundle
	if before := p.accepted.lastName(); before != "" {
		if err := p.sameName(file, before); err != nil {
			return err
		}
	}
	rows, err := st.PolicyChanges(ctx, p.trustDomain, store.FindPolicy{Outcome: store.PolicyInForce, Limit: 1})
	if err != nil {
		return err
	}
	if newest, ok := p.accepted.highest(file.Name()); ok && newest.Revision > file.Revision() && (len(rows) == 0 || rows[0].Name != file.Name() || rows[0].Revision < newest.Revision) {
		return p.resumeUnrecorded(ctx, newest)
	}
	if len(rows) == 0 {
		return p.checkNotSuperseded(ctx, st, file)
	}
	last := rows[0]
	if err := p.sameName(file, last.Name); err != nil {
		return err
	}
	newer := last.Revision > file.Revision() || last.Revision == file.Revision() && last.Digest != file.Digest()
	other := p.elsewhere(last)
	if last.Source == sourceFile && !other || last.Name != file.Name() || !newer {
		return p.checkNotSuperseded(ctx, st, file)
	}
	pushed, err := p.stored(last)
	if other && errors.Is(err, fs.ErrNotExist) {
		pushed, err = p.resumeElsewhere(ctx, st, last)
	}
	if err != nil {
		return err
	}
	if err := p.checkNotSuperseded(ctx, st, pushed.bundle); err != nil {
		return err
	}
	p.current.Store(pushed)
	holds := p.file.Load().holds
	p.file.Store(&fileState{holds: holds, outrun: p.behind(holds, pushed)})
	return nil
}

// resumeUnrecorded takes up a policy that was in force, as this server remembers,
// and of which the database knows nothing: it was restored from an older backup,
// or somebody removed rows to have an older policy back. Where its content is not
// here, the operator has to say what counts.
func (p *PolicyFile) resumeUnrecorded(ctx context.Context, newest store.Policy) error {
	c := store.PolicyChange{Policy: newest, Source: sourcePush, Actor: "assayd", Note: "taken up from the data directory: the database had no record of it"}
	c.TrustDomain = p.trustDomain
	pushed, err := p.stored(c)
	if errors.Is(err, fs.ErrNotExist) {
		return cli.Usagef(fmt.Sprintf("restore the database, or put revision %d or later into %s", newest.Revision+1, p.path),
			"policy %s@%d was in force from %s, as %s says, and the database has no record of it: rows were removed, or it is an older one",
			newest.Name, newest.Revision, newest.At.UTC().Format(time.RFC3339), p.accepted.path)
	}
	if err != nil {
		return err
	}
	p.log.ErrorContext(ctx, "the database has no record of the policy that was in force last: it is an older one, or rows were removed; the policy stays in force", "policy", policyName(pushed.bundle))
	if pushed.Document, err = p.readPushed(newest.Digest); err != nil {
		return err
	}
	p.current.Store(pushed) // Remember puts it on record
	holds := p.file.Load().holds
	p.file.Store(&fileState{holds: holds, outrun: p.behind(holds, pushed)})
	return nil
}

// stored compiles a policy that was pushed before.
func (p *PolicyFile) stored(c store.PolicyChange) (*inForce, error) {
	name := fmt.Sprintf("policy %s@%d, pushed at %s", c.Name, c.Revision, c.At.UTC().Format(time.RFC3339))
	mend := fmt.Sprintf("put revision %d or later into %s", c.Revision+1, p.path)
	raw, err := p.readPushed(c.Digest)
	if err != nil {
		return nil, cli.Usagef("restore the data directory from a backup, or "+mend, "%s: its content is not there: %w", name, err)
	}
	d, err := p.compile(name, raw)
	if err != nil {
		return nil, &cli.UsageError{Err: fmt.Errorf("what was in force last cannot be taken up: %w", err), Hint: mend}
	}
	if d.bundle.Name() != c.Name || d.bundle.Revision() != c.Revision || d.bundle.Digest() != c.Digest {
		return nil, cli.Usagef("restore the data directory from a backup, or "+mend, "%s: its content is not what the record says: file or database was changed", name)
	}
	return &inForce{bundle: d.bundle, PolicyChange: c}, nil
}

// checkNotSuperseded compares a policy with the newest revision of its name
// that was in force.
func (p *PolicyFile) checkNotSuperseded(ctx context.Context, st store.PolicyStore, b *policy.Bundle) error {
	if newest, ok := p.accepted.highest(b.Name()); ok {
		if err := p.superseded(b, newest); err != nil {
			return err
		}
	}
	last, err := st.LatestPolicy(ctx, p.trustDomain, b.Name())
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return p.superseded(b, last)
}

// Remember puts the policy on record as in force, or refuses it as superseded.
// From then on every change is on record before it is in force.
func (p *PolicyFile) Remember(ctx context.Context, st store.PolicyStore, now func() time.Time) error {
	// Who stops a server that is starting gets one that has started and stops.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
	defer cancel()
	p.store, p.now = st, now
	if err := p.accepted.read(); err != nil { // Resume may not have been asked for
		return err
	}
	f := p.current.Load()
	if f.ID != 0 {
		return p.put(ctx, f.PolicyChange) // what Resume took up
	}
	f = &inForce{bundle: f.bundle, PolicyChange: f.PolicyChange}
	if err := p.record(ctx, f); err != nil {
		return err
	}
	p.current.Store(f)
	return nil
}

// record puts a policy on record as in force from now on.
func (p *PolicyFile) record(ctx context.Context, f *inForce) error {
	if p.store == nil {
		return nil // not before Remember: nothing is served yet
	}
	f.At = p.now()
	if err := p.put(ctx, f.PolicyChange); err != nil {
		return err
	}
	p.prune(ctx)
	// As it stands there: since when, if it was in force before too.
	rows, err := p.store.PolicyChanges(ctx, p.trustDomain, store.FindPolicy{Outcome: store.PolicyInForce, Limit: 1})
	if err != nil || len(rows) == 0 {
		p.log.WarnContext(ctx, "a policy is on record, and the record cannot be read back", "error", err)
		return nil //nolint:nilerr // what counts is that it is there
	}
	f.PolicyChange = rows[0]
	return nil
}

func (p *PolicyFile) put(ctx context.Context, c store.PolicyChange) error {
	if err := p.accepted.writable(); err != nil {
		return err
	}
	if c.ID == 0 { // what was taken up is on record, with the word of who put it there
		if err := p.vouch(&c); err != nil {
			return err
		}
	}
	err := p.store.PutPolicy(ctx, c)
	if err == nil {
		if aerr := p.accepted.add(c.Policy); aerr != nil {
			// It is on record, and will be in force after a restart: so it is now.
			p.log.ErrorContext(ctx, "a policy is in force, and the data directory cannot remember it", "policy", fmt.Sprintf("%s@%d", c.Name, c.Revision), "error", aerr)
		}
		return nil
	}
	if !errors.Is(err, store.ErrConflict) {
		return err
	}
	last, lerr := p.store.LatestPolicy(ctx, p.trustDomain, c.Name)
	if lerr != nil {
		return errors.Join(err, lerr)
	}
	if serr := p.supersededBy(c.Policy, last); serr != nil {
		return serr
	}
	return err
}

// recordRefusal keeps what was refused, best effort: it is in the log too.
func (p *PolicyFile) recordRefusal(ctx context.Context, c store.PolicyChange) {
	if p.store == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
	defer cancel()
	c.At = p.now()
	if err := p.store.RefusePolicy(ctx, c); err != nil {
		p.log.ErrorContext(ctx, "a refused policy could not be recorded", "error", err)
		return
	}
	p.prune(ctx)
}

func (p *PolicyFile) prune(ctx context.Context) {
	if err := p.store.PrunePolicyChanges(ctx, p.trustDomain, documentBytes, keptRefusals); err != nil {
		p.log.WarnContext(ctx, "the history of policies could not be pruned", "error", err)
	}
}

func (p *PolicyFile) superseded(b *policy.Bundle, last store.Policy) error {
	return p.supersededBy(store.Policy{Name: b.Name(), Revision: b.Revision(), Digest: b.Digest()}, last)
}

// supersededBy is nil for the very revision that was in force last, and for a
// later one.
func (p *PolicyFile) supersededBy(b, last store.Policy) error {
	at := last.At.UTC().Format(time.RFC3339)
	switch {
	case b.Revision < last.Revision:
		return cli.Usagef(fmt.Sprintf("to go back to older rules, publish them as revision %d", last.Revision+1),
			"%s: revision %d of policy %q is superseded: revision %d was in force from %s", p.path, b.Revision, b.Name, last.Revision, at)
	case b.Revision == last.Revision && b.Digest != last.Digest:
		return cli.Usagef(fmt.Sprintf("raise the revision with every change: make it %d", last.Revision+1),
			"%s: the content of policy %s@%d has changed since it was in force, from %s", p.path, b.Name, b.Revision, at)
	}
	return nil
}
