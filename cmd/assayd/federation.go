package main

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/issuer/config"
	"github.com/assay-project/assay/issuer/federation"
	"github.com/assay-project/assay/issuer/web"
)

// checkWeb reads the certificate that the public documents are served with, so that
// one that cannot be used is an error before anything runs.
func checkWeb(cfg *config.Config, log *slog.Logger) error {
	c, err := openWeb(cfg, log)
	if err == nil && c != nil {
		err = c.Ended()
	}
	return starting(err)
}

// startWeb is checkWeb for a server that starts: one that has ended keeps nobody from
// attesting.
func startWeb(cfg *config.Config, log *slog.Logger) error {
	_, err := openWeb(cfg, log)
	return starting(err)
}

func openWeb(cfg *config.Config, log *slog.Logger) (*web.Certificate, error) {
	if cfg.Web.Listen == "" || cfg.Web.PlainHTTP {
		return nil, nil //nolint:nilnil // there is none
	}
	return web.OpenCertificate(cfg.Web.Certificate, cfg.Web.Key, time.Now, log)
}

// federations opens the foreign trust domains of a trust domain. What is stored of
// them is sealed by the servers' checkpoint keys, like the ledger.
func (d *data) federations(ctx context.Context, cfg *config.Config, log *slog.Logger) (*federation.Federations, error) {
	td, err := spiffeid.TrustDomainFromString(cfg.TrustDomain)
	if err != nil {
		return nil, starting(err)
	}
	var private []netip.Prefix
	for _, s := range cfg.Federation.PrivateEndpoints {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, starting(fmt.Errorf("federation.private_endpoints: %w", err))
		}
		private = append(private, p)
	}
	f, err := federation.Open(ctx, federation.Config{
		TrustDomain: td, Private: private, Store: d.store, Poll: cfg.Federation.Poll, Now: time.Now, Log: log,
		Seal: federation.Seal{Server: cfg.Server, Key: d.signer, Member: func(server string) (ed25519.PublicKey, bool) {
			key, ok := d.members()[server]
			return key, ok
		}},
	})
	if err != nil {
		return nil, starting(err)
	}
	return f, nil
}
