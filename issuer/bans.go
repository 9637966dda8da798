package issuer

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/issuer/store"
	"github.com/assay-project/assay/policy"
)

// Bans keep whoever matches from identities: at boot, at renewal, for tokens, on
// every server. What stands is in the store; each server holds it compiled in
// memory, reads it again when it hears of a change, and every few seconds without.
// A server that could not read it for banStaleness no longer knows who is banned,
// and serves nobody.
const (
	banPoll      = 5 * time.Second
	banStaleness = 30 * time.Second
)

// bans is who is to hold no identity, as this server knows it.
type bans struct {
	st  store.Store
	td  string
	now func() time.Time
	log *slog.Logger

	changes chan struct{} // one: read now
	keep    chan struct{} // one: see to the deny-list
	reading sync.Mutex
	current atomic.Pointer[banSet]
	signed  atomic.Pointer[time.Time] // when this server last signed the deny-list
	live    *live
}

func newBans(st store.Store, td string, now func() time.Time, log *slog.Logger) *bans {
	return &bans{st: st, td: td, now: now, log: log, changes: make(chan struct{}, 1), keep: make(chan struct{}, 1), live: newLive()}
}

// banSet is one reading of the store. It never changes.
type banSet struct {
	version  uint64
	readAt   time.Time   // by the machine's clock
	all      []store.Ban // that nobody lifted
	rules    []banRule   // of those
	byID     map[string]*store.Ban
	revoked  map[string][]revokedBy
	rows     []store.Revocation
	policies []store.DeniedPolicy
	list     store.SignedDenyList // zero where there is none
}

// revokedBy is why a serial is taken back: by itself, or with a ban while it
// stands.
type revokedBy struct{ ban string }

// banRule is one ban, ready to be asked.
type banRule struct {
	store.Ban
	predicate *policy.Predicate // of an expression
	broken    error             // it cannot be asked: then it hits everybody
}

// stale is why who is banned is not known, or nil.
func (b *bans) stale() error {
	set := b.current.Load()
	if set == nil || time.Since(set.readAt) > banStaleness {
		return &attest.Error{Kind: attest.Unavailable, Check: "bans", Err: fmt.Errorf("who is banned has not been read from the database for %s", banStaleness)}
	}
	return nil
}

// readAtStart reads before anything is served. Where that fails nobody is served
// until it succeeds.
func (b *bans) readAtStart() {
	ctx, cancel := context.WithTimeout(context.Background(), banStaleness)
	defer cancel()
	if _, err := b.read(ctx); err != nil {
		b.log.ErrorContext(ctx, "who is banned cannot be read", "error", err)
	}
}

// changed asks for a reading soon. It never blocks.
func (b *bans) changed() {
	select {
	case b.changes <- struct{}{}:
	default:
	}
}

// keepSoon has the deny-list looked after. It never blocks.
func (b *bans) keepSoon() {
	select {
	case b.keep <- struct{}{}:
	default:
	}
}

// read reads the store. It reports whether anything is different from before.
func (b *bans) read(ctx context.Context) (different bool, err error) {
	b.reading.Lock()
	defer b.reading.Unlock()
	started := time.Now()
	next := &banSet{readAt: started, byID: map[string]*store.Ban{}, revoked: map[string][]revokedBy{}}
	if next.all, err = b.st.Bans(ctx, b.td, false); err != nil {
		return false, err
	}
	if next.rows, err = b.st.Revocations(ctx, b.td, b.now().Add(-time.Minute)); err != nil {
		return false, err
	}
	if next.policies, err = b.st.DeniedPolicies(ctx, b.td); err != nil {
		return false, err
	}
	if next.list, err = b.st.DenyList(ctx, b.td); err != nil && !isNotFound(err) {
		return false, err
	}
	before := b.current.Load()
	if before != nil && bytes.Equal(before.list.Body, next.list.Body) && reflect.DeepEqual(before.all, next.all) &&
		reflect.DeepEqual(before.rows, next.rows) && reflect.DeepEqual(before.policies, next.policies) {
		same := *before
		same.readAt = started
		b.current.Store(&same)
		return false, nil
	}
	if before != nil {
		next.version = before.version + 1
	}
	for i := range next.all {
		ban := &next.all[i]
		next.byID[ban.ID] = ban
		next.rules = append(next.rules, b.compile(*ban, before))
	}
	for _, r := range next.rows {
		next.revoked[r.Serial] = append(next.revoked[r.Serial], revokedBy{r.Ban})
	}
	b.current.Store(next)
	return true, nil
}

// compile makes a ban ready. Expressions are compiled once.
func (b *bans) compile(ban store.Ban, before *banSet) banRule {
	rule := banRule{Ban: ban}
	if ban.Kind != store.BanExpr {
		return rule
	}
	if before != nil {
		for _, r := range before.rules {
			if r.ID == ban.ID && r.Value == ban.Value {
				rule.predicate, rule.broken = r.predicate, r.broken
				return rule
			}
		}
	}
	if rule.predicate, rule.broken = policy.CompilePredicate(ban.Value); rule.broken != nil {
		b.log.Error("a ban cannot be read, and hits everybody until it is lifted", "ban", ban.ID, "error", rule.broken)
	}
	return rule
}

// hit is the first standing ban that claims, or SPIFFE IDs that they hold or would
// get, fall under; nil for none.
func (s *banSet) hit(at time.Time, c attest.Claims, ids ...string) *store.Ban {
	for i := range s.rules {
		if r := &s.rules[i]; r.Stands(at) && r.hits(c, ids) {
			return &r.Ban
		}
	}
	return nil
}

func (r *banRule) hits(c attest.Claims, ids []string) bool {
	switch r.Kind {
	case store.BanInstance:
		return c.Instance().Guest() == attest.Instance(r.Value).Guest()
	case store.BanHardware:
		for _, id := range hardwareIDs(c) {
			if id == r.Value {
				return true
			}
		}
		return false
	case store.BanSPIFFEID:
		for _, id := range ids {
			if id == r.Value {
				return true
			}
		}
		return false
	case store.BanExpr:
		if r.broken != nil {
			return true
		}
		// Who leaves out what an expression reads does not escape it.
		holds, err := r.predicate.Holds(c)
		return holds || err != nil
	}
	return true // a kind of a later version
}

// revocation reports whether a serial is taken back, and with which ban.
func (s *banSet) revocation(at time.Time, serial string) (ban string, revoked bool) {
	for _, r := range s.revoked[serial] {
		if r.ban == "" {
			return "", true
		}
		if b := s.byID[r.ban]; b != nil && b.Stands(at) {
			return r.ban, true
		}
	}
	return "", false
}

// warnings is what an operator should know of bans.
func (s *banSet) warnings(at time.Time) (out []string) {
	for i := range s.rules {
		if r := &s.rules[i]; r.broken != nil && r.Stands(at) {
			out = append(out, fmt.Sprintf("%s cannot be read and hits everybody: lift it, or serve with the version that took it (%v)", r.ID, r.broken))
		}
	}
	return out
}

// hardwareIDs are the names of the hardware that claims speak of, which outlive
// the environment that runs on it: an SNP chip, a TPM's endorsement key, the EC2
// instance that an enclave runs in, and what stands in their place.
func hardwareIDs(c attest.Claims) (out []string) {
	add := func(b attest.Bytes) {
		if len(b) > 0 && len(bytes.Trim(b, "\x00")) > 0 {
			out = append(out, hex.EncodeToString(b))
		}
	}
	if c.Nitro != nil && c.Nitro.ModuleID != "" {
		out = append(out, c.Nitro.ModuleID)
		if parent, _, ok := strings.Cut(c.Nitro.ModuleID, "-enc"); ok && parent != "" {
			out = append(out, parent)
		}
	}
	if c.SNP != nil {
		add(c.SNP.ChipID)
		add(c.SNP.VCEKHWID)
	}
	if t := c.TPM; t != nil {
		add(t.EK)
		if t.Cloud != nil {
			out = append(out, strings.Join([]string{t.Cloud.Provider, t.Cloud.ProjectID, t.Cloud.Zone, t.Cloud.InstanceID}, ":"))
		}
		if t.EK == nil && t.Cloud == nil {
			add(t.AK)
		}
	}
	return out
}

// hardwareID is an operator's spelling as hardwareIDs has it.
func hardwareID(s string) (string, error) {
	s = strings.TrimSpace(s)
	if strings.HasPrefix(s, "i-") || strings.Contains(s, ":") {
		return s, nil
	}
	b, err := hex.DecodeString(strings.ToLower(s))
	if err == nil && len(b) == 8 { // Turin's, as its tools print it
		b = append(b, make([]byte, 56)...)
	}
	if err != nil || (len(b) != 32 && len(b) != 48 && len(b) != 64) && len(b) != 34 && len(b) != 50 {
		return "", fmt.Errorf("%.140q is no hardware id: want a chip id (128 hex digits, or 16 of Turin), the digest of an endorsement key (64), a TPM's key name, or an EC2 instance or module id (i-…)", s)
	}
	if len(bytes.Trim(b, "\x00")) == 0 {
		return "", fmt.Errorf("a chip id of zeros is that of every machine that masks it")
	}
	return hex.EncodeToString(b), nil
}
