package main

import (
	"encoding/pem"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/verifiers/sevsnp"
	"github.com/assay-project/assay/verifiers/sevsnp/collateral"
)

func collateralCommand(now clock) *cobra.Command {
	c := &cobra.Command{
		Use:   "collateral",
		Short: "Carry AMD's certificates and CRLs to a server that verifies SEV-SNP",
		Long: `A SEV-SNP report is verified with a certificate of the chip that signed it, and
with AMD's revocation lists. An attester usually brings the certificate along. A
server finds what is missing in its cache directory, and fetches what the operator
allows from AMD's Key Distribution Service (KDS). These commands look into such a
directory, fill it, and carry its content to servers that have no way out.`,
		Example: `  assay collateral show --cache /var/lib/assay/collateral
  assay collateral fetch report.bin --cache /var/lib/assay/collateral`,
	}
	c.AddCommand(collateralFetchCommand(now), collateralExportCommand(now), collateralImportCommand(now), collateralShowCommand(now))
	return c
}

// collateralFlags are what these commands have in common.
type collateralFlags struct{ cache, roots string }

func (f *collateralFlags) add(c *cobra.Command, cacheHelp string) {
	c.Flags().StringVar(&f.cache, "cache", "", cacheHelp)
	c.Flags().StringVar(&f.roots, "roots", "", "PEM `FILE` with a simulator's roots, instead of AMD's, which are built in")
}

func (f *collateralFlags) readRoots(c *cobra.Command) (sevsnp.Roots, error) {
	if f.roots == "" {
		return sevsnp.HardwareRoots(), nil
	}
	b, err := readInput(c, f.roots)
	if err != nil {
		return sevsnp.Roots{}, err
	}
	r, err := sevsnp.SimulatedRoots(b)
	if err != nil {
		return sevsnp.Roots{}, cli.Usagef("a simulator writes its roots with `teesim sevsnp roots`", "--roots %s: %w", f.roots, err)
	}
	return r, nil
}

func (f *collateralFlags) open(c *cobra.Command, now clock) (*collateral.Cache, error) {
	roots, err := f.readRoots(c)
	if err != nil {
		return nil, err
	}
	return openCollateral(f.cache, roots, now)
}

func openCollateral(dir string, roots sevsnp.Roots, now clock) (*collateral.Cache, error) {
	cache, err := collateral.OpenCache(collateral.CacheConfig{Dir: dir, Roots: roots, Now: now})
	if err != nil {
		return nil, cli.Usagef("name a directory of your own with --cache", "--cache %s: %w", dir, err)
	}
	return cache, nil
}

// existingCache refuses a directory that is not there: reading commands must not
// make one, and show an empty one for a misspelt name.
func existingCache(f *collateralFlags) error {
	_, err := statDir(f.cache)
	return err
}

func chipText(o *collateral.Object) string {
	switch {
	case len(o.ChipID) > 8:
		return attest.Bytes(o.ChipID[:8]).String() + "…"
	case len(o.ChipID) > 0:
		return o.ChipID.String()
	case o.CSPID != "":
		return o.CSPID
	}
	return "-"
}

func tcbText(o *collateral.Object) string {
	if o.TCB == nil {
		return "-"
	}
	return o.TCB.String()
}

// collateralState says what an object is good for at a time.
func collateralState(o *collateral.Object, at time.Time) string {
	switch {
	case at.Before(o.NotBefore):
		return "future"
	case o.NotAfter.IsZero() || at.After(o.NotAfter):
		return "expired"
	}
	return "current"
}

func pemOf(o *collateral.Object) []byte {
	kind := "CERTIFICATE"
	if o.Kind == collateral.CRL {
		kind = "X509 CRL"
	}
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: o.DER})
}
