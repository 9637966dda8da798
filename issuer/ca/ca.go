package ca

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/issuer/keys"
	"github.com/assay-project/assay/issuer/ledger"
	"github.com/assay-project/assay/issuer/store"
	"github.com/assay-project/assay/svid"
)

// authorityBackdate is how long before its making an authority is valid, so that
// it covers the backdate of everything it signs.
const authorityBackdate = 10 * time.Minute

// maxBackdate bounds Config.Backdate: a relying party whose clock is behind by
// more has other troubles.
const maxBackdate = 5 * time.Minute

// ResultKeeper stores SVIDs as issued, best effort, and never blocks:
// *ledger.Ledger.
type ResultKeeper interface {
	KeepCertificate(serial [16]byte, der []byte)
}

// Config says what to open. TrustDomain, DataDir, Keys, Store and Now are
// required; other zero fields take their defaults.
type Config struct {
	TrustDomain string
	Simulated   bool   // what the verifiers' roots are; compared with what the database says
	Chain       string // the server's name: ledger.MainChain
	DataDir     string // of the public files and the server's TLS certificate
	Keys        keys.Ring
	Store       store.Store
	Results     ResultKeeper // nil keeps none
	Now         func() time.Time
	Log         *slog.Logger

	AuthorityTTL   time.Duration // of a new X.509 authority: 1 year
	VerifierKeyTTL time.Duration // of a new verifier key: 1 year
	DocumentTTL    time.Duration // until the verifier-keys document must be renewed: 30 days
	ServerTTL      time.Duration // of the server's TLS certificate: 7 days
	Backdate       time.Duration // of an SVID's NotBefore, for clocks that are behind: 30 s
	RefreshHint    time.Duration // how often relying parties should fetch the bundle: 5 minutes
}

// CA signs for one trust domain. It is safe for concurrent use.
type CA struct {
	cfg Config
	log *slog.Logger
	td  spiffeid.TrustDomain

	x509     *authority
	verifier *authority

	bootstrapRoot *x509.Certificate
	verifierRoot  *ecdsa.PublicKey
	bundle        *spiffebundle.Bundle

	maintenance sync.Mutex // one renewal at a time
	document    atomic.Pointer[document]
	server      atomic.Pointer[tls.Certificate]
	warnings    atomic.Pointer[[]string]
}

// Open loads the trust domain's authorities, and makes them at the first start.
// It renews the verifier-keys document and the server's certificate where they
// are due and the roots' keys are there. The checks, beside those of
// loadAuthority, the document and the server's certificate:
//
//	init_trust_domain  the name is one, and of the right kind
//	trust_domain       the database serves this trust domain
//	trust_domain_kind  the verifiers' roots are of the kind that it is for life
func Open(ctx context.Context, c Config) (*CA, error) { return openAt(ctx, c, noStop) }

func openAt(ctx context.Context, cfg Config, at stops) (*CA, error) {
	if cfg.Keys == nil || cfg.Store == nil || cfg.Now == nil || cfg.DataDir == "" {
		return nil, errors.New("ca: Config.Keys, Store, Now and DataDir are required")
	}
	def(&cfg.Chain, ledger.MainChain)
	def(&cfg.AuthorityTTL, 365*24*time.Hour)
	def(&cfg.VerifierKeyTTL, 365*24*time.Hour)
	def(&cfg.DocumentTTL, 30*24*time.Hour)
	def(&cfg.ServerTTL, 7*24*time.Hour)
	def(&cfg.Backdate, 30*time.Second)
	def(&cfg.RefreshHint, 5*time.Minute)
	if cfg.Backdate < 0 || cfg.Backdate > maxBackdate {
		return nil, fmt.Errorf("ca: Config.Backdate is %v, want 0 to %v", cfg.Backdate, maxBackdate)
	}
	c, err := prepare(ctx, cfg)
	if err != nil {
		return nil, err
	}
	// What a crash left of a private key that was being written: nobody else
	// writes there, since the store is ours alone.
	if dir, ok := cfg.Keys.(interface{ Sweep() error }); ok {
		if err := dir.Sweep(); err != nil {
			return nil, err
		}
	}
	if c.x509, err = c.loadAuthority(ctx, store.X509, at); err != nil {
		return nil, err
	}
	if c.verifier, err = c.loadAuthority(ctx, store.Verifier, at); err != nil {
		return nil, err
	}
	if err := c.loadBundle(ctx); err != nil {
		return nil, err
	}
	if err := c.maintain(ctx, at); err != nil {
		return nil, err
	}
	return c, nil
}

// prepare checks what Open and Check both need: the trust domain, and the roots'
// public files.
func prepare(ctx context.Context, cfg Config) (*CA, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	row, err := cfg.Store.TrustDomain(ctx, cfg.TrustDomain)
	if errors.Is(err, store.ErrNotFound) {
		return nil, fault("trust_domain", fmt.Errorf("the database does not serve %s", cfg.TrustDomain),
			"check trust_domain and the data directory in the configuration; 'assayd init' creates a trust domain")
	}
	if err != nil {
		return nil, err
	}
	if row.Simulated != cfg.Simulated {
		return nil, fault("trust_domain_kind", fmt.Errorf("trust domain %s is simulated: %t, the verifiers' roots are simulated: %t", row.Name, row.Simulated, cfg.Simulated),
			"a trust domain is hardware or simulated for life: configure the other roots, or another trust domain")
	}
	td, err := checkTrustDomain(cfg.TrustDomain, cfg.Simulated)
	if err != nil {
		return nil, err
	}
	c := &CA{cfg: cfg, log: cfg.Log, td: td}
	if c.bootstrapRoot, err = readCertificate(filepath.Join(cfg.DataDir, bootstrapRootFile)); err != nil {
		return nil, err
	}
	if c.verifierRoot, err = readPublicKey(filepath.Join(cfg.DataDir, verifierRootFile)); err != nil {
		return nil, err
	}
	return c, nil
}

// loadBundle collects the X.509 authorities that relying parties accept: those
// whose keys are here (authorities).
func (c *CA) loadBundle(ctx context.Context) error {
	all, err := c.authorities(ctx, store.X509)
	if err != nil {
		return err
	}
	b := spiffebundle.New(c.td)
	for _, a := range all {
		if c.cfg.Now().Before(a.cert.NotAfter) {
			b.AddX509Authority(a.cert)
		}
	}
	td, err := c.cfg.Store.TrustDomain(ctx, c.td.Name())
	if err != nil {
		return err
	}
	b.SetSequenceNumber(td.BundleSequence)
	b.SetRefreshHint(c.cfg.RefreshHint)
	c.bundle = b
	return nil
}

// TrustDomain is the trust domain that the CA signs for.
func (c *CA) TrustDomain() spiffeid.TrustDomain { return c.td }

// Bundle is what relying parties check SVIDs with: the X.509 authorities, with
// sequence number and refresh hint. The caller owns it.
func (c *CA) Bundle() *spiffebundle.Bundle { return c.bundle.Clone() }

// VerifierKeysDocument is the signed document of verifier keys
// (docs/spec/verifier-keys.md).
func (c *CA) VerifierKeysDocument() []byte { return c.document.Load().signed }

// VerifierKeys is its content.
func (c *CA) VerifierKeys() *svid.VerifierKeys {
	k := *c.document.Load().keys
	return &k
}

// Run renews the verifier-keys document and the server's certificate when they
// are due, and returns nil when ctx ends. What it cannot renew it warns of, and
// tries again.
func (c *CA) Run(ctx context.Context) error {
	const interval = 10 * time.Minute
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := c.maintain(ctx, noStop); err != nil && ctx.Err() == nil {
				c.log.Error("ca: renewal failed", slog.Any("error", err))
			}
		}
	}
}

// maintain renews what is due. An error means that something is missing that
// the server cannot do without.
func (c *CA) maintain(ctx context.Context, at stops) error {
	c.maintenance.Lock()
	defer c.maintenance.Unlock()
	var warnings []string
	warn := func(format string, args ...any) {
		w := fmt.Sprintf(format, args...)
		warnings = append(warnings, w)
		c.log.Warn("ca: " + w)
	}
	err := errors.Join(c.renewDocument(ctx, at, warn), c.renewServer(ctx, at, warn))
	now := c.cfg.Now()
	for _, a := range []*authority{c.x509, c.verifier} {
		if left := a.row.NotAfter.Sub(now); left < a.row.NotAfter.Sub(a.row.NotBefore)/4 {
			warn("the %s authority %s ends at %s; SVIDs end with it", a.row.Use, a.row.ID, a.row.NotAfter.Format(time.RFC3339))
		}
	}
	if err != nil {
		warnings = append(warnings, err.Error())
	}
	c.warnings.Store(&warnings)
	return err
}

// Status is what an operator asks about the CA.
type Status struct {
	AuthorityID        string    `json:"authority_id"`
	AuthorityNotAfter  time.Time `json:"authority_not_after"`
	VerifierID         string    `json:"verifier_id"`
	VerifierNotAfter   time.Time `json:"verifier_not_after"`
	DocumentSequence   uint64    `json:"verifier_keys_sequence"`
	DocumentNextUpdate time.Time `json:"verifier_keys_next_update"`
	ServerNotAfter     time.Time `json:"server_certificate_not_after"`
	BootstrapNotAfter  time.Time `json:"bootstrap_root_not_after"`
	// Warnings say what needs an operator; empty when all is well.
	Warnings []string `json:"warnings"`
}

// Status tells what the CA holds and until when. It reads no database.
func (c *CA) Status() Status {
	s := Status{
		AuthorityID: c.x509.row.ID, AuthorityNotAfter: c.x509.row.NotAfter,
		VerifierID: c.verifier.row.ID, VerifierNotAfter: c.verifier.row.NotAfter,
		BootstrapNotAfter: c.bootstrapRoot.NotAfter, Warnings: []string{},
	}
	if d := c.document.Load(); d != nil {
		s.DocumentSequence, s.DocumentNextUpdate = d.keys.Sequence, d.keys.NextUpdate
	}
	if cert := c.server.Load(); cert != nil {
		s.ServerNotAfter = cert.Leaf.NotAfter
	}
	if w := c.warnings.Load(); w != nil {
		s.Warnings = append(s.Warnings, *w...)
	}
	return s
}

func def[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}
