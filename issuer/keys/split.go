package keys

import (
	"context"
	"crypto"
	"encoding/hex"
	"errors"
	"io/fs"
	"slices"
	"strings"

	"github.com/assay-project/assay/issuer/keys/signerwire"
)

// Split is a [Ring] in two places: the keys of authorities are a signer's, and
// all others (those of the roots, which can be taken offline, and that of the
// ledger's checkpoints) are files. An authority's key is known by its name: the
// prefix of its use, and 16 hex digits.
//
// A trust domain that began with files goes on with them until their authorities
// retire: Get looks for a key that the signer does not list among the files. But
// Names lists none of those, so that no file becomes a new authority.
type Split struct {
	files  *Dir
	signer *Remote
}

var _ Ring = (*Split)(nil)

// NewSplit returns the ring of that signer and these files.
func NewSplit(signer *Remote, files *Dir) *Split { return &Split{files, signer} }

// routes are the purposes that the keys of authorities are held for.
var routes = []struct {
	prefix  string
	purpose signerwire.Purpose
}{
	{"x509-ca-", signerwire.X509Authority},
	{"jwt-", signerwire.JWT},
	{"verifier-", signerwire.Verifier},
	{"deny-list-", signerwire.DenyList},
}

// PurposeOf says what an authority's key of that name signs, and false for every
// other key: "verifier-0011223344556677" is one, "verifier-root" is not.
func PurposeOf(name string) (signerwire.Purpose, bool) {
	for _, r := range routes {
		if id, ok := strings.CutPrefix(name, r.prefix); ok && len(id) == 16 && strings.ToLower(id) == id {
			if _, err := hex.DecodeString(id); err == nil {
				return r.purpose, true
			}
		}
	}
	return "", false
}

// Get returns the key of that name: an authority's from the signer, or the file
// where the signer does not list it.
func (s *Split) Get(ctx context.Context, name string) (crypto.Signer, error) {
	purpose, ok := PurposeOf(name)
	if !ok {
		return s.files.Get(ctx, name)
	}
	key, err := s.signer.For(purpose).Get(ctx, name)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	old, ferr := s.files.Get(ctx, name)
	if errors.Is(ferr, fs.ErrNotExist) {
		return nil, err // the signer's says what to do
	}
	return old, ferr
}

// Create makes a file; an authority's key it cannot make: see [Remote.For].
func (s *Split) Create(ctx context.Context, name string, alg Algorithm) (crypto.Signer, error) {
	if purpose, ok := PurposeOf(name); ok {
		return s.signer.For(purpose).Create(ctx, name, alg)
	}
	return s.files.Create(ctx, name, alg)
}

// Names lists the signer's keys of authorities, and the files of all others. A
// purpose for which the signer holds nothing that this process may use has none.
func (s *Split) Names(ctx context.Context) ([]string, error) {
	list, err := s.signer.List(ctx)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, k := range list {
		if p, ok := PurposeOf(k.Name); ok && slices.Contains(k.Purposes, p) {
			out = append(out, k.Name)
		}
	}
	names, err := s.files.Names(ctx)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if _, ok := PurposeOf(name); !ok {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out, nil
}

// Sweep removes what a crash left among the files: see [Dir.Sweep].
func (s *Split) Sweep() error { return s.files.Sweep() }
