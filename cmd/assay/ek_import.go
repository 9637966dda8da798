package main

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/internal/strictyaml"
	"github.com/assay-project/assay/issuer/tpms"
)

// maxImport is the most TPMs of one import: the server adds them in one
// transaction.
const maxImport = 100_000

func ekImportCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "import FILE",
		Short: "Add many TPMs from a CSV file or JSON lines",
		Long: `Add TPMs from a file, all of them or none. Everything that is wrong with the file
is reported at once, and then nothing is changed.

CSV begins with a line that names the columns: ek, and where wanted group and
note. JSON has one object a line with these fields. ek is 64 hex digits: SHA-256
of the key's SubjectPublicKeyInfo. Rows without a group go to --group.`,
		Example: `  assay ek import machines.csv
  assay ek import --group rack-4 --replace machines.jsonl
  assay ek list --output json | assay ek import --format jsonl -`,
		Args: cobra.ExactArgs(1),
	}
	socket := adminFlag(c)
	group := c.Flags().String("group", defaultGroup, "`GROUP` of rows that name none")
	format := c.Flags().String("format", "", "`csv|jsonl`; the default is by the file's name")
	cli.Complete(c, "format", "csv", "jsonl")
	replace := c.Flags().Bool("replace", false, "replace group and note of TPMs that are listed already")
	output := cli.OutputFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		name := args[0]
		read, err := importFormat(name, *format)
		if err != nil {
			return err
		}
		file, err := readInput(c, name)
		if err != nil {
			return err
		}
		i := &importer{name: name, group: *group, seen: map[tpms.EK]int{}}
		read(i, file)
		if len(i.errs) > 0 {
			return i.errs
		}
		if len(i.entries) == 0 {
			return cli.Usagef("", "%s has no TPMs", name)
		}
		return addTPMs(c, *socket, i.entries, *replace, *output)
	}
	return c
}

// importFormat chooses the reader by the flag, or by the file's name.
func importFormat(name, format string) (func(*importer, []byte), error) {
	if format == "" {
		for _, suffix := range []string{"csv", "jsonl"} {
			if strings.HasSuffix(name, "."+suffix) {
				format = suffix
			}
		}
	}
	switch format {
	case "csv":
		return (*importer).csv, nil
	case "jsonl":
		return (*importer).jsonl, nil
	case "":
		return nil, cli.Usagef("say --format csv or --format jsonl", "%s: the name does not tell the format", name)
	}
	return nil, cli.Usagef("csv or jsonl", "unknown format %q", format)
}

// importer collects entries, and all that is wrong.
type importer struct {
	name    string
	group   string
	entries []tpms.Entry
	seen    map[tpms.EK]int // line
	errs    strictyaml.Errors
}

func (i *importer) report(line int, hint, format string, a ...any) {
	switch {
	case len(i.errs) < strictyaml.MaxErrors-1:
	case len(i.errs) == strictyaml.MaxErrors-1:
		hint, format, a = "", "there are more errors", nil
	default:
		return
	}
	i.errs = append(i.errs, &strictyaml.Error{File: i.name, Line: line, Msg: fmt.Sprintf(format, a...), Hint: hint})
}

// add takes one row.
func (i *importer) add(line int, ek, group, note string) {
	e := tpms.Entry{Group: group, Note: note}
	var ok bool
	if e.EK, ok = parseEKDigest(ek); !ok {
		i.report(line, "", "%.80q is no EK: want 64 hex digits, not all zero", ek)
		return
	}
	if e.Group == "" {
		e.Group = i.group
	}
	if err := e.Check(); err != nil {
		i.report(line, "", "%s", err)
		return
	}
	if before, dup := i.seen[e.EK]; dup {
		i.report(line, "", "the TPM %s is on line %d already", e.EK, before)
		return
	}
	i.seen[e.EK] = line
	if i.entries = append(i.entries, e); len(i.entries) == maxImport+1 {
		i.report(line, "split the file", "more than %d TPMs", maxImport)
	}
}

func (i *importer) csv(file []byte) {
	r := csv.NewReader(bytes.NewReader(bytes.TrimPrefix(file, []byte("\xef\xbb\xbf"))))
	r.FieldsPerRecord = -1
	head, err := r.Read()
	if err != nil {
		i.report(1, "the first line names the columns: ek,group,note", "no columns are named")
		return
	}
	columns := map[string]int{}
	for n, name := range head {
		name = strings.ToLower(strings.TrimSpace(name))
		_, twice := columns[name]
		switch {
		case !slices.Contains([]string{"ek", "group", "note"}, name):
			i.report(1, "the columns are ek, group and note", "unknown column %.40q", name)
		case twice:
			i.report(1, "", "the column %s is there twice", name)
		}
		columns[name] = n
	}
	if _, ok := columns["ek"]; !ok {
		i.report(1, "the first line names the columns: ek,group,note", "there is no column ek")
	}
	if len(i.errs) > 0 {
		return
	}
	for {
		row, err := r.Read()
		if errors.Is(err, io.EOF) {
			return
		}
		var broken *csv.ParseError
		if errors.As(err, &broken) {
			i.report(broken.Line, "", "%s", broken.Err)
			if errors.Is(broken.Err, csv.ErrQuote) {
				return // what follows is inside the quotation
			}
			continue
		}
		line, _ := r.FieldPos(0)
		if err != nil {
			i.report(line, "", "%s", err)
			return
		}
		if len(row) != len(head) {
			i.report(line, "", "%d columns, want %d", len(row), len(head))
			continue
		}
		get := func(name string) string {
			if n, ok := columns[name]; ok {
				return strings.TrimSpace(row[n])
			}
			return ""
		}
		i.add(line, get("ek"), get("group"), get("note"))
	}
}

// importRow is a JSON line. Those of `ek list` can be imported again: times are
// the server's, and are read over.
type importRow struct {
	EK        string `json:"ek"`
	Group     string `json:"group"`
	Note      string `json:"note"`
	Added     any    `json:"added"`
	Activated any    `json:"activated"`
}

func (i *importer) jsonl(file []byte) {
	line := 0
	for text := range bytes.Lines(file) {
		line++
		text = bytes.TrimSpace(text)
		if len(text) == 0 {
			continue
		}
		var row importRow
		d := json.NewDecoder(bytes.NewReader(text))
		d.DisallowUnknownFields()
		if err := d.Decode(&row); err != nil {
			i.report(line, "one JSON object a line, with ek, group and note", "%s", strings.TrimPrefix(err.Error(), "json: "))
			continue
		}
		if _, err := d.Token(); !errors.Is(err, io.EOF) {
			i.report(line, "", "something follows the object")
			continue
		}
		i.add(line, row.EK, row.Group, row.Note)
	}
}
