package main

import (
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/internal/cli"
	simnitro "github.com/assay-project/assay/simulators/nitro"
)

func nitroEIFCommand() *cobra.Command {
	var (
		name, version, output, signer string
	)
	c := &cobra.Command{
		Use:   "eif",
		Short: "Write a small enclave image file",
		Long: `Write an enclave image file (EIF) of a name and version: the real format, with
sections, checksum and, with --signer, a signature by the key in that directory
(made when missing; images with one signer have one PCR8). Nothing in it could boot. "teesim nitro run --eif" launches it, and
"assay measure nitro" measures it.`,
		Example: `  teesim nitro eif --name payments --version 41 --file payments-41.eif
  teesim nitro eif --name payments --version 41 --signer sim/releases --file payments-41.eif`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			f := simnitro.ImageFileFromSeed(name + "\x00" + version)
			f.Name, f.Version = name, version
			if signer != "" {
				now := time.Now()
				key, cert, err := simnitro.OpenSigner(signer, "simulated releases of "+name, now.Add(-time.Hour), now.AddDate(1, 0, 0))
				if err != nil {
					return &cli.UsageError{Err: err}
				}
				f.Key, f.Certificate = key, cert
			}
			b, err := f.Encode()
			if err != nil {
				return err
			}
			if err := os.WriteFile(output, b, 0o644); err != nil { //nolint:gosec // an image is no secret
				return &cli.UsageError{Err: err}
			}
			p := cli.NewPage(c.OutOrStdout())
			p.Linef("wrote %s: %s", output, cli.Count(len(b), "byte"))
			return p.Err()
		},
	}
	c.Flags().StringVar(&name, "name", "", "name of the image")
	c.Flags().StringVar(&version, "version", "1", "version of the image")
	c.Flags().StringVar(&output, "file", "", "`FILE` to write")
	c.Flags().StringVar(&signer, "signer", "", "directory with the key that signs the image (PCR8), made when missing")
	_ = c.MarkFlagRequired("name") // the flags exist
	_ = c.MarkFlagRequired("file")
	_ = c.MarkFlagFilename("file", "eif")
	_ = c.MarkFlagDirname("signer")
	return c
}
