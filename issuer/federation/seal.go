package federation

import (
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/assay-project/assay/issuer/store"
)

// Seal signs what this server stores of federations, and checks what other servers
// of the trust domain stored: who can write the database must not be able to name a
// foreign authority. (They can still delete a federation, or bring back a bundle
// that was sealed once: docs/guides/federation.md.)
type Seal struct {
	Server string        // this server's name
	Key    crypto.Signer // its checkpoint key, Ed25519
	// Member returns the checkpoint key of another server of the trust domain. nil:
	// this server is the only one.
	Member func(server string) (ed25519.PublicKey, bool)
}

// The tags keep a seal from being taken for anything else that the key signs.
const (
	tagSettings = "assay/v1 federation"
	tagBundle   = "assay/v1 federated bundle"
)

// settings is what is sealed of what an operator set.
func settings(f *store.Federation) ([]byte, error) {
	return message(tagSettings, f.TrustDomain, f.Name, f.URL, f.Profile, f.EndpointID, digest(f.WebRoots), micros(f.SetAt), f.SetBy, f.SetServer)
}

// bundleOf is what is sealed of a bundle.
func bundleOf(f *store.Federation) ([]byte, error) {
	return message(tagBundle, f.TrustDomain, f.Name, digest(f.Bundle), micros(f.FetchedAt), f.BundleServer)
}

func digest(b []byte) []byte {
	sum := sha256.Sum256(b)
	return sum[:]
}

// micros is a time as the store keeps it.
func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

// message encodes the parts, in order (RFC 8949, section 4.2.1).
func message(parts ...any) ([]byte, error) {
	mode, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		return nil, err
	}
	return mode.Marshal(parts)
}

// settings seals what was set, as done by this server.
func (s Seal) settings(f *store.Federation) (err error) {
	f.SetServer = s.Server
	f.SetSeal, err = s.sign(settings(f))
	return err
}

// bundle seals a bundle, as got by this server.
func (s Seal) bundle(f *store.Federation) (err error) {
	f.BundleServer = s.Server
	f.BundleSeal, err = s.sign(bundleOf(f))
	return err
}

func (s Seal) sign(m []byte, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	return s.Key.Sign(nil, m, crypto.Hash(0))
}

// check checks the seals of a row.
func (s Seal) check(f *store.Federation) error {
	if err := s.verify(f.SetServer, f.SetSeal)(settings(f)); err != nil {
		return fmt.Errorf("what was set: %w", err)
	}
	if len(f.Bundle) == 0 {
		return nil
	}
	if err := s.verify(f.BundleServer, f.BundleSeal)(bundleOf(f)); err != nil {
		return fmt.Errorf("the bundle: %w", err)
	}
	return nil
}

func (s Seal) verify(server string, seal []byte) func(m []byte, err error) error {
	return func(m []byte, err error) error {
		if err != nil {
			return err
		}
		key, ok := s.Key.Public().(ed25519.PublicKey)
		if server != s.Server {
			if ok = false; s.Member != nil {
				key, ok = s.Member(server)
			}
		}
		switch {
		case !ok || len(key) != ed25519.PublicKeySize:
			return fmt.Errorf("server %.64q is no member of this trust domain", server)
		case !ed25519.Verify(key, m, seal):
			return errors.New("the seal does not verify")
		}
		return nil
	}
}
