package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/policy"
)

// maxInput bounds a file that is read into memory, whatever it holds: a byte
// more than the largest policy, so that the policy compiler says what is too
// large; evidence of any platform is far smaller, in hex and wrappers too.
const maxInput = policy.MaxSize + 1

// readInput reads a file, or standard input for "-". A file that cannot be
// read is a usage error; one that is too large is malformed.
func readInput(c *cobra.Command, name string) ([]byte, error) {
	return readAtMost(c, name, maxInput)
}

// readAtMost is readInput with a bound of its own, in bytes.
func readAtMost(c *cobra.Command, name string, most int64) ([]byte, error) {
	var r io.Reader
	if name == "-" {
		r, name = c.InOrStdin(), "standard input"
	} else {
		f, err := os.Open(name)
		if err != nil {
			return nil, cli.Usagef(fileHint(err), "%s", clean(err))
		}
		defer func() { _ = f.Close() }() // only read
		r = f
	}
	b, err := io.ReadAll(io.LimitReader(r, most+1))
	if err != nil {
		return nil, cli.Usagef("", "%s", clean(err))
	}
	if int64(len(b)) > most {
		return nil, &attest.Error{
			Kind: attest.Malformed, Check: "size",
			Err:      fmt.Errorf("%s is too large to be what is asked for", name),
			Expected: fmt.Sprintf("at most %d bytes", most),
		}
	}
	return b, nil
}

func fileHint(err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "give the name of a file, or - for standard input"
	case errors.Is(err, fs.ErrPermission):
		return "you may not read this file"
	}
	return ""
}

// clean drops the system call from "open FILE: no such file or directory".
func clean(err error) string {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Path + ": " + pe.Err.Error()
	}
	return err.Error()
}

// hexValue is a flag that holds bytes. Unlike a nil value, an empty one was
// given and is refused: an empty expectation would compare with nothing.
type hexValue struct {
	bytes []byte
	size  int // exact size, or 0 for any but empty
}

func (v *hexValue) String() string { return hex.EncodeToString(v.bytes) }
func (v *hexValue) Type() string   { return "HEX" }
func (v *hexValue) Set(s string) error {
	b, err := hex.DecodeString(strings.TrimSpace(s))
	switch {
	case err != nil:
		return errors.New("want hexadecimal digits, two a byte")
	case len(b) == 0:
		return errors.New("is empty")
	case v.size > 0 && len(b) != v.size:
		return fmt.Errorf("is %d bytes, want %d", len(b), v.size)
	}
	v.bytes = b
	return nil
}

// timeValue is a flag that holds a moment; the zero time means "now".
type timeValue struct{ time.Time }

func (v *timeValue) String() string {
	if v.IsZero() {
		return ""
	}
	return v.Format(time.RFC3339Nano)
}
func (v *timeValue) Type() string { return "RFC3339" }
func (v *timeValue) Set(s string) error {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return errors.New("want a time as in 2026-01-31T12:00:00Z (RFC 3339)")
	}
	if t.IsZero() {
		return errors.New("want a time after the year 1")
	}
	v.Time = t.UTC()
	return nil
}

// or returns the flag's moment, or what the clock says.
func (v *timeValue) or(now clock) time.Time {
	if v.IsZero() {
		return now().UTC()
	}
	return v.Time
}

// stamp writes a moment for people: UTC, with milliseconds where there are any.
func stamp(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Truncate(time.Millisecond).Format("2006-01-02T15:04:05.999Z07:00")
}
