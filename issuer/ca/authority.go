package ca

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/issuer/keys"
	"github.com/assay-project/assay/issuer/store"
	"github.com/assay-project/assay/svid"
)

// authority is a key that signs, of this server or another one, as verified rows
// of the database say it. It does not change: what became of it since is in the
// authority of the next snapshot.
type authority struct {
	row     store.Authority     // NotBefore and NotAfter are those of the certificate, once there is one
	certs   []*x509.Certificate // X.509: its own first, the trust anchor last; empty while it waits for the upstream CA
	cert    *x509.Certificate   // the first of them
	public  crypto.PublicKey
	kid     string                  // JWT: the RFC 7638 thumbprint
	thumb   svid.Thumbprint         // verifier and deny-list keys
	signer  crypto.Signer           // this server's own, that sign or may sign; otherwise nil
	usage   *usage                  // this server's own
	held    time.Time               // it does not sign before, since the database was restored
	changes []store.AuthorityChange // verified, oldest first
}

// said is what was first said of the authority about a state, or nil.
func (a *authority) said(state store.State) *store.AuthorityChange {
	for i := range a.changes {
		if a.changes[i].State == state {
			return &a.changes[i]
		}
	}
	return nil
}

// saidAt is when a state began. What began as active was published and activated
// when it was made.
func (a *authority) saidAt(state store.State) (time.Time, bool) {
	if ch := a.said(state); ch != nil {
		return ch.At, true
	}
	if a.row.State == store.Active && (state == store.Published || state == store.Active) {
		return a.row.CreatedAt, true
	}
	return time.Time{}, false
}

// published is when others could know the authority; false if they cannot yet.
func (a *authority) published() (time.Time, bool) { return a.saidAt(store.Published) }

// condemned says that somebody has withdrawn trust from it. The clock has no part
// in that.
func (a *authority) condemned() bool { return a.said(store.Tainted) != nil || a.revoked() }

// withdrawn says that it was revoked by somebody, and not because its life was over.
func (a *authority) withdrawn() bool {
	return slices.ContainsFunc(a.changes, func(ch store.AuthorityChange) bool { return ch.State == store.Revoked && !isConclusion(ch) })
}

func (a *authority) revoked() bool { return a.said(store.Revoked) != nil }

// waits says that it waits for the upstream CA.
func (a *authority) waits() bool {
	return a.row.State == store.Requested && a.said(store.Prepared) == nil
}

// signsAt says whether it is the time at which the authority signs: it is active,
// has not retired, and is valid. By a clock that has gone back before its
// successor was activated, an authority signs again: everybody still has it. A
// clock that was set by less than maxBackdate changes nothing.
func (a *authority) signsAt(now time.Time) bool {
	active, ok := a.saidAt(store.Active)
	retired, over := a.saidAt(store.Retired)
	return ok && !active.After(now.Add(maxBackdate)) && (!over || retired.After(now)) && !a.condemned() && a.validAt(now) && !now.Before(a.held)
}

func (a *authority) validAt(now time.Time) bool {
	return !a.waits() && !now.Before(a.row.NotBefore) && now.Before(a.row.NotAfter)
}

// state is where it is in its life: the strongest state that it was given.
func (a *authority) state() store.State {
	for _, s := range []store.State{store.Revoked, store.Tainted, store.Retired, store.Active, store.Published, store.Prepared} {
		if a.said(s) != nil {
			return s
		}
	}
	return a.row.State
}

// half is when its successor is to be prepared. Its certificate may begin before it
// was made.
func (a *authority) half() time.Time {
	return middle(later(a.row.NotBefore, a.row.CreatedAt), a.row.NotAfter)
}

// ends is when nothing that it signed is good any more.
func (a *authority) ends() time.Time {
	if r := a.said(store.Retired); r != nil && r.EndsAt.Before(a.row.NotAfter) {
		return r.EndsAt
	}
	return a.row.NotAfter
}

// over says that nothing that it signed is good any more, for clocks that are
// behind as well.
func (a *authority) over(now time.Time) bool { return now.After(a.ends().Add(maxBackdate)) }

// verifierPublic is the public key of a verifier or deny-list authority.
func (a *authority) verifierPublic() *ecdsa.PublicKey {
	pub, _ := a.public.(*ecdsa.PublicKey) // openAuthority checked it
	return pub
}

// usage counts what is being signed with an authority, and until when what was
// signed is good: so that it retires when nobody signs with it any more, and
// leaves the bundle after the last of it. It takes no lock.
type usage struct {
	since  time.Time // when this process began, or activated it: what was signed before is not counted
	whole  bool      // it signed nothing before since
	busy   atomic.Int64
	closed atomic.Bool
	last   atomic.Int64 // Unix seconds
}

// errSuperseded: it retired at this moment. Another one signs.
var errSuperseded = errors.New("the authority has just retired")

// use is to be called before a signature, with the end of what is signed, and
// done after it.
func (a *authority) use(until time.Time) (done func(), err error) {
	u := a.usage
	if u == nil {
		return nil, internal("authority_key", fmt.Errorf("%s is no authority of this server", a.row.KeyName))
	}
	u.busy.Add(1)
	if u.closed.Load() {
		u.busy.Add(-1)
		return nil, errSuperseded
	}
	end := until.Unix() + 1
	for last := u.last.Load(); end > last && !u.last.CompareAndSwap(last, end); last = u.last.Load() {
	}
	return func() { u.busy.Add(-1) }, nil
}

// close ends its use: true when nothing is being signed with it any more.
func (u *usage) close() bool {
	u.closed.Store(true)
	return u.busy.Load() == 0
}

func prefixOf(use store.Use) string {
	switch use {
	case store.Verifier:
		return verifierPrefix
	case store.JWT:
		return jwtPrefix
	case store.DenyList:
		return denyListPrefix
	case store.X509:
	}
	return x509Prefix
}

// uses are all there are, in the order in which they are made.
func uses() []store.Use { return []store.Use{store.X509, store.Verifier, store.JWT, store.DenyList} }

// published by a document that the verifier root signs, and not by the bundle.
func byDocument(use store.Use) bool { return use == store.Verifier || use == store.DenyList }

// ttl is how long a new authority lives.
func (c *CA) ttl(use store.Use) time.Duration {
	switch use {
	case store.JWT:
		return c.cfg.JWTTTL
	case store.Verifier, store.DenyList:
		return c.cfg.VerifierKeyTTL
	case store.X509:
	}
	return c.cfg.AuthorityTTL
}

// longest is how long what an authority signs can be good.
func (c *CA) longest(use store.Use) time.Duration {
	switch use {
	case store.JWT:
		return c.cfg.MaxTokenTTL
	case store.DenyList:
		return c.cfg.DocumentTTL
	case store.X509, store.Verifier:
	}
	return maxSVIDTTL
}

// orphans lists the keys of a use that no row names, and none ever did: spares, or
// what a crash left between a key and its row.
func (c *CA) orphans(ctx context.Context, use store.Use, rows []store.Authority) ([]string, error) {
	known := map[string]bool{}
	for _, r := range rows {
		known[r.KeyName] = true
	}
	names, err := c.cfg.Keys.Names(ctx)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, name := range names {
		id, ok := strings.CutPrefix(name, prefixOf(use))
		if raw, err := hex.DecodeString(id); ok && err == nil && len(raw) == idSize && !known[name] && !c.used.has(name) {
			out = append(out, name)
		}
	}
	return out, nil
}

// idSize is the length of an authority's ID, in bytes.
const idSize = 8

// newKey is the key of the next authority: one that no row names, of a start that
// was interrupted or put there as a spare, or a new one. A ring that cannot make
// keys needs spares.
func (c *CA) newKey(ctx context.Context, use store.Use, rows []store.Authority) (name string, key crypto.Signer, err error) {
	spares, err := c.orphans(ctx, use, rows)
	if err != nil {
		return "", nil, err
	}
	if len(spares) > 0 {
		name = spares[0]
		if key, err = c.cfg.Keys.Get(ctx, name); err != nil {
			return "", nil, err
		}
		c.log.Info("ca: using a key that no authority has yet", slog.String("key", name))
	} else {
		var id [idSize]byte
		_, _ = rand.Read(id[:]) // crypto/rand.Read never fails (Go 1.24)
		name = prefixOf(use) + hex.EncodeToString(id[:])
		key, err = c.cfg.Keys.Create(ctx, name, keys.P256)
		if errors.Is(err, errors.ErrUnsupported) {
			hint := "make a key named " + prefixOf(use) + " and 16 hex digits where the keys are"
			if own := (*attest.Error)(nil); errors.As(err, &own) && own.Hint != "" {
				hint = own.Hint // the very command
			}
			return "", nil, fault("authority_spare", fmt.Errorf("no key is left for the next %s authority: %w", use, err), hint)
		}
		if err != nil {
			return "", nil, err
		}
	}
	if !keys.P256.Is(key.Public()) {
		return "", nil, fault("authority_key", fmt.Errorf("key %s is a %T, want P-256", name, key.Public()), "remove the key: no authority has it")
	}
	return name, key, nil
}

// makeAuthority makes an authority, or asks the upstream CA for one. The order is:
// key durable, then the row that names it, signed. So a crash leaves either
// nothing, or a key without a row, which the next one uses; a row without its key
// is damage, or somebody's work, and an error.
// One of an upstream CA is good for longer than least, or is not made.
func (c *CA) makeAuthority(ctx context.Context, use store.Use, begin store.State, rows []store.Authority, least time.Duration, at stops) error {
	if err := c.cfg.Upstream.lasts(use, c.cfg.Now().Add(least)); err != nil {
		return err
	}
	name, key, err := c.newKey(ctx, use, rows)
	if err != nil {
		return err
	}
	if err := at(string(use) + " key"); err != nil {
		return err
	}
	row := store.Authority{
		TrustDomain: c.td.Name(), Use: use, ID: strings.TrimPrefix(name, prefixOf(use)), Server: c.cfg.Chain, KeyName: name,
		State: begin, CreatedAt: c.cfg.Now().UTC().Truncate(time.Microsecond),
	}
	if err := c.describe(&row, key); err != nil {
		return err
	}
	if err := c.signAuthority(&row); err != nil {
		return err
	}
	if err := c.cfg.Store.AddAuthority(ctx, row); err != nil {
		return err
	}
	c.log.Info("ca: made an authority", slog.String("use", string(use)), slog.String("id", row.ID), slog.String("state", string(row.State)), slog.Time("not_after", row.NotAfter))
	return at(string(use) + " row")
}

// describe fills in the public side of a new authority.
func (c *CA) describe(row *store.Authority, key crypto.Signer) (err error) {
	now := c.cfg.Now().UTC()
	if row.Use != store.X509 {
		row.NotBefore, row.NotAfter = now.Truncate(time.Second), now.Add(c.ttl(row.Use)).Truncate(time.Second)
		if row.Public, err = x509.MarshalPKIXPublicKey(key.Public()); err != nil {
			return fault("authority", err, "")
		}
		return nil
	}
	name := "Assay X.509 authority"
	if c.cfg.Simulated {
		name = "Assay simulated X.509 authority"
	}
	t := authorityTemplate(c.td, name, now, c.cfg.AuthorityTTL)
	if c.cfg.NameConstraints { // RFC 5280, section 4.2.1.10: critical
		t.PermittedDNSDomainsCritical, t.PermittedURIDomains = true, []string{c.td.Name()}
	}
	row.NotBefore, row.NotAfter = t.NotBefore, t.NotAfter
	up := c.cfg.Upstream
	switch {
	case up == nil:
		if row.Public, err = x509.CreateCertificate(rand.Reader, t, t, key.Public(), key); err != nil {
			return signing("authority", err)
		}
	case up.Signs():
		chain, err := up.issue(t, key.Public(), c.td, now)
		if err != nil {
			return err
		}
		row.NotBefore, row.NotAfter, row.Public = chain[0].NotBefore, chain[0].NotAfter, anchored(up, chain)
	default:
		row.State = store.Requested
		row.Public, err = authorityRequest(t, key)
	}
	return err
}

// anchored is a chain up to what relying parties trust of it, as a row keeps it:
// to the root of a dedicated upstream, otherwise our intermediate alone. So what
// the anchor of an authority is does not change with the configuration.
func anchored(up *Upstream, chain []*x509.Certificate) []byte {
	if !up.Dedicated() {
		chain = chain[:1]
	}
	var out []byte
	for _, cert := range chain {
		out = append(out, cert.Raw...)
	}
	return out
}

const (
	restoreDatabase = "the database was changed by another program: restore it from a backup, and find out who can write it"
	restoreKey      = "restore the key from a backup; a new authority is never made in its place. If there never was such a key, " + restoreDatabase
)

// rowFault is a row that does not hold together.
func rowFault(row store.Authority, format string, args ...any) error {
	return fault("authority_row", fmt.Errorf("the database row of %.80q: %w", row.KeyName, fmt.Errorf(format, args...)), restoreDatabase)
}

// readAuthority reads the public side of a row whose signature, and whose
// changes' signatures, were verified.
func (c *CA) readAuthority(row store.Authority, changes []store.AuthorityChange) (*authority, error) {
	// Rows stay, and are read again and again: what one says is worked out once.
	key := authorityKey{row.Use, row.ID}
	a := &authority{row: row, changes: changes}
	if old := c.read[key]; old != nil && len(row.Signature) > 0 && bytes.Equal(old.row.Signature, row.Signature) && bytes.Equal(old.imported(), a.imported()) {
		again := *old
		again.changes = changes
		return &again, nil
	}
	a, err := c.readRow(a)
	if err != nil {
		return nil, err
	}
	kept := *a
	c.read[key] = &kept
	return a, nil
}

// imported is what the upstream CA made of its request.
func (a *authority) imported() []byte {
	if a.row.State == store.Requested {
		if ch := a.said(store.Prepared); ch != nil {
			return ch.Body
		}
	}
	return nil
}

func (c *CA) readRow(a *authority) (*authority, error) {
	row := a.row
	if row.KeyName != prefixOf(row.Use)+row.ID {
		return nil, rowFault(row, "it names the key of another authority or use than %s %s", row.Use, row.ID)
	}
	switch row.Use {
	case store.X509:
		if err := c.readX509(a); err != nil {
			return nil, err
		}
		return a, nil
	case store.JWT, store.Verifier, store.DenyList:
	default:
		return nil, rowFault(row, "unknown use %.20q", row.Use)
	}
	pub, err := x509.ParsePKIXPublicKey(row.Public)
	if err != nil {
		return nil, rowFault(row, "%w", err)
	}
	if !keys.P256.Is(pub) {
		return nil, rowFault(row, "a %T, want P-256", pub)
	}
	a.public = pub
	if row.Use == store.JWT {
		a.kid, err = svid.JWKThumbprint(pub)
	} else {
		a.thumb, err = svid.ThumbprintOf(pub)
	}
	if err != nil {
		return nil, rowFault(row, "%w", err)
	}
	return a, nil
}

// readX509 reads the certificates of an X.509 authority, or its request.
func (c *CA) readX509(a *authority) (err error) {
	body := a.row.Public
	if a.row.State == store.Requested {
		request, err := x509.ParseCertificateRequest(body)
		if err != nil {
			return rowFault(a.row, "%w", err)
		}
		a.public = request.PublicKey
		imported := a.said(store.Prepared)
		if imported == nil {
			return nil
		}
		body = imported.Body
	}
	if a.certs, err = x509.ParseCertificates(body); err != nil || len(a.certs) == 0 {
		return rowFault(a.row, "its certificates: %w", errors.Join(err, errNoCertificate))
	}
	a.cert = a.certs[0]
	if a.public != nil && !samePublic(a.public, a.cert.PublicKey) {
		return rowFault(a.row, "its certificate is for another key than its request")
	}
	a.public = a.cert.PublicKey
	if !keys.P256.Is(a.public) {
		return rowFault(a.row, "a %T, want P-256", a.public)
	}
	if err := c.checkChain(a.certs); err != nil {
		return rowFault(a.row, "%w", err)
	}
	if a.row.State == store.Requested {
		a.row.NotBefore, a.row.NotAfter = a.cert.NotBefore, a.cert.NotAfter
	}
	if !a.cert.NotBefore.Equal(a.row.NotBefore) || !a.cert.NotAfter.Equal(a.row.NotAfter) {
		return rowFault(a.row, "it is valid from %s until %s, its certificate from %s until %s", a.row.NotBefore.Format(time.RFC3339), a.row.NotAfter.Format(time.RFC3339),
			a.cert.NotBefore.Format(time.RFC3339), a.cert.NotAfter.Format(time.RFC3339))
	}
	return nil
}

var errNoCertificate = errors.New("want at least one")

// checkChain: an authority's certificate is a CA's for this trust domain and
// nothing else, and each is signed by the next. The last is what is trusted.
func (c *CA) checkChain(certs []*x509.Certificate) error {
	own := certs[0]
	if len(own.URIs) != 1 || own.URIs[0].String() != c.td.IDString() {
		return fmt.Errorf("its certificate is not for %s", c.td.IDString())
	}
	for i, cert := range certs {
		if !cert.BasicConstraintsValid || !cert.IsCA || cert.KeyUsage&x509.KeyUsageCertSign == 0 {
			return fmt.Errorf("certificate %d of it is no CA's", i+1)
		}
		if i+1 < len(certs) {
			if err := cert.CheckSignatureFrom(certs[i+1]); err != nil {
				return fmt.Errorf("certificate %d is not signed by the one above it: %w", i+1, err)
			}
		}
	}
	// One alone is self-signed, or an intermediate that is trusted itself.
	if len(certs) == 1 && bytes.Equal(own.RawIssuer, own.RawSubject) {
		if err := own.CheckSignatureFrom(own); err != nil {
			return fmt.Errorf("its certificate is not self-signed: %w", err)
		}
	}
	return nil
}

// own loads the private key of one of this server's authorities, where it may be
// needed to sign, and compares it with the row. The check:
//
//	authority_key  the key is there, and is the one that the row names
func (c *CA) own(ctx context.Context, a *authority) error {
	a.held = c.heldUntil(a)
	if a.condemned() {
		return nil // it signs nothing any more: its key may be gone
	}
	if r := a.said(store.Retired); r != nil && a.over(c.cfg.Now()) {
		return nil
	}
	key, ok := c.signers[a.row.KeyName]
	if !ok {
		var err error
		key, err = c.cfg.Keys.Get(ctx, a.row.KeyName)
		switch {
		case errors.Is(err, fs.ErrNotExist) && a.said(store.Retired) != nil:
			return nil
		case errors.Is(err, fs.ErrNotExist):
			return fault("authority_key", fmt.Errorf("the database names the key %s, which is not there: %w", a.row.KeyName, err), restoreKey)
		case err != nil:
			return err
		}
		if !samePublic(a.public, key.Public()) {
			return fault("authority_key", fmt.Errorf("the key %s is not the one that the database names", a.row.KeyName), restoreKey)
		}
		c.signers[a.row.KeyName] = key
	}
	a.signer = key
	if a.usage = c.usages[a.row.KeyName]; a.usage == nil {
		_, active := a.saidAt(store.Active)
		a.usage = &usage{since: c.cfg.Now(), whole: !active}
		c.usages[a.row.KeyName] = a.usage
	}
	return nil
}

func noAuthority(entries uint64, use store.Use) error {
	return fault("authority_missing", fmt.Errorf("the ledger has %d entries, and the database names no %s authority", entries, use),
		"restore the database from a backup")
}
