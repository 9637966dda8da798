package main

import (
	"github.com/spf13/cobra"

	"github.com/assay-project/assay/internal/cli"
)

func faultColumns() []string { return []string{"FAULT", "KIND", "CHECK", "WHAT IS WRONG"} }

// faultRow is a row under faultColumns; no check means that the evidence
// verifies.
func faultRow(name, kind, check, description string) []string {
	if check == "" {
		kind, check = "(verifies)", "-"
	}
	return []string{name, kind, check, description}
}

// printFaults prints the lines as JSON, or the rows as a table.
func printFaults(c *cobra.Command, format cli.Format, lines any, columns []string, rows [][]string) error {
	if format == cli.JSON {
		return cli.PrintJSON(c.OutOrStdout(), map[string]any{"simulated": true, "faults": lines})
	}
	p := cli.NewPage(c.OutOrStdout())
	p.Table(columns, rows)
	return p.Err()
}
