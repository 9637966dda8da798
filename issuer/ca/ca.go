package ca

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/issuer/keys"
	"github.com/assay-project/assay/issuer/ledger"
	"github.com/assay-project/assay/issuer/store"
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
	JWTTTL         time.Duration // of a new JWT authority: 30 days
	VerifierKeyTTL time.Duration // of a new verifier key, and deny-list key: 1 year
	// Propagation is how long an authority is published before it signs: 24 hours.
	Propagation time.Duration
	MaxTokenTTL time.Duration // the longest life of a JWT-SVID: 1 hour
	DocumentTTL time.Duration // until a document of the verifier root must be renewed: 30 days, and at least four propagation times
	ServerTTL   time.Duration // of the server's TLS certificate: 7 days
	Backdate    time.Duration // of an SVID's NotBefore, for clocks that are behind: 30 s
	RefreshHint time.Duration // how often relying parties should fetch the bundle: 5 minutes
	// NameConstraints has X.509 authorities permit URIs of this trust domain alone.
	NameConstraints bool
	// Upstream is the CA above the X.509 authorities; nil makes them self-signed.
	Upstream *Upstream
}

// CA signs for one trust domain. It is safe for concurrent use.
type CA struct {
	cfg Config
	log *slog.Logger
	td  spiffeid.TrustDomain

	bootstrapRoot *x509.Certificate
	verifierRoot  *ecdsa.PublicKey
	checkpoint    crypto.Signer // signs the rows of this server's authorities
	reading       bool          // Check: nothing is written
	restored      time.Time     // when the database was put back to an older state

	now          atomic.Pointer[snapshot]
	document     atomic.Pointer[document] // the verifier keys
	denyListKeys atomic.Pointer[document]
	server       atomic.Pointer[tls.Certificate]
	endpoint     atomic.Pointer[endpointCertificate]
	warnings     atomic.Pointer[[]string]
	loaded       atomic.Int64 // when the database was read last, Unix nanoseconds

	listeners []func(Change)
	telling   sync.Mutex // one Change is told at a time
	kick      chan struct{}

	// maintenance lets one change be made at a time, and guards what follows.
	maintenance sync.Mutex
	signers     map[string]crypto.Signer // by key name
	usages      map[string]*usage        // likewise
	verified    map[[32]byte]bool        // signatures of rows
	read        map[authorityKey]*authority
	heard       map[statement]store.AuthorityChange // by anybody, that trust is withdrawn; by this server, what it says of its own
	mine        map[authorityKey]store.Authority    // verified rows of this server
	used        *usedKeys
	untold      Change
}

// Open loads the trust domain's authorities, and makes them at the first start.
// It does what is due in their lives, and renews the verifier-keys document and
// the server's certificate where the roots' keys are there. A server that joins
// others opens before its authorities can sign: see [CA.Ready]. The checks, beside
// those of load, the documents and the server's certificate:
//
//	init_trust_domain  the name is one, and of the right kind
//	trust_domain       the database serves this trust domain
//	trust_domain_kind  the verifiers' roots are of the kind that it is for life
//	authority_ttl      an authority lives longer than three propagation times
//	authority_missing  entries in the ledger, and no authority that signed them
func Open(ctx context.Context, c Config) (*CA, error) { return openAt(ctx, c, noStop) }

func openAt(ctx context.Context, cfg Config, at stops) (*CA, error) {
	c, err := prepare(ctx, cfg)
	if err != nil {
		return nil, err
	}
	// What a crash left of a private key that was being written: nobody else
	// writes there, since the data directory is ours alone.
	if dir, ok := c.cfg.Keys.(interface{ Sweep() error }); ok {
		if err := dir.Sweep(); err != nil {
			return nil, err
		}
	}
	if err := c.endorseSelf(ctx); err != nil {
		return nil, err
	}
	if err := at("endorsed"); err != nil {
		return nil, err
	}
	if err := c.signOld(ctx, at); err != nil {
		return nil, err
	}
	if err := c.maintain(ctx, at); err != nil {
		return nil, err
	}
	c.untold = Change{}
	return c, nil
}

func (cfg *Config) defaults() error {
	if cfg.Keys == nil || cfg.Store == nil || cfg.Now == nil || cfg.DataDir == "" {
		return errors.New("ca: Config.Keys, Store, Now and DataDir are required")
	}
	const day = 24 * time.Hour
	def(&cfg.Log, slog.New(slog.DiscardHandler))
	def(&cfg.Chain, ledger.MainChain)
	def(&cfg.Propagation, day)
	def(&cfg.AuthorityTTL, 365*day)
	def(&cfg.JWTTTL, 30*day)
	def(&cfg.VerifierKeyTTL, 365*day)
	def(&cfg.MaxTokenTTL, time.Hour)
	def(&cfg.DocumentTTL, max(30*day, 4*cfg.Propagation))
	def(&cfg.ServerTTL, 7*day)
	def(&cfg.Backdate, 30*time.Second)
	def(&cfg.RefreshHint, 5*time.Minute)
	if cfg.Backdate < 0 || cfg.Backdate > maxBackdate {
		return fmt.Errorf("ca: Config.Backdate is %v, want 0 to %v", cfg.Backdate, maxBackdate)
	}
	for name, ttl := range map[string]time.Duration{"x509_ttl": cfg.AuthorityTTL, "jwt_ttl": cfg.JWTTTL, "verifier_ttl": cfg.VerifierKeyTTL} {
		if cfg.Propagation < 0 || ttl <= 3*cfg.Propagation {
			return fault("authority_ttl", fmt.Errorf("authorities.%s is %v, and authorities.propagation %v", name, ttl, cfg.Propagation),
				"an authority lives more than three times the propagation time: its successor is published at half of its life, and signs that much later")
		}
	}
	return nil
}

// prepare checks what Open and Check both need: the trust domain, and the roots'
// public files.
func prepare(ctx context.Context, cfg Config) (*CA, error) {
	if err := cfg.defaults(); err != nil {
		return nil, err
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
	c := &CA{
		cfg: cfg, log: cfg.Log, td: td, kick: make(chan struct{}, 1),
		signers: map[string]crypto.Signer{}, usages: map[string]*usage{}, verified: map[[32]byte]bool{}, read: map[authorityKey]*authority{}, heard: map[statement]store.AuthorityChange{}, mine: map[authorityKey]store.Authority{},
	}
	if c.bootstrapRoot, err = readCertificate(filepath.Join(cfg.DataDir, bootstrapRootFile)); err != nil {
		return nil, err
	}
	if c.verifierRoot, err = readPublicKey(filepath.Join(cfg.DataDir, verifierRootFile)); err != nil {
		return nil, err
	}
	if c.checkpoint, err = CheckpointSigner(ctx, cfg.Keys); err != nil {
		return nil, err
	}
	if c.used, err = readUsed(cfg.DataDir); err != nil {
		return nil, err
	}
	if c.restored, err = readRestored(cfg.DataDir); err != nil {
		return nil, err
	}
	return c, nil
}

// TrustDomain is the trust domain that the CA signs for.
func (c *CA) TrustDomain() spiffeid.TrustDomain { return c.td }

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

// Status tells what the CA holds and until when. It reads no database. Of an
// authority that signs nothing yet it tells of the one that will.
func (c *CA) Status() Status {
	s := Status{BootstrapNotAfter: c.bootstrapRoot.NotAfter, Warnings: []string{}}
	known, now := c.now.Load(), c.cfg.Now()
	if a := c.present(known, store.X509, now); a != nil {
		s.AuthorityID, s.AuthorityNotAfter = a.row.ID, a.row.NotAfter
	}
	if a := c.present(known, store.Verifier, now); a != nil {
		s.VerifierID, s.VerifierNotAfter = a.row.ID, a.row.NotAfter
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

// present is the authority that signs, or the newest of this server.
func (c *CA) present(s *snapshot, use store.Use, now time.Time) *authority {
	if a := s.pick(use, c.cfg.Chain, now); a != nil {
		return a
	}
	for _, a := range slices.Backward(s.all) {
		if a.row.Use == use && a.row.Server == c.cfg.Chain && !a.condemned() {
			return a
		}
	}
	return nil
}

func def[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}
