// Command teesim stands in for hardware that attests: it is a device for an
// agent to talk to, and a source of evidence, good and bad, for those who write
// verifiers and policies. What it signs is real, under a root that it makes
// itself; nothing outside a simulated trust domain accepts it.
package main

import (
	"os"

	"github.com/assay-project/assay/internal/cli"
)

func main() { os.Exit(run()) }

// run is main for tests that run the commands as a shell would.
func run() int { return cli.Run(rootCommand()) }
