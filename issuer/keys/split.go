package keys

import (
	"context"
	"crypto"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io/fs"
	"slices"
	"strings"

	"github.com/assay-project/assay/issuer/keys/signerwire"
)

// Split is a [Ring] in two places: the keys of authorities are where a
// configuration says, usually a signer's, and all others (those of the roots,
// which can be taken offline, and that of the ledger's checkpoints) are files. An
// authority's key is known by its name: the prefix of its use, and 16 hex digits.
//
// A trust domain that began with files goes on with them until their authorities
// retire: Get looks among the files for a key that is not elsewhere. But Names
// lists none of those, so that no file becomes a new authority.
type Split struct {
	files *Dir
	of    map[signerwire.Purpose]Ring
}

var _ Ring = (*Split)(nil)

// NewSplit returns the ring of the authorities' keys at that location and of these
// files. A signer is asked only when a key is.
func NewSplit(l Location, files *Dir) (*Split, error) {
	s := &Split{files, map[signerwire.Purpose]Ring{}}
	if l.Socket != "" {
		signer, err := NewRemote(l.Socket)
		if err != nil {
			return nil, err
		}
		for _, r := range routes {
			s.of[r.purpose] = signer.For(r.purpose)
		}
		return s, nil
	}
	dir, err := OpenDir(l.Dir)
	if err != nil {
		return nil, err
	}
	for _, r := range routes {
		s.of[r.purpose] = dir
	}
	return s, nil
}

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

// DrawName draws a name for an authority's key of that purpose; false for a purpose
// that is no authority's.
func DrawName(purpose signerwire.Purpose) (string, bool) {
	for _, r := range routes {
		if r.purpose == purpose {
			var id [8]byte
			_, _ = rand.Read(id[:]) // crypto/rand.Read never fails (Go 1.24)
			return r.prefix + hex.EncodeToString(id[:]), true
		}
	}
	return "", false
}

// Get returns the key of that name: an authority's from where they are, or the
// file where it is not listed there.
func (s *Split) Get(ctx context.Context, name string) (crypto.Signer, error) {
	purpose, ok := PurposeOf(name)
	if !ok {
		return s.files.Get(ctx, name)
	}
	key, err := s.of[purpose].Get(ctx, name)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	old, ferr := s.files.Get(ctx, name)
	if errors.Is(ferr, fs.ErrNotExist) {
		return nil, err // this one says what to do
	}
	return old, ferr
}

// Create makes a key where it belongs. A signer makes none: see [Remote.For].
func (s *Split) Create(ctx context.Context, name string, alg Algorithm) (crypto.Signer, error) {
	if purpose, ok := PurposeOf(name); ok {
		return s.of[purpose].Create(ctx, name, alg)
	}
	return s.files.Create(ctx, name, alg)
}

// Names lists the authorities' keys where they are, each held for the purpose of
// its name, and the files of all others.
func (s *Split) Names(ctx context.Context) ([]string, error) {
	var out []string
	for _, r := range routes {
		names, err := s.of[r.purpose].Names(ctx)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			if p, ok := PurposeOf(name); ok && p == r.purpose {
				out = append(out, name)
			}
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

// Sweep removes what a crash left among files: see [Dir.Sweep].
func (s *Split) Sweep() error {
	for _, r := range s.of {
		if dir, ok := r.(*Dir); ok && dir.path != s.files.path {
			if err := dir.Sweep(); err != nil {
				return err
			}
		}
	}
	return s.files.Sweep()
}
