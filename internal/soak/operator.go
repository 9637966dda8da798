package soak

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// rotations are one at a time for each server: who rotates by force twice at once
// does something else.
var errBusy = errors.New("another rotation of this server runs")

// uses are locks, one for each use of a key.
type uses struct {
	mu   sync.Mutex
	busy map[string]bool
}

func (u *uses) tryLock(use string) (unlock func(), ok bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.busy[use] {
		return nil, false
	}
	if u.busy == nil {
		u.busy = map[string]bool{}
	}
	u.busy[use] = true
	return func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		u.busy[use] = false
	}, true
}

// authority is what `assay authority list` says of one.
type authority struct {
	Use    string     `json:"use"`
	ID     string     `json:"id"`
	Server string     `json:"server"`
	State  string     `json:"state"`
	Usable *time.Time `json:"usable"`
	Public []string   `json:"public"`
}

func (s *server) authorities(ctx context.Context, use string) ([]authority, error) {
	out, err := s.r.command(ctx, "assay", "authority", "list", use, "--admin", s.admin, "--output", "json")
	if err != nil {
		return nil, err
	}
	var doc struct {
		Authorities []authority `json:"authorities"`
	}
	if err := json.Unmarshal([]byte(out), &doc); err != nil {
		return nil, fmt.Errorf("assay authority list: %w: %.300s", err, out)
	}
	own := doc.Authorities[:0]
	for _, a := range doc.Authorities {
		if a.Server == s.name {
			own = append(own, a)
		}
	}
	return own, nil
}

// policy is the revision in force; 0 where the server does not say.
func (s *server) policy(ctx context.Context) int {
	out, err := s.r.command(ctx, "assay", "policy", "status", "--admin", s.admin, "--output", "json")
	if err != nil {
		return 0
	}
	var doc struct {
		InForce struct {
			Revision int `json:"revision"`
		} `json:"in_force"`
	}
	if json.Unmarshal([]byte(out), &doc) != nil {
		return 0
	}
	return doc.InForce.Revision
}

// rotate replaces what a server signs with by the operator's commands, as after a
// key has leaked: the next one is prepared, activated when it may be, the old one
// tainted, and revoked when nobody holds anything of it any more.
func (r *run) rotate(ctx context.Context, s *server, use string) error {
	unlock, ok := s.rotating.tryLock(use)
	if !ok {
		r.say("   %v: left out", errBusy)
		return nil
	}
	defer unlock()
	limit := propagation + 60*time.Second
	var next string
	var before []authority
	err := r.insist(ctx, limit, func() (err error) {
		if before, err = s.authorities(ctx, use); err != nil {
			return err
		}
		// A planned rotation may have prepared one: then it is that one.
		if i := slices.IndexFunc(before, func(a authority) bool { return a.State == "prepared" || a.State == "published" }); i >= 0 {
			next = before[i].ID
			return nil
		}
		if _, err := r.command(ctx, "assay", "authority", "prepare", use, "--admin", s.admin); err != nil {
			return err
		}
		return errors.New("look again what was prepared")
	})
	if err != nil {
		return err
	}
	began := time.Now()
	err = r.insist(ctx, limit, func() error {
		all, err := s.authorities(ctx, use)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(all, func(a authority) bool { return a.ID == next && a.State != "prepared" && a.State != "published" }) {
			return nil // it has taken over by itself
		}
		_, err = r.command(ctx, "assay", "authority", "activate", use, next, "--admin", s.admin)
		return err
	})
	if err != nil {
		return err
	}
	r.say("   server %s signs with its new %s key %s, %s after it was prepared at the latest", s.name, use, next, time.Since(began).Round(time.Second))
	if r.brief() && use != "x509" && use != "verifier" {
		r.count("rotated: " + use) // who waits for what the old one signed to end has no time for it
		return nil
	}
	for _, old := range before {
		if old.ID == next || old.State == "revoked" || old.State == "tainted" {
			continue
		}
		if err := r.condemn(ctx, s, use, old); err != nil {
			return err
		}
	}
	r.count("rotated by force: " + use)
	return nil
}

// condemn taints an authority, and revokes it when no agent holds anything of it.
func (r *run) condemn(ctx context.Context, s *server, use string, old authority) error {
	gone := func(err error) bool { // it ended meanwhile, or a command whose answer was lost had been heard
		return err == nil || strings.Contains(err.Error(), "already") || strings.Contains(err.Error(), "no such") || strings.Contains(err.Error(), "not found") || strings.Contains(err.Error(), "revoked")
	}
	err := r.insist(ctx, 60*time.Second, func() error {
		_, err := r.command(ctx, "assay", "authority", "taint", use, old.ID, "--reason", "soak", "--admin", s.admin)
		if gone(err) {
			return nil
		}
		return err
	})
	if err != nil {
		return err
	}
	if use == "x509" {
		if err := r.abandoned(ctx, old); err != nil {
			return err
		}
	} else {
		sleep(ctx, svidTTL) // results say nothing of who signed them to who does not verify them
	}
	return r.insist(ctx, 60*time.Second, func() error {
		_, err := r.command(ctx, "assay", "authority", "revoke", use, old.ID, "--reason", "soak", "--admin", s.admin)
		if gone(err) {
			return nil
		}
		return err
	})
}

// abandonedWithin is how long agents may hold what a tainted authority signed: they
// are asked at once, over two seconds, and a server or the database can be away.
const abandonedWithin = 40 * time.Second

// abandoned waits until no agent serves anything of an authority.
func (r *run) abandoned(ctx context.Context, old authority) error {
	id, err := old.key()
	if err != nil {
		return err
	}
	began := time.Now()
	for _, e := range r.agents {
		if err := r.insist(ctx, time.Until(began.Add(abandonedWithin)), func() error {
			if e.banned.Load() {
				return nil // it is asked and gets nothing: nobody accepts what it has
			}
			chain, err := e.fetch(ctx)
			if err != nil {
				return err
			}
			if hex.EncodeToString(chain[0].AuthorityKeyId) == id {
				return fmt.Errorf("agent %d still serves an SVID of the tainted authority %s", e.number, old.ID)
			}
			return nil
		}); err != nil {
			return err
		}
	}
	r.say("   nobody holds anything of the tainted authority %s, %s after it was tainted", old.ID, time.Since(began).Round(10*time.Millisecond))
	return nil
}
