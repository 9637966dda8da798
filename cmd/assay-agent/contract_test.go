package main

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func reference(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "docs", "reference", "agent-cli.md"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestEveryCommandHasHelpWithExamplesAndIsInTheReference(t *testing.T) {
	doc := reference(t)
	n := 0
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			walk(sub)
		}
		if !c.Runnable() || c.Name() == "version" {
			return
		}
		n++
		if c.Short == "" || c.Long == "" || !strings.Contains(c.Example, "  "+c.CommandPath()) {
			t.Errorf("%s: short %q, long or example is missing", c.CommandPath(), c.Short)
		}
		_, section, ok := strings.Cut(doc, "\n## `"+c.CommandPath()+"`\n")
		section, _, _ = strings.Cut(section, "\n## ")
		if !ok {
			t.Errorf("%s is not in docs/reference/agent-cli.md", c.CommandPath())
			return
		}
		if strings.Contains(section, "[FILES]") {
			_, files, _ := strings.Cut(doc, "\n## `assay-agent run`\n")
			files, _, _ = strings.Cut(files, "\n## ")
			section += files
		}
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if f.Name != "help" && !strings.Contains(section, "--"+f.Name) {
				t.Errorf("%s --%s is not in its section of docs/reference/agent-cli.md", c.CommandPath(), f.Name)
			}
			if f.Usage == "" {
				t.Errorf("%s --%s has no help", c.CommandPath(), f.Name)
			}
		})
	}
	walk(rootCommand())
	if n < 8 {
		t.Errorf("%d commands, want at least 8", n)
	}
}

// The names below are relied upon outside. Add to a list; change nothing in it.
func TestJSONFieldNamesAreThoseOfTheContract(t *testing.T) {
	doc := reference(t)
	for _, c := range []struct {
		value any
		want  string
	}{
		{health{}, "serving identity clock server policy tee trust_domains ended"},
		{standing{}, "tee trust_domains"},
		{trustDomain{}, "trust_domain server state denied last next wall_clock_ahead_seconds identities"},
		{attempt{}, "at succeeded reference? kind? check? message? hint?"},
		{heldIdentity{}, "spiffe_id not_after hint?"},
		{shown{}, "spiffe_id hint? serial not_before not_after key_residency x509_svid bundle"},
		{fetchedToken{}, "spiffe_id audience expires_at token"},
	} {
		typ := reflect.TypeOf(c.value)
		var got []string
		for i := range typ.NumField() {
			tag := typ.Field(i).Tag.Get("json")
			name, option, _ := strings.Cut(tag, ",")
			if name == "" || option != "" && option != "omitempty" {
				t.Errorf("%s.%s: tag %q", typ, typ.Field(i).Name, tag)
			}
			if !strings.Contains(doc, "`"+name+"`") {
				t.Errorf("%s: field %s is not in docs/reference/agent-cli.md", typ, name)
			}
			if option != "" {
				name += "?"
			}
			got = append(got, name)
		}
		if diff := cmp.Diff(strings.Fields(c.want), got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", typ, diff)
		}
	}
}
