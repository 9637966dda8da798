package main

import (
	"encoding/hex"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/internal/cli"
	simsnp "github.com/assay-project/assay/simulators/sevsnp"
)

func sevsnpMeasurementsCommand() *cobra.Command {
	var (
		launch snpLaunchFlags
		output *cli.Format
	)
	c := &cobra.Command{
		Use:   "measurements",
		Short: "Print what a simulated guest's reports say, for a policy",
		Long: `Print what reports of a guest of this image say. The text is the "match" of a
policy's workload. With --chip it also has that machine's product, chip id and TCB.`,
		Example: `  teesim sevsnp measurements --image ledger
  teesim sevsnp measurements --image ledger --product turin --chip rack-5 --output json`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			l, product, err := launch.launch()
			if err != nil {
				return err
			}
			facts := []matcher{{"measurement", eq(hex.EncodeToString(l.Measurement)), "the guest's initial memory: which image"}}
			if n := len(l.HostData); n > 0 {
				if n > 32 {
					return cli.Usagef("it is filled up with zeros", "--host-data has %d bytes, at most 32 fit", n)
				}
				facts = append(facts, matcher{"host_data", eq(hex.EncodeToString(append(l.HostData, make([]byte, 32-n)...))), "what the host set at launch"})
			}
			if launch.vmpl > 0 {
				facts = append(facts, matcher{"vmpl", fmt.Sprintf("{eq: %d}", launch.vmpl), "the privilege level that asks"})
			}
			if launch.debug {
				facts = append(facts, matcher{"policy.debug", "{eq: true}", "the host may read the guest's memory"})
			}
			var id string
			if launch.chip != "" {
				id, facts, err = machine(product, launch.chip, facts)
				if err != nil {
					return err
				}
			}
			if *output == cli.JSON {
				return cli.PrintJSON(c.OutOrStdout(), map[string]any{
					"simulated": true, "tee": "amd-sev-snp", "image": launch.image, "debug": launch.debug, "vmpl": launch.vmpl,
					"measurement": hex.EncodeToString(l.Measurement), "product": string(product), "chip_id": id,
				})
			}
			p := cli.NewPage(c.OutOrStdout())
			p.Linef("# SIMULATED measurements of image %q, for a workload with tee: amd-sev-snp", launch.image)
			p.Linef("match:")
			for _, m := range facts {
				p.Linef("  %s: %s  # %s", m.name, m.value, m.meaning)
			}
			return p.Err()
		},
	}
	launch.registerImage(c)
	output = cli.OutputFlag(c)
	return c
}

// matcher is one line of a policy's match.
type matcher struct{ name, value, meaning string }

func eq(v string) string { return fmt.Sprintf("{eq: %q}", v) }

// machine adds what reports say about a chip under any authority.
func machine(p simsnp.Product, name string, facts []matcher) (id string, _ []matcher, err error) {
	a, err := simsnp.NewAuthority(simsnp.Options{})
	if err != nil {
		return "", nil, err
	}
	c, err := a.Chip(p, name)
	if err != nil {
		return "", nil, err
	}
	id = hex.EncodeToString(c.HWID())
	line, t := map[string]string{"Milan": "milan", "Genoa": "genoa", "Turin": "turin"}[p.Line()], p.DefaultTCB()
	floor := fmt.Sprintf("bl: %d, tee: %d, snp: %d, ucode: %d", t.Bootloader, t.TEE, t.SNP, t.Microcode)
	if p == simsnp.Turin {
		floor = fmt.Sprintf("fmc: %d, %s", t.FMC, floor)
	}
	return id, append(facts,
		matcher{"product", eq(line), "the product line"},
		matcher{"reported_tcb", fmt.Sprintf("{gte: {%s: {%s}}}", line, floor), "the platform's firmware"},
		matcher{"chip_id", eq(id), "the machine"},
	), nil
}
