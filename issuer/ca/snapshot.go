package ca

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"

	"github.com/assay-project/assay/issuer/keys"
	"github.com/assay-project/assay/issuer/store"
)

// snapshot is everything that is known of the trust domain's authorities at one
// moment. It is replaced whole and never changed, so that who signs takes no lock
// and reads no database.
type snapshot struct {
	rows     []store.Authority // of this and other servers, verified or not
	all      []*authority      // the verified ones, oldest first
	members  []Member
	bundle   *spiffebundle.Bundle    // what relying parties trust: never handed out, only clones of it
	issuers  *x509bundle.Bundle      // the authorities themselves, for what comes back to this server
	tainted  []*authority            // condemned, and not over
	warnings []string                // rows that count for nothing
	lost     []store.AuthorityChange // what the database does not know any more
	signing  map[store.Use]*authority
	missing  []store.Authority // rows of this server that the database does not have any more
	fault    error             // this server's own rows do not hold together
}

// pick is the authority of a use that this server signs with at a time: of those
// that sign, the one that was activated last.
func (s *snapshot) pick(use store.Use, chain string, now time.Time) *authority {
	if a := s.signing[use]; a != nil && a.signsAt(now) {
		return a
	}
	return pickFrom(s.all, use, chain, now)
}

func pickFrom(all []*authority, use store.Use, chain string, now time.Time) (best *authority) {
	var since time.Time
	for _, a := range all {
		if a.row.Use != use || a.row.Server != chain || a.signer == nil || !a.signsAt(now) {
			continue
		}
		if at, _ := a.saidAt(store.Active); best == nil || !at.Before(since) {
			best, since = a, at
		}
	}
	return best
}

// find is the authority with that ID, or nil.
func (s *snapshot) find(use store.Use, id string) *authority {
	for _, a := range s.all {
		if a.row.Use == use && a.row.ID == id {
			return a
		}
	}
	return nil
}

// load reads the database and verifies what it says. A row of another server that
// does not hold together is left out, and told of: it must not stop a healthy
// server. One's own rows must hold together. A server that sees that they do not is
// not ready, does not start, and takes no step in its authorities' lives; what it
// has verified before counts instead. All else counts all the same, above all that
// others have withdrawn trust: who can write the database must not keep that from a
// server by a row that means nothing. The checks of its fault:
//
//	authority_unsigned   a row of this server has no signature, and is not of before there were any
//	authority_signature  a row of this server, or what it said of one, was not signed with its checkpoint key
//	authority_row        the row does not say what its certificate does
//	authority_key        the key of a row of this server is missing, or another
//	member_name          another server has this one's name
func (c *CA) load(ctx context.Context) (*snapshot, error) {
	st, err := c.cfg.Store.AuthorityState(ctx, c.td.Name())
	if err != nil {
		return nil, err
	}
	now := c.cfg.Now()
	s := &snapshot{signing: map[store.Use]*authority{}}
	st.Authorities = c.withMissing(s, st.Authorities)
	s.rows = st.Authorities
	believed := c.believe(s, st.Members, now)
	changes := c.verifiedChanges(s, st, believed, now)
	for _, row := range st.Authorities {
		key := authorityKey{row.Use, row.ID}
		a, err := c.verifiedAuthority(row, changes[key], believed)
		if known, ok := c.mine[key]; ok && err != nil { // it was good, and is not any more
			s.broken(err)
			row = known
			a, err = c.verifiedAuthority(row, changes[key], believed)
		}
		switch {
		case err != nil && row.Server == c.cfg.Chain:
			s.broken(err)
			continue
		case err != nil:
			s.warn("a row of the database is not believed: %v", err)
			continue
		}
		if row.Server == c.cfg.Chain {
			if err := c.own(ctx, a); ctx.Err() != nil {
				return nil, errors.Join(ctx.Err(), err)
			} else if err != nil {
				s.broken(err) // and it does not sign
			}
			if len(row.Signature) > 0 {
				c.mine[key] = row
			}
		}
		s.all = append(s.all, a)
	}
	for _, use := range uses() {
		if a := pickFrom(s.all, use, c.cfg.Chain, now); a != nil {
			s.signing[use] = a
			a.usage.closed.Store(false) // also where a clock that went back has brought it back
		}
	}
	if err := c.remember(st.Authorities); err != nil {
		s.broken(err)
	}
	c.bundleOf(s, st.BundleSequence, now)
	c.loaded.Store(now.UnixNano())
	return s, nil
}

func (s *snapshot) warn(format string, args ...any) {
	s.warnings = append(s.warnings, fmt.Sprintf(format, args...))
}

// broken notes that this server's own rows do not hold together.
func (s *snapshot) broken(err error) { s.fault = errors.Join(s.fault, err) }

// withMissing are the rows, and those of this server that were there before: a
// database that has lost them (a standby that was behind took over) does not take
// out of the bundle what this server signs with.
func (c *CA) withMissing(s *snapshot, rows []store.Authority) []store.Authority {
	there := map[authorityKey]bool{}
	for _, row := range rows {
		there[authorityKey{row.Use, row.ID}] = true
	}
	for key, row := range c.mine {
		if !there[key] {
			s.missing = append(s.missing, row)
			s.warn("the database has lost the %s authority %s of this server", row.Use, row.ID)
		}
	}
	if len(s.missing) == 0 {
		return rows
	}
	order := func(a, b store.Authority) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.Use, b.Use), cmp.Compare(a.ID, b.ID))
	}
	slices.SortFunc(s.missing, order)
	rows = append(slices.Clone(rows), s.missing...)
	slices.SortStableFunc(rows, order)
	return rows
}

// authorityKey is what changes are about.
type authorityKey struct {
	use store.Use
	id  string
}

// believe reads which servers there are: those whose checkpoint key the bootstrap
// root endorses, and this one.
func (c *CA) believe(s *snapshot, rows []store.Member, now time.Time) map[string]ed25519.PublicKey {
	mine, _ := c.checkpoint.Public().(ed25519.PublicKey) // CheckpointSigner checked it
	out := map[string]ed25519.PublicKey{c.cfg.Chain: mine}
	for _, row := range rows {
		// By a clock that has gone back, a server that has joined has joined all the same.
		at := now
		if cert, err := x509.ParseCertificate(row.Endorsement); err == nil {
			at = later(at, cert.NotBefore)
		}
		m, err := checkEndorsement(row.Endorsement, c.td, row.Server, c.bootstrapRoot, at)
		if err != nil {
			s.warn("%v", err)
			continue
		}
		if row.Server == c.cfg.Chain && !bytes.Equal(m.Key, mine) {
			s.broken(fault("member_name", fmt.Errorf("another server has joined %s as %q, with another checkpoint key", c.td, row.Server),
				"each server has a name of its own: see `server` in the configuration; or restore checkpoint.key from a backup"))
			continue
		}
		out[row.Server] = m.Key
		s.members = append(s.members, m)
	}
	return out
}

// verifiedChanges are the changes that count: signed by the server that says them,
// and of a kind that it may say. What anybody withdraws counts; everything else is
// the owner's to say.
func (c *CA) verifiedChanges(s *snapshot, st store.AuthorityState, believed map[string]ed25519.PublicKey, now time.Time) map[authorityKey][]store.AuthorityChange {
	owner := map[authorityKey]string{}
	for _, row := range st.Authorities {
		owner[authorityKey{row.Use, row.ID}] = row.Server
	}
	out := map[authorityKey][]store.AuthorityChange{}
	for _, ch := range st.Changes {
		key := authorityKey{ch.Use, ch.ID}
		err := c.checkChange(ch, owner[key], believed)
		switch {
		case err == nil && isConclusion(ch) && ch.At.After(now):
			// A clock that was ahead has ended what is good by now.
		case err == nil:
			out[key] = append(out[key], ch)
		case ch.Server == c.cfg.Chain && owner[key] == c.cfg.Chain:
			s.broken(fault("authority_signature", fmt.Errorf("that the %s authority %s is %s: %w", ch.Use, ch.ID, ch.State, err), restoreDatabase))
		default:
			s.warn("what the database says of the %s authority %.40q in the name of the server %.80q is not believed: %v", ch.Use, ch.ID, ch.Server, err)
		}
	}
	// Trust that was withdrawn while this process runs does not come back, whatever
	// becomes of the row that said so. Nor does it forget what it said itself.
	for key, ch := range c.heard {
		if !slices.ContainsFunc(out[key.authorityKey], func(o store.AuthorityChange) bool { return o.State == key.state }) {
			s.warn("the database has lost that the %s authority %s is %s", ch.Use, ch.ID, ch.State)
			s.lost = append(s.lost, ch)
			out[key.authorityKey] = append(out[key.authorityKey], ch)
		}
	}
	for key, chs := range out {
		for _, ch := range chs {
			said := ch.Server == c.cfg.Chain && owner[key] == c.cfg.Chain
			if (ch.State == store.Tainted || ch.State == store.Revoked || said) && !isConclusion(ch) {
				c.heard[statement{key, ch.State}] = ch
			}
		}
		slices.SortStableFunc(chs, func(a, b store.AuthorityChange) int { return a.At.Compare(b.At) })
	}
	return out
}

func isConclusion(ch store.AuthorityChange) bool {
	return ch.State == store.Revoked && string(ch.Body) == concluded
}

// statement is that an authority is in some state.
type statement struct {
	authorityKey
	state store.State
}

func (c *CA) checkChange(ch store.AuthorityChange, owner string, believed map[string]ed25519.PublicKey) error {
	switch ch.State {
	case store.Tainted, store.Revoked:
	case store.Prepared, store.Published, store.Active, store.Retired:
		if ch.Server != owner {
			return fmt.Errorf("only its owner %.80q says that it is %s", owner, ch.State)
		}
	case store.Requested:
		return errors.New("nothing becomes requested")
	default:
		return fmt.Errorf("unknown state %.20q", ch.State)
	}
	key, ok := believed[ch.Server]
	if !ok {
		return errNoMember
	}
	message, err := changeBytes(ch)
	return c.checkOnce(key, message, err, ch.Signature)
}

var errNoMember = errors.New("the bootstrap root has endorsed no such server")

// checkOnce is checkRow, with a memory: rows stay, and are read again and again.
func (c *CA) checkOnce(key ed25519.PublicKey, message []byte, err error, sig []byte) error {
	if err != nil || len(sig) == 0 {
		return checkRow(key, message, err, sig)
	}
	h := sha256.New()
	h.Write(key)
	h.Write(sig) // both of fixed length, or it does not verify
	h.Write(message)
	sum := [32]byte(h.Sum(nil))
	if c.verified[sum] {
		return nil
	}
	if err := checkRow(key, message, nil, sig); err != nil {
		return err
	}
	if len(c.verified) > maxVerified {
		clear(c.verified)
	}
	c.verified[sum] = true
	return nil
}

// maxVerified bounds how many signatures are remembered.
const maxVerified = 1 << 16

// verifiedAuthority reads a row that its owner signed.
func (c *CA) verifiedAuthority(row store.Authority, changes []store.AuthorityChange, believed map[string]ed25519.PublicKey) (*authority, error) {
	key, ok := believed[row.Server]
	if !ok {
		return nil, fault("authority_foreign", fmt.Errorf("the authority %.80q of the server %.80q: %w", row.KeyName, row.Server, errNoMember), restoreDatabase)
	}
	message, err := authorityBytes(row)
	if err := c.checkOnce(key, message, err, row.Signature); err != nil {
		check := "authority_signature"
		if errors.Is(err, errUnsigned) {
			if row.Server == c.cfg.Chain && !c.signedBefore() { // signOld will
				return c.readAuthority(row, changes)
			}
			check = "authority_unsigned"
		}
		return nil, fault(check, fmt.Errorf("the authority %.80q of the server %.80q: %w", row.KeyName, row.Server, err), restoreDatabase)
	}
	return c.readAuthority(row, changes)
}

// signedFile is there as soon as this server's rows are signed: then one without a
// signature is not of before there were any. It stands outside the database.
const signedFile = "authorities.signed"

func (c *CA) signedBefore() bool {
	_, err := os.Lstat(filepath.Join(c.cfg.DataDir, signedFile))
	return err == nil
}

// signOld signs the rows of this server that were written before rows were signed,
// once in the life of a data directory: those whose key is here, and whose
// certificate this key made.
func (c *CA) signOld(ctx context.Context, at stops) error {
	if c.signedBefore() {
		return nil
	}
	s, err := c.load(ctx)
	if err == nil {
		err = s.fault
	}
	if err != nil {
		return err
	}
	for _, a := range s.all {
		if a.row.Server != c.cfg.Chain || len(a.row.Signature) > 0 {
			continue
		}
		row := a.row
		if err := c.signAuthority(&row); err != nil {
			return err
		}
		if err := c.cfg.Store.SignAuthority(ctx, row); err != nil {
			return err
		}
		c.log.Info("ca: signed the row of an authority of before", slog.String("key", row.KeyName))
		if err := at("signed " + string(row.Use)); err != nil {
			return err
		}
	}
	text := "The rows of this server's authorities in the database are signed. One without a\nsignature is not believed as long as this file is here.\n"
	if err := keys.WriteFile(filepath.Join(c.cfg.DataDir, signedFile), []byte(text), 0o644, keys.Replace); err != nil {
		return err
	}
	return at("signed file")
}

// bundleOf collects what relying parties trust. It depends on nothing but rows, so
// that all servers have the same bundle under the same sequence number, as soon as
// they have read them.
func (c *CA) bundleOf(s *snapshot, sequence uint64, now time.Time) {
	s.bundle, s.issuers = spiffebundle.New(c.td), x509bundle.New(c.td)
	spoiled := s.spoiled()
	for _, a := range s.all {
		if a.condemned() && (!a.revoked() || !a.over(now)) { // as long as it is in the bundle, too
			s.tainted = append(s.tainted, a)
		}
		if a.revoked() || a.waits() {
			continue
		}
		switch a.row.Use {
		case store.X509:
			s.bundle.AddX509Authority(a.anchor(spoiled))
			s.issuers.AddX509Authority(a.cert)
		case store.JWT:
			if err := s.bundle.AddJWTAuthority(a.kid, a.public); err != nil {
				s.warn("the JWT authority %s: %v", a.row.ID, err) // it has no key id: readAuthority made one
			}
		case store.Verifier, store.DenyList: // by documents
		}
	}
	s.bundle.SetSequenceNumber(sequence)
	s.bundle.SetRefreshHint(c.cfg.RefreshHint)
}

// spoiled are the trust anchors that do not count any more: roots of a dedicated
// upstream CA, below which an authority was revoked before its end. A relying party
// that trusts the root takes what a revoked authority signs, since nobody asks for
// revocation lists. So the bundle names the others below it, one by one.
func (s *snapshot) spoiled() (out []*x509.Certificate) {
	for _, a := range s.all {
		if len(a.certs) < 2 {
			continue
		}
		for _, ch := range a.changes {
			if ch.State == store.Revoked && !isConclusion(ch) && ch.At.Before(a.row.NotAfter) {
				out = append(out, a.certs[len(a.certs)-1])
				break
			}
		}
	}
	return out
}

// anchor is what relying parties trust of an X.509 authority.
func (a *authority) anchor(spoiled []*x509.Certificate) *x509.Certificate {
	last := a.certs[len(a.certs)-1]
	if slices.ContainsFunc(spoiled, last.Equal) {
		return a.cert
	}
	return last
}

// Disbelieved is how many rows of the database count for nothing: they are not
// signed by the server that they name, do not hold together, or are missing. Each
// is in the warnings of Status.
func (c *CA) Disbelieved() int { return len(c.now.Load().warnings) }

// Change says what is different since the last one.
type Change struct {
	Bundle  bool        // the bundle or a signed document: hand out the new one
	Tainted []store.Use // an authority of that use is not to be trusted any more: who has something of it attests again at once
}

// OnChange has f called after every change. Call it before Run. f is called
// without locks, from one goroutine at a time.
func (c *CA) OnChange(f func(Change)) { c.listeners = append(c.listeners, f) }

// publish makes a snapshot the one in force, and returns what changed.
func (c *CA) publish(s *snapshot) (ch Change) {
	old := c.now.Swap(s)
	if old == nil {
		return Change{}
	}
	ch.Bundle = !old.bundle.Equal(s.bundle)
	before := map[authorityKey]bool{}
	for _, a := range old.tainted {
		before[authorityKey{a.row.Use, a.row.ID}] = true
	}
	found := map[store.Use]bool{}
	for _, a := range s.tainted {
		if !before[authorityKey{a.row.Use, a.row.ID}] {
			found[a.row.Use] = true
		}
	}
	ch.Tainted = slices.SortedFunc(maps.Keys(found), func(a, b store.Use) int { return cmp.Compare(a, b) })
	return ch
}

func (c *CA) tell(ch Change) {
	if !ch.Bundle && len(ch.Tainted) == 0 {
		return
	}
	c.telling.Lock()
	defer c.telling.Unlock()
	for _, f := range c.listeners {
		f(ch)
	}
}

// Members are the servers of the trust domain whose checkpoint keys the bootstrap
// root endorses. A server that is alone may have no endorsement yet.
func (c *CA) Members() []Member { return slices.Clone(c.now.Load().members) }

// Bundle is what relying parties check SVIDs with: the X.509 and JWT authorities
// of all servers, tainted ones until they are revoked, with sequence number and
// refresh hint. The caller owns it.
func (c *CA) Bundle() *spiffebundle.Bundle { return c.now.Load().bundle.Clone() }

// Issuers are the X.509 authorities themselves, whatever stands above them: what
// this server checks SVIDs with that are shown to it. The caller must not change
// it.
func (c *CA) Issuers() *x509bundle.Bundle { return c.now.Load().issuers }

// TaintedBy reports whether a certificate, or the attestation result in it, was
// signed by an authority that was tainted or revoked. It reads no database. The
// names in a certificate prove nothing here: who has stolen a key writes them as
// they like.
func (c *CA) TaintedBy(cert *x509.Certificate) bool { return c.now.Load().taintedBy(cert) }
