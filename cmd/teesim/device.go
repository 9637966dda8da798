package main

import (
	"context"
	"net"
	"slices"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/internal/cli"
)

// socketFlags say where a simulated device is served, and how that is told.
type socketFlags struct {
	path   string
	output *cli.Format
}

func (f *socketFlags) register(c *cobra.Command) {
	c.Flags().StringVar(&f.path, "socket", "", "path of the unix socket")
	_ = c.MarkFlagRequired("socket") // the flag exists
	_ = c.MarkFlagFilename("socket")
	f.output = cli.OutputFlag(c)
}

// device is a simulated device that was launched.
type device struct {
	ready  any        // what --output json says once it listens
	facts  []cli.Fact // what people are told
	faults []string
	listen func(path string) (net.Listener, error)
	serve  func(context.Context, net.Listener) error
}

// run serves the device until the command ends. "listening on SOCKET", or a line
// of JSON, on standard output says that it is ready.
func (d device) run(c *cobra.Command, f socketFlags) error {
	l, err := d.listen(f.path)
	if err != nil {
		return &cli.UsageError{Err: err}
	}
	if err := d.announce(c, f); err != nil {
		_ = l.Close()
		return err
	}
	return d.serve(c.Context(), l)
}

func (d device) announce(c *cobra.Command, f socketFlags) error {
	if *f.output == cli.JSON {
		return cli.PrintJSONLine(c.OutOrStdout(), d.ready)
	}
	facts := slices.Clone(d.facts)
	for _, name := range d.faults {
		facts = append(facts, cli.Fact{Name: "fault", Value: name})
	}
	p := cli.NewPage(c.ErrOrStderr())
	p.Facts(facts...)
	if err := p.Err(); err != nil {
		return err
	}
	out := cli.NewPage(c.OutOrStdout())
	out.Linef("listening on %s", f.path)
	return out.Err()
}
