package main

import (
	"github.com/spf13/cobra"

	"github.com/assay-project/assay/internal/cli"
	simtpm "github.com/assay-project/assay/simulators/tpm"
)

// tpmFaultLine is one fault in `teesim tpm faults --output json`.
type tpmFaultLine struct {
	Name        string `json:"name"`
	Kind        string `json:"kind"`
	Check       string `json:"check"`
	Stage       string `json:"stage"`
	Activation  bool   `json:"activation"`
	Resident    bool   `json:"resident"`
	Description string `json:"description"`
}

func tpmFaultsCommand() *cobra.Command {
	var output *cli.Format
	c := &cobra.Command{
		Use:   "faults",
		Short: "List what can be made wrong with a machine",
		Long: `List the faults: of the EK certificate, of the keys that the agent has made, of
quotes, of certified keys, and of the event log. Each makes one thing wrong with a
machine that is otherwise right; kind and check are those of the error that
verification must end in, and a fault without them verifies. Those marked with a star
show when the AK is activated, those with a plus only with keys that live in the TPM.`,
		Example: `  teesim tpm faults
  teesim tpm faults --output json`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var (
				lines = []tpmFaultLine{}
				rows  [][]string
			)
			for _, f := range simtpm.Faults() {
				lines = append(lines, tpmFaultLine{Name: f.Name, Kind: f.Kind, Check: f.Check, Stage: f.Stage, Activation: f.Activation, Resident: f.Resident, Description: f.Description})
				mark := ""
				if f.Activation {
					mark = "*"
				}
				if f.Resident {
					mark = "+"
				}
				rows = append(rows, faultRow(f.Name+mark, f.Kind, f.Check, f.Description))
			}
			return printFaults(c, *output, lines, faultColumns(), rows)
		},
	}
	output = cli.OutputFlag(c)
	return c
}
