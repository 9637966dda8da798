package main

import "github.com/spf13/cobra"

func nitroCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "nitro",
		Short: "AWS Nitro Enclaves: the Nitro Security Module (NSM)",
		Long: `Simulate the Nitro Security Module and the certificates behind it. Commands that
sign share an authority, a directory with the simulated root (made when it is
missing): root.pem is what a verifier is given, root.key stays with teesim.`,
		Example: `  teesim nitro root --authority sim > simulated-root.pem
  teesim nitro run --authority sim --image orders --role arn:aws:iam::123456789012:role/orders --socket /tmp/nsm.sock
  teesim nitro faults`,
		PersistentPreRunE: announce,
	}
	c.AddCommand(nitroRunCommand(), nitroMintCommand(), nitroRootCommand(), nitroMeasurementsCommand(), nitroEIFCommand(), nitroFaultsCommand())
	return c
}
