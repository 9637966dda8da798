package keys

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"fmt"
	"io"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/issuer/keys/signerwire"
)

// remoteKey is a crypto.Signer whose key is in a signer. The public key is the
// one that was listed when it was asked for; a signature that does not verify
// under it is never returned, so that a signer which has been given another key
// under the same name is noticed before anybody else meets its signatures.
type remoteKey struct {
	remote  *Remote
	name    string
	purpose signerwire.Purpose
	pub     crypto.PublicKey
}

// Public implements crypto.Signer.
func (k *remoteKey) Public() crypto.PublicKey { return k.pub }

// Sign implements crypto.Signer. The signer draws its own randomness. Hashes are
// SHA-256, SHA-384 and SHA-512; Ed25519 signs the message itself, of at most
// [signerwire.MaxMessage] bytes; RSA signs as PKCS #1 v1.5, or as PSS with a
// salt as long as the hash.
func (k *remoteKey) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	req, err := k.request(digest, opts)
	if err != nil {
		return nil, err
	}
	m, err := k.remote.ask(context.Background(), req)
	if err != nil {
		return nil, err
	}
	sig, ok := m.(signerwire.Signature)
	if !ok {
		return nil, unexpected(m)
	}
	if err := req.Verify(k.pub, sig.Bytes); err != nil {
		return nil, err
	}
	return sig.Bytes, nil
}

func (k *remoteKey) request(input []byte, opts crypto.SignerOpts) (signerwire.Sign, error) {
	req := signerwire.Sign{Key: k.name, Purpose: k.purpose, Input: input}
	if opts == nil {
		return req, cannot(fmt.Errorf("no options: which hash?"))
	}
	var err error
	if req.Hash, err = signerwire.HashOf(opts.HashFunc()); err != nil {
		return req, err
	}
	switch k.pub.(type) {
	case *ecdsa.PublicKey:
		req.Scheme = signerwire.ECDSA
	case *rsa.PublicKey:
		req.Scheme = signerwire.PKCS1
		if pss, ok := opts.(*rsa.PSSOptions); ok {
			req.Scheme = signerwire.PSS
			// With Auto, Go's own signer takes the longest salt that fits; a
			// verifier that finds the length out by itself takes ours too.
			if n := pss.SaltLength; n != rsa.PSSSaltLengthAuto && n != rsa.PSSSaltLengthEqualsHash && n != opts.HashFunc().Size() {
				return req, cannot(fmt.Errorf("a PSS salt of %d bytes: it is as long as the hash", n))
			}
		}
	case ed25519.PublicKey:
		req.Scheme = signerwire.Ed25519
		if o, ok := opts.(*ed25519.Options); ok && o.Context != "" {
			return req, cannot(fmt.Errorf("a context for Ed25519"))
		}
	}
	return req, nil
}

func cannot(err error) error {
	return &attest.Error{Kind: attest.Internal, Check: "signer_options", Err: fmt.Errorf("the signer cannot sign with %w", err)}
}
