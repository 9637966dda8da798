package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Flags that take one of a few words complete to these words, and not to the names of
// files.
func TestFlagsThatTakeAWordComplete(t *testing.T) {
	words := []string{"tee", "min-tier", "format", "outcome", "algorithm", "profile", "fail-on", "vmm", "vcpu-type", "bank", "output", "assume-rollout"}
	n := 0
	walk(rootCommand(systemClock), func(c *cobra.Command) {
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if !slices.Contains(words, f.Name) {
				return
			}
			n++
			complete, ok := c.GetFlagCompletionFunc(f.Name)
			if !ok {
				t.Errorf("%s --%s offers files", c.CommandPath(), f.Name)
				return
			}
			got, what := complete(c, nil, "")
			if len(got) < 2 || what&cobra.ShellCompDirectiveNoFileComp == 0 {
				t.Errorf("%s --%s offers %v (%v)", c.CommandPath(), f.Name, got, what)
			}
			for _, w := range got {
				word, _, _ := strings.Cut(w, "\t")
				if _, isList := f.Value.(pflag.SliceValue); !isList && f.Value.Set(word) != nil {
					t.Errorf("%s --%s %s is offered and refused", c.CommandPath(), f.Name, word)
				}
			}
		})
	})
	if n < 40 {
		t.Errorf("%d flags, want at least 40", n)
	}
}
