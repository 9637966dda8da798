package issuer

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/issuer/store"
	"github.com/assay-project/assay/policy"
	"github.com/assay-project/assay/policy/signed"
)

// PolicyFile is the policy in force: the newest revision that came from a file,
// or that an operator pushed. A revision that is not valid, is of another trust
// domain, lacks signatures or does not grow leaves the one before in force. Which
// of file and push counts is one rule, the revision: docs/decisions has why.
type PolicyFile struct {
	path        string
	trustDomain string
	signers     *signed.Signers // nil: no signatures are required
	pinned      string          // with signers: the one name that a policy may have; empty: that of the one in force
	secret      []byte          // of rollouts; nil: they admit nobody
	pushes      string          // directory of pushed policies, see policy_pushed.go
	log         *slog.Logger

	accepted acceptedPolicies // what was in force, as the data directory has it

	current atomic.Pointer[inForce]
	file    atomic.Pointer[fileState]

	// In the order in which they are taken.
	looking   sync.Mutex    // one look at the file at a time
	compiling lock          // one policy at a time
	changing  lock          // of what is in force, and of the record of it
	places    chan struct{} // of pushes that wait

	// Under looking; see policy_settled.go.
	seen     [32]byte // digest of the content that was last judged
	haveSeen bool
	taken    *look // at that content
	waiting  *look // at content that is not settled

	peers    *PolicyPeers  // nil: this server is alone; see policy_shared.go
	followed atomic.Uint64 // the newest change on record that was judged
	doubted  atomic.Uint64 // a change by a server that is not known yet
	doubts   atomic.Uint64 // how often it was looked at

	changed func(*policy.Bundle)
	result  func(string)
	store   store.PolicyStore // nil until Remember, which comes before anything is served
	now     func() time.Time
}

// fileState is how the policy file stands to the policy in force.
type fileState struct {
	holds   string // "name@revision" of its last valid content
	refused string // why its content is not in force though it should be; empty when it is
	outrun  string // why it is not, and need not be: a newer one was pushed
}

// inForce is the policy in force, and where it came from.
type inForce struct {
	bundle *policy.Bundle
	store.PolicyChange
}

// Where a policy came from.
const (
	sourceFile   = "file"
	sourcePush   = "push"
	sourceRevert = "revert" // a push of older content
)

// policyPoll is how often the file is looked at.
const policyPoll = 2 * time.Second

// A PolicyOption says how policies are taken in.
type PolicyOption func(*PolicyFile)

// WithPolicySigners demands signatures of every policy, whatever way it comes.
// bundle is the one name that it may have, so that a policy that the same people
// signed for something else is not taken for this one; where it is empty, the
// name is that of the policy that was in force last.
func WithPolicySigners(s *signed.Signers, bundle string) PolicyOption {
	return func(p *PolicyFile) { p.signers, p.pinned = s, bundle }
}

// LoadPolicyFile reads the policy at start, when there is none before it: any
// mistake is an error.
func LoadPolicyFile(path, trustDomain string, log *slog.Logger, options ...PolicyOption) (*PolicyFile, error) {
	p := &PolicyFile{
		path: path, trustDomain: trustDomain, log: log, changed: func(*policy.Bundle) {}, result: func(string) {},
		compiling: newLock(), changing: newLock(), places: make(chan struct{}, maxPushes),
	}
	for _, o := range options {
		o(p)
	}
	raw, err := p.readAtStart()
	if err != nil {
		return nil, err
	}
	d, err := p.compile(path, raw)
	if err != nil {
		return nil, err
	}
	p.current.Store(p.fromFile(d))
	p.file.Store(&fileState{holds: d.bundle.Version()})
	p.seen, p.haveSeen = sha256.Sum256(raw), true
	return p, nil
}

// readAtStart reads the file when it is settled.
func (p *PolicyFile) readAtStart() ([]byte, error) {
	const every = 50 * time.Millisecond
	for waited := time.Duration(0); waited < startPatience; waited += every {
		f, err := p.readChanged()
		switch {
		case err != nil:
			return nil, cli.Usagef("name it under policy: in the configuration; `assayd init` writes one to begin with", "cannot read the policy: %w", err)
		case f.changed:
			return f.raw, nil
		}
		time.Sleep(every)
	}
	return nil, cli.Usagef("write policies beside the file, and move them there", "the policy %s is being written all the time", p.path)
}

// UseSecret gives policies the server's secret, by which those in mode rollout
// draw; without it they grant nothing. It is called before anything is served.
func (p *PolicyFile) UseSecret(secret []byte) error {
	p.secret = secret
	f := p.current.Load()
	b, err := p.drawing(f.bundle)
	if err != nil {
		return err
	}
	p.current.Store(&inForce{bundle: b, PolicyChange: f.PolicyChange})
	return nil
}

// drawing is the bundle with the secret.
func (p *PolicyFile) drawing(b *policy.Bundle) (*policy.Bundle, error) {
	if p.secret == nil {
		return b, nil
	}
	return b.WithSecret(p.secret)
}

// Current is the policy in force.
func (p *PolicyFile) Current() *policy.Bundle { return p.current.Load().bundle }

// Refused says why the file's content is not in force, or is empty.
func (p *PolicyFile) Refused() string { return p.file.Load().refused }

// Outrun says that a newer policy than the file's was pushed, or is empty.
func (p *PolicyFile) Outrun() string { return p.file.Load().outrun }

// Run looks at the file every two seconds, and at once when reload receives,
// until ctx ends. A file that is being written is looked at again soon, and comes
// into force when it is settled.
func (p *PolicyFile) Run(ctx context.Context, reload <-chan os.Signal) error {
	tick := time.NewTicker(policyPoll)
	defer tick.Stop()
	soon := time.NewTimer(settleTime)
	soon.Stop()
	defer soon.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-soon.C:
		case <-reload:
			p.log.InfoContext(ctx, "asked to reload the policy", "file", p.path)
		}
		if p.Reload(ctx) {
			soon.Reset(settleTime + settleTime/10)
		}
	}
}

// Reload looks at the file now. Content that may still be being written is left
// alone, and again is true: look once more after a second.
func (p *PolicyFile) Reload(ctx context.Context) (again bool) {
	p.looking.Lock()
	defer p.looking.Unlock()
	f, err := p.readChanged()
	if err != nil {
		p.refuseFile(ctx, nil, nil, fmt.Errorf("cannot read the policy: %w", err))
		return false
	}
	if !f.changed {
		return f.again
	}
	digest := sha256.Sum256(f.raw)
	if p.haveSeen && digest == p.seen {
		return false
	}
	if err := p.compiling.take(ctx); err != nil {
		return false // the server stops
	}
	next, err := p.compile(p.path, f.raw)
	p.compiling.leave()
	p.seen, p.haveSeen = digest, true
	if err != nil {
		p.refuseFile(ctx, f.raw, next, err)
		return false
	}
	if err := p.changing.take(ctx); err != nil {
		p.haveSeen = false
		return false
	}
	defer p.changing.leave()
	p.follow(ctx, next)
	return false
}

// follow judges what the file holds against what is in force. It is called with
// the locks of looking and changing held.
func (p *PolicyFile) follow(ctx context.Context, next *document) {
	now, holds := p.current.Load(), next.bundle.Version()
	switch {
	case next.is(now.bundle): // an edit was taken back, or another signature added
		p.file.Store(&fileState{holds: holds})
		return
	case now.Source != sourceFile && next.bundle.Name() == now.bundle.Name() && next.bundle.Revision() < now.bundle.Revision():
		p.file.Store(&fileState{holds: holds, outrun: p.behind(holds, now)})
		return
	}
	p.file.Store(&fileState{holds: holds, refused: p.Refused()})
	if err := p.grows(next, now); err != nil {
		p.refuse(ctx, next.raw, next, err)
		return
	}
	f := p.fromFile(next)
	if err := p.record(ctx, f); err != nil {
		p.haveSeen = false // the database may answer at the next look
		p.refuse(ctx, next.raw, next, err)
		return
	}
	p.file.Store(&fileState{holds: holds})
	p.enforce(ctx, f)
}

// enforce swaps the policy in force. What was recorded is handed to whoever
// waits for changes.
func (p *PolicyFile) enforce(ctx context.Context, f *inForce) {
	f.Document = nil // the store has it
	p.current.Store(f)
	p.dropPushed(f)
	p.result("loaded")
	p.log.InfoContext(ctx, "policy in force", "policy", policyName(f.bundle), "source", f.Source, "actor", f.Actor)
	p.changed(f.bundle)
}

// fromFile is a policy that is put into force because of the file.
func (p *PolicyFile) fromFile(d *document) *inForce {
	return &inForce{bundle: d.bundle, PolicyChange: p.change(d, sourceFile, p.path, "")}
}

// behind is what an operator should know of a file that a push outran.
func (p *PolicyFile) behind(holds string, now *inForce) string {
	return fmt.Sprintf("%s holds %s; %s was pushed at %s and is in force, also after a restart: write it to the file with `assay policy history --revision %d --out FILE`",
		p.path, holds, now.bundle.Version(), now.At.UTC().Format(time.RFC3339), now.bundle.Revision())
}

// grows is nil for a policy that may follow on the one in force.
func (p *PolicyFile) grows(next *document, now *inForce) error {
	b := next.bundle
	if b.Revision() <= now.bundle.Revision() {
		return stale("policy_revision", fmt.Errorf("%s: the content has changed and the revision has not grown: it is %d, in force is %d", next.file, b.Revision(), now.bundle.Revision()),
			fmt.Sprintf("make it revision %d", now.bundle.Revision()+1))
	}
	return p.sameName(b, now.bundle.Name())
}

// sameName keeps a policy that the same people signed for something else from
// being taken for this one. Where no signatures are required, who writes the
// file may call it what they like.
func (p *PolicyFile) sameName(b *policy.Bundle, before string) error {
	if p.signers == nil || p.pinned != "" || b.Name() == before {
		return nil
	}
	return cli.Usagef("if it is meant, set policy_signers.bundle to the new name in the configuration, and start the server again",
		"the policy is called %q, and the one that was in force %q: it may have been signed for something else", b.Name(), before)
}

// refuseFile is refuse without the lock of changing.
func (p *PolicyFile) refuseFile(ctx context.Context, raw []byte, d *document, err error) {
	if lerr := p.changing.take(ctx); lerr != nil {
		return // the server stops
	}
	defer p.changing.leave()
	p.refuse(ctx, raw, d, err)
}

// refuse keeps the policy in force, says so once, and remembers it for Status.
func (p *PolicyFile) refuse(ctx context.Context, raw []byte, d *document, err error) {
	before, msg := p.file.Load(), err.Error()
	if before.refused == msg {
		return
	}
	p.file.Store(&fileState{holds: before.holds, refused: msg})
	p.result("refused")
	p.log.ErrorContext(ctx, "the policy file is refused; the one before stays in force", "in_force", policyName(p.Current()), "error", err)
	if raw != nil && !errors.Is(err, context.Canceled) {
		p.recordRefusal(ctx, p.refusal(raw, d, sourceFile, p.path, "", err))
	}
}

// policyName is "name@revision".
func policyName(b *policy.Bundle) string { return b.Version() }
