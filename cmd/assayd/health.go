package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
)

func healthCommand() *cobra.Command {
	var flags configFlags
	var address string
	var live bool
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "health",
		Short: "Ask the running server whether it can attest",
		Long: `health asks the server on this machine for /ready, or with --live for /live, at
metrics_listen. It is for probes of containers, whose image has no other program.
The exit code is 7 when the server says no, or does not answer.`,
		Example: "  assayd health\n  assayd health --live --timeout 1s\n  assayd health --address 127.0.0.1:9464",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if address == "" {
				cfg, err := flags.load()
				if err != nil {
					return err
				}
				if address = cfg.MetricsListen; address == "" {
					return cli.Usagef("set it, or give --address", "metrics_listen is off")
				}
			}
			path := "/ready"
			if live {
				path = "/live"
			}
			ctx, cancel := context.WithTimeout(c.Context(), timeout)
			defer cancel()
			said, err := probe(ctx, address, path)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), cli.Escape(said))
			return err
		},
	}
	flags.add(c)
	c.Flags().StringVar(&address, "address", "", "where /ready is served; otherwise what the configuration says")
	c.Flags().BoolVar(&live, "live", false, "ask only whether the process runs")
	c.Flags().DurationVar(&timeout, "timeout", 3*time.Second, "how long to wait")
	return c
}

// probe asks for one page of the server's own, and returns what it says.
func probe(ctx context.Context, address, path string) (string, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", cli.Usagef("for example 127.0.0.1:9464", "%q is no address: %w", address, err)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1" // it listens on all
	}
	away := func(err error) error {
		return &attest.Error{Kind: attest.Unavailable, Check: "health", Err: err, Hint: "look at the server's log"}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(host, port)+path, nil)
	if err != nil {
		return "", cli.Usagef("for example 127.0.0.1:9464", "%q is no address: %w", address, err)
	}
	client := &http.Client{
		Transport:     &http.Transport{Proxy: nil, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", away(fmt.Errorf("the server does not answer: %w", err))
	}
	defer func() { _ = resp.Body.Close() }() // only read
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if err != nil {
		return "", away(fmt.Errorf("the server does not answer: %w", err))
	}
	said := strings.TrimSpace(string(body))
	if resp.StatusCode != http.StatusOK {
		if said == "" {
			said = resp.Status
		}
		return "", away(errors.New(said))
	}
	return said, nil
}
