package main

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/issuer"
	"github.com/assay-project/assay/issuer/config"
	"github.com/assay-project/assay/policy"
	"github.com/assay-project/assay/policy/signed"
)

// pushedDir holds the policies that were pushed.
const pushedDir = "pushed"

// maxKeyFile bounds a signer's public key file, in bytes.
const maxKeyFile = 16 << 10

// loadPolicy reads the policy file, as the configuration demands it.
func loadPolicy(cfg *config.Config, log *slog.Logger) (*issuer.PolicyFile, error) {
	options := []issuer.PolicyOption{issuer.WithPushedPolicies(filepath.Join(cfg.DataDir, pushedDir))}
	if len(cfg.PolicySigners.Keys) > 0 {
		s, err := policySigners(cfg)
		if err != nil {
			return nil, err
		}
		options = append(options, issuer.WithPolicySigners(s, cfg.PolicySigners.Bundle))
	}
	p, err := issuer.LoadPolicyFile(cfg.Policy, cfg.TrustDomain, log, options...)
	return p, starting(err)
}

// policySigners reads the keys of those who must sign policies.
func policySigners(cfg *config.Config) (*signed.Signers, error) {
	var all []crypto.PublicKey
	for _, file := range cfg.PolicySigners.Keys {
		text, err := cli.ReadFile(file, maxKeyFile)
		if err != nil {
			return nil, cli.Usagef("policy_signers.keys names it", "cannot read a policy signer's key: %w", err)
		}
		key, err := signed.ParsePublicKey(text)
		if err != nil {
			return nil, cli.Usagef("`assay policy keygen` writes the public key beside the private one", "%s is not a policy signer's public key: %w", file, err)
		}
		all = append(all, key)
	}
	s, err := signed.NewSigners(cfg.PolicySigners.Threshold, all...)
	if err != nil {
		return nil, cli.Usagef("mend policy_signers in the configuration", "policy_signers: %w", err)
	}
	return s, nil
}

// rolloutFile holds the secret by which policies in mode rollout draw.
const rolloutFile = "rollout.secret"

// rolloutSecret reads the secret of rollouts, and draws one at the first start.
// One that got lost is drawn anew: another share of the hardware is admitted
// then, and nobody else. It is called with the database's lock held.
func rolloutSecret(cfg *config.Config, log *slog.Logger) ([]byte, error) {
	path := filepath.Join(cfg.DataDir, rolloutFile)
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		log.Info("drew the secret of rollouts", "file", path)
		return drawSecret(path)
	}
	if err == nil && info.Mode().Perm()&0o077 != 0 {
		return nil, cli.Usagef("chmod 600 "+path, "%s: others may read or write it (mode %#o)", path, info.Mode().Perm())
	}
	if err != nil {
		return nil, cli.Usagef("", "the secret of rollouts: %w", err)
	}
	text, err := cli.ReadFile(path, 1024)
	if err != nil {
		return nil, cli.Usagef("", "the secret of rollouts: %w", err)
	}
	secret, err := hex.DecodeString(string(bytes.TrimSpace(text)))
	if err != nil || len(secret) != policy.SecretSize {
		return nil, cli.Usagef("restore it from a backup, or remove it: then another share of the hardware is drawn", "%s does not hold a secret of %d bytes in hex", path, policy.SecretSize)
	}
	return secret, nil
}

// drawSecret writes a new secret: the file has its name only when it is whole.
func drawSecret(path string) ([]byte, error) {
	secret := make([]byte, policy.SecretSize)
	_, _ = rand.Read(secret) // crypto/rand.Read never fails (Go 1.24)
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return nil, cli.Usagef("check the data directory's permissions", "cannot write the secret of rollouts: %w", err)
	}
	_, err = fmt.Fprintf(f, "%x\n", secret)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return nil, cli.Usagef("check the data directory's permissions", "cannot write the secret of rollouts: %w", errors.Join(err, os.Remove(f.Name())))
	}
	return secret, nil
}
