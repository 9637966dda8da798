package main

import "github.com/spf13/cobra"

func sevsnpCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "sevsnp",
		Short: "AMD SEV-SNP: the secure processor (AMD-SP) and the key distribution service (KDS)",
		Long: `Simulate AMD's secure processor, which signs guests' reports, and the service that
hands out the certificates of its keys.

Without --authority the well-known keys are used that are part of teesim: it
starts at once, all processes agree, and anybody can sign with them. With it, keys
of one's own are kept in that directory (made when missing, which takes most of a
minute).`,
		Example: `  teesim sevsnp roots > simulated-roots.pem
  teesim sevsnp run --product genoa --chip rack-4 --image ledger --socket /tmp/snp.sock
  teesim sevsnp kds --chip genoa:rack-4 --listen 127.0.0.1:8081
  teesim sevsnp faults`,
		PersistentPreRunE: announce,
	}
	c.AddCommand(sevsnpRunCommand(), sevsnpMintCommand(), sevsnpKDSCommand(), sevsnpRootsCommand(),
		sevsnpMeasurementsCommand(), sevsnpFaultsCommand())
	return c
}
