package main

import (
	"encoding/hex"
	"maps"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/internal/cli"
)

// meaning says what a register measures.
func meaning(pcr int) string {
	switch pcr {
	case 0:
		return "the image file"
	case 1:
		return "kernel and boot ramdisk"
	case 2:
		return "the application"
	case 3:
		return "the parent instance's role: ownership"
	case 4:
		return "the parent instance's id"
	case 8:
		return "the certificate that signed the image"
	}
	return ""
}

func nitroMeasurementsCommand() *cobra.Command {
	var (
		launch nitroLaunchFlags
		output *cli.Format
	)
	c := &cobra.Command{
		Use:   "measurements",
		Short: "Print the registers of a simulated enclave, for a policy",
		Long: `Print the registers that an enclave of this image, role and instance has when it
has started. The text is the "match" of a policy's workload; JSON has every
register. Without --role or --instance-id, PCR3 or PCR4 is left out of the text.`,
		Example: `  teesim nitro measurements --image orders --role arn:aws:iam::123456789012:role/orders
  teesim nitro measurements --image orders --output json`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			l, err := launch.launch()
			if err != nil {
				return err
			}
			pcrs := l.PCRs()
			if *output == cli.JSON {
				values := make(map[string]string, len(pcrs))
				for i, v := range pcrs {
					values["pcr"+strconv.Itoa(i)] = hex.EncodeToString(v)
				}
				return cli.PrintJSON(c.OutOrStdout(), map[string]any{
					"simulated": true, "tee": "aws-nitro", "image": launch.image, "debug": launch.debug, "pcrs": values,
				})
			}
			p := cli.NewPage(c.OutOrStdout())
			p.Linef("# SIMULATED measurements of image %q, for a workload with tee: aws-nitro", launch.image)
			p.Linef("match:")
			zero := hex.EncodeToString(make([]byte, 48))
			for _, i := range slices.Sorted(maps.Keys(pcrs)) {
				v := hex.EncodeToString(pcrs[i])
				if meaning(i) == "" || v == zero {
					continue
				}
				p.Linef("  pcr%d: {eq: %q}  # %s", i, v, meaning(i))
			}
			if launch.debug {
				p.Linef("  # a debug enclave's image is not measured: PCR0, PCR1, PCR2 and PCR8 are zero")
				p.Linef("  debug: {eq: true}")
			}
			return p.Err()
		},
	}
	launch.register(c)
	output = cli.OutputFlag(c)
	return c
}
