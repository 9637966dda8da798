package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// pflag takes what stands in backquotes in a flag's help for the name of its value.
func TestTheValuesOfFlagsAreNamedInOneWord(t *testing.T) {
	word := regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9|:=_-]*$`)
	n := 0
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		c.Flags().VisitAll(func(f *pflag.Flag) {
			n++
			if name, _ := pflag.UnquoteUsage(f); name != "" && !word.MatchString(name) {
				t.Errorf("%s --%s: the value is called %q", c.CommandPath(), f.Name, name)
			}
		})
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(rootCommand())
	if n < 40 {
		t.Errorf("%d flags, want at least 40", n)
	}
}

// A rename in the code once went into the prose of a help page.
func TestHelpDoesNotNameTheCode(t *testing.T) {
	code := regexp.MustCompile(`\b[a-z]+[A-Z][a-z]\w*`)
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		for _, text := range []string{c.Short, c.Long} {
			if got := code.FindString(text); got != "" {
				t.Errorf("%s: the help says %q", c.CommandPath(), got)
			}
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(rootCommand())
}

// The guide's walk for SEV-SNP without a TEE is the one that a session runs against
// a server as `assayd init` writes it: the same simulator, started the same way.
func TestTheGuidesGuestIsTheOneOfTheSession(t *testing.T) {
	started := func(file string) []string {
		t.Helper()
		b, err := os.ReadFile(filepath.Join("..", "..", file))
		if err != nil {
			t.Fatal(err)
		}
		line := regexp.MustCompile(`(?m)^(?:exec|   ) ?teesim sevsnp run (.*?) --socket \S+ &`).FindStringSubmatch(string(b))
		if line == nil {
			t.Fatalf("%s starts no simulated guest", file)
		}
		flags := strings.Split(line[1], "--")
		for i := range flags {
			flags[i] = strings.TrimSpace(flags[i])
		}
		slices.Sort(flags)
		return flags
	}
	guide, session := started("docs/guides/agent.md"), started("cmd/assay-agent/testdata/whole/snp.txtar")
	if !slices.Equal(guide, session) {
		t.Errorf("the guide starts it with %q, the session with %q", guide, session)
	}
}
