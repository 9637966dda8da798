package main

import (
	"context"
	"encoding/hex"
	"errors"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/issuer"
	"github.com/assay-project/assay/issuer/config"
	"github.com/assay-project/assay/issuer/tpms"
	"github.com/assay-project/assay/verifiers"
	"github.com/assay-project/assay/verifiers/nitro"
	"github.com/assay-project/assay/verifiers/sevsnp"
	"github.com/assay-project/assay/verifiers/sevsnp/collateral"
	"github.com/assay-project/assay/verifiers/tpm"
)

// maxRoots bounds a file of roots, in bytes: AMD's nine certificates take 20 KB.
const maxRoots = 1 << 20

// platforms are the verifiers of the TEEs that the trust domain serves: all of
// them under the vendors' roots, or those of its simulators.
type platforms struct {
	set    verifiers.Set
	nitro  *nitro.Verifier  // nil where it is simulated and has no simulator
	sevsnp *sevsnp.Verifier // likewise
	tpm    *tpm.Verifier    // likewise
}

// newPlatforms builds the verifiers. Without collateral, SEV-SNP has only what
// attesters bring, and without a registry no TPM is known: enough to check a
// configuration.
func newPlatforms(cfg *config.Config, c sevsnp.Collateral, r *tpms.Registry) (*platforms, error) {
	p := &platforms{}
	var all []verifiers.Verifier
	if !cfg.Simulated() || cfg.Nitro.SimulatedRoot != "" {
		roots, err := nitroRoots(cfg)
		if err != nil {
			return nil, err
		}
		if p.nitro, err = nitro.New(roots); err != nil {
			return nil, starting(err)
		}
		all = append(all, p.nitro)
	}
	if servesSNP(cfg) {
		roots, err := snpRoots(cfg)
		if err != nil {
			return nil, err
		}
		options := []sevsnp.Option{sevsnp.WithRevocation(sevsnp.RevocationPolicy{Require: cfg.SEVSNP.RequireCRL, Grace: cfg.SEVSNP.CRLGrace})}
		if c != nil {
			options = append(options, sevsnp.WithCollateral(c))
		}
		if p.sevsnp, err = sevsnp.New(roots, options...); err != nil {
			return nil, starting(err)
		}
		all = append(all, p.sevsnp)
	}
	var err error
	if servesTPM(cfg) {
		if p.tpm, err = newTPM(cfg, r); err != nil {
			return nil, err
		}
		all = append(all, p.tpm)
	}
	p.set, err = verifiers.NewSet(all...)
	return p, starting(err)
}

func nitroRoots(cfg *config.Config) (nitro.Roots, error) {
	if !cfg.Simulated() {
		return nitro.HardwareRoots(), nil
	}
	file := cfg.Nitro.SimulatedRoot
	pem, err := cli.ReadFile(file, maxRoots)
	if err != nil {
		return nitro.Roots{}, cli.Usagef("nitro.simulated_root names it", "cannot read the simulated root: %w", err)
	}
	roots, err := nitro.SimulatedRoots(pem)
	if err != nil {
		return nitro.Roots{}, cli.Usagef("`teesim nitro root --authority DIR` prints one", "%s is not a simulator's root: %w", file, err)
	}
	return roots, nil
}

// servesSNP reports whether the trust domain serves SEV-SNP guests.
func servesSNP(cfg *config.Config) bool { return !cfg.Simulated() || cfg.SEVSNP.SimulatedRoots != "" }

func snpRoots(cfg *config.Config) (sevsnp.Roots, error) {
	if !cfg.Simulated() {
		return sevsnp.HardwareRoots(), nil
	}
	file := cfg.SEVSNP.SimulatedRoots
	pem, err := cli.ReadFile(file, maxRoots)
	if err != nil {
		return sevsnp.Roots{}, cli.Usagef("sevsnp.simulated_roots names it", "cannot read the simulated roots: %w", err)
	}
	roots, err := sevsnp.SimulatedRoots(pem)
	if err != nil {
		return sevsnp.Roots{}, cli.Usagef("`teesim sevsnp roots` prints them", "%s does not hold a simulator's roots: %w", file, err)
	}
	return roots, nil
}

// openCollateral opens the collateral cache, and the KDS behind it. The source
// is nil where no SEV-SNP guest is served. The caller closes the cache.
func openCollateral(cfg *config.Config, policy *issuer.PolicyFile, log *slog.Logger) (*collateral.Source, *collateral.Cache, error) {
	if !servesSNP(cfg) {
		return nil, nil, nil
	}
	roots, err := snpRoots(cfg)
	if err != nil {
		return nil, nil, err
	}
	cache, err := collateral.OpenCache(collateral.CacheConfig{Dir: collateralDir(cfg), Roots: roots, Now: time.Now, Log: log})
	if err != nil {
		return nil, nil, starting(err)
	}
	kds, err := newKDS(cfg)
	if err != nil {
		return nil, nil, errors.Join(err, cache.Close())
	}
	inventory, err := inventoryOf(cfg)
	if err != nil {
		return nil, nil, starting(errors.Join(err, cache.Close()))
	}
	source, err := collateral.New(collateral.Config{
		Cache: cache, KDS: kds, Now: time.Now, Log: log,
		// Nobody else's chip is asked for: a stranger can name any.
		Allowed: func(product string, chipID []byte) bool {
			return inventory[product+" "+hex.EncodeToString(chipID)] || policy.Current().NamesChip(product, chipID)
		},
	})
	if err != nil {
		return nil, nil, starting(errors.Join(err, cache.Close()))
	}
	return source, cache, nil
}

// collateralDir is the directory of the collateral cache.
func collateralDir(cfg *config.Config) string {
	if cfg.SEVSNP.Collateral != "" {
		return cfg.SEVSNP.Collateral
	}
	return filepath.Join(cfg.DataDir, "collateral")
}

// newKDS is the KDS that the configuration asks for, or nil. It opens no
// connection.
func newKDS(cfg *config.Config) (*collateral.KDS, error) {
	url := cfg.SEVSNP.KDS
	if url == config.KDSOff || url == "" && cfg.Simulated() {
		return nil, nil
	}
	kds, err := collateral.NewKDS(collateral.KDSConfig{URL: url})
	if err != nil {
		return nil, cli.Usagef("set sevsnp.kds to an https URL, or to off", "%w", err)
	}
	return kds, nil
}

// inventoryOf is the operator's chips, by product and chip id.
func inventoryOf(cfg *config.Config) (map[string]bool, error) {
	out := map[string]bool{}
	for product, chips := range cfg.SEVSNP.Inventory {
		for _, text := range chips {
			id, err := config.ParseChipID(product, text)
			if err != nil {
				return nil, err // validated before
			}
			out[product+" "+hex.EncodeToString(id)] = true
		}
	}
	return out, nil
}

// runCollateral keeps CRLs and chains fresh until the context ends.
func runCollateral(ctx context.Context, s *collateral.Source) error {
	if s == nil {
		<-ctx.Done()
		return nil
	}
	return s.Run(ctx)
}

// asCollateral keeps a nil source from becoming an interface that is not nil.
func asCollateral(s *collateral.Source) sevsnp.Collateral {
	if s == nil {
		return nil
	}
	return s
}
