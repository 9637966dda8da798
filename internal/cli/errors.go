package cli

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/strictyaml"
)

// UsageError is a mistake in flags, arguments or configuration.
type UsageError struct {
	Err  error
	Hint string
}

func (e *UsageError) Error() string { return e.Err.Error() }
func (e *UsageError) Unwrap() error { return e.Err }

// Usagef makes a UsageError.
func Usagef(hint, format string, a ...any) error {
	return &UsageError{Err: fmt.Errorf(format, a...), Hint: hint}
}

// Hint returns what to do about the error, or "".
func Hint(err error) string {
	var (
		usage *UsageError
		ae    *attest.Error
	)
	switch {
	case errors.As(err, &usage) && usage.Hint != "":
		return usage.Hint
	case errors.As(err, &ae):
		return ae.Hint
	}
	return ""
}

// PrintError writes the error and its hint the way every command does. Errors
// in a file are drawn with the source line and a caret.
func PrintError(w io.Writer, err error) {
	var (
		silent *Silent
		yaml   strictyaml.Errors
	)
	switch {
	case err == nil || errors.As(err, &silent):
		return
	case errors.As(err, &yaml):
		_, _ = io.WriteString(w, "error: "+EscapeLines(yaml.Render()))
		return
	}
	_, _ = fmt.Fprintf(w, "error: %s\n", indent(err.Error()))
	if hint := Hint(err); hint != "" {
		_, _ = fmt.Fprintf(w, "hint: %s\n", indent(hint))
	}
}

// Warn writes one "warning:" line.
func Warn(w io.Writer, format string, a ...any) {
	_, _ = fmt.Fprintf(w, "warning: %s\n", indent(fmt.Sprintf(format, a...)))
}

// WarnBlock writes a warning that is drawn over several lines, such as one in a
// file with the source line and a caret.
func WarnBlock(w io.Writer, block string) {
	_, _ = io.WriteString(w, "warning: "+EscapeLines(strings.TrimRight(block, "\n"))+"\n")
}

// indent escapes a message and sets its further lines off, so that text from a
// stranger cannot pass for a line of ours ("hint: …").
func indent(s string) string {
	return strings.ReplaceAll(EscapeLines(strings.TrimRight(s, "\n")), "\n", "\n  ")
}
