package main

import (
	"context"
	"os"
	"time"

	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/issuer/config"
	"github.com/assay-project/assay/issuer/store"
	"github.com/assay-project/assay/issuer/tpms"
	"github.com/assay-project/assay/verifiers/tpm"
)

// servesTPM reports whether the trust domain serves machines with a TPM.
func servesTPM(cfg *config.Config) bool { return !cfg.Simulated() || cfg.TPM.SimulatedRoot != "" }

// newTPM builds the verifier. Without a registry it knows no machine: enough to
// check a configuration.
func newTPM(cfg *config.Config, r *tpms.Registry) (*tpm.Verifier, error) {
	roots, err := tpmRoots(cfg)
	if err != nil {
		return nil, err
	}
	var options []tpm.Option
	if r != nil {
		options = append(options, tpm.WithBindings(bindings{r}), tpm.WithInventory(r))
	}
	v, err := tpm.New(roots, options...)
	return v, starting(err)
}

func tpmRoots(cfg *config.Config) (tpm.Roots, error) {
	if !cfg.Simulated() {
		roots := tpm.HardwareRoots()
		if cfg.TPM.Roots == "" {
			return roots, nil
		}
		if st, err := os.Stat(cfg.TPM.Roots); err != nil || !st.IsDir() {
			return tpm.Roots{}, cli.Usagef("tpm.roots names it; make it, or remove the line", "%s is no directory", cfg.TPM.Roots)
		}
		roots, err := roots.WithDirectory(os.DirFS(cfg.TPM.Roots))
		if err != nil {
			return tpm.Roots{}, cli.Usagef("it has the directories ek (TPM manufacturers), gce and azure (clouds that certify attestation keys), with certificates in PEM or DER",
				"%s: %w", cfg.TPM.Roots, err)
		}
		return roots, nil
	}
	file := cfg.TPM.SimulatedRoot
	pem, err := cli.ReadFile(file, maxRoots)
	if err != nil {
		return tpm.Roots{}, cli.Usagef("tpm.simulated_root names it", "cannot read the simulated root: %w", err)
	}
	roots, err := tpm.SimulatedRoots(pem)
	if err != nil {
		return tpm.Roots{}, cli.Usagef("`teesim tpm root` prints one", "%s is not a simulator's root: %w", file, err)
	}
	return roots, nil
}

// openTPMs reads what is known of TPMs; nil where none is served.
func openTPMs(ctx context.Context, cfg *config.Config, st store.TPMStore) (*tpms.Registry, error) {
	if !servesTPM(cfg) {
		return nil, nil
	}
	r, err := tpms.Open(ctx, st, cfg.TrustDomain, time.Now)
	return r, starting(err)
}

// bindings is the registry as the verifier asks for it.
type bindings struct{ r *tpms.Registry }

var (
	_ tpm.Bindings  = bindings{}
	_ tpm.Inventory = (*tpms.Registry)(nil)
)

// Lookup implements [tpm.Bindings].
func (b bindings) Lookup(ctx context.Context, ek [32]byte) (tpm.Binding, bool, error) {
	row, ok, err := b.r.Binding(ctx, ek)
	if err != nil || !ok {
		return tpm.Binding{}, false, err
	}
	return tpm.Binding{EK: row.EK, AK: row.AK, Reset: row.Reset, Restart: row.Restart, HasClock: row.HasClock, At: row.At}, true, nil
}

// Remember implements [tpm.Bindings].
func (b bindings) Remember(ctx context.Context, x tpm.Binding) error {
	return b.r.Remember(ctx, store.TPMBinding{EK: x.EK, AK: x.AK, Reset: x.Reset, Restart: x.Restart, HasClock: x.HasClock, At: x.At})
}

// Forget implements [tpm.Bindings].
func (b bindings) Forget(ctx context.Context, ek [32]byte) error { return b.r.Forget(ctx, ek) }
