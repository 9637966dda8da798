package ca

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/fxamacker/cbor/v2"

	"github.com/assay-project/assay/issuer/store"
)

// What a server says about authorities is a row of the database, and who can
// write the database must not be able to name an authority, or to change what
// was said of one. So each row is signed, by the checkpoint key of the server
// that says it, over all of its columns: deterministic CBOR (RFC 8949, section
// 4.2.1) of an array that begins with a tag, so that a signature counts for
// nothing else. The trust domain is in it: a row cannot be moved to another.
const (
	authorityTag = "assay/v1 authority"
	changeTag    = "assay/v1 authority change"
)

type signedAuthority struct {
	_                                               struct{} `cbor:",toarray"`
	Tag, TrustDomain, Use, ID, Server, Key, State   string
	Public                                          []byte
	NotBeforeMicros, NotAfterMicros, CreatedAtMicro int64
}

type signedChange struct {
	_                                       struct{} `cbor:",toarray"`
	Tag, TrustDomain, Use, ID, State, Sayer string
	AtMicros, EndsAtMicros                  int64
	Reason, Actor                           string
	Body                                    []byte
}

// authorityBytes is what the signature of an authority's row covers.
func authorityBytes(a store.Authority) ([]byte, error) {
	return rowEncoding(signedAuthority{
		Tag: authorityTag, TrustDomain: a.TrustDomain, Use: string(a.Use), ID: a.ID, Server: a.Server, Key: a.KeyName, State: string(a.State),
		Public: nonNil(a.Public), NotBeforeMicros: a.NotBefore.UnixMicro(), NotAfterMicros: a.NotAfter.UnixMicro(), CreatedAtMicro: a.CreatedAt.UnixMicro(),
	})
}

// changeBytes is what the signature of a change covers.
func changeBytes(c store.AuthorityChange) ([]byte, error) {
	var ends int64
	if !c.EndsAt.IsZero() {
		ends = c.EndsAt.UnixMicro()
	}
	return rowEncoding(signedChange{
		Tag: changeTag, TrustDomain: c.TrustDomain, Use: string(c.Use), ID: c.ID, State: string(c.State), Sayer: c.Server,
		AtMicros: c.At.UnixMicro(), EndsAtMicros: ends, Reason: c.Reason, Actor: c.Actor, Body: nonNil(c.Body),
	})
}

func nonNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

// rowEncoding encodes a row. Text that is not UTF-8 has no encoding: nobody
// writes it, and a row that has it was not signed by us.
func rowEncoding(row any) ([]byte, error) {
	mode, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		return nil, fmt.Errorf("CBOR: %w", err)
	}
	return mode.Marshal(row)
}

// signRow signs with a checkpoint key.
func signRow(key crypto.Signer, message []byte, err error) ([]byte, error) {
	if err != nil {
		return nil, internal("authority_row", err)
	}
	sig, err := key.Sign(rand.Reader, message, crypto.Hash(0)) // Ed25519 signs the message itself (RFC 8032)
	if err != nil {
		return nil, signing("authority_row", err)
	}
	return sig, nil
}

// checkRow verifies a signature with the checkpoint key of the server that is
// said to have made it.
func checkRow(key ed25519.PublicKey, message []byte, err error, sig []byte) error {
	switch {
	case err != nil:
		return err
	case len(sig) == 0:
		return errUnsigned
	case len(key) != ed25519.PublicKeySize || !ed25519.Verify(key, message, sig):
		return errForged
	}
	return nil
}

var (
	errUnsigned = errors.New("it is not signed")
	errForged   = errors.New("its signature is not that of the server's checkpoint key")
)

// signAuthority signs the row of one of this server's authorities.
func (c *CA) signAuthority(row *store.Authority) (err error) {
	message, err := authorityBytes(*row)
	row.Signature, err = signRow(c.checkpoint, message, err)
	return err
}

// say stores what became of an authority, signed. Times are cut to what the
// database keeps. That this server has said so before is no error, as long as it
// is what the database says: a row that this server did not sign can be in the way
// of one that takes trust away. The check:
//
//	authority_in_the_way  there is a row of that name that counts for nothing
func (c *CA) say(ctx context.Context, a *authority, ch store.AuthorityChange) error {
	ch.TrustDomain, ch.Use, ch.ID, ch.Server = c.td.Name(), a.row.Use, a.row.ID, c.cfg.Chain
	ch.At = ch.At.Truncate(time.Microsecond)
	if !ch.EndsAt.IsZero() {
		ch.EndsAt = ch.EndsAt.Truncate(time.Microsecond)
	}
	ch.Reason, ch.Actor = storable(ch.Reason, maxReason), storable(ch.Actor, maxActor)
	message, err := changeBytes(ch)
	if ch.Signature, err = signRow(c.checkpoint, message, err); err != nil {
		return err
	}
	if err := c.cfg.Store.ChangeAuthority(ctx, ch); errors.Is(err, store.ErrConflict) {
		return c.said(ctx, a, ch)
	} else if err != nil {
		return err
	}
	c.log.Info("ca: an authority changed", slog.String("use", string(a.row.Use)), slog.String("id", a.row.ID), slog.String("owner", a.row.Server),
		slog.String("state", string(ch.State)), slog.String("reason", ch.Reason), slog.String("actor", ch.Actor))
	return nil
}

// said is nil if the database says a change already, and believably.
func (c *CA) said(ctx context.Context, a *authority, ch store.AuthorityChange) error {
	st, err := c.cfg.Store.AuthorityState(ctx, c.td.Name())
	if err != nil {
		return err
	}
	mine, _ := c.checkpoint.Public().(ed25519.PublicKey) // CheckpointSigner checked it
	for _, have := range st.Changes {
		if have.Use != ch.Use || have.ID != ch.ID || have.State != ch.State || have.Server != ch.Server {
			continue
		}
		message, err := changeBytes(have)
		if err := checkRow(mine, message, err, have.Signature); err == nil {
			return nil
		}
	}
	return fault("authority_in_the_way", fmt.Errorf("NOT DONE: the row of authority_changes (use %s, id %s, state %s, server %s) is not this server's, and keeps it from saying that the authority is %s",
		ch.Use, ch.ID, ch.State, ch.Server, ch.State), "somebody writes the database who is no server: delete that row, or ask another server, and find out who; "+a.row.Server+" is the authority's owner")
}

// sayAgain stores what the database has lost, which this process knows: rows of this
// server and what it said of them, and that somebody has withdrawn trust.
func (c *CA) sayAgain(ctx context.Context, s *snapshot, warn func(string, ...any)) error {
	var errs []error
	for _, row := range s.missing {
		switch err := c.cfg.Store.AddAuthority(ctx, row); {
		case err == nil:
			warn("the database has lost the %s authority %s of this server; it was stored again", row.Use, row.ID)
		case isStore(err):
			errs = append(errs, err)
		default:
			warn("the %s authority %s cannot be stored again: %v", row.Use, row.ID, err)
		}
	}
	for _, ch := range s.lost {
		switch err := c.restate(ctx, s, ch); {
		case err == nil:
			warn("the database has lost that the %s authority %s is %s; it was said again", ch.Use, ch.ID, ch.State)
		case isStore(err):
			errs = append(errs, err)
		default:
			warn("that the %s authority %s is %s cannot be said again: %v", ch.Use, ch.ID, ch.State, err)
		}
	}
	return errors.Join(errs...)
}

// restate stores a change as it was said; or, where a row that counts for nothing
// is in its place, in this server's own name.
func (c *CA) restate(ctx context.Context, s *snapshot, ch store.AuthorityChange) error {
	err := c.cfg.Store.ChangeAuthority(ctx, ch)
	a := s.find(ch.Use, ch.ID)
	switch {
	case !errors.Is(err, store.ErrConflict) || a == nil:
		return err
	case ch.Server == c.cfg.Chain:
		return c.said(ctx, a, ch)
	}
	return c.say(ctx, a, store.AuthorityChange{State: ch.State, At: ch.At, Reason: ch.Reason, Actor: ch.Actor, Body: ch.Body})
}

// lostOf is the withdrawal of an authority that the database has lost, or nil.
func (s *snapshot) lostOf(a *authority, state store.State) *store.AuthorityChange {
	for i, ch := range s.lost {
		if ch.Use == a.row.Use && ch.ID == a.row.ID && ch.State == state {
			return &s.lost[i]
		}
	}
	return nil
}

// Bounds of what is recorded of who changed an authority and why, in bytes.
const (
	maxReason = 256
	maxActor  = 512
)

// storable is text that comes back from every database as it went in, since it is
// signed.
func storable(s string, limit int) string {
	s = strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", "\uFFFD"), "\uFFFD")
	for len(s) > limit {
		_, n := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-n]
	}
	return s
}
