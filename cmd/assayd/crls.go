package main

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/issuer/config"
	"github.com/assay-project/assay/policy"
	"github.com/assay-project/assay/verifiers/sevsnp/collateral"
)

// crlWarnings tell of a server that asks SEV-SNP guests for revocation data and
// holds none: each of them is refused, unless its host hands out a CRL beside the
// report. A policy without such a workload has nobody to refuse. held are the CRLs of
// the collateral cache.
func crlWarnings(cfg *config.Config, b *policy.Bundle, held map[string]collateral.CRLInfo, at time.Time) []string {
	if !servesSNP(cfg) || !cfg.SEVSNP.RequireCRL || !admitsSNP(b) {
		return nil
	}
	for _, crl := range held {
		if at.Before(crl.NextUpdate.Add(cfg.SEVSNP.CRLGrace)) {
			return nil
		}
	}
	return []string{"sevsnp.require_crl is true and no current CRL is held: an SEV-SNP guest whose host hands out none beside the report is refused (crl_missing). " +
		"`assay collateral` brings one; of a simulated guest, `teesim sevsnp run --crl` does"}
}

// admitsSNP reports whether the policy may grant anything to an SEV-SNP guest.
func admitsSNP(b *policy.Bundle) bool {
	for _, w := range b.Workloads() {
		if w.Platform == attest.AMDSEVSNP && w.Mode != policy.Audit {
			return true
		}
	}
	return false
}

// heldCRLs are those of the collateral cache on the disk, which is not made where it
// is missing.
func heldCRLs(cfg *config.Config, log *slog.Logger) (map[string]collateral.CRLInfo, error) {
	if !servesSNP(cfg) {
		return map[string]collateral.CRLInfo{}, nil
	}
	roots, err := snpRoots(cfg)
	if err != nil {
		return nil, err
	}
	dir := collateralDir(cfg)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return map[string]collateral.CRLInfo{}, nil
	}
	cache, err := collateral.OpenCache(collateral.CacheConfig{Dir: dir, Roots: roots, Now: time.Now, Log: log})
	if err != nil {
		return nil, starting(err)
	}
	defer func() { _ = cache.Close() }() // only read
	return cache.CRLs(), nil
}

// warnings are what an operator should look at of the trust domain's platforms.
func (t *tenant) warnings(at time.Time) []string {
	if t.source == nil {
		return nil
	}
	return crlWarnings(t.cfg, t.policy.Current(), t.source.Stats().CRLs, at)
}
