package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"github.com/assay-project/assay/internal/cli"
)

// asksForJSON reports whether a command line has --output json.
func asksForJSON(args []string) bool {
	i := slices.Index(args, "--output")
	return slices.Contains(args, "--output=json") || i >= 0 && i+1 < len(args) && args[i+1] == "json"
}

// onlyJSON reports an error unless out is JSON values to its end, and at least
// one: a mistake on the command line (exit code 2) may print none. A script reads
// it with one decoder, so that a line of text before, between or after them breaks
// the script.
func onlyJSON(out string, code int) error {
	dec := json.NewDecoder(strings.NewReader(out))
	n := 0
	for ; ; n++ {
		var v any
		switch err := dec.Decode(&v); {
		case errors.Is(err, io.EOF) && n == 0 && code != cli.Usage:
			return fmt.Errorf("exit code %d and no JSON", code)
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("value %d: %w in %.400q", n+1, err, out)
		}
	}
}

func TestOutputThatIsMoreThanJSONIsNoticed(t *testing.T) {
	for _, c := range []struct {
		out  string
		code int
		good bool
	}{
		{"{\"a\": 1}\n", 0, true},
		{"{}\n{}\n", 0, true},
		{"", cli.Usage, true},
		{"", 0, false},
		{"", cli.Unavailable, false},
		{"NOT VERIFIED: nothing\n{}\n", 0, false},
		{"{}\nVERIFIED\n", 0, false},
		{"{", 0, false},
	} {
		if err := onlyJSON(c.out, c.code); (err == nil) != c.good {
			t.Errorf("%q with exit code %d: %v", c.out, c.code, err)
		}
	}
}

// elsewhere are commands that no session can end well, and what reads their JSON.
func elsewhere() map[string]string {
	return map[string]string{
		"assay evidence collect":   "collect_test.go: it needs a device",
		"assay authority import":   "it needs an upstream CA, and prints what `authority prepare` does",
		"assay federation refresh": "it needs a bundle endpoint, and prints what `federation add` does",
	}
}

// Every session decodes what a command prints with --output json (see ends); this
// says that there is one for each command, and that it ends well.
func TestEveryCommandWithJSONOutputIsReadInASession(t *testing.T) {
	var lines []string
	check(t, filepath.WalkDir("testdata", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".txt" {
			return err
		}
		b, err := os.ReadFile(path)
		lines = append(lines, strings.Split(string(b), "\n")...)
		return err
	}))
	n := 0
	walk(rootCommand(systemClock), func(c *cobra.Command) {
		if c.Flags().Lookup("output") == nil {
			return
		}
		n++
		if !slices.ContainsFunc(lines, func(l string) bool {
			words := strings.Fields(l)
			return strings.HasPrefix(l, "ends 0 "+c.CommandPath()+" ") && asksForJSON(words)
		}) && elsewhere()[c.CommandPath()] == "" {
			t.Errorf("no session runs `%s --output json` to a good end", c.CommandPath())
		}
	})
	if n < 40 {
		t.Errorf("%d commands with --output, want at least 40", n)
	}
}

// TestJSONSessionsOfAServer runs the scripts in testdata/json, which change a server
// that is theirs alone: ADMIN names its socket. They have two more commands:
//
//	note NAME REGEXP   sets NAME to what the parentheses match in standard output
//	later DURATION     the server's clock goes on
func TestJSONSessionsOfAServer(t *testing.T) {
	o := newOffice(t)
	socket := o.serve(t)
	runScriptsWith(t, "testdata/json", o, func(env *testscript.Env) {
		env.Setenv("ADMIN", socket)
		env.Setenv("LISTED", o.Now().UTC().Format(time.RFC3339))
	}, map[string]func(ts *testscript.TestScript, neg bool, args []string){
		"note": func(ts *testscript.TestScript, neg bool, args []string) {
			if neg || len(args) != 2 {
				ts.Fatalf("usage: note NAME REGEXP")
			}
			re, err := regexp.Compile(args[1])
			ts.Check(err)
			m := re.FindStringSubmatch(ts.ReadFile("stdout"))
			if len(m) != 2 {
				ts.Fatalf("standard output has no match for %s", args[1])
			}
			ts.Setenv(args[0], m[1])
		},
		"later": func(ts *testscript.TestScript, neg bool, args []string) {
			if neg || len(args) != 1 {
				ts.Fatalf("usage: later DURATION")
			}
			d, err := time.ParseDuration(args[0])
			ts.Check(err)
			o.Advance(d)
		},
	})
}
