package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain makes the test binary double as `assay` on the PATH, so that both
// the scripts and the tests here run the command as a shell would: a process
// of its own, with its exit code.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"assay": func() { os.Exit(run()) }})
}

// ran is how a command ended.
type ran struct {
	code           int
	stdout, stderr string
}

// assay runs the command with standard input.
func assay(t *testing.T, stdin []byte, args ...string) ran {
	t.Helper()
	var out, errs bytes.Buffer
	c := exec.CommandContext(t.Context(), "assay", args...)
	c.Stdin, c.Stdout, c.Stderr = bytes.NewReader(stdin), &out, &errs
	r := ran{}
	if err := c.Run(); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			t.Fatal(err)
		}
		r.code = exit.ExitCode()
	}
	r.stdout, r.stderr = out.String(), errs.String()
	if asksForJSON(args) {
		if err := onlyJSON(r.stdout, r.code); err != nil {
			t.Errorf("assay %q: standard output: %v", args, err)
		}
	}
	return r
}

// decode reads one JSON value from standard output.
func (r ran) decode(t *testing.T, v any) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader([]byte(r.stdout)))
	if err := d.Decode(v); err != nil {
		t.Fatalf("standard output is not JSON: %v\n%s%s", err, r.stdout, r.stderr)
	}
	if d.More() {
		t.Fatalf("standard output holds more than one JSON value:\n%s", r.stdout)
	}
}
