package strictyaml

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// The functions below read one scalar each. Where the node is not what they
// want they report it and return false.

// Text reads text. An unquoted true, 12 or 12e4 is not text to YAML: it must
// be quoted.
func (d *Document) Text(n *Node) (string, bool) {
	if !d.scalarOnly(n, "text") {
		return "", false
	}
	if n.Type != Text {
		d.Report(n, "want text, got "+n.Describe(), `put it in quotes: "`+clip(n.Value, 100)+`"`)
		return "", false
	}
	return n.Value, true
}

// Bool reads true or false, and nothing else that YAML 1.1 takes for them.
func (d *Document) Bool(n *Node) (value, ok bool) {
	if !d.scalarOnly(n, "true or false") {
		return false, false
	}
	if !n.Quoted {
		switch n.Value {
		case "true":
			return true, true
		case "false":
			return false, true
		}
	}
	d.Report(n, "want true or false, got "+n.Describe(), "write true or false, without quotes")
	return false, false
}

// Int reads a decimal integer.
func (d *Document) Int(n *Node, bits int) (int64, bool) {
	if !d.integer(n) {
		return 0, false
	}
	v, err := strconv.ParseInt(n.Value, 10, bits)
	if err != nil {
		d.Report(n, fmt.Sprintf("the number %s is out of range", clip(n.Value, 40)), fmt.Sprintf("a signed number of %d bits", bits))
		return 0, false
	}
	return v, true
}

// Uint reads a decimal integer that is not negative.
func (d *Document) Uint(n *Node, bits int) (uint64, bool) {
	if !d.integer(n) {
		return 0, false
	}
	v, err := strconv.ParseUint(n.Value, 10, bits)
	if err != nil {
		d.Report(n, fmt.Sprintf("the number %s is out of range", clip(n.Value, 40)), fmt.Sprintf("a number of %d bits that is not negative", bits))
		return 0, false
	}
	return v, true
}

func (d *Document) integer(n *Node) bool {
	if !d.scalarOnly(n, "a whole number") {
		return false
	}
	digits := strings.TrimPrefix(n.Value, "-")
	if n.Quoted || digits == "" || strings.Trim(digits, "0123456789") != "" {
		d.Report(n, "want a whole number, got "+n.Describe(), "write it in decimal, without quotes, underscores or a prefix")
		return false
	}
	if len(digits) > 1 && digits[0] == '0' {
		d.Report(n, "a number must not begin with 0: "+clip(n.Value, 40), "some readers take it for octal; write it in decimal, or quote it where text is wanted")
		return false
	}
	return true
}

// Float reads a decimal number.
func (d *Document) Float(n *Node) (float64, bool) {
	if !d.scalarOnly(n, "a number") {
		return 0, false
	}
	v, err := strconv.ParseFloat(n.Value, 64)
	if err != nil || n.Quoted || strings.Trim(n.Value, "+-.eE0123456789") != "" {
		d.Report(n, "want a number, got "+n.Describe(), "write it in decimal, without quotes")
		return 0, false
	}
	return v, true
}

// Duration reads a length of time as [ParseDuration] does.
func (d *Document) Duration(n *Node) (time.Duration, bool) {
	if !d.scalarOnly(n, "a length of time") {
		return 0, false
	}
	v, err := ParseDuration(n.Value)
	if err != nil || n.Type != Text {
		d.Report(n, "want a length of time, got "+n.Describe(), "a number with a unit, such as 90s, 15m, 1h30m or 30d")
		return 0, false
	}
	return v, true
}

// ParseDuration reads Go's syntax ("1h30m"), or a whole number of days of 24
// hours ("30d").
func ParseDuration(s string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		if err != nil {
			return 0, fmt.Errorf("not a number of days: %q", clip(s, 40))
		}
		return time.Duration(n) * 24 * time.Hour, nil
	}
	v, err := time.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("not a length of time: %q", clip(s, 40))
	}
	return v, nil
}

// Time reads a moment in RFC 3339 with its offset, and returns it in UTC.
func (d *Document) Time(n *Node) (time.Time, bool) {
	if !d.scalarOnly(n, "a moment") {
		return time.Time{}, false
	}
	v, err := time.Parse(time.RFC3339, n.Value)
	if err != nil {
		d.Report(n, "want a moment (RFC 3339), got "+n.Describe(), "for example 2027-01-31T00:00:00Z")
		return time.Time{}, false
	}
	return v.UTC(), true
}

// Strings reads a list of texts, leaving out the items it reports.
func (d *Document) Strings(n *Node) ([]string, bool) {
	if !d.Want(n, Sequence) {
		return nil, false
	}
	out, ok := make([]string, 0, len(n.Items)), true
	for _, it := range n.Items {
		s, good := d.Text(it)
		if good {
			out = append(out, s)
		}
		ok = ok && good
	}
	return out, ok
}

// Want reports a node of another kind than the one wanted.
func (d *Document) Want(n *Node, k Kind) bool {
	if n == nil {
		d.Report(nil, "want "+k.String()+", got nothing", "")
		return false
	}
	if n.refused {
		return false
	}
	if n.Kind == k {
		return true
	}
	d.wrong(n, k.String())
	return false
}

// OnlyKeys reports every key of a mapping that is not among the known ones.
func (d *Document) OnlyKeys(n *Node, known ...string) {
	for _, f := range n.Fields {
		found := false
		for _, k := range known {
			if f.Key.Value == k {
				found = true
				break
			}
		}
		if found {
			continue
		}
		hint := ""
		if !d.Full() {
			hint = Suggest(f.Key.Value, known)
		}
		d.Report(f.Key, fmt.Sprintf("unknown key %q", clip(f.Key.Value, 60)), hint)
	}
}

func (d *Document) scalarOnly(n *Node, what string) bool {
	if n == nil {
		d.Report(nil, "want "+what+", got nothing", "")
		return false
	}
	if n.refused {
		return false
	}
	if n.Kind != Scalar || n.Type == Null {
		d.wrong(n, what)
		return false
	}
	return true
}

func (d *Document) wrong(n *Node, what string) {
	hint := ""
	if n.Kind == Scalar && n.Type == Null {
		hint = "give it a value, or leave the key out"
	}
	d.Report(n, "want "+what+", got "+n.Describe(), hint)
}
