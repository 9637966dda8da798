package soak

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/svid"
)

// brief is a storm in which what waits for minutes is left out.
func (r *run) brief() bool { return r.Duration < 3*time.Minute }

// misuse draws what operators do about keys and agents that they no longer trust, by
// a generator of its own: so the rest of the storm is what it was.
func (r *run) misuse() (out []event) {
	rng := rand.New(rand.NewPCG(r.Seed, 0x6d697375)) //nolint:gosec // reproducible is the point
	server := func() *server { return r.servers[rng.IntN(2)] }
	// part is a moment in a part of the storm, in hundredths of it.
	part := func(from, to int) time.Duration {
		return r.Duration*time.Duration(from)/100 + time.Duration(rng.Int64N(int64(r.Duration)*int64(to-from)/100))
	}
	add := func(at time.Duration, name string, do func(context.Context) error) {
		out = append(out, event{at: at, name: name, do: do})
	}
	rotate := func(use, name string, from, to int) {
		s := server()
		add(part(from, to), fmt.Sprintf("rotate the %s key of server %s by force", name, s.name), func(ctx context.Context) error { return r.rotate(ctx, s, use) })
	}
	ban := func(from, to int) {
		s, n, pause := server(), rng.IntN(max(1, r.Agents)), 3*time.Second+time.Duration(rng.Int64N(int64(4*time.Second)))
		add(part(from, to), fmt.Sprintf("ban agent %d at server %s for %s", n, s.name, pause.Round(10*time.Millisecond)), func(ctx context.Context) error { return r.ban(ctx, s, r.agents[n], pause) })
	}
	rotate("jwt", "JWT", 4, 8)
	rotate("deny-list", "deny-list", 4, 8)
	ban(10, 25)
	if !r.brief() {
		rotate("jwt", "JWT", 40, 50)
		rotate("deny-list", "deny-list", 40, 50)
		for from := 25; from < 80; from += 5 {
			ban(from, from+5)
		}
	}
	s := server()
	add(part(45, 55), fmt.Sprintf("taint --force the X.509 authority of server %s", s.name), func(ctx context.Context) error { return r.force(ctx, s) })
	return out
}

// follow is a relying party that follows the deny-list of one server, until ctx ends:
// each new one verifies, and is newer than the one before.
func (r *run) follow(ctx context.Context, s *server) {
	list, err := r.newFollower(s)
	if err != nil {
		r.violated("deny-list", "the verifier root of server %s: %v", s.name, err)
		return
	}
	s.denied.Store(list)
	var sequence uint64
	for sleep(ctx, time.Second) {
		if !s.alive() {
			continue
		}
		r.fetchKeys(ctx, s)
		now := time.Now()
		err := list.UpdateURL(ctx, nil, "http://"+s.web+"/deny-list", now)
		if ctx.Err() != nil || attest.KindOf(err) == attest.Unavailable {
			continue // it is being killed, or started
		}
		if err != nil {
			r.violated("deny-list", "that of server %s does not hold: %v", s.name, err)
			continue
		}
		d, err := list.Denials(now)
		if err != nil {
			r.violated("deny-list", "that of server %s: %v", s.name, err)
			continue
		}
		if d.Sequence < sequence {
			r.violated("deny-list", "server %s publishes sequence %d after %d", s.name, d.Sequence, sequence)
		}
		sequence = d.Sequence
		r.mu.Lock()
		r.report.Lists++
		r.mu.Unlock()
	}
}

func (r *run) newFollower(s *server) (*svid.DenyList, error) {
	td, err := spiffeid.TrustDomainFromString(trustDomain)
	if err != nil {
		return nil, err
	}
	pem, err := os.ReadFile(filepath.Join(s.data, "verifier-root.pem"))
	if err != nil {
		return nil, err
	}
	root, err := svid.ParseVerifierRoot(pem)
	if err != nil {
		return nil, err
	}
	return svid.NewDenyList(td, root)
}

// names reports whether the newest list of a server names a certificate; known is
// false where there is none yet.
func (s *server) names(c *x509.Certificate, now time.Time) (named, known bool) {
	list := s.denied.Load()
	if list == nil {
		return false, false
	}
	d, err := list.Denials(now)
	if err != nil {
		return false, false
	}
	return d.Certificate(c) != "", true
}

// innocent looks that nobody is on a list who is not banned.
func (r *run) innocent(e *enclave, c *x509.Certificate, now time.Time) {
	for _, s := range r.servers {
		if named, _ := s.names(c, now); named && !e.banned.Load() {
			r.violated("denied", "the deny-list of server %s names %s of agent %d, whom nobody banned", s.name, serialOf(c), e.number)
		}
	}
}

// bannedWithin is how long it may take until every server's list names what somebody
// holds who was banned: the servers and the database are killed meanwhile. An agent
// that is refused tries again within a minute.
const (
	bannedWithin = 30 * time.Second
	backWithin   = 90 * time.Second
)

// ban bans an agent for a while: what it holds is on every list, it gets no more, and
// afterwards it gets an SVID again, and is on no list.
func (r *run) ban(ctx context.Context, s *server, e *enclave, pause time.Duration) error {
	if !e.banned.CompareAndSwap(false, true) {
		r.say("   agent %d is banned already: left out", e.number)
		return nil
	}
	defer e.banned.Store(false)
	held, err := e.fetch(ctx)
	if err != nil {
		return fmt.Errorf("agent %d has no SVID before it is banned: %w", e.number, err)
	}
	err = r.insist(ctx, time.Minute, func() error {
		_, err := r.command(ctx, "assay", "agents", "ban", e.name, "--reason", "soak", "--admin", s.admin)
		if err != nil && strings.Contains(err.Error(), "says the same since") { // the answer before was lost
			return nil
		}
		return err
	})
	if err != nil {
		return err
	}
	began := time.Now()
	var id string
	err = r.insist(ctx, time.Minute, func() error {
		all, err := s.bans(ctx)
		if err != nil {
			return err
		}
		if i := slices.IndexFunc(all, func(b banned) bool { return b.Value == e.name }); i >= 0 {
			id = all[i].ID
			return nil
		}
		return fmt.Errorf("server %s does not list the ban of agent %d", s.name, e.number)
	})
	if err != nil {
		return err
	}
	// What does not hold is told, and the ban is lifted all the same.
	err = r.insist(ctx, bannedWithin, func() error {
		for _, o := range r.servers {
			if named, _ := o.names(held[0], time.Now()); !named && o.alive() && time.Now().Before(held[0].NotAfter) {
				return fmt.Errorf("the deny-list of server %s does not name %s of agent %d, %s after the ban", o.name, serialOf(held[0]), e.number, time.Since(began).Round(time.Second))
			}
		}
		return nil
	})
	if err != nil {
		r.violated("banned", "%v", err)
	}
	r.say("   agent %d is on every deny-list, %s after it was banned", e.number, time.Since(began).Round(10*time.Millisecond))
	sleep(ctx, pause)
	if now, err := e.fetch(ctx); err == nil {
		if issued := now[0].NotBefore.Add(backdate); issued.After(began.Add(lag)) {
			r.violated("banned", "agent %d was banned at %s, and issued %s at %s", e.number, began.Format(time.TimeOnly), serialOf(now[0]), issued.Format(time.TimeOnly))
		}
	}
	err = r.insist(ctx, time.Minute, func() error {
		_, err := r.command(ctx, "assay", "agents", "unban", id, "--reason", "soak", "--admin", s.admin)
		if err != nil && strings.Contains(err.Error(), "no ban "+id+" stands") {
			return nil
		}
		return err
	})
	if err != nil {
		return err
	}
	lifted := time.Now()
	err = r.insist(ctx, backWithin, func() error {
		now, err := e.fetch(ctx)
		if err != nil {
			return fmt.Errorf("agent %d has no SVID, %s after its ban was lifted: %w", e.number, time.Since(lifted).Round(time.Second), err)
		}
		if !now[0].NotBefore.Add(backdate + time.Second).After(lifted) {
			return fmt.Errorf("agent %d has no new SVID, %s after its ban was lifted", e.number, time.Since(lifted).Round(time.Second))
		}
		for _, o := range r.servers {
			for _, c := range []*x509.Certificate{now[0], held[0]} {
				if named, _ := o.names(c, time.Now()); named {
					return fmt.Errorf("the deny-list of server %s names %s of agent %d, %s after its ban was lifted", o.name, serialOf(c), e.number, time.Since(lifted).Round(time.Second))
				}
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	r.say("   agent %d has an SVID again, %s after its ban was lifted", e.number, time.Since(lifted).Round(10*time.Millisecond))
	r.count("banned and unbanned")
	return nil
}

// banned is what `assay agents bans` says of one.
type banned struct {
	ID    string `json:"id"`
	Value string `json:"value"`
}

func (s *server) bans(ctx context.Context) ([]banned, error) {
	out, err := s.r.command(ctx, "assay", "agents", "bans", "--admin", s.admin, "--output", "json")
	if err != nil {
		return nil, err
	}
	var doc struct {
		Bans []banned `json:"bans"`
	}
	if err := json.Unmarshal([]byte(out), &doc); err != nil {
		return nil, fmt.Errorf("assay agents bans: %w: %.300s", err, out)
	}
	return doc.Bans, nil
}

// noBans looks that what was lifted is lifted, on every server.
func (r *run) noBans(ctx context.Context) error {
	for _, s := range r.servers {
		var left []banned
		if err := r.insist(ctx, time.Minute, func() (err error) { left, err = s.bans(ctx); return err }); err != nil {
			return err
		}
		if len(left) > 0 {
			r.violated("bans", "server %s has %d left: %v", s.name, len(left), left)
		}
	}
	return nil
}

// force taints the authority that signs, without one that could take its place: as
// when its key is in the hands of somebody else.
func (r *run) force(ctx context.Context, s *server) error {
	var unlock func()
	if err := r.insist(ctx, 3*propagation, func() error {
		var ok bool
		if unlock, ok = s.rotating.tryLock("x509"); !ok {
			return errBusy
		}
		return nil
	}); err != nil {
		return err
	}
	defer unlock()
	var old authority
	err := r.insist(ctx, time.Minute, func() error {
		all, err := s.authorities(ctx, "x509")
		if err != nil {
			return err
		}
		for _, a := range all { // the newest signs
			if a.State == "active" {
				old = a
			}
		}
		if old.ID == "" {
			return errors.New("none is active")
		}
		return nil
	})
	if err != nil {
		return err
	}
	key, err := old.key()
	if err != nil {
		return err
	}
	r.relax(time.Now().Add(2 * time.Minute)) // it counts from the moment on at which a server has heard it
	err = r.insist(ctx, time.Minute, func() error {
		_, err := r.command(ctx, "assay", "authority", "taint", "x509", old.ID, "--reason", "soak", "--force", "--admin", s.admin)
		if err != nil && strings.Contains(err.Error(), "already") {
			return nil
		}
		return err
	})
	if err != nil {
		return err
	}
	r.relax(time.Now().Add(relyingAge + lag))
	r.mu.Lock()
	r.condemned[key] = time.Now().Add(lag)
	r.mu.Unlock()
	r.say("   server %s has tainted %s by force", s.name, old.ID)
	if err := r.condemn(ctx, s, "x509", old); err != nil {
		return err
	}
	r.count("tainted by force")
	return nil
}

// key is an authority's key identifier, as certificates name it.
func (a authority) key() (string, error) {
	if len(a.Public) == 0 {
		return "", errors.New("the authority has no certificate")
	}
	der, err := base64.StdEncoding.DecodeString(a.Public[0])
	if err != nil {
		return "", err
	}
	certs, err := x509.ParseCertificates(der)
	if err != nil {
		return "", err
	}
	return hex.EncodeToString(certs[0].SubjectKeyId), nil
}

func (r *run) relax(until time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.relaxed = until
}

// excused reports whether a taint by force is why a bundle does not verify an SVID:
// for so long, and because it lacks the authority, and for no other reason.
func (r *run) excused(p snapshot, c *x509.Certificate, now time.Time) bool {
	for _, a := range p.bundle.X509Authorities() {
		if hex.EncodeToString(a.SubjectKeyId) == hex.EncodeToString(c.AuthorityKeyId) {
			return false
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if now.After(r.relaxed) {
		return false
	}
	r.report.Excused++
	return true
}

// late looks that an authority that was tainted by force has signed nothing since.
func (r *run) late(n int, c *x509.Certificate) {
	r.mu.Lock()
	since, ok := r.condemned[hex.EncodeToString(c.AuthorityKeyId)]
	r.mu.Unlock()
	if issued := c.NotBefore.Add(backdate); ok && issued.After(since) {
		r.violated("tainted", "SVID %s of agent %d was issued at %s by the authority %x, which was tainted by force before", serialOf(c), n, issued.Format(time.TimeOnly), c.AuthorityKeyId)
	}
}

// kidOf is the name of the key that a token says it is signed with.
func kidOf(token string) (string, error) {
	head, _, _ := strings.Cut(token, ".")
	raw, err := base64.RawURLEncoding.DecodeString(head)
	if err != nil {
		return "", err
	}
	var h struct {
		Kid string `json:"kid"`
	}
	if err := json.Unmarshal(raw, &h); err != nil {
		return "", err
	}
	if h.Kid == "" {
		return "", errors.New("the token names no key")
	}
	return h.Kid, nil
}
