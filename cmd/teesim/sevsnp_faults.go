package main

import (
	"github.com/spf13/cobra"

	"github.com/assay-project/assay/internal/cli"
	simsnp "github.com/assay-project/assay/simulators/sevsnp"
)

// snpFaultLine is one fault in `teesim sevsnp faults --output json`.
type snpFaultLine struct {
	Name         string   `json:"name"`
	Kind         string   `json:"kind"`
	Check        string   `json:"check"`
	Stage        string   `json:"stage"`
	Revocation   bool     `json:"revocation"`
	Intermediate bool     `json:"intermediate"`
	Products     []string `json:"products"`
	SigningKeys  []string `json:"signing_keys"`
	Description  string   `json:"description"`
}

func sevsnpFaultsCommand() *cobra.Command {
	var (
		kds    bool
		output *cli.Format
	)
	c := &cobra.Command{
		Use:   "faults",
		Short: "List what can be made wrong with a report, its certificates, or the KDS",
		Long: `List the faults, in the order of the verifier's checks. Each makes one thing wrong
with evidence that is otherwise right; kind and check are those of the error that
verification must end in, and a fault without them verifies. Those marked with a
star are refused only by a verifier that requires a current CRL, those with a
plus only by one that pins the ARK alone. With --kds, list what can be wrong with
` + "`teesim sevsnp kds`" + `.`,
		Example: `  teesim sevsnp faults
  teesim sevsnp faults --kds
  teesim sevsnp faults --output json`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if kds {
				return printKDSFaults(c, *output)
			}
			var (
				lines = []snpFaultLine{}
				rows  [][]string
			)
			for _, f := range simsnp.Faults() {
				lines = append(lines, describeFault(f))
				mark := ""
				if f.Revocation {
					mark = "*"
				}
				if f.Intermediate {
					mark = "+"
				}
				rows = append(rows, faultRow(f.Name+mark, f.Kind, f.Check, f.Description))
			}
			return printFaults(c, *output, lines, faultColumns(), rows)
		},
	}
	c.Flags().BoolVar(&kds, "kds", false, "list the faults of the key distribution service")
	output = cli.OutputFlag(c)
	return c
}

func describeFault(f simsnp.Fault) snpFaultLine {
	l := snpFaultLine{
		Name: f.Name, Kind: f.Kind, Check: f.Check, Stage: f.Stage, Revocation: f.Revocation, Intermediate: f.Intermediate,
		Products: []string{}, SigningKeys: []string{}, Description: f.Description,
	}
	for _, p := range simsnp.Products() {
		if f.Applies(p, simsnp.VCEK) || f.Applies(p, simsnp.VLEK) {
			l.Products = append(l.Products, string(p))
		}
	}
	for _, k := range []simsnp.SigningKey{simsnp.VCEK, simsnp.VLEK} {
		for _, p := range simsnp.Products() {
			if f.Applies(p, k) {
				l.SigningKeys = append(l.SigningKeys, string(k))
				break
			}
		}
	}
	return l
}

func printKDSFaults(c *cobra.Command, format cli.Format) error {
	type line struct {
		Name        string `json:"name"`
		Description string `json:"description"`
	}
	var (
		lines = []line{}
		rows  [][]string
	)
	for _, f := range simsnp.KDSFaults() {
		lines = append(lines, line{f.Name, f.Description})
		rows = append(rows, []string{f.Name, f.Description})
	}
	return printFaults(c, format, lines, []string{"FAULT", "WHAT IS WRONG"}, rows)
}
