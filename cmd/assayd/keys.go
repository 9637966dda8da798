package main

import (
	"context"
	"crypto"

	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/issuer/ca"
	"github.com/assay-project/assay/issuer/config"
	"github.com/assay-project/assay/issuer/keys"
)

// maxUpstream bounds the file with an upstream CA's certificates, in bytes.
const maxUpstream = 64 << 10

// openKeys opens the keys of the data directory, and those of the authorities
// where they are elsewhere. Directories that hold another trust domain's are
// refused. A signer is not asked yet.
func openKeys(cfg *config.Config) (keys.Ring, error) {
	files, err := keys.OpenDir(ca.KeysPath(cfg.DataDir))
	if err != nil {
		return nil, err
	}
	if err := ownKeys(cfg); err != nil {
		return nil, err
	}
	if cfg.Keys.Location == "" {
		return files, nil
	}
	l, err := keys.ParseLocation(cfg.Keys.Location)
	if err != nil {
		return nil, cli.Usagef(cli.Hint(err), "keys.location: %w", err)
	}
	ring, err := keys.NewSplit(l, files)
	if err != nil {
		return nil, cli.Usagef(cli.Hint(err), "keys.location: %w", err)
	}
	return ring, nil
}

// checkKeys asks for the names of all keys, so that a signer which does not answer
// is found before the first start needs it.
func checkKeys(ctx context.Context, ring keys.Ring) error {
	_, err := ring.Names(ctx)
	return err
}

// openUpstream reads the CA above the X.509 authorities; nil is none.
func openUpstream(cfg *config.Config) (*ca.Upstream, error) {
	u := cfg.Authorities.Upstream
	if u.Certificate == "" {
		return nil, nil //nolint:nilnil // no CA above is the usual case
	}
	body, err := cli.ReadFile(u.Certificate, maxUpstream)
	if err != nil {
		return nil, cli.Usagef("a PEM file with the certificate of the CA, and those above it", "authorities.upstream.certificate: %w", err)
	}
	chain, err := ca.ParseChain(body)
	if err != nil {
		return nil, cli.Usagef("a PEM file with the certificate of the CA, and those above it", "authorities.upstream.certificate: %s: %w", u.Certificate, err)
	}
	var key crypto.Signer
	if u.Key != "" {
		if key, err = keys.ReadKey(u.Key); err != nil {
			return nil, cli.Usagef(cli.Hint(err), "authorities.upstream.key: %w", err)
		}
	}
	upstream, err := ca.NewUpstream(chain, key, u.Dedicated)
	if err != nil {
		return nil, cli.Usagef(cli.Hint(err), "authorities.upstream: %w", err)
	}
	return upstream, nil
}
