// Assay-signer holds an issuer's keys in an HSM or a key service, and signs for
// it over a unix socket. It is a binary and a module of its own: it may use cgo,
// which PKCS#11 needs, and it links what no other binary of Assay links.
package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/internal/cli"
)

func main() { os.Exit(cli.Run(root())) }

func root() *cobra.Command {
	c := &cobra.Command{
		Use:   "assay-signer",
		Short: "Sign for an issuer with keys in an HSM or a key service",
		Long: `assay-signer holds no private key. It uses those in a PKCS#11 token, AWS KMS,
Google Cloud KMS, Azure Key Vault or Vault's transit engine, and signs with them
for the users that its configuration names, over a unix socket.

A first start:

  assay-signer keys create --store hsm --purpose x509-authority
  assay-signer check
  assay-signer run

Making keys is a command for an operator; the socket has no request for it.`,
		Example: `  assay-signer run --config ./assay-signer.yaml
  assay-signer keys list`,
	}
	c.AddCommand(runCommand(), checkCommand(), keysCommand(), cli.VersionCommand("assay-signer"))
	return c
}
