package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"unicode/utf8"

	"github.com/spf13/cobra"
)

// Format is the value of --output.
type Format string

// The formats.
const (
	Text Format = "text"
	JSON Format = "json"
)

// String, Set and Type make Format a flag that refuses other words.
func (f *Format) String() string { return string(*f) }

// Set accepts "text" and "json".
func (f *Format) Set(s string) error {
	switch Format(s) {
	case Text, JSON:
		*f = Format(s)
		return nil
	}
	return fmt.Errorf("want text or json")
}

// Type is the word that help shows for the value.
func (f *Format) Type() string { return "text|json" }

// OutputFlag adds --output to a command.
func OutputFlag(c *cobra.Command) *Format {
	f := Text
	c.Flags().Var(&f, "output", "output format")
	// The flag exists: it was added the line before.
	_ = c.RegisterFlagCompletionFunc("output", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return []string{string(Text), string(JSON)}, cobra.ShellCompDirectiveNoFileComp
	})
	return &f
}

// Complete offers the words for the value of a flag that the command has, and no
// files: for flags that take nothing else.
func Complete(c *cobra.Command, flag string, words ...string) {
	// A flag that is not there fails the tests of the command that adds it.
	_ = c.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
}

// PrintJSON writes v as indented JSON.
func PrintJSON(w io.Writer, v any) error {
	out, err := marshal(v, "  ")
	if err != nil {
		return err
	}
	_, err = w.Write(out)
	return err
}

// PrintJSONLine writes v as JSON on one line, for lists of any length.
func PrintJSONLine(w io.Writer, v any) error {
	out, err := marshal(v, "")
	if err != nil {
		return err
	}
	_, err = w.Write(out)
	return err
}

// marshal encodes without HTML escapes, and with JSON escapes for every
// character that a terminal might act on: encoding/json escapes only those
// below U+0020, and C1 controls and reordering characters work above it too.
// Such characters occur inside strings only, so that the replacement is exact.
func marshal(v any, indent string) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", indent)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	if printable(b.String(), true) {
		return b.Bytes(), nil
	}
	var out bytes.Buffer
	for s := b.Bytes(); len(s) > 0; {
		r, n := utf8.DecodeRune(s)
		switch {
		case safe(r, true):
			out.Write(s[:n])
		case r <= 0xffff:
			fmt.Fprintf(&out, `\u%04x`, r)
		default: // a surrogate pair, RFC 8259 section 7
			r -= 0x10000
			fmt.Fprintf(&out, `\u%04x\u%04x`, 0xd800+(r>>10), 0xdc00+(r&0x3ff))
		}
		s = s[n:]
	}
	return out.Bytes(), nil
}

// Page is text output: titles, named facts and plain tables. It escapes what
// it is given and remembers the first write error, so that callers read as the
// page does.
type Page struct {
	w   io.Writer
	err error
}

// NewPage writes to w.
func NewPage(w io.Writer) *Page { return &Page{w: w} }

// Err is the first error of writing, if any.
func (p *Page) Err() error { return p.err }

func (p *Page) write(s string) {
	if p.err == nil {
		_, p.err = io.WriteString(p.w, s)
	}
}

// Linef writes one line.
func (p *Page) Linef(format string, a ...any) { p.write(Escape(fmt.Sprintf(format, a...)) + "\n") }

// Title writes an empty line and a heading.
func (p *Page) Title(format string, a ...any) {
	p.write("\n" + Escape(fmt.Sprintf(format, a...)) + "\n")
}

// Fact is a named value.
type Fact struct{ Name, Value string }

// Facts writes the values under each other.
func (p *Page) Facts(facts ...Fact) {
	rows := make([][]string, 0, len(facts))
	for _, f := range facts {
		rows = append(rows, []string{f.Name, f.Value})
	}
	p.Table(nil, rows)
}

// Table writes rows in columns, two spaces apart and indented by two, under a
// header if there is one.
func (p *Page) Table(header []string, rows [][]string) {
	if p.err != nil {
		return
	}
	var b bytes.Buffer
	tw := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	line := func(cells []string) {
		safe := make([]string, len(cells))
		for i, c := range cells {
			safe[i] = Escape(c)
		}
		_, _ = fmt.Fprintln(tw, "  "+strings.Join(safe, "\t"))
	}
	if header != nil {
		line(header)
	}
	for _, r := range rows {
		line(r)
	}
	if err := tw.Flush(); err != nil {
		p.err = err
		return
	}
	for l := range strings.Lines(b.String()) {
		p.write(strings.TrimRight(l, " \n") + "\n")
	}
}

// IsTerminal reports whether w is a terminal, to which progress may be shown.
func IsTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok || f.Name() == os.DevNull {
		return false
	}
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeCharDevice != 0
}
