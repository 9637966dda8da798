package ca

import (
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
	"strings"
	"time"

	"github.com/assay-project/assay/issuer/keys"
	"github.com/assay-project/assay/issuer/store"
)

// authority is a key that signs, with what is public about it.
type authority struct {
	row    store.Authority
	signer crypto.Signer
	cert   *x509.Certificate // nil for a verifier key
}

// loadAuthority returns the active authority of one use, and makes it at the
// first start. The order is: key file durable, then the row that names it. So a
// crash leaves either nothing, or a key without a row, which the next start
// adopts (nobody can have seen it); a row without its key is damage, or
// somebody's work, and an error. The checks beside those of authorities:
//
//	authority_missing  entries in the ledger, and no authority that signed them
//	authority_expired  the authority's validity has ended
func (c *CA) loadAuthority(ctx context.Context, use store.Use, at stops) (*authority, error) {
	all, err := c.authorities(ctx, use)
	if err != nil {
		return nil, err
	}
	known := map[string]bool{}
	for _, a := range all {
		known[a.row.KeyName] = true
	}
	orphans, err := c.orphans(ctx, use, known)
	if err != nil {
		return nil, err
	}
	own := c.newest(all)
	if own == nil {
		return c.firstAuthority(ctx, use, orphans, at)
	}
	for _, name := range orphans {
		c.log.Warn("ca: a key that no database row names is not used", slog.String("key", name))
	}
	return own, c.live(own)
}

// newest is the newest authority that this server signs with, or nil.
func (c *CA) newest(all []*authority) *authority {
	for i := len(all) - 1; i >= 0; i-- {
		if all[i].row.Server == c.cfg.Chain && all[i].row.State == store.Active {
			return all[i]
		}
	}
	return nil
}

// live refuses an authority that has ended.
func (c *CA) live(a *authority) error {
	if now := c.cfg.Now(); !now.Before(a.row.NotAfter) {
		return fault("authority_expired", fmt.Errorf("the %s authority %s ended at %s", a.row.Use, a.row.ID, a.row.NotAfter.Format(time.RFC3339)),
			"check the clock; an expired authority cannot issue, and relying parties need a new bundle")
	}
	return nil
}

func prefixOf(use store.Use) string {
	if use == store.Verifier {
		return verifierPrefix
	}
	return x509Prefix
}

// orphans lists the keys of a use that no row names.
func (c *CA) orphans(ctx context.Context, use store.Use, known map[string]bool) ([]string, error) {
	names, err := c.cfg.Keys.Names(ctx)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, name := range names {
		id, ok := strings.CutPrefix(name, prefixOf(use))
		if raw, err := hex.DecodeString(id); ok && err == nil && len(raw) == idSize && !known[name] {
			out = append(out, name)
		}
	}
	return out, nil
}

// idSize is the length of an authority's ID, in bytes.
const idSize = 8

// firstAuthority makes the first authority of a use, or adopts the key of a
// start that was interrupted.
func (c *CA) firstAuthority(ctx context.Context, use store.Use, orphans []string, at stops) (*authority, error) {
	head, err := c.cfg.Store.Head(ctx, c.td.Name(), c.cfg.Chain)
	if err != nil {
		return nil, err
	}
	if head.Sequence > 0 {
		return nil, noAuthority(head.Sequence, use)
	}
	var name string
	var key crypto.Signer
	if len(orphans) > 0 {
		name = orphans[0]
		if key, err = c.cfg.Keys.Get(ctx, name); err != nil {
			return nil, err
		}
		c.log.Info("ca: adopting the key of a start that was interrupted", slog.String("key", name))
	} else {
		var id [idSize]byte
		_, _ = rand.Read(id[:]) // crypto/rand.Read never fails (Go 1.24)
		name = prefixOf(use) + hex.EncodeToString(id[:])
		if key, err = c.cfg.Keys.Create(ctx, name, keys.P256); err != nil {
			return nil, err
		}
	}
	if !keys.P256.Is(key.Public()) {
		return nil, fault("authority_key", fmt.Errorf("key %s is a %T, want P-256", name, key.Public()), "remove the key: no certificate names it")
	}
	if err := at(string(use) + " key"); err != nil {
		return nil, err
	}
	row := store.Authority{
		TrustDomain: c.td.Name(), Use: use, ID: strings.TrimPrefix(name, prefixOf(use)), Server: c.cfg.Chain, KeyName: name,
		State: store.Active, CreatedAt: c.cfg.Now(),
	}
	if err := c.describe(&row, key); err != nil {
		return nil, err
	}
	if err := c.cfg.Store.AddAuthority(ctx, row); err != nil {
		return nil, err
	}
	c.log.Info("ca: created an authority", slog.String("use", string(use)), slog.String("id", row.ID), slog.Time("not_after", row.NotAfter))
	if err := at(string(use) + " row"); err != nil {
		return nil, err
	}
	return c.openAuthority(ctx, row)
}

// describe fills in the public side of a new authority.
func (c *CA) describe(row *store.Authority, key crypto.Signer) (err error) {
	now := c.cfg.Now().UTC()
	switch row.Use {
	case store.X509:
		name := "Assay X.509 authority"
		if c.cfg.Simulated {
			name = "Assay simulated X.509 authority"
		}
		t := authorityTemplate(c.td, name, now, c.cfg.AuthorityTTL)
		row.NotBefore, row.NotAfter = t.NotBefore, t.NotAfter
		row.Public, err = x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	case store.Verifier:
		row.NotBefore, row.NotAfter = now.Truncate(time.Second), now.Add(c.cfg.VerifierKeyTTL).Truncate(time.Second)
		row.Public, err = x509.MarshalPKIXPublicKey(key.Public())
	default:
		err = fmt.Errorf("unknown use %q", row.Use)
	}
	if err != nil {
		return fault("authority", err, "")
	}
	return nil
}

// authorities opens every authority of a use that the database names, oldest
// first, of whatever server and state. Who can write the database could name a
// key of their own, so a row counts only when its private key is in the ring
// and the row says nothing that this key did not vouch for; any other is an
// error, and nothing is served or signed beside it. (Several servers will need
// rows that are signed by a key outside the database.) The checks:
//
//	authority_foreign  a row of another server, whose key is not here
//	authority_key      a row of this server, whose key is not here or is another
//	authority_row      the row differs from what its key says of itself
func (c *CA) authorities(ctx context.Context, use store.Use) ([]*authority, error) {
	rows, err := c.cfg.Store.Authorities(ctx, c.td.Name(), use)
	if err != nil {
		return nil, err
	}
	out := make([]*authority, len(rows))
	for i, row := range rows {
		if out[i], err = c.openAuthority(ctx, row); err != nil {
			return nil, err
		}
	}
	return out, nil
}

const (
	restoreDatabase = "the database was changed by another program: restore it from a backup, and find out who can write it"
	restoreKey      = "restore the key from a backup; a new authority is never made in its place. If there never was such a key, " + restoreDatabase
)

// openAuthority loads the key that a row names and compares it with the row.
func (c *CA) openAuthority(ctx context.Context, row store.Authority) (*authority, error) {
	bad := func(format string, args ...any) error {
		return fault("authority_row", fmt.Errorf("the database row of %.80q: %w", row.KeyName, fmt.Errorf(format, args...)), restoreDatabase)
	}
	if row.KeyName != prefixOf(row.Use)+row.ID {
		return nil, bad("it names the key of another authority or use than %s %s", row.Use, row.ID)
	}
	key, err := c.cfg.Keys.Get(ctx, row.KeyName)
	switch {
	case errors.Is(err, fs.ErrNotExist) && row.Server != c.cfg.Chain:
		return nil, fault("authority_foreign", fmt.Errorf("the database names the authority %s of a server %.80q, whose key is not here: %w", row.KeyName, row.Server, err), restoreDatabase)
	case errors.Is(err, fs.ErrNotExist):
		return nil, fault("authority_key", fmt.Errorf("the database names the key %s, which is not there: %w", row.KeyName, err), restoreKey)
	case err != nil:
		return nil, err
	}
	a := &authority{row: row, signer: key}
	var pub crypto.PublicKey
	if row.Use == store.X509 {
		if a.cert, err = x509.ParseCertificate(row.Public); err == nil {
			pub = a.cert.PublicKey
		}
	} else {
		pub, err = x509.ParsePKIXPublicKey(row.Public)
	}
	if err != nil {
		return nil, bad("%w", err)
	}
	if !samePublic(pub, key.Public()) {
		return nil, fault("authority_key", fmt.Errorf("the key %s is not the one that the database names", row.KeyName), restoreKey)
	}
	if !keys.P256.Is(pub) {
		return nil, fault("authority_key", fmt.Errorf("the key %s is a %T, want P-256", row.KeyName, pub), restoreKey)
	}
	if a.cert != nil {
		if err := c.checkAuthorityCertificate(a); err != nil {
			return nil, bad("%w", err)
		}
	}
	return a, nil
}

// checkAuthorityCertificate: the certificate is what its own key made for this
// trust domain, and the row says no more of it.
func (c *CA) checkAuthorityCertificate(a *authority) error {
	cert := a.cert
	if err := cert.CheckSignatureFrom(cert); err != nil {
		return fmt.Errorf("its certificate is not self-signed: %w", err)
	}
	if len(cert.URIs) != 1 || cert.URIs[0].String() != c.td.IDString() {
		return fmt.Errorf("its certificate is not for %s", c.td.IDString())
	}
	if !cert.NotBefore.Equal(a.row.NotBefore) || !cert.NotAfter.Equal(a.row.NotAfter) {
		return fmt.Errorf("it is valid from %s until %s, its certificate from %s until %s", a.row.NotBefore.Format(time.RFC3339), a.row.NotAfter.Format(time.RFC3339),
			cert.NotBefore.Format(time.RFC3339), cert.NotAfter.Format(time.RFC3339))
	}
	return nil
}

// verifierPublic is the public key of a verifier authority.
func (a *authority) verifierPublic() *ecdsa.PublicKey {
	pub, _ := a.signer.Public().(*ecdsa.PublicKey) // openAuthority checked it
	return pub
}
