package issuer

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/issuer/store"
)

// Several servers have one policy in force: the highest revision that came to any
// of them, by its file or by a push. The one that it came to judges it, signs that
// it put it into force, and puts that on record; the others hear of it, check the
// signature, judge the document again by their own rules, remember it as if it had
// been pushed to them, and follow.
//
// The signature is by the checkpoint key, which the bootstrap root has endorsed. So
// who can write the database, and has the key of no server, can slip no policy in:
// not even one that the right people signed and that nobody put into force.

// PolicyPeers are the servers of a trust domain, as far as policies go.
type PolicyPeers struct {
	Server string        // this one's name
	Signer crypto.Signer // its checkpoint key, Ed25519
	// Keys are the checkpoint keys of all servers, by name: those that the
	// bootstrap root has endorsed.
	Keys func() map[string]ed25519.PublicKey
}

// Share lets other servers follow this one's policy, and it theirs. It is called
// before Resume.
func (p *PolicyFile) Share(peers PolicyPeers) { p.peers = &peers }

// policyStatement is what a server signs when it puts a policy into force. What is
// said for people, who and why, is not in it.
func policyStatement(c store.PolicyChange, server string) []byte {
	out := []byte("assay/v1 policy in force\x00")
	for _, s := range []string{c.TrustDomain, server, c.Name, c.Source} {
		out = binary.BigEndian.AppendUint32(out, uint32(len(s)))
		out = append(out, s...)
	}
	out = binary.BigEndian.AppendUint64(out, c.Revision)
	out = binary.BigEndian.AppendUint64(out, uint64(c.At.UnixMicro()))
	return append(out, c.Digest[:]...)
}

// vouch signs a change that is about to be put on record.
func (p *PolicyFile) vouch(c *store.PolicyChange) error {
	if p.peers == nil || p.peers.Signer == nil {
		return nil
	}
	c.At = c.At.Truncate(time.Microsecond) // as it is stored
	sig, err := p.peers.Signer.Sign(nil, policyStatement(*c, p.peers.Server), crypto.Hash(0))
	if err != nil {
		return fmt.Errorf("signing that a policy is in force: %w", err)
	}
	c.Server, c.Signature = p.peers.Server, sig
	return nil
}

// vouched is nil for a change that one of the trust domain's servers signed.
func (p *PolicyFile) vouched(c store.PolicyChange) error {
	refuse := func(err error) error {
		return &attest.Error{
			Kind: attest.Untrusted, Check: "policy_vouched", Err: fmt.Errorf("policy %s@%d: %w", c.Name, c.Revision, err),
			Hint: "somebody wrote to the database who is no server of the trust domain: compare 'assay policy history' with what was pushed",
		}
	}
	if p.peers == nil || p.peers.Keys == nil {
		return refuse(errors.New("this server knows no others"))
	}
	key, ok := p.peers.Keys()[c.Server]
	if !ok {
		return notYet{refuse(fmt.Errorf("the record says that server %.80q put it into force: %w", c.Server, errUnknownServer))}
	}
	if !ed25519.Verify(key, policyStatement(c, c.Server), c.Signature) {
		return refuse(fmt.Errorf("server %s has not signed that it put it into force", c.Server))
	}
	return nil
}

// doubtful is how often a policy of a server that nobody has heard of is looked at
// again, about once a second: its endorsement may be read a moment later.
const doubtful = 120

// notYet is an error that passes: the policy is looked at again.
type notYet struct{ error }

func (n notYet) Unwrap() error { return n.error }

// Follow takes over what another server put into force. The error is of something
// that passes, and whoever calls tries again: a database that does not answer, a
// data directory that is full, a server whose endorsement is not read yet. What is
// wrong with a policy is logged, and leaves the one in force as it is.
func (p *PolicyFile) Follow(ctx context.Context) error {
	if p.peers == nil || p.store == nil {
		return nil
	}
	rows, err := p.store.PolicyChanges(ctx, p.trustDomain, store.FindPolicy{Outcome: store.PolicyInForce, Limit: 1})
	if err != nil || len(rows) == 0 {
		return err
	}
	row := rows[0]
	if row.ID <= p.followed.Load() || !p.concerns(row) {
		return nil
	}
	rows, err = p.store.PolicyChanges(ctx, p.trustDomain, store.FindPolicy{Outcome: store.PolicyInForce, Name: row.Name, Revision: row.Revision, Digest: &row.Digest, Documents: true, Limit: 1})
	if err != nil || len(rows) == 0 {
		return err
	}
	if err := p.takeOver(ctx, rows[0]); err != nil {
		passes := notYet{}
		if ctx.Err() != nil || errors.As(err, &passes) && p.tryAgain(row.ID, err) {
			return fmt.Errorf("policy %s@%d of server %s: %w", row.Name, row.Revision, row.Server, err)
		}
		p.result("refused")
		p.log.ErrorContext(ctx, "a policy that another server put into force is refused here", "server", row.Server, "in_force", policyName(p.Current()), "error", err)
	}
	p.followed.Store(row.ID) // judged, whatever came of it
	return nil
}

// tryAgain reports whether a policy that could not be taken over is to be looked at
// again.
func (p *PolicyFile) tryAgain(row uint64, err error) bool {
	if !errors.Is(err, errUnknownServer) {
		return true
	}
	if p.doubted.Swap(row) != row {
		p.doubts.Store(0)
	}
	return p.doubts.Add(1) < doubtful
}

var errUnknownServer = errors.New("there is no such server")

// concerns reports whether a policy on record may follow on the one in force here.
func (p *PolicyFile) concerns(c store.PolicyChange) bool {
	now := p.current.Load().bundle
	if c.Name != now.Name() {
		p.log.Error("another server has a policy of another name in force: put the same into this server's file, or that of the other", "server", c.Server, "there", c.Name, "here", now.Name())
		p.followed.Store(c.ID)
		return false
	}
	return c.Revision > now.Revision()
}

// takeOver puts a policy into force that another server put on record.
func (p *PolicyFile) takeOver(ctx context.Context, c store.PolicyChange) error {
	d, err := p.adoptable(ctx, c)
	if err != nil {
		return err
	}
	if err := p.changing.take(ctx); err != nil {
		return err
	}
	defer p.changing.leave()
	now := p.current.Load()
	if c.Revision <= now.bundle.Revision() || c.Name != now.bundle.Name() {
		return nil // something newer came meanwhile
	}
	if err := p.adopt(ctx, d, c); err != nil {
		return err
	}
	f := &inForce{bundle: d.bundle, PolicyChange: c}
	p.enforce(ctx, f)
	if file := p.file.Load(); file.refused == "" {
		p.file.Store(&fileState{holds: file.holds, outrun: p.behind(file.holds, f)})
	}
	return nil
}

// adoptable compiles what another server put into force, by this server's rules.
func (p *PolicyFile) adoptable(ctx context.Context, c store.PolicyChange) (*document, error) {
	if err := p.vouched(c); err != nil {
		return nil, err
	}
	if c.Document == nil {
		return nil, fmt.Errorf("the content of policy %s@%d is not on record", c.Name, c.Revision)
	}
	if err := intact(c); err != nil {
		return nil, err
	}
	d, err := p.compileAlone(ctx, fmt.Sprintf("policy %s@%d of server %s", c.Name, c.Revision, c.Server), c.Document)
	if err != nil {
		return nil, err
	}
	if d.bundle.Name() != c.Name || d.bundle.Revision() != c.Revision || d.bundle.Digest() != c.Digest {
		return nil, fmt.Errorf("the record says %s@%d, and its content is %s", c.Name, c.Revision, d.bundle.Version())
	}
	return d, nil
}

// adopt makes the data directory remember it, content and revision, as of one that
// was pushed here: a restart takes it up, and no older one is taken after it.
func (p *PolicyFile) adopt(_ context.Context, d *document, c store.PolicyChange) error {
	if err := p.accepted.writable(); err != nil {
		return notYet{err}
	}
	if err := p.keepPushed(d); err != nil {
		return notYet{err}
	}
	if err := p.accepted.add(c.Policy); err != nil {
		return notYet{err}
	}
	return nil
}

// elsewhere reports whether another server put a policy into force.
func (p *PolicyFile) elsewhere(c store.PolicyChange) bool {
	return p.peers != nil && c.Server != "" && c.Server != p.peers.Server
}

// resumeElsewhere takes up, at the start, what another server put into force while
// this one was away.
func (p *PolicyFile) resumeElsewhere(ctx context.Context, st store.PolicyStore, last store.PolicyChange) (*inForce, error) {
	rows, err := st.PolicyChanges(ctx, p.trustDomain, store.FindPolicy{Outcome: store.PolicyInForce, Name: last.Name, Revision: last.Revision, Digest: &last.Digest, Documents: true, Limit: 1})
	if err != nil {
		return nil, err
	}
	if len(rows) == 0 {
		return nil, errNeverInForce
	}
	d, err := p.adoptable(ctx, rows[0])
	if err != nil {
		return nil, err
	}
	if err := p.adopt(ctx, d, rows[0]); err != nil {
		return nil, err
	}
	rows[0].Document = nil
	return &inForce{bundle: d.bundle, PolicyChange: rows[0]}, nil
}
