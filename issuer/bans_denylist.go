package issuer

import (
	"context"
	"crypto"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/issuer/ca"
	"github.com/assay-project/assay/issuer/store"
	"github.com/assay-project/assay/svid"
)

// The deny-list is good for denyListLife, and signed anew when half of that is
// over, or anything changes. Any server may sign it: they agree by the sequence,
// which the store lets only grow.
const denyListLife = time.Hour

// publishedList is the deny-list that this server serves.
type publishedList struct {
	doc     []byte
	denials *svid.Denials
}

// DenyList is the deny-list as it is published, its sequence and when the next one
// comes at the latest; false while there is none.
func (s *Server) DenyList() (doc []byte, sequence uint64, nextUpdate time.Time, ok bool) {
	p := s.published.Load()
	if p == nil {
		return nil, 0, time.Time{}, false
	}
	return p.doc, p.denials.Sequence, p.denials.NextUpdate, true
}

// denials is what is to be denied now.
func (s *Server) denials(set *banSet, now time.Time) *svid.Denials {
	d := &svid.Denials{TrustDomain: s.td, IssuedAt: now.Truncate(time.Second), NextUpdate: now.Add(denyListLife).Truncate(time.Second)}
	// Those that live longest come first, where there is no room for all.
	rows := slices.Clone(set.rows)
	slices.SortStableFunc(rows, func(a, b store.Revocation) int { return b.NotAfter.Compare(a.NotAfter) })
	listed := map[string]bool{} // one may fall under several bans
	for _, r := range rows {
		if !r.NotAfter.After(now) || listed[r.Serial] {
			continue
		}
		if _, revoked := set.revocation(now, r.Serial); !revoked {
			continue
		}
		serial, err := hex.DecodeString(r.Serial)
		if err != nil || len(serial) != svid.SerialSize {
			continue // no certificate of ours has it
		}
		listed[r.Serial] = true
		d.Serials = append(d.Serials, [svid.SerialSize]byte(serial))
		d.Keys = append(d.Keys, r.KeyThumbprint)
	}
	for _, p := range set.policies {
		d.Policies = append(d.Policies, p.Digest)
	}
	return d
}

// renewDenyList serves the stored list while it says what is so and is young
// enough, and signs a new one otherwise.
func (s *Server) renewDenyList(ctx context.Context) error {
	root, err := s.verifierRoot()
	if err != nil {
		return err
	}
	for range 5 { // others may be at it too
		set, now := s.bans.current.Load(), s.now()
		if set == nil {
			return &attest.Error{Kind: attest.Unavailable, Check: "bans", Err: errors.New("who is banned has not been read from the database yet")}
		}
		want := s.denials(set, now)
		if set.list.Sequence > 0 {
			have, err := svid.ParseDenyList(set.list.Body, root, s.td, now)
			if err != nil {
				s.log.DebugContext(ctx, "the stored deny-list does not hold", "error", err)
				if !s.renewalDue(now) {
					return fmt.Errorf("the deny-list of another server does not hold here: %w", err)
				}
			} else {
				s.publish(set.list.Body, have)
				switch {
				case !s.says(set, want, have, now): // now
				case now.Sub(have.IssuedAt) < denyListLife/2, !s.renewalDue(now):
					return nil
				}
			}
		}
		key, keys, err := s.ca.DenyListSigner()
		if err != nil {
			return fmt.Errorf("there is no deny-list: %w", err)
		}
		// At least the time in seconds, as other documents: after the database was
		// restored from a backup, followers hold a list with a higher number than is
		// on record, and would take no new one for as long.
		want.Sequence = max(set.list.Sequence+1, uint64(max(now.Unix(), 0)))
		doc, err := want.Sign(key, keys)
		if err != nil {
			return err
		}
		err = s.bans.st.PutDenyList(ctx, store.SignedDenyList{TrustDomain: s.td.Name(), Sequence: want.Sequence, Body: doc, At: now})
		if err != nil && !errors.Is(err, store.ErrConflict) {
			return err
		}
		if _, rerr := s.bans.read(ctx); rerr != nil {
			return rerr
		}
		if err == nil {
			signed, err := svid.ParseDenyList(doc, root, s.td, now)
			if err != nil {
				return fmt.Errorf("the new deny-list does not hold: %w", err)
			}
			if signed.Omitted > 0 {
				s.log.ErrorContext(ctx, "the deny-list has no room for all that is denied: who follows it accepts nobody", "omitted", signed.Omitted)
			}
			s.bans.signed.Store(&now)
			s.publish(doc, signed)
			return nil
		}
	}
	return errors.New("the deny-list changes too fast: other servers sign it all the time")
}

// renewEvery is how often one server signs a list that says nothing new: servers
// whose clocks disagree must not sign against each other all the time.
const renewEvery = time.Minute

// renewalDue reports whether this server may sign a list anew that says nothing new.
func (s *Server) renewalDue(now time.Time) bool {
	last := s.bans.signed.Load()
	return last == nil || now.Sub(*last) >= renewEvery || now.Before(*last)
}

// says reports whether a list says what is wanted: it names all of that, and beside
// it nothing but what has ended. Taking off what has ended is for the next renewal:
// every list goes to everybody who watches, and when an SVID ends is a matter of
// whose clock is asked.
func (s *Server) says(set *banSet, want, have *svid.Denials, now time.Time) bool {
	wanted := map[[svid.SerialSize]byte]bool{}
	for _, x := range want.Serials {
		wanted[x] = true
	}
	if len(want.Policies) != len(have.Policies) || slices.ContainsFunc(want.Policies, func(p [32]byte) bool { return !have.Policy(p[:]) }) {
		return false
	}
	if have.Omitted > 0 { // it names some, counts the others, and speaks for nobody
		return len(wanted) > svid.DenyListRoom(len(want.Policies)) && uint64(len(wanted)) <= uint64(len(have.Serials))+have.Omitted
	}
	for x := range wanted {
		if !have.Serial(x) {
			return false
		}
	}
	if len(have.Serials) == len(wanted) {
		return true
	}
	for _, r := range set.rows { // what was given back must go at once
		serial, err := hex.DecodeString(r.Serial)
		if err != nil || len(serial) != svid.SerialSize || !r.NotAfter.After(now) || wanted[[svid.SerialSize]byte(serial)] {
			continue
		}
		if have.Serial([svid.SerialSize]byte(serial)) {
			return false
		}
	}
	return true
}

// publish serves a list that is newer than the one before, and has those who watch
// get it.
func (s *Server) publish(doc []byte, d *svid.Denials) {
	next := &publishedList{doc: doc, denials: d}
	for {
		before := s.published.Load()
		if before != nil && before.denials.Sequence >= d.Sequence {
			return // somebody else was faster
		}
		if s.published.CompareAndSwap(before, next) {
			s.watchers.lookAgain(true)
			return
		}
	}
}

// verifierRoot is what relying parties pin.
func (s *Server) verifierRoot() (crypto.PublicKey, error) {
	pem, err := ca.VerifierRootPEM(s.cfg.DataDir)
	if err != nil {
		return nil, err
	}
	return svid.ParseVerifierRoot(pem)
}
