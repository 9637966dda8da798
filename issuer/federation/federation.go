package federation

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/issuer/store"
)

// Bounds of all federations of a trust domain: what an agent gets in one message.
const (
	MaxFederations = 64
	maxTotal       = 384 << 10 // bytes of all documents together: an agent takes 1 MiB in one message
)

// Config says what to open. TrustDomain, Store, Seal and Now are required.
type Config struct {
	TrustDomain spiffeid.TrustDomain
	Store       store.FederationStore
	Seal        Seal
	Now         func() time.Time
	Poll        time.Duration // where a bundle has no refresh hint: 5 minutes
	Log         *slog.Logger

	// For https_web, where a relation names no CAs: nil is the system's.
	SystemRoots *x509.CertPool
	// Private are addresses that are not public, and at which endpoints may be all the
	// same.
	Private []netip.Prefix
	// Dial reaches endpoints; nil is the network.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Federations are the foreign trust domains of one trust domain. They are safe for
// concurrent use.
type Federations struct {
	cfg   Config
	log   *slog.Logger
	fetch func(ctx context.Context, r *relation, bundles x509bundle.Source) ([]byte, error)

	reloading sync.Mutex // held while the store is read; before mu

	mu       sync.Mutex
	entries  map[string]*entry
	revision uint64
	onChange []func()
	changed  chan struct{} // closed when entries were read again

	storing sync.Mutex // held from the look at what is stored until a bundle is

	fetching sync.Mutex      // guards busy
	busy     map[string]bool // fetched now, by this server
}

// entry is one row of the store, checked.
type entry struct {
	row      store.Federation
	relation *relation            // nil: the row is not to be believed
	bundle   *spiffebundle.Bundle // nil: none yet, or not to be believed
	fault    string               // why not
	over     bool                 // the bundle is good, and there is no room for it in what agents are sent
}

// served is the bundle that is handed out, or nil.
func (e *entry) served() *spiffebundle.Bundle {
	if e.over {
		return nil
	}
	return e.bundle
}

// Open reads what the store knows. Rows that are not to be believed are kept out
// loudly: one bad row must not stop a healthy server.
func Open(ctx context.Context, cfg Config) (*Federations, error) {
	if cfg.TrustDomain.IsZero() || cfg.Store == nil || cfg.Now == nil || cfg.Seal.Key == nil || cfg.Seal.Server == "" {
		return nil, errors.New("federation: Config.TrustDomain, Store, Seal and Now are required")
	}
	if cfg.Poll == 0 {
		cfg.Poll = 5 * time.Minute // SPIFFE Federation, section 4.1
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	f := &Federations{cfg: cfg, log: cfg.Log, changed: make(chan struct{}), busy: map[string]bool{}}
	f.fetch = fetcher{now: cfg.Now, dial: cfg.Dial, private: cfg.Private, systemRoots: cfg.SystemRoots, timeout: fetchTimeout}.fetch
	return f, f.Reload(ctx)
}

// OnChange has a function called after every change of what Bundles returns. Call it
// before Run; no lock is held.
func (f *Federations) OnChange(call func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.onChange = append(f.onChange, call)
}

// Bundles returns the last good bundle of every federation that has one, by trust
// domain, and a number that grows whenever one changes. The caller owns them.
func (f *Federations) Bundles() ([]*spiffebundle.Bundle, uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []*spiffebundle.Bundle
	for _, e := range f.entries {
		if b := e.served(); b != nil {
			out = append(out, b.Clone())
		}
	}
	return sorted(out), f.revision
}

// Reload reads the store again, at once after another server changed it.
func (f *Federations) Reload(ctx context.Context) error {
	f.reloading.Lock() // one after the other: what is read later is newer
	defer f.reloading.Unlock()
	rows, revision, err := f.cfg.Store.Federations(ctx, f.cfg.TrustDomain.Name())
	if err != nil {
		return err
	}
	f.mu.Lock()
	notify := f.entries != nil && revision != f.revision
	next := make(map[string]*entry, len(rows))
	for _, row := range rows {
		old := f.entries[row.Name]
		e := f.judge(row, old)
		if e.fault != "" && (old == nil || old.fault != e.fault) {
			f.log.ErrorContext(ctx, "a federation is not used", "foreign_trust_domain", row.Name, "why", e.fault)
		}
		next[row.Name] = e
	}
	fit(next)
	for name, e := range next {
		old := f.entries[name]
		if old != nil && old.served() != e.served() { // a server came or went that sealed it, or there is room now
			notify = true
		}
		if e.over && (old == nil || !old.over) {
			f.log.ErrorContext(ctx, "a foreign bundle is not used", "foreign_trust_domain", name, "why", faultOf(errBudget()))
		}
	}
	f.entries, f.revision = next, revision
	close(f.changed)
	f.changed = make(chan struct{})
	calls := slices.Clone(f.onChange)
	f.mu.Unlock()
	if notify {
		for _, call := range calls {
			call()
		}
	}
	return nil
}

// fit leaves out, in the order of the names, what has no room in the message that
// agents get: servers that store at the same moment can pass the budget together, and
// all of them must leave out the same.
func fit(entries map[string]*entry) {
	total := 0
	for _, name := range slices.Sorted(maps.Keys(entries)) {
		if e := entries[name]; e.bundle != nil {
			if e.over = total+len(e.row.Bundle) > maxTotal; !e.over {
				total += len(e.row.Bundle)
			}
		}
	}
}

// judge decides whether a row is to be believed. What is the same as before is not
// parsed again, but its seals are: servers come and go.
func (f *Federations) judge(row store.Federation, old *entry) *entry {
	e := &entry{row: row}
	if err := f.cfg.Seal.check(&row); err != nil {
		e.fault = err.Error() + ": somebody wrote it who is no server of this trust domain, or who left it"
		return e
	}
	r, err := relationOf(&row).check(f.cfg.TrustDomain)
	if err != nil {
		e.fault = err.Error()
		return e
	}
	e.relation = r
	if len(row.Bundle) == 0 {
		return e
	}
	if old != nil && old.bundle != nil && bytes.Equal(old.row.Bundle, row.Bundle) {
		e.bundle = old.bundle
		return e
	}
	if e.bundle, _, err = Parse(r.td, row.Bundle); err != nil {
		e.bundle, e.fault = nil, err.Error()
	}
	return e
}

func relationOf(row *store.Federation) Relation {
	return Relation{
		TrustDomain: row.Name, URL: row.URL, Profile: Profile(row.Profile), EndpointID: row.EndpointID, WebRoots: row.WebRoots, Bundle: row.Bundle,
	}
}

// Status is a federation as it stands.
type Status struct {
	Relation // Bundle is the last good one
	Sequence uint64
	// Empty: it has a bundle, and that has no key: everything is revoked.
	Empty     bool
	FetchedAt time.Time // of the bundle; zero without one
	NextAt    time.Time // of the next fetch; zero for one by hand
	Failures  int       // fetches that failed since the last good one
	// Error is why the last fetch failed, or why the federation is not used.
	Error string
}

func (e *entry) status() Status {
	s := Status{Relation: relationOf(&e.row), FetchedAt: e.row.FetchedAt, Failures: e.row.Failures, Error: e.row.Error}
	if e.row.Profile != string(ByHand) {
		s.NextAt = e.row.NextAt
	}
	if e.bundle != nil {
		s.Sequence, _ = e.bundle.SequenceNumber()
		s.Empty = e.bundle.Empty()
	}
	switch {
	case e.fault != "":
		s.Error = "not used: " + e.fault
	case e.over:
		s.Error = "not used: " + faultOf(errBudget())
	}
	return s
}

// Troubles says what an operator should look at. It reads no database.
func (f *Federations) Troubles() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []string
	for _, name := range slices.Sorted(maps.Keys(f.entries)) {
		e := f.entries[name]
		switch s := e.status(); {
		case s.Error != "" && e.fault == "" && !e.over:
			out = append(out, fmt.Sprintf("the bundle of %s cannot be fetched: %s", name, s.Error))
		case s.Error != "":
			out = append(out, fmt.Sprintf("the federation with %s is %s", name, s.Error))
		case s.Empty:
			out = append(out, fmt.Sprintf("the bundle of %s has no key: none of its identities is trusted", name))
		}
	}
	return out
}

// Count is how many federations there are.
func (f *Federations) Count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.entries)
}

// List tells of every federation, by trust domain, as the store has it now.
func (f *Federations) List(ctx context.Context) ([]Status, error) {
	if err := f.Reload(ctx); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	out := make([]Status, 0, len(f.entries))
	for _, name := range slices.Sorted(maps.Keys(f.entries)) {
		out = append(out, f.entries[name].status())
	}
	return out, nil
}

func (f *Federations) status(name string) (Status, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	e, ok := f.entries[name]
	if !ok {
		return Status{}, fmt.Errorf("%w: there is no federation with %.100q", store.ErrNotFound, name)
	}
	return e.status(), nil
}

// Set begins to federate, or changes how. actor is who wants it, for the record. The
// checks, beside those of the relation and of its bundle (Parse):
//
//	federation_bundle  https_spiffe begins with a bundle of the endpoint's trust domain, one by hand has one
//	federation_count   at most MaxFederations
//	bundle_budget      all bundles together fit into what agents are sent
func (f *Federations) Set(ctx context.Context, r Relation, actor string) (Status, error) {
	checked, err := r.check(f.cfg.TrustDomain)
	if err != nil {
		return Status{}, err
	}
	var given *spiffebundle.Bundle
	if len(r.Bundle) > 0 {
		if given, _, err = Parse(checked.td, r.Bundle); err != nil {
			return Status{}, err
		}
	}
	f.storing.Lock()
	defer f.storing.Unlock()
	if err := f.Reload(ctx); err != nil {
		return Status{}, err
	}
	now := f.cfg.Now()
	row := store.Federation{
		TrustDomain: f.cfg.TrustDomain.Name(), Name: r.TrustDomain, Version: 1,
		URL: r.URL, Profile: string(r.Profile), EndpointID: r.EndpointID, WebRoots: r.WebRoots, SetAt: now, SetBy: storable(actor),
		NextAt: now,
	}
	f.mu.Lock()
	old, count := f.entries[r.TrustDomain], len(f.entries)
	f.mu.Unlock()
	switch {
	case old != nil:
		row.Version = old.row.Version + 1
		if old.bundle != nil && given == nil {
			given = old.bundle
			row.Bundle, row.FetchedAt, row.BundleServer, row.BundleSeal = old.row.Bundle, old.row.FetchedAt, old.row.BundleServer, old.row.BundleSeal
		}
	case count >= MaxFederations:
		return Status{}, refused("federation_count", fmt.Errorf("there are %d federations, and may be no more", count), "")
	}
	if err := f.needed(checked, given); err != nil {
		return Status{}, err
	}
	if len(r.Bundle) > 0 {
		row.Bundle, row.FetchedAt = r.Bundle, now
		if err := f.budget(row.Name, len(row.Bundle)); err != nil {
			return Status{}, err
		}
		if err := f.cfg.Seal.bundle(&row); err != nil {
			return Status{}, err
		}
	}
	if err := f.cfg.Seal.settings(&row); err != nil {
		return Status{}, err
	}
	if err := f.cfg.Store.PutFederation(ctx, row); err != nil {
		return Status{}, err
	}
	f.log.InfoContext(ctx, "federation set", "foreign_trust_domain", row.Name, "profile", row.Profile, "actor", actor)
	if err := f.Reload(ctx); err != nil {
		return Status{}, err
	}
	return f.status(row.Name)
}

// storable is text as every database gives it back: what is sealed must not change.
func storable(s string) string {
	const most = 256
	s = strings.ReplaceAll(strings.ToValidUTF8(s, "\ufffd"), "\x00", "\ufffd")
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "")
	}
	return s
}

// needed wants a bundle where there can be no other way to one.
func (f *Federations) needed(r *relation, given *spiffebundle.Bundle) error {
	const check = "federation_bundle"
	switch {
	case r.profile == ByHand && given == nil:
		return refused(check, errors.New("neither an endpoint nor a bundle"), "hand the bundle in, or name an endpoint")
	case r.profile != SPIFFE:
		return nil
	case r.endpoint.TrustDomain() == r.td:
		if given == nil || len(given.X509Authorities()) == 0 {
			return refused(check, errors.New("https_spiffe begins with a bundle: without one the endpoint cannot be told from another"), "get it on a way that you trust, and hand it in")
		}
	default:
		if _, err := f.source(r).GetX509BundleForTrustDomain(r.endpoint.TrustDomain()); err != nil {
			return refused(check, fmt.Errorf("the endpoint is of %s, whose bundle is not here", r.endpoint.TrustDomain()), "federate with that trust domain first")
		}
	}
	return nil
}

// budget keeps one foreign trust domain from taking the room of the others.
func (f *Federations) budget(name string, size int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for other, e := range f.entries {
		if other != name && e.served() != nil {
			size += len(e.row.Bundle)
		}
	}
	if size > maxTotal {
		return errBudget()
	}
	return nil
}

func errBudget() error {
	return refused("bundle_budget", fmt.Errorf("all foreign bundles together have more than %d bytes", maxTotal), "agents get them in one message")
}

// Delete ends a federation: its bundle is served no more. store.ErrNotFound.
func (f *Federations) Delete(ctx context.Context, name, actor string) error {
	if err := f.cfg.Store.DeleteFederation(ctx, f.cfg.TrustDomain.Name(), name); err != nil {
		return err
	}
	f.log.InfoContext(ctx, "federation removed", "foreign_trust_domain", name, "actor", actor)
	return f.Reload(ctx)
}

// source holds the bundle that an endpoint's SVID is checked with, and no other one:
// that of the SPIFFE ID's trust domain, the newest (SPIFFE Federation, section
// 5.2.2.4).
func (f *Federations) source(r *relation) x509bundle.Source {
	if r.profile != SPIFFE {
		return x509bundle.NewSet()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if e := f.entries[r.endpoint.TrustDomain().Name()]; e != nil && e.bundle != nil {
		return e.bundle.X509Bundle()
	}
	return x509bundle.NewSet()
}

// faultOf is an error as it is kept for the operator.
func faultOf(err error) string {
	s := shorten(err).Error()
	var e *attest.Error
	if errors.As(err, &e) && e.Hint != "" {
		s += " (" + e.Hint + ")"
	}
	return s
}
