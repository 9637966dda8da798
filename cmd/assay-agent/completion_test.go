package main

import (
	"slices"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Flags that take one of a few words complete to these words, and not to the names of
// files.
func TestFlagsThatTakeAWordComplete(t *testing.T) {
	words := []string{"tee", "write-key-mode", "reload-signal", "output"}
	found := map[string]int{}
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if !slices.Contains(words, f.Name) {
				return
			}
			found[f.Name]++
			complete, ok := c.GetFlagCompletionFunc(f.Name)
			if !ok {
				t.Errorf("%s --%s offers files", c.CommandPath(), f.Name)
				return
			}
			if got, what := complete(c, nil, ""); len(got) < 2 || what&cobra.ShellCompDirectiveNoFileComp == 0 {
				t.Errorf("%s --%s offers %v (%v)", c.CommandPath(), f.Name, got, what)
			}
		})
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(rootCommand())
	for _, w := range words {
		if found[w] == 0 {
			t.Errorf("no command has --%s any more", w)
		}
	}
}
