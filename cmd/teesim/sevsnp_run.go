package main

import (
	"encoding/hex"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/internal/cli"
	simsnp "github.com/assay-project/assay/simulators/sevsnp"
)

// snpReady is what `teesim sevsnp run --output json` says once it listens.
type snpReady struct {
	Simulated bool     `json:"simulated"`
	Listening string   `json:"listening"`
	Product   string   `json:"product"`
	Chip      string   `json:"chip"`
	ChipID    string   `json:"chip_id"`
	ReportID  string   `json:"report_id"`
	Image     string   `json:"image"`
	Debug     bool     `json:"debug"`
	Faults    []string `json:"faults"`
	Roots     string   `json:"roots"`
}

func sevsnpRunCommand() *cobra.Command {
	var (
		authority snpAuthorityFlags
		launch    snpLaunchFlags
		fault     faultFlags
		socket    socketFlags
	)
	c := &cobra.Command{
		Use:   "run",
		Short: "Run a simulated guest's AMD-SP on a unix socket",
		Long: `Launch a simulated guest and serve its secure processor on a unix socket (mode
0600), for an agent that is configured with that socket instead of /dev/sev-guest.
The protocol is docs/spec/snp-socket.md. "listening on SOCKET" on standard output
says that it is ready. SIGTERM or SIGINT ends it and removes the socket.

A server that asks for revocation data, as servers do unless they are told not to,
refuses evidence without a CRL (check crl_missing): with --crl the guest's host
hands out a current one beside the certificates.`,
		Example: `  teesim sevsnp run --crl --product genoa --chip rack-4 --image ledger --socket /tmp/snp.sock
  teesim sevsnp run --product milan --signing-key vlek --vmpl 1 --image ledger --socket /tmp/ec2.sock
  teesim sevsnp run --image ledger --fault leaf-expired --socket /tmp/bad.sock`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if _, _, err := launch.launch(); err != nil {
				return err
			}
			faults, err := chosen(&fault, simsnp.FaultByName)
			if err != nil {
				return err
			}
			a, err := authority.open(time.Time{})
			if err != nil {
				return err
			}
			g, err := launch.guest(a, faults)
			if err != nil {
				return err
			}
			r := snpReady{
				Simulated: true, Listening: socket.path, Product: string(g.Chip().Product()), Chip: launch.chipName(),
				ChipID: hex.EncodeToString(g.Chip().HWID()), ReportID: hex.EncodeToString(g.ReportID()),
				Image: launch.image, Debug: launch.debug, Faults: append([]string{}, fault.names...), Roots: authority.rootsPath(),
			}
			return device{ready: r, facts: r.facts(), faults: r.Faults, listen: simsnp.Listen, serve: g.Serve}.run(c, socket)
		},
	}
	authority.register(c)
	launch.register(c)
	fault.register(c, "teesim sevsnp faults", snpFaults)
	socket.register(c)
	return c
}

func (r snpReady) facts() []cli.Fact {
	facts := []cli.Fact{
		{Name: "guest", Value: r.ReportID},
		{Name: "image", Value: r.Image},
		{Name: "machine", Value: r.Product + " " + r.Chip},
		{Name: "chip id", Value: r.ChipID},
		{Name: "simulated roots", Value: r.Roots},
	}
	if r.Debug {
		facts = append(facts, cli.Fact{Name: "debug", Value: "on: the host may read the guest's memory"})
	}
	return facts
}
