// Command assay is Assay's tool for people: it verifies hardware evidence and
// attested SVIDs offline, collects evidence inside a TEE, computes measurements,
// checks measurement policy, and reads a server's ledger and trust bundle.
//
// The command-line contract (flags, JSON field names, exit codes) is
// docs/reference/cli.md.
package main

import (
	"os"

	"github.com/assay-project/assay/internal/cli"
)

func main() { os.Exit(run()) }

// run is main for tests that run the commands as a shell would.
func run() int { return cli.Run(rootCommand(systemClock)) }
