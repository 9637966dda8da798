package issuer

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/policy"
)

// PolicyFile is the policy in force: the newest valid content of a file. A
// content that is not valid, is of another trust domain, or whose revision does
// not grow leaves the one before in force, and is a warning until it is
// mended.
type PolicyFile struct {
	path        string
	trustDomain string
	log         *slog.Logger

	current atomic.Pointer[policy.Bundle]

	mu       sync.Mutex // one reload at a time
	refused  string     // why the file's content is not in force; empty when it is
	seen     [32]byte   // digest of the content that was last looked at
	haveSeen bool
	changed  func(*policy.Bundle)
	result   func(string)
	record   func(context.Context, *policy.Bundle) error // see Remember
}

// policyPoll is how often the file is looked at.
const policyPoll = 2 * time.Second

// LoadPolicyFile reads the policy at start, when there is none before it: any
// mistake is an error.
func LoadPolicyFile(path, trustDomain string, log *slog.Logger) (*PolicyFile, error) {
	p := &PolicyFile{path: path, trustDomain: trustDomain, log: log, changed: func(*policy.Bundle) {}, result: func(string) {}}
	p.record = func(context.Context, *policy.Bundle) error { return nil }
	src, err := cli.ReadFile(path, policy.MaxSize)
	if err != nil {
		return nil, cli.Usagef("name it under policy: in the configuration; `assayd init` writes one to begin with", "cannot read the policy: %w", err)
	}
	b, err := p.parse(src)
	if err != nil {
		return nil, err
	}
	p.current.Store(b)
	p.seen, p.haveSeen = b.Digest(), true
	return p, nil
}

// Current is the policy in force.
func (p *PolicyFile) Current() *policy.Bundle { return p.current.Load() }

// Refused says why the file's content is not in force, or is empty.
func (p *PolicyFile) Refused() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.refused
}

// Run looks at the file every two seconds, and at once when reload receives,
// until ctx ends.
func (p *PolicyFile) Run(ctx context.Context, reload <-chan os.Signal) error {
	tick := time.NewTicker(policyPoll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-reload:
			p.log.InfoContext(ctx, "asked to reload the policy", "file", p.path)
		}
		p.Reload(ctx)
	}
}

// Reload looks at the file now.
func (p *PolicyFile) Reload(ctx context.Context) {
	p.mu.Lock()
	defer p.mu.Unlock()
	src, err := cli.ReadFile(p.path, policy.MaxSize)
	if err != nil {
		p.haveSeen = false // whatever is there next is looked at, also what was there before
		p.refuse(ctx, fmt.Errorf("cannot read the policy: %w", err))
		return
	}
	digest := sha256.Sum256(src)
	if p.haveSeen && digest == p.seen {
		return
	}
	p.seen, p.haveSeen = digest, true
	now := p.current.Load()
	if digest == now.Digest() { // an edit was taken back
		p.refused = ""
		return
	}
	next, err := p.parse(src)
	if err == nil && next.Revision() <= now.Revision() {
		err = fmt.Errorf("%s: the content has changed and the revision has not grown: it is %d, in force is %d", p.path, next.Revision(), now.Revision())
	}
	if err != nil {
		p.refuse(ctx, err)
		return
	}
	if err := p.record(ctx, next); err != nil {
		p.haveSeen = false // the database may answer at the next look
		p.refuse(ctx, err)
		return
	}
	p.refused = ""
	p.current.Store(next)
	p.result("loaded")
	p.log.InfoContext(ctx, "policy in force", "policy", policyName(next))
	p.changed(next)
}

// refuse keeps the policy in force, says so once, and remembers it for Status.
func (p *PolicyFile) refuse(ctx context.Context, err error) {
	if msg := err.Error(); p.refused != msg {
		p.refused = msg
		p.result("refused")
		p.log.ErrorContext(ctx, "the policy file is refused; the one before stays in force", "in_force", policyName(p.current.Load()), "error", err)
	}
}

func (p *PolicyFile) parse(src []byte) (*policy.Bundle, error) {
	b, err := policy.Parse(p.path, src)
	if err != nil {
		return nil, err
	}
	if b.TrustDomain() != p.trustDomain {
		return nil, cli.Usagef("one server serves one trust domain", "%s: the policy is for trust domain %q, the server for %q", p.path, b.TrustDomain(), p.trustDomain)
	}
	return b, nil
}

// policyName is "name@revision".
func policyName(b *policy.Bundle) string { return b.Version() }
