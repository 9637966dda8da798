package policy

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/assay-project/assay/internal/strictyaml"
)

// digest is the kind of a fixed-length measurement of n bytes, written in hex.
type digest struct{ n int }

func (k digest) shortest() int       { return k.n }
func (digest) ops() []string         { return []string{"eq", "in"} }
func (digest) format(v value) string { return hex.EncodeToString([]byte(v)) }

func (digest) compile(p *parser, f *field, op string, n *strictyaml.Node) (test, bool) {
	return compileSet(p, f, op, n)
}

func (k digest) parse(d *strictyaml.Document, n *strictyaml.Node) (value, bool) {
	s, ok := d.Text(n)
	if !ok {
		return "", false
	}
	want := fmt.Sprintf("%d bytes in hex (%d characters)", k.n, 2*k.n)
	raw, err := hex.DecodeString(s)
	if err != nil {
		hint := ""
		if strings.HasPrefix(s, "0x") {
			hint = "leave 0x out"
		}
		d.Report(n, fmt.Sprintf("want %s, got %q", want, clip(s)), hint)
		return "", false
	}
	if len(raw) != k.n {
		hint := "values are compared at their full length"
		if len(raw) == 32 && k.n == 48 {
			hint = "this has the length of SHA-256; the measurement is another hash"
		}
		d.Report(n, fmt.Sprintf("want %s, got %d bytes", want, len(raw)), hint)
		return "", false
	}
	if allZero(raw) {
		d.Report(n, "an all-zero reference value is refused", "zero is what an unset or debug-mode register reads: it identifies nothing")
		return "", false
	}
	return value(raw), true
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// boolean is the kind of a claim that is true or false.
type boolean struct{}

// The values of a boolean.
const (
	yes value = "true"
	no  value = "false"
)

func truth(b bool) value {
	if b {
		return yes
	}
	return no
}

func (boolean) ops() []string         { return []string{"eq"} }
func (boolean) format(v value) string { return string(v) }

func (boolean) parse(d *strictyaml.Document, n *strictyaml.Node) (value, bool) {
	b, ok := d.Bool(n)
	return truth(b), ok
}

func (boolean) compile(p *parser, f *field, op string, n *strictyaml.Node) (test, bool) {
	return compileSet(p, f, op, n)
}

// clip shortens text from a policy before it is printed.
func clip(s string) string {
	const n = 60
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	return string([]rune(s)[:n]) + "…"
}

// identifier is the kind of a name of n bytes that the author of an image
// chose. It is written like a digest, and is none: it is neither published nor
// expanded in templates.
type identifier struct{ n int }

func (identifier) ops() []string         { return []string{"eq", "in"} }
func (identifier) format(v value) string { return hex.EncodeToString([]byte(v)) }

func (k identifier) parse(d *strictyaml.Document, n *strictyaml.Node) (value, bool) {
	return digest(k).parse(d, n)
}

func (identifier) compile(p *parser, f *field, op string, n *strictyaml.Node) (test, bool) {
	return compileSet(p, f, op, n)
}

// enum is the kind of a claim that is one of a few words, separated by "|".
type enum struct{ words string }

func (enum) ops() []string         { return []string{"eq", "in"} }
func (enum) format(v value) string { return string(v) }

func (k enum) parse(d *strictyaml.Document, n *strictyaml.Node) (value, bool) {
	s, ok := d.Text(n)
	if !ok {
		return "", false
	}
	words := strings.Split(k.words, "|")
	if !slices.Contains(words, s) {
		d.Report(n, fmt.Sprintf("want one of %s, got %q", strings.Join(words, ", "), clip(s)), d.Suggest(s, words))
		return "", false
	}
	return value(s), true
}

func (enum) compile(p *parser, f *field, op string, n *strictyaml.Node) (test, bool) {
	return compileSet(p, f, op, n)
}

// text is the kind of a claim that is free text of at most max bytes.
type text struct{ max int }

func (text) ops() []string         { return []string{"eq", "in", "regex"} }
func (text) format(v value) string { return string(v) }

func (k text) parse(d *strictyaml.Document, n *strictyaml.Node) (value, bool) {
	s, ok := d.Text(n)
	if !ok {
		return "", false
	}
	if s == "" || len(s) > k.max || strings.TrimFunc(s, func(r rune) bool { return r >= ' ' && r <= '~' }) != "" {
		d.Report(n, fmt.Sprintf("want 1 to %d printable ASCII characters, got %q", k.max, clip(s)), "")
		return "", false
	}
	return value(s), true
}

func (text) compile(p *parser, f *field, op string, n *strictyaml.Node) (test, bool) {
	if op == "regex" {
		return p.regex(f, n)
	}
	return compileSet(p, f, op, n)
}
