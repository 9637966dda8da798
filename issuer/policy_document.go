package issuer

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"runtime/debug"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/issuer/store"
	"github.com/assay-project/assay/policy"
	"github.com/assay-project/assay/policy/signed"
)

// document is a policy as somebody gave it, plain or signed, compiled and
// accepted by whom it must be.
type document struct {
	file    string // its name in messages
	raw     []byte
	bundle  *policy.Bundle
	signers []string // key ids of those who count; none where no signatures are required
}

// is reports whether the document holds the very policy.
func (d *document) is(b *policy.Bundle) bool {
	return d.bundle.Name() == b.Name() && d.bundle.Revision() == b.Revision() && d.bundle.Digest() == b.Digest()
}

// compile is the one way in which a policy comes into this server. Where
// signatures are required, nothing is believed before they are verified; where
// they are not, a signed policy counts for what it holds. The errors are a
// strictyaml.Errors, those of package signed, and
//
//	policy_unsigned  Untrusted: signatures are required and there is none
//	policy_panic     Internal: the compiler panicked, which is a bug and no reason to stop serving
//
// Beside an error there is a document for the record of the refusal, with a
// bundle where it could be read.
func (p *PolicyFile) compile(file string, raw []byte) (d *document, err error) {
	defer func() {
		if v := recover(); v != nil {
			p.log.Error("compiling a policy panicked", "file", file, "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
			d, err = nil, &attest.Error{Kind: attest.Internal, Check: "policy_panic", Err: fmt.Errorf("%s: the policy could not be compiled, by a fault of this software", file)}
		}
	}()
	d = &document{file: file, raw: raw}
	switch is := signed.Is(raw); {
	case p.signers != nil && !is:
		return d, &attest.Error{
			Kind: attest.Untrusted, Check: "policy_unsigned", Err: fmt.Errorf("%s: the policy is not signed", file),
			Expected: fmt.Sprintf("signatures of %d of %d signers", p.signers.Threshold(), len(p.signers.KeyIDs())),
			Hint:     "sign it with `assay policy sign`",
		}
	case p.signers != nil:
		var v *signed.Verified
		if v, err = signed.Verify(file, raw, p.signers); err == nil {
			d.bundle = v.Bundle
			for _, id := range v.Signers {
				d.signers = append(d.signers, id.String())
			}
		}
	case is:
		d.bundle, err = openPolicy(file, raw)
	default:
		d.bundle, err = policy.Parse(file, raw)
	}
	if err != nil {
		return d, err
	}
	b := d.bundle
	if b.TrustDomain() != p.trustDomain {
		return d, cli.Usagef("one server serves one trust domain", "%s: the policy is for trust domain %q, the server for %q", file, b.TrustDomain(), p.trustDomain)
	}
	if p.pinned != "" && b.Name() != p.pinned {
		return d, cli.Usagef("policy_signers.bundle in the configuration names the one that this server takes", "%s: the policy is called %q, this server takes %q", file, b.Name(), p.pinned)
	}
	if d.bundle, err = p.drawing(b); err != nil {
		return nil, err
	}
	return d, nil
}

// openPolicy compiles a signed policy whose signatures nobody asked for, or
// that were verified before.
func openPolicy(file string, raw []byte) (*policy.Bundle, error) {
	u, err := signed.Open(raw)
	if err != nil {
		return nil, err
	}
	return u.Compile(file)
}

// intact is nil for a row whose document is what the row says was in force, as
// every decision of the ledger names it.
func intact(c store.PolicyChange) error {
	digest := sha256.Sum256(c.Document)
	if signed.Is(c.Document) {
		u, err := signed.Open(c.Document)
		if err != nil {
			return err
		}
		digest = u.UnverifiedDigest()
	}
	if digest != c.Digest {
		return fmt.Errorf("%s@%d: its content is not what was in force: the database was changed", c.Name, c.Revision)
	}
	return nil
}

// reopen compiles what the store holds of a policy that was accepted once. Its
// signatures are not verified again: the digest vouches for it.
func (p *PolicyFile) reopen(c store.PolicyChange) (*policy.Bundle, error) {
	if err := intact(c); err != nil {
		return nil, err
	}
	name, read := fmt.Sprintf("%s@%d", c.Name, c.Revision), policy.Parse
	if signed.Is(c.Document) {
		read = openPolicy
	}
	b, err := read(name, c.Document)
	if err != nil {
		return nil, err
	}
	return p.drawing(b)
}

// change describes a document for the record.
func (p *PolicyFile) change(d *document, source, actor, note string) store.PolicyChange {
	return store.PolicyChange{
		Policy: store.Policy{TrustDomain: p.trustDomain, Name: d.bundle.Name(), Revision: d.bundle.Revision(), Digest: d.bundle.Digest()},
		Source: source, Actor: actor, Note: note, Signers: d.signers, Document: d.raw, Size: int64(len(d.raw)),
	}
}

// refusal describes what was refused: what it says it is, where that is known or
// can be told without reading it as a policy, and whatever the reason, its digest.
func (p *PolicyFile) refusal(raw []byte, d *document, source, actor, note string, err error) store.PolicyChange {
	c := store.PolicyChange{
		Policy: store.Policy{TrustDomain: p.trustDomain, Digest: sha256.Sum256(raw)},
		Source: source, Actor: actor, Note: clip(note, maxPolicyNote), Detail: clip(err.Error(), maxPolicyDetail), Size: int64(len(raw)),
	}
	if d != nil && d.bundle != nil {
		c.Name, c.Revision, c.Digest = clip(d.bundle.Name(), maxPolicyName), d.bundle.Revision(), d.bundle.Digest()
	} else if u, uerr := signed.Open(raw); uerr == nil {
		c.Name, c.Digest = clip(u.Header.Bundle, maxPolicyName), u.UnverifiedDigest()
		c.Revision = min(u.Header.Revision, 1<<53)
	}
	return c
}

// stale is a policy that was right once.
func stale(check string, err error, hint string) error {
	return &attest.Error{Kind: attest.Stale, Check: check, Err: err, Hint: hint}
}

var errNoHistory = errors.New("this server keeps no record of its policies")
