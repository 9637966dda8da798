package main

import (
	"io/fs"
	"math/big"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/verifiers/sevsnp/collateral"
)

// collateralShown is the JSON of `assay collateral show`.
type collateralShown struct {
	Directory string            `json:"directory"`
	Objects   []collateralEntry `json:"objects"`
	BadFiles  int               `json:"bad_files"`
}

// collateralEntry is one certificate or CRL. Fields that its kind has not are
// null.
type collateralEntry struct {
	Kind       string       `json:"kind"`        // vcek, vlek, ask, asvk, crl
	Product    string       `json:"product"`     // milan, genoa, turin
	SigningKey string       `json:"signing_key"` // vcek, vlek
	ChipID     attest.Bytes `json:"chip_id"`
	CSPID      *string      `json:"csp_id"`
	TCB        *attest.TCB  `json:"tcb"`
	NotBefore  time.Time    `json:"not_before"` // of a CRL: its thisUpdate
	NotAfter   time.Time    `json:"not_after"`  // and nextUpdate
	CRLNumber  *big.Int     `json:"crl_number"`
	State      string       `json:"state"` // current, expired, future

	object *collateral.Object
}

func newCollateralEntry(o *collateral.Object, at time.Time) collateralEntry {
	e := collateralEntry{
		Kind: string(o.Kind), Product: o.Product, SigningKey: o.SigningKey, ChipID: o.ChipID, TCB: o.TCB,
		NotBefore: o.NotBefore, NotAfter: o.NotAfter, CRLNumber: o.Number, State: collateralState(o, at), object: o,
	}
	if o.CSPID != "" {
		e.CSPID = &o.CSPID
	}
	return e
}

func collateralShowCommand(now clock) *cobra.Command {
	c := &cobra.Command{
		Use:   "show --cache DIR",
		Short: "List what a cache directory holds",
		Long: `List the certificates and CRLs of a cache directory, with their dates. Every file
is verified under the pinned roots first; those that do not verify, and files that
are none of the cache's, are counted as bad, and a server does not use them.`,
		Example: `  assay collateral show --cache /var/lib/assay/collateral
  assay collateral show --cache /var/lib/assay/collateral --output json`,
		Args: cobra.NoArgs,
	}
	var f collateralFlags
	f.add(c, "the cache `DIR`ectory")
	_ = c.MarkFlagRequired("cache") // the flag exists: it was added above
	format := cli.OutputFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := existingCache(&f); err != nil {
			return err
		}
		cache, err := f.open(c, now)
		if err != nil {
			return err
		}
		defer func() { _ = cache.Close() }() // only read
		objects, bad, err := cache.List()
		if err != nil {
			return err
		}
		at := now()
		entries := make([]collateralEntry, 0, len(objects))
		for _, o := range objects {
			entries = append(entries, newCollateralEntry(o, at))
		}
		if *format == cli.JSON {
			return cli.PrintJSON(c.OutOrStdout(), collateralShown{f.cache, entries, bad})
		}
		if bad > 0 {
			cli.Warn(c.ErrOrStderr(), "%s in %s cannot be used: damaged, under other roots, or none of the cache's", cli.Count(bad, "file"), f.cache)
		}
		return showCollateral(cli.NewPage(c.OutOrStdout()), entries, f.cache)
	}
	return c
}

func showCollateral(p *cli.Page, entries []collateralEntry, dir string) error {
	var certs, crls [][]string
	for _, e := range entries {
		if e.object.Kind == collateral.CRL {
			crls = append(crls, []string{e.Product, e.SigningKey, stamp(e.NotBefore), stamp(e.NotAfter), e.State})
			continue
		}
		certs = append(certs, []string{e.Kind, e.Product, chipText(e.object), tcbText(e.object), stamp(e.NotAfter), e.State})
	}
	p.Linef("%s: %s, %s", dir, cli.Count(len(certs), "certificate"), cli.Count(len(crls), "CRL"))
	if len(certs) > 0 {
		p.Title("Certificates")
		p.Table([]string{"kind", "product", "chip or provider", "TCB", "not after", "state"}, certs)
	}
	if len(crls) > 0 {
		p.Title("CRLs")
		p.Table([]string{"product", "for", "this update", "next update", "state"}, crls)
	}
	return p.Err()
}

// statDir is a directory that has to be there.
func statDir(dir string) (fs.FileInfo, error) {
	info, err := os.Stat(dir)
	switch {
	case err != nil:
		return nil, cli.Usagef("name the cache directory of the server", "--cache %s: %s", dir, strings.TrimPrefix(clean(err), dir+": "))
	case !info.IsDir():
		return nil, cli.Usagef("name the cache directory of the server", "--cache %s: this is not a directory", dir)
	}
	return info, nil
}
