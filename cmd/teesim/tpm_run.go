package main

import (
	"encoding/hex"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/internal/cli"
	simtpm "github.com/assay-project/assay/simulators/tpm"
)

// tpmReady is what `teesim tpm run --output json` says once it listens.
type tpmReady struct {
	Simulated  bool      `json:"simulated"`
	Listening  string    `json:"listening"`
	State      string    `json:"state"`
	Image      string    `json:"image"`
	SecureBoot bool      `json:"secure_boot"`
	EventLog   string    `json:"event_log,omitempty"`
	EKs        []tpmEKID `json:"endorsement_keys"`
	Faults     []string  `json:"faults"`
	Root       string    `json:"root"`
}

func tpmRunCommand() *cobra.Command {
	var (
		authority     tpmAuthorityFlags
		boot          bootFlags
		fault         faultFlags
		socket        socketFlags
		state, log    string
		eks           []string
		padding       int
		rootFileInDir = func(dir string) string { return filepath.Join(dir, simtpm.RootFile) }
	)
	c := &cobra.Command{
		Use:   "run",
		Short: "Run a simulated machine's TPM on a unix socket",
		Long: `Turn a simulated machine on, and serve its TPM on a unix socket (mode 0600), for an
agent that is configured with that socket instead of /dev/tpmrm0. The socket carries
raw TPM commands, as swtpm's own does (docs/spec/tpm-simulator.md). The machine is
made when its state directory is empty, and is the same one ever after; without
--state it is forgotten at the end. "listening on SOCKET" on standard output says
that it is ready. SIGTERM or SIGINT ends it, its swtpm and the socket.`,
		Example: `  teesim tpm run --authority sim --state machine-1 --image ledger --socket /tmp/tpm.sock --event-log /tmp/eventlog
  teesim tpm run --authority sim --image ledger --loader systemd-boot --secure-boot=false --socket /tmp/tpm.sock
  teesim tpm run --authority sim --image ledger --fault ek-other-authority --socket /tmp/bad.sock`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			b, err := boot.boot()
			if err != nil {
				return err
			}
			faults, err := chosen(&fault, simtpm.FaultByName)
			if err != nil {
				return err
			}
			if err := simtpm.Installed(); err != nil {
				return startError(err)
			}
			a, err := authority.open()
			if err != nil {
				return err
			}
			m := simtpm.Machine{State: state, Padding: padding, Boot: b, EventLogFile: log}
			for _, k := range eks {
				m.EKs = append(m.EKs, simtpm.EKKind(k))
			}
			tpm, err := a.Start(m, faults...)
			if err != nil {
				return startError(err)
			}
			defer func() { _ = tpm.Close() }() // it never fails
			r := tpmReady{
				Simulated: true, Listening: socket.path, State: state, Image: b.Image, SecureBoot: !b.SecureBootOff, EventLog: log,
				EKs: ekIDs(tpm.EKs()), Faults: append([]string{}, fault.names...), Root: rootFileInDir(authority.dir),
			}
			return device{ready: r, facts: r.facts(), faults: r.Faults, listen: simtpm.Listen, serve: tpm.Serve}.run(c, socket)
		},
	}
	authority.register(c)
	boot.register(c)
	_ = c.MarkFlagRequired("image") // the flag exists
	c.Flags().StringVar(&state, "state", "", "directory of the machine's TPM (made when missing); without it, the machine is forgotten at the end")
	c.Flags().StringVar(&log, "event-log", "", "file for the boot event log, as Linux has it in /sys/kernel/security/tpm0/binary_bios_measurements")
	c.Flags().StringSliceVar(&eks, "ek", nil, "endorsement keys of a machine that is made: p256, rsa2048, p384 (default p256,rsa2048)")
	c.Flags().IntVar(&padding, "padding", 0, "zeros that follow each EK certificate in NV")
	_ = c.MarkFlagDirname("state")
	_ = c.MarkFlagFilename("event-log")
	fault.register(c, "teesim tpm faults", tpmFaults)
	socket.register(c)
	return c
}

func (r tpmReady) facts() []cli.Fact {
	boot := r.Image
	if !r.SecureBoot {
		boot += " (secure boot is off)"
	}
	facts := []cli.Fact{{Name: "boot", Value: boot}}
	for _, e := range r.EKs {
		facts = append(facts, cli.Fact{Name: "EK " + e.Kind, Value: e.Digest})
	}
	if r.EventLog != "" {
		facts = append(facts, cli.Fact{Name: "event log", Value: r.EventLog})
	}
	return append(facts, cli.Fact{Name: "simulated root", Value: r.Root})
}

// tpmEKID names an endorsement key.
type tpmEKID struct {
	Kind   string `json:"kind"`
	Digest string `json:"spki_sha256"`
	Handle string `json:"handle"`
}

func ekIDs(eks []simtpm.EK) []tpmEKID {
	out := []tpmEKID{}
	for _, e := range eks {
		out = append(out, tpmEKID{Kind: string(e.Kind), Digest: hex.EncodeToString(e.Digest[:]), Handle: fmt.Sprintf("0x%08x", e.Handle)})
	}
	return out
}
