// Package cli is what Assay's commands have in common: exit codes, how an
// error is printed, and the version command.
//
// The rules of output: results go to standard output, everything else to
// standard error; an error is one "error:" line, with a "hint:" line when there
// is something to do about it; nothing is coloured when it is not a terminal.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/strictyaml"
)

// Exit codes. Scripts and CI rely on them.
const (
	OK          = 0
	Internal    = 1
	Usage       = 2 // usage or configuration
	Malformed   = 3
	Untrusted   = 4 // signature, chain, revocation, binding
	Stale       = 5 // time
	Denied      = 6 // policy
	Unavailable = 7
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

// Silent ends the command with a code and prints nothing more: the command has
// already told everything on standard output.
type Silent struct{ Code int }

func (s *Silent) Error() string { return fmt.Sprintf("exit code %d", s.Code) }

// ExitCode maps an error to the exit code of its kind.
func ExitCode(err error) int {
	var (
		silent *Silent
		usage  *UsageError
		yaml   strictyaml.Errors
		ae     *attest.Error
	)
	switch {
	case err == nil:
		return OK
	case errors.As(err, &silent):
		return silent.Code
	case errors.As(err, &usage), errors.As(err, &yaml):
		return Usage
	case errors.As(err, &ae):
		return KindCode(ae.Kind)
	}
	return Internal
}

// KindCode maps an error kind to its exit code.
func KindCode(k attest.Kind) int {
	switch k {
	case attest.Malformed:
		return Malformed
	case attest.Untrusted:
		return Untrusted
	case attest.Stale:
		return Stale
	case attest.Denied:
		return Denied
	case attest.Unavailable:
		return Unavailable
	case attest.Internal:
		return Internal
	}
	return Internal
}

// PrintError writes the error and its hint the way every command does.
func PrintError(w io.Writer, err error) {
	var (
		silent *Silent
		usage  *UsageError
		yaml   strictyaml.Errors
		ae     *attest.Error
	)
	switch {
	case err == nil || errors.As(err, &silent):
		return
	case errors.As(err, &yaml):
		_, _ = fmt.Fprint(w, yaml.Render())
		return
	}
	_, _ = fmt.Fprintf(w, "error: %v\n", err)
	hint := ""
	switch {
	case errors.As(err, &usage):
		hint = usage.Hint
	case errors.As(err, &ae):
		hint = ae.Hint
	}
	if hint != "" {
		_, _ = fmt.Fprintf(w, "hint: %s\n", hint)
	}
}

// Run executes the command with the process's arguments and returns the exit
// code. SIGINT and SIGTERM cancel the command's context; a second one kills.
func Run(root *cobra.Command) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	go func() { <-ctx.Done(); stop() }()
	return RunContext(ctx, root)
}

// RunContext is Run with the caller's context, for commands inside tests.
func RunContext(ctx context.Context, root *cobra.Command) int {
	root.SilenceErrors, root.SilenceUsage = true, true
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return &UsageError{Err: err, Hint: fmt.Sprintf("see `%s --help`", c.CommandPath())}
	})
	strictArgs(root)
	err := root.ExecuteContext(ctx)
	PrintError(root.ErrOrStderr(), err)
	return ExitCode(err)
}

// strictArgs turns cobra's complaints about arguments into usage errors, and
// makes a group of commands refuse a word that is none of them.
func strictArgs(c *cobra.Command) {
	args := c.Args
	if args == nil && c.HasSubCommands() {
		args = cobra.NoArgs
	}
	if c.HasSubCommands() && !c.Runnable() {
		c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
	}
	if args != nil {
		c.Args = func(c *cobra.Command, a []string) error {
			if err := args(c, a); err != nil {
				return &UsageError{Err: err, Hint: fmt.Sprintf("see `%s --help`", c.CommandPath())}
			}
			return nil
		}
	}
	for _, sub := range c.Commands() {
		strictArgs(sub)
	}
}
