package svid

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/attest"
)

// VerifierKeysSource yields the verifier keys of a trust domain. They must come
// from documents that were verified against a pinned verifier root, never from
// a certificate chain, an SPIFFE bundle or a result.
type VerifierKeysSource interface {
	// VerifierKeys returns the keys, or an error for a trust domain whose
	// verifier root is not pinned. It is called for every verification.
	VerifierKeys(spiffeid.TrustDomain) (*VerifierKeys, error)
}

// Source is what a relying party trusts: X.509 authorities and verifier keys,
// each by trust domain.
type Source interface {
	x509bundle.Source
	VerifierKeysSource
}

// NewSource joins X.509 bundles (a file, or go-spiffe's workloadapi.X509Source)
// and verifier keys that do not change while the program runs. It remembers
// which results carried a good signature, and which chains ended in which
// authorities, so that these signatures are verified once; every other check is
// made every time.
func NewSource(bundles x509bundle.Source, keys ...*VerifierKeys) Source {
	set := make(fixedKeys, len(keys))
	for _, k := range keys {
		if k != nil {
			set[k.TrustDomain] = k
		}
	}
	return NewLiveSource(bundles, set)
}

// NewLiveSource is NewSource with keys that are replaced while the program
// runs: a [*Keyring], or several in [Keyrings].
func NewLiveSource(bundles x509bundle.Source, keys VerifierKeysSource) Source {
	return &source{bundles: bundles, keys: keys, seen: newSignatures(defaultSignatures), paths: newMemory[[]window](defaultChains)}
}

type source struct {
	bundles x509bundle.Source
	keys    VerifierKeysSource
	seen    *signatures
	paths   *chains
}

func (s *source) GetX509BundleForTrustDomain(td spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	if s.bundles == nil {
		return nil, errors.New("no source of X.509 bundles")
	}
	return s.bundles.GetX509BundleForTrustDomain(td)
}

func (s *source) VerifierKeys(td spiffeid.TrustDomain) (*VerifierKeys, error) {
	if s.keys == nil {
		return nil, errNoKeys
	}
	return s.keys.VerifierKeys(td)
}

func (s *source) signatures() *signatures { return s.seen }

func (s *source) chains() *chains { return s.paths }

type fixedKeys map[spiffeid.TrustDomain]*VerifierKeys

func (f fixedKeys) VerifierKeys(td spiffeid.TrustDomain) (*VerifierKeys, error) {
	if k, ok := f[td]; ok {
		return k, nil
	}
	return nil, errNoKeys
}

var errNoKeys = errors.New("no verifier keys for this trust domain")

// Keyrings is several trust domains' keyrings as one source.
type Keyrings []*Keyring

// VerifierKeys implements [VerifierKeysSource].
func (ks Keyrings) VerifierKeys(td spiffeid.TrustDomain) (*VerifierKeys, error) {
	for _, k := range ks {
		if k != nil && k.td == td {
			return k.VerifierKeys(td)
		}
	}
	return nil, errNoKeys
}

// Keyring holds the newest verifier-keys document of one trust domain. It
// replaces it only by one of the same root and trust domain with a higher
// sequence, so that nobody can bring back a key that was withdrawn.
type Keyring struct {
	// Now is the clock of Run and RunURL, set before either; nil is time.Now. Inside
	// of a TEE that is the host's clock, and the host may be the adversary.
	Now func() time.Time

	td   spiffeid.TrustDomain
	root crypto.PublicKey

	mu   sync.RWMutex
	doc  []byte
	keys *VerifierKeys
}

// NewKeyring makes an empty keyring under a pinned verifier root.
func NewKeyring(td spiffeid.TrustDomain, root crypto.PublicKey) (*Keyring, error) {
	if td.IsZero() {
		return nil, fail(attest.Malformed, "verifier_root", "no trust domain")
	}
	if _, err := p256(root); err != nil {
		return nil, fail(attest.Malformed, "verifier_root", "%w", err)
	}
	return &Keyring{td: td, root: root}, nil
}

// VerifierKeys implements [VerifierKeysSource]. Check verifier_keys: there are some
// of the keyring's trust domain (Unavailable: there are none yet).
func (k *Keyring) VerifierKeys(td spiffeid.TrustDomain) (*VerifierKeys, error) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	switch {
	case td != k.td:
		return nil, errNoKeys
	case k.keys == nil:
		err := fail(attest.Unavailable, "verifier_keys", "there are no verifier keys of %s yet", td)
		err.Hint = "fetch their document, or name the file that holds it"
		return nil, err
	}
	return k.keys, nil
}

// Sequence is that of the document held, and 0 while there is none. A program
// that restarts keeps the document's bytes, and hands them to Update first.
func (k *Keyring) Sequence() uint64 {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if k.keys == nil {
		return 0
	}
	return k.keys.Sequence
}

// Document is the document that is held, as it was received, or nil: see Sequence.
func (k *Keyring) Document() []byte {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return bytes.Clone(k.doc)
}

// Update verifies a document and, if it is newer, takes it over. The very same
// document again is no error. Beside the checks of [ParseVerifierKeys]:
//
//	verifier_keys_domain    Untrusted: of the keyring's trust domain
//	verifier_keys_rollback  Stale: of a higher sequence than the one held
func (k *Keyring) Update(doc []byte, at time.Time) error {
	keys, err := ParseVerifierKeys(doc, k.root, at)
	if err != nil {
		return err
	}
	if keys.TrustDomain != k.td {
		return mismatch(attest.Untrusted, "verifier_keys_domain", "the document is for another trust domain", k.td.Name(), keys.TrustDomain.Name())
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.keys != nil && keys.Sequence <= k.keys.Sequence {
		if keys.Sequence == k.keys.Sequence && bytes.Equal(doc, k.doc) {
			return nil
		}
		return fail(attest.Stale, "verifier_keys_rollback", "sequence %d is not newer than %d, which is held", keys.Sequence, k.keys.Sequence)
	}
	k.keys, k.doc = keys, bytes.Clone(doc)
	return nil
}

// UpdateFile is Update with the content of a file.
func (k *Keyring) UpdateFile(path string, at time.Time) error {
	doc, err := readFile(path)
	if err != nil {
		return &attest.Error{Kind: attest.Unavailable, Check: "verifier_keys_file", Err: err}
	}
	return k.Update(doc, at)
}

// Run reads the file at once and then again and again until the context ends, and
// returns nil then. An error is logged (log nil: it is not), and the document held
// stays until it expires. While none is held, it is tried more often.
func (k *Keyring) Run(ctx context.Context, path string, every time.Duration, log *slog.Logger) error {
	if every <= 0 {
		return fail(attest.Internal, "verifier_keys_file", "an interval of %s", every)
	}
	follow(ctx, every, log, "verifier keys not updated", []any{"file", path, "trust_domain", k.td.Name()}, k.holds, func(ctx context.Context) error {
		return k.UpdateFile(path, k.now())
	})
	return nil
}

func (k *Keyring) now() time.Time {
	if k.Now != nil {
		return k.Now()
	}
	return time.Now()
}

// holds reports whether there is a document.
func (k *Keyring) holds() bool { return k.Sequence() > 0 }

// readFile reads at most one byte more than a document may have.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return io.ReadAll(io.LimitReader(f, MaxVerifierKeysSize+1))
}
