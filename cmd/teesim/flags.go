package main

import (
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/internal/cli"
)

// known is a fault that a command can be asked for.
type known struct{ name, description string }

// faultFlags name what should be wrong.
type faultFlags struct {
	names []string
	known func() []known
	list  string // the command that lists them
}

// register adds --fault, for faults that another command lists.
func (f *faultFlags) register(c *cobra.Command, list string, all func() []known) {
	f.known, f.list = all, list
	c.Flags().StringArrayVar(&f.names, "fault", nil, "make this `FAULT` wrong ("+list+" lists them); may be repeated")
	_ = c.RegisterFlagCompletionFunc("fault", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		var out []string
		for _, k := range all() {
			out = append(out, k.name+"\t"+k.description)
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	})
}

// chosen finds the faults that were named.
func chosen[F any](f *faultFlags, byName func(string) (F, bool)) ([]F, error) {
	out := make([]F, 0, len(f.names))
	for _, name := range f.names {
		fault, ok := byName(name)
		if !ok {
			return nil, cli.Usagef(near(name, f.known(), f.list), "there is no fault %.60q", name)
		}
		out = append(out, fault)
	}
	return out, nil
}

// near suggests the faults that were perhaps meant.
func near(name string, all []known, list string) string {
	var found []string
	best := 4 // typing errors, at most three of them
	for _, k := range all {
		switch d := distance(name, k.name); {
		case d < best:
			best, found = d, []string{k.name}
		case d == best && best < 4:
			found = append(found, k.name)
		}
	}
	if len(found) == 0 {
		return "see `" + list + "`"
	}
	return "did you mean " + strings.Join(found, " or ") + "?"
}

// distance is the number of bytes to insert, remove or replace between the two.
func distance(a, b string) int {
	if len(a) > 60 || len(b) > 60 {
		return 60
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// hexValue is a byte string flag; absent is nil, which is not the same as empty.
type hexValue struct {
	set   bool
	bytes []byte
}

// String, Set and Type make hexValue a flag.
func (h *hexValue) String() string { return hex.EncodeToString(h.bytes) }

// Set reads hex of either case.
func (h *hexValue) Set(s string) error {
	b, err := hex.DecodeString(s)
	if err != nil {
		return fmt.Errorf("want hex: %w", err)
	}
	h.set, h.bytes = true, append([]byte{}, b...)
	return nil
}

// Type is the word that help shows for the value.
func (h *hexValue) Type() string { return "HEX" }

func (h *hexValue) value() []byte {
	if !h.set {
		return nil
	}
	return h.bytes
}

// timeValue is an RFC 3339 time flag; absent is the zero time.
type timeValue struct{ t time.Time }

// String, Set and Type make timeValue a flag.
func (v *timeValue) String() string {
	if v.t.IsZero() {
		return ""
	}
	return v.t.Format(time.RFC3339)
}

// Set reads RFC 3339, with or without fractions of a second.
func (v *timeValue) Set(s string) error {
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return fmt.Errorf("want RFC 3339, for example 2026-01-31T12:00:00Z")
	}
	v.t = t
	return nil
}

// Type is the word that help shows for the value.
func (v *timeValue) Type() string { return "RFC3339" }

// toTerminal reports whether bytes written to the command's output would end up
// on a screen.
func toTerminal(c *cobra.Command) bool {
	f, ok := c.OutOrStdout().(*os.File)
	return ok && cli.IsTerminal(f)
}
