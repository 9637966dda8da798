// Assayd is the attestation service: it checks hardware evidence against
// policy and issues attested SVIDs. This package is wiring; the parts are in
// issuer, verifiers and policy.
package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/internal/cli"
)

func main() { os.Exit(cli.Run(root())) }

func root() *cobra.Command {
	c := &cobra.Command{
		Use:   "assayd",
		Short: "Turn hardware attestation evidence into SPIFFE identities",
		Long: `assayd is the attestation service. Agents inside TEEs answer its challenge with
hardware evidence and receive X.509-SVIDs that carry the result.

A first start:

  assayd init --trust-domain attested.example.org
  assayd check
  assayd run`,
		Example: `  assayd init --trust-domain simulated.example.org --data-dir ~/assay --simulated-root root.pem
  assayd run --data-dir ~/assay`,
	}
	c.AddCommand(initCommand(), joinCommand(), checkCommand(), runCommand(), bootstrapCommand(), backupCommand(), restoreCommand(), newchainCommand(), healthCommand(), cli.VersionCommand("assayd"))
	return c
}
