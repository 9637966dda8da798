package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/internal/cli"
	simsnp "github.com/assay-project/assay/simulators/sevsnp"
)

func sevsnpKDSCommand() *cobra.Command {
	var (
		authority snpAuthorityFlags
		fault     faultFlags
		chips     []string
		listen    string
		unlimited bool
		output    *cli.Format
	)
	c := &cobra.Command{
		Use:   "kds",
		Short: "Run a simulated key distribution service over HTTP",
		Long: `Serve certificates and revocation lists as AMD's key distribution service does
(docs/spec/snp-kds.md), over plain HTTP. It knows the chips that are named with
--chip PRODUCT:NAME, as ` + "`teesim sevsnp run --product PRODUCT --chip NAME`" + ` makes them,
and no others. Like the real one, it soon asks a client that asks much to wait.
"listening on URL" on standard output says that it is ready. SIGTERM or SIGINT
ends it.`,
		Example: `  teesim sevsnp kds --chip genoa:rack-4 --chip turin:rack-5 --listen 127.0.0.1:8081
  teesim sevsnp kds --chip genoa:rack-4 --fault expired-crl`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			faults, err := chosen(&fault, simsnp.KDSFaultByName)
			if err != nil {
				return err
			}
			named, err := parseChips(chips)
			if err != nil {
				return err
			}
			a, err := authority.open(time.Time{})
			if err != nil {
				return err
			}
			var o simsnp.KDSOptions
			if unlimited {
				o.Burst = -1
			}
			for _, n := range named {
				chip, err := a.Chip(n.product, n.name)
				if err != nil {
					return err
				}
				o.Chips = append(o.Chips, chip)
			}
			kds := a.KDS(o)
			kds.SetFaults(faults...)
			var lc net.ListenConfig
			l, err := lc.Listen(c.Context(), "tcp", listen)
			if err != nil {
				return &cli.UsageError{Err: err}
			}
			url := "http://" + l.Addr().String()
			if *output == cli.JSON {
				err = cli.PrintJSONLine(c.OutOrStdout(), map[string]any{
					"simulated": true, "listening": url, "chips": append([]string{}, chips...),
					"faults": append([]string{}, fault.names...), "roots": authority.rootsPath(),
				})
			} else {
				p := cli.NewPage(c.OutOrStdout())
				p.Linef("listening on %s", url)
				err = p.Err()
			}
			if err != nil {
				_ = l.Close()
				return err
			}
			return serveHTTP(c.Context(), l, kds)
		},
	}
	authority.register(c)
	fault.register(c, "teesim sevsnp faults --kds", kdsFaults)
	c.Flags().StringArrayVar(&chips, "chip", nil, "a chip that it knows, PRODUCT:NAME; may be repeated")
	c.Flags().StringVar(&listen, "listen", "127.0.0.1:0", "address to listen on")
	c.Flags().BoolVar(&unlimited, "unlimited", false, "never ask a client to wait")
	output = cli.OutputFlag(c)
	return c
}

// namedChip is a --chip.
type namedChip struct {
	product simsnp.Product
	name    string
}

func parseChips(flags []string) ([]namedChip, error) {
	var out []namedChip
	for _, f := range flags {
		product, name, ok := strings.Cut(f, ":")
		p, err := simsnp.ParseProduct(product)
		if !ok || name == "" || err != nil {
			return nil, cli.Usagef("for example --chip genoa:rack-4; products are milan, genoa, siena and turin", "--chip %.60q is not PRODUCT:NAME", f)
		}
		out = append(out, namedChip{p, name})
	}
	return out, nil
}

// stopTime is how long answers that are under way may take when it ends.
const stopTime = time.Second

// serveHTTP serves until ctx ends.
func serveHTTP(ctx context.Context, l net.Listener, h http.Handler) error {
	s := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 64 << 10}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTime)
		defer cancel()
		if s.Shutdown(grace) != nil {
			_ = s.Close() // it was asked nicely
		}
	})
	err := s.Serve(l)
	if !stop() {
		<-stopped
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}
