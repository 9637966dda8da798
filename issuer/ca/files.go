package ca

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/issuer/keys"
)

// Names of keys in the ring, and of files in the data directory.
const (
	bootstrapRootKey = "bootstrap-root"
	verifierRootKey  = "verifier-root"
	checkpointKey    = "checkpoint"
	x509Prefix       = "x509-ca-"
	verifierPrefix   = "verifier-"
	jwtPrefix        = "jwt-"
	denyListPrefix   = "deny-list-"

	databaseFile      = "assay.db"
	keysDir           = "keys"
	bootstrapRootFile = "bootstrap-root.pem"
	verifierRootFile  = "verifier-root.pem"
	checkpointFile    = "checkpoint.pub"
	serverFile        = "server.pem" // in keysDir: it holds a private key
)

// DatabasePath is the database in a data directory.
func DatabasePath(dataDir string) string { return filepath.Join(dataDir, databaseFile) }

// KeysPath is the directory of keys in a data directory.
func KeysPath(dataDir string) string { return filepath.Join(dataDir, keysDir) }

// BootstrapRootPEM is the certificate that agents pin, in PEM.
func BootstrapRootPEM(dataDir string) ([]byte, error) {
	cert, err := readCertificate(filepath.Join(dataDir, bootstrapRootFile))
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}), nil
}

// VerifierRootPEM is the public key that relying parties pin, in PEM
// (SubjectPublicKeyInfo).
func VerifierRootPEM(dataDir string) ([]byte, error) {
	pub, err := readPublicKey(filepath.Join(dataDir, verifierRootFile))
	if err != nil {
		return nil, err
	}
	return publicPEM(pub)
}

// CheckpointKeyText is the public key of the ledger's checkpoints, in the
// signed-note form.
func CheckpointKeyText(dataDir string) (string, error) {
	path := filepath.Join(dataDir, checkpointFile)
	b, err := os.ReadFile(path)
	if err != nil {
		return "", lost(path, err)
	}
	return string(b), nil
}

// CheckpointSigner is the key that signs the ledger's checkpoints.
func CheckpointSigner(ctx context.Context, ring keys.Ring) (crypto.Signer, error) {
	key, err := ring.Get(ctx, checkpointKey)
	if err != nil {
		return nil, err
	}
	if !keys.Ed25519.Is(key.Public()) {
		return nil, fault("checkpoint_key", fmt.Errorf("the checkpoint key is a %T, want Ed25519", key.Public()), "restore checkpoint.key from a backup")
	}
	return key, nil
}

// fault is an error of keys, files or settings, for whoever starts the server.
func fault(check string, err error, hint string) error {
	return &attest.Error{Kind: attest.Internal, Check: check, Err: err, Hint: hint}
}

// signing is the error of a signature that was not made. A signer that is away is
// Unavailable, as it says itself: whoever asked may ask again. Everything else is
// a fault of this server.
func signing(check string, err error) error {
	for inner := err; inner != nil; inner = errors.Unwrap(inner) { // it may be wrapped in a fault of whoever asked for the signature
		if e, ok := inner.(*attest.Error); ok && e.Kind == attest.Unavailable { //nolint:errorlint // each link is looked at
			return e
		}
	}
	return internal(check, err)
}

func lost(path string, err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	hint := "check the path and its permissions"
	if errors.Is(err, fs.ErrNotExist) {
		hint = "run 'assayd init' first, or restore the file from a backup"
	}
	return fault("data_file", fmt.Errorf("%s: %w", path, err), hint)
}

func readPEM(path, kind string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, lost(path, err)
	}
	block, rest := pem.Decode(b)
	if block == nil || block.Type != kind || len(block.Headers) != 0 || len(rest) != 0 {
		return nil, fault("data_file", fmt.Errorf("%s: want one PEM block %q and nothing else", path, kind), "restore the file from a backup")
	}
	return block.Bytes, nil
}

func readCertificate(path string) (*x509.Certificate, error) {
	der, err := readPEM(path, "CERTIFICATE")
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fault("data_file", fmt.Errorf("%s: %w", path, err), "restore the file from a backup")
	}
	return cert, nil
}

func readPublicKey(path string) (*ecdsa.PublicKey, error) {
	der, err := readPEM(path, "PUBLIC KEY")
	if err != nil {
		return nil, err
	}
	pub, err := x509.ParsePKIXPublicKey(der)
	if err == nil && !keys.P256.Is(pub) {
		err = fmt.Errorf("a %T, want a key on P-256", pub)
	}
	if err != nil {
		return nil, fault("data_file", fmt.Errorf("%s: %w", path, err), "restore the file from a backup")
	}
	return pub.(*ecdsa.PublicKey), nil
}

func publicPEM(pub crypto.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, fault("data_file", err, "")
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}

// samePublic reports whether two public keys are equal.
func samePublic(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(b)
}
