// Assay-agent runs inside a TEE: it attests to an Assay server and serves the
// SPIFFE Workload API to the workload beside it. This package is wiring; the
// agent is package enclave-agent.
package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/internal/cli"
)

func main() { os.Exit(run()) }

// run is main for tests that run the commands as a shell would.
func run() int { return cli.Run(rootCommand()) }

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "assay-agent",
		Short: "Attest this TEE, and serve its SPIFFE identities",
		Long: `assay-agent runs inside a TEE. It makes keys in memory, has the hardware vouch
for them, receives X.509-SVIDs from an Assay server, renews them before they
end, and serves them on the SPIFFE Workload API.

Exit codes: 0 good, 1 internal, 2 usage or configuration, 3 malformed,
4 untrusted, 5 stale, 6 denied by policy, 7 unavailable.`,
		Example: `  assay-agent init --server 10.0.0.1:8443 --bootstrap-root bootstrap-root.pem
  assay-agent check
  assay-agent run
  assay-agent fetch
  assay-agent exec -- /usr/bin/orders`,
	}
	root.AddCommand(initCommand(), checkCommand(), runCommand(), execCommand(), healthcheckCommand(), statusCommand(), fetchCommand(), cli.VersionCommand("assay-agent"))
	return root
}
