package main

import (
	"github.com/spf13/cobra"

	"github.com/assay-project/assay/internal/cli"
	simnitro "github.com/assay-project/assay/simulators/nitro"
)

// nitroFaultLine is one fault in `teesim nitro faults --output json`.
type nitroFaultLine struct {
	Name        string `json:"name"`
	Kind        string `json:"kind"`
	Check       string `json:"check"`
	Stage       string `json:"stage"`
	MintOnly    bool   `json:"mint_only"`
	Description string `json:"description"`
}

func nitroFaultsCommand() *cobra.Command {
	var output *cli.Format
	c := &cobra.Command{
		Use:   "faults",
		Short: "List what can be made wrong with a document",
		Long: `List the faults, in the order of the verifier's checks. Each makes one thing wrong
with a document that is otherwise right; kind and check are those of the error
that verification must end in, and a fault without them verifies.`,
		Example: `  teesim nitro faults
  teesim nitro faults --output json`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var (
				lines = []nitroFaultLine{}
				rows  [][]string
			)
			for _, f := range simnitro.Faults() {
				lines = append(lines, nitroFaultLine{f.Name, f.Kind, f.Check, f.Stage, f.MintOnly, f.Description})
				rows = append(rows, faultRow(f.Name, f.Kind, f.Check, f.Description))
			}
			return printFaults(c, *output, lines, faultColumns(), rows)
		},
	}
	output = cli.OutputFlag(c)
	return c
}
