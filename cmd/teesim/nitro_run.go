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
		socket    socketFlags
	)
	c := &cobra.Command{
		Use:   "run",
		Short: "Run a simulated enclave's NSM on a unix socket",
		Long: `Launch a simulated enclave and serve its NSM on a unix socket (mode 0600), for an
agent that is configured with that socket instead of /dev/nsm. The protocol is
docs/spec/nsm-socket.md. "listening on SOCKET" on standard output says that it is
ready. SIGTERM or SIGINT ends it and removes the socket.`,
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
			r := nitroReady{
				Simulated: true, Listening: socket.path, ModuleID: m.ModuleID(), Image: launch.image, Debug: launch.debug,
				Faults: append([]string{}, fault.names...), Root: authority.rootPath(), RootSHA256: fingerprint(a),
			}
			return device{ready: r, facts: r.facts(), faults: r.Faults, listen: simnitro.Listen, serve: m.Serve}.run(c, socket)
		},
	}
	authority.register(c)
	launch.register(c)
	fault.register(c, "teesim nitro faults", nitroFaults)
	socket.register(c)
	return c
}

func (r nitroReady) facts() []cli.Fact {
	facts := []cli.Fact{
		{Name: "enclave", Value: r.ModuleID},
		{Name: "image", Value: r.Image},
		{Name: "simulated root", Value: fmt.Sprintf("%s (SHA-256 %s)", r.Root, r.RootSHA256)},
	}
	if r.Debug {
		facts = append(facts, cli.Fact{Name: "debug mode", Value: "on: the image is not measured"})
	}
	return facts
}
