package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/internal/cli"
)

// asking makes the command one that asks the running agent, on its socket and within
// a time, and prints text or JSON.
func asking(c *cobra.Command, ask func(ctx context.Context, path, output string) error) *cobra.Command {
	var (
		f       socketFlags
		output  string
		timeout time.Duration
	)
	c.RunE = func(c *cobra.Command, _ []string) error {
		if output != "text" && output != "json" {
			return cli.Usagef("use --output text or --output json", "unknown output format %q", output)
		}
		path, err := f.find(c)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(c.Context(), timeout)
		defer cancel()
		return ask(ctx, path, output)
	}
	f.add(c)
	c.Flags().StringVar(&output, "output", "text", "output format: text or json")
	cli.Complete(c, "output", "text", "json")
	c.Flags().DurationVar(&timeout, "timeout", 5*time.Second, "how long to wait for the agent")
	return c
}
