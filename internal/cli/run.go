package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/strictyaml"
)

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
		return &UsageError{Err: err, Hint: seeHelp(c)}
	})
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	started := false
	prepare(root, &started)
	err := root.ExecuteContext(ctx)
	if err != nil && !started && !classified(err) {
		// Whatever stops a command before its body runs (an argument, a
		// required flag, two flags that exclude each other) is usage.
		err = &UsageError{Err: err, Hint: seeHelp(root)}
	}
	PrintError(root.ErrOrStderr(), err)
	return ExitCode(err)
}

func seeHelp(c *cobra.Command) string { return fmt.Sprintf("see `%s --help`", c.CommandPath()) }

func classified(err error) bool {
	var (
		silent *Silent
		usage  *UsageError
		yaml   strictyaml.Errors
		ae     *attest.Error
	)
	return errors.As(err, &silent) || errors.As(err, &usage) || errors.As(err, &yaml) || errors.As(err, &ae)
}

// prepare turns cobra's complaints about arguments into usage errors, makes a
// group of commands refuse a word that is none of them, and notes when the body
// of a command begins to run.
func prepare(c *cobra.Command, started *bool) {
	args := c.Args
	if c.HasSubCommands() && (args == nil || !c.Runnable()) {
		args = noSuchCommand
	}
	if c.HasSubCommands() && !c.Runnable() {
		c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
	}
	if c.Name() == "help" && c.HasParent() && !c.Parent().HasParent() {
		c.Run, c.RunE = nil, helpTopic
	}
	if args != nil {
		c.Args = func(c *cobra.Command, a []string) error {
			err := args(c, a)
			if err != nil && !classified(err) {
				return &UsageError{Err: err, Hint: seeHelp(c)}
			}
			return err
		}
	}
	if run := c.RunE; run != nil {
		c.RunE = func(c *cobra.Command, a []string) error {
			*started = true
			return run(c, a)
		}
	}
	for _, sub := range c.Commands() {
		prepare(sub, started)
	}
}

// noSuchCommand is the argument rule of a group of commands.
func noSuchCommand(c *cobra.Command, a []string) error {
	if len(a) == 0 {
		return nil
	}
	if c.SuggestionsMinimumDistance <= 0 {
		c.SuggestionsMinimumDistance = 2
	}
	hint := seeHelp(c)
	if near := c.SuggestionsFor(a[0]); len(near) > 0 {
		hint = fmt.Sprintf("did you mean `%s %s`?", c.CommandPath(), strings.Join(near, "` or `"+c.CommandPath()+" "))
	}
	return Usagef(hint, "%s: there is no command %q", c.CommandPath(), a[0])
}

// helpTopic is `help COMMAND`: cobra's own answers an unknown command with
// success.
func helpTopic(c *cobra.Command, a []string) error {
	topic, rest, err := c.Root().Find(a)
	if err != nil || topic == nil || len(rest) > 0 {
		return Usagef(seeHelp(c.Root()), "no help for %q", strings.Join(a, " "))
	}
	topic.InitDefaultHelpFlag()
	return topic.Help()
}
