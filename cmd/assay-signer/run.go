package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os/user"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/cmd/assay-signer/internal/config"
	"github.com/assay-project/assay/cmd/assay-signer/internal/server"
	"github.com/assay-project/assay/cmd/assay-signer/internal/store"
	"github.com/assay-project/assay/internal/cli"
)

func configFlag(c *cobra.Command) *string {
	return c.Flags().String("config", config.DefaultPath, "configuration file")
}

func runCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "run",
		Short: "Serve the socket until SIGTERM",
		Long: `run opens every store and every key of the configuration, then answers on the
socket until SIGTERM or SIGINT. The log, with a line for each signature, goes to
standard error.

Exit code 2 means that starting again does not help: a mistake in the
configuration, or a PIN that was refused. Let nothing restart it then, because
tokens lock.`,
		Example: `  assay-signer run
  assay-signer run --config ./assay-signer.yaml`,
		Args: cobra.NoArgs,
	}
	file := configFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		cfg, err := config.Load(*file)
		if err != nil {
			return err
		}
		return run(c.Context(), cfg, logger(cfg, c.ErrOrStderr()))
	}
	return c
}

func run(ctx context.Context, cfg *config.Config, log *slog.Logger) (err error) {
	clients, err := clientsOf(cfg)
	if err != nil {
		return err
	}
	if len(cfg.Keys) == 0 {
		return cli.Usagef("`assay-signer keys create` prints what to add", "the configuration names no key")
	}
	set, err := store.Open(ctx, cfg, store.Options{Log: log})
	if err != nil {
		return opening(err)
	}
	defer func() { err = errors.Join(err, set.Close()) }()
	l, err := server.Listen(cfg.Socket, cfg.SocketGroup)
	if err != nil {
		return err
	}
	log.InfoContext(ctx, "serving", "version", cli.Version(), "socket", cfg.Socket, "keys", len(set.Keys()), "clients", len(clients))
	err = server.New(set, clients, server.Options{Log: log, Timeout: cfg.RequestTimeout}).Serve(ctx, l)
	log.InfoContext(ctx, "stopped")
	return err
}

// opening makes an error of the stores one of usage (exit code 2), where trying
// again by itself does not help.
func opening(err error) error {
	var e *attest.Error
	if errors.As(err, &e) && e.Kind != attest.Unavailable {
		return &cli.UsageError{Err: err, Hint: e.Hint}
	}
	return err
}

// clientsOf looks the users up.
func clientsOf(cfg *config.Config) ([]server.Client, error) {
	var out []server.Client
	for _, c := range cfg.Clients {
		if c.UID != nil {
			out = append(out, server.Client{UID: *c.UID, Purposes: c.Purposes})
			continue
		}
		u, err := user.Lookup(c.User)
		if err != nil {
			return nil, cli.Usagef("make the user, or name the client by its uid", "clients: %w", err)
		}
		uid, err := strconv.ParseUint(u.Uid, 10, 32)
		if err != nil {
			return nil, cli.Usagef("", "clients: user %s: %w", c.User, err)
		}
		out = append(out, server.Client{UID: uint32(uid), Purposes: c.Purposes})
	}
	return out, nil
}

func logger(cfg *config.Config, w io.Writer) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(cfg.Log.Level)) // config.Load has checked it
	o := &slog.HandlerOptions{Level: level}
	if cfg.Log.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}
