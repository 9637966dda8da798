package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/internal/cli"
	simnitro "github.com/assay-project/assay/simulators/nitro"
)

// nitroReady is what `teesim nitro run --output json` says once it listens.
type nitroReady struct {
	Simulated  bool     `json:"simulated"`
	Listening  string   `json:"listening"`
	ModuleID   string   `json:"module_id"`
	Image      string   `json:"image"`
	Debug      bool     `json:"debug"`
	Faults     []string `json:"faults"`
	Root       string   `json:"root"`
	RootSHA256 string   `json:"root_sha256"`
}

func nitroRunCommand() *cobra.Command {
	var (
		authority nitroAuthorityFlags
		launch    nitroLaunchFlags
		fault     faultFlags
		socket    string
		output    *cli.Format
	)
	c := &cobra.Command{
		Use:   "run",
		Short: "Run a simulated enclave's NSM on a unix socket",
		Long: `Launch a simulated enclave and serve its NSM on a unix socket (mode 0600), for an
agent that is configured with that socket instead of /dev/nsm. The protocol is
docs/spec/nsm-socket.md. "listening on SOCKET" on standard output says that it is
nitroReady. SIGTERM or SIGINT ends it and removes the socket.`,
		Example: `  teesim nitro run --authority sim --image orders --socket /tmp/nsm.sock
  teesim nitro run --authority sim --image orders --debug --socket /tmp/debug.sock
  teesim nitro run --authority sim --image orders --fault wrong-nonce --socket /tmp/bad.sock`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			l, err := launch.launch()
			if err != nil {
				return err
			}
			faults, err := chosen(&fault, simnitro.FaultByName)
			if err != nil {
				return err
			}
			a, err := authority.open()
			if err != nil {
				return err
			}
			m, err := a.Launch(l, faults...)
			if err != nil {
				return &cli.UsageError{Err: err}
			}
			listener, err := simnitro.Listen(socket)
			if err != nil {
				return &cli.UsageError{Err: err}
			}
			r := nitroReady{
				Simulated: true, Listening: socket, ModuleID: m.ModuleID(), Image: launch.image, Debug: launch.debug,
				Faults: append([]string{}, fault.names...), Root: authority.rootPath(), RootSHA256: fingerprint(a),
			}
			if err := r.print(c, *output); err != nil {
				_ = listener.Close()
				return err
			}
			return m.Serve(c.Context(), listener)
		},
	}
	authority.register(c)
	launch.register(c)
	fault.register(c, "teesim nitro faults", nitroFaults)
	c.Flags().StringVar(&socket, "socket", "", "path of the unix socket")
	_ = c.MarkFlagRequired("socket") // the flag exists
	_ = c.MarkFlagFilename("socket")
	output = cli.OutputFlag(c)
	return c
}

func (r nitroReady) print(c *cobra.Command, format cli.Format) error {
	if format == cli.JSON {
		return cli.PrintJSONLine(c.OutOrStdout(), r)
	}
	p := cli.NewPage(c.ErrOrStderr())
	p.Facts(
		cli.Fact{Name: "enclave", Value: r.ModuleID},
		cli.Fact{Name: "image", Value: r.Image},
		cli.Fact{Name: "simulated root", Value: fmt.Sprintf("%s (SHA-256 %s)", r.Root, r.RootSHA256)},
	)
	if r.Debug {
		p.Facts(cli.Fact{Name: "debug mode", Value: "on: the image is not measured"})
	}
	for _, f := range r.Faults {
		p.Facts(cli.Fact{Name: "fault", Value: f})
	}
	if err := p.Err(); err != nil {
		return err
	}
	out := cli.NewPage(c.OutOrStdout())
	out.Linef("listening on %s", r.Listening)
	return out.Err()
}
