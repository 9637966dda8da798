package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/attest"
	agent "github.com/assay-project/assay/enclave-agent"
	"github.com/assay-project/assay/internal/cli"
)

// maxNonce is what a Nitro document has room for, with the tag and digest that
// it carries too.
const maxNonce = 512

// collected is the JSON output of `evidence collect` (docs/reference/cli.md).
type collected struct {
	TEE          attest.Platform `json:"tee"`
	Device       string          `json:"device"`
	Nonce        attest.Bytes    `json:"nonce"`
	Evidence     string          `json:"evidence"`     // file
	Endorsements *string         `json:"endorsements"` // file
	AK           *string         `json:"ak"`           // file with the attestation key, of a TPM
	Warnings     []string        `json:"warnings"`
}

// source is a device, or a simulator's socket, that makes evidence.
type source interface {
	agent.Collector
	fmt.Stringer
}

func evidenceCollectCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "collect --tee TEE FILE",
		Short: "Inside a TEE: have its hardware make evidence, to look at elsewhere",
		Long: `Have the hardware make evidence and write it to FILE; the certificates that the
host gives with an SEV-SNP report go to FILE.endorsements.pem. A TPM's evidence is
one JSON file, with its boot event log; the attestation key goes to FILE.ak.pem, to
verify with where you know which machine it came from.

It shows what a policy has to expect before there is one, and whether evidence
can be had at all. It is bound to the nonce, under a tag that servers refuse, so
that it attests nothing: there is no way to choose what the hardware signs.
Without --nonce one is drawn.

The device belongs to the agent: run it as its owner, or against a simulator with
--socket.`,
		Example: `  assay evidence collect --tee aws-nitro document.cbor
  assay evidence collect --tee amd-sev-snp --nonce 5b1f… report.bin
  assay evidence collect --tee amd-sev-snp --socket guest.sock report.bin
  assay evidence collect --tee tpm2 quote.json`,
		Args: cobra.ExactArgs(1),
	}
	var (
		nonce          hexValue
		device, socket string
		eventLog       string
	)
	platform := teeFlag(c)
	f := c.Flags()
	f.Var(&nonce, "nonce", "the nonce that the evidence will carry; drawn when not given")
	f.StringVar(&device, "device", "", "the TEE's device at this `PATH` instead of its usual place")
	f.StringVar(&socket, "socket", "", "a simulator's unix socket at this `PATH` instead of a device")
	f.StringVar(&eventLog, "event-log", "", "a TPM's boot event log in this `FILE` instead of the kernel's; \"none\" for none")
	output := cli.OutputFlag(c)
	c.MarkFlagsMutuallyExclusive("device", "socket")
	c.RunE = func(c *cobra.Command, args []string) error {
		t, err := platform()
		if err != nil {
			return err
		}
		out := collected{TEE: t.platform, Nonce: nonce.bytes, Evidence: args[0], Warnings: []string{}}
		switch {
		case args[0] == "-":
			return cli.Usagef("give the name of a file: endorsements are written beside it", "evidence is not written to standard output")
		case len(out.Nonce) > maxNonce:
			return cli.Usagef("", "--nonce: %d bytes, want at most %d", len(out.Nonce), maxNonce)
		case out.Nonce == nil:
			out.Nonce = make([]byte, 32)
			if _, err := rand.Read(out.Nonce); err != nil {
				return err
			}
		}
		if eventLog != "" && t.platform != attest.TPM2 {
			return cli.Usagef("", "--event-log is for --tee tpm2: evidence of %s has none", t.title)
		}
		from, err := openSource(t.platform, device, socket, eventLog, slog.New(&warnings{to: &out.Warnings}))
		if err != nil {
			return err
		}
		ev, err := from.Collect(c.Context(), out.Nonce)
		if err != nil {
			return collectError(err)
		}
		out.Device = from.String()
		if t.platform == attest.TPM2 {
			out.AK, err = writeTPMEvidence(args[0], ev)
		} else {
			out.Endorsements, err = writeEvidence(args[0], ev.Body, ev.Endorsements, &out.Warnings)
		}
		if err != nil {
			return err
		}
		for _, w := range out.Warnings {
			cli.Warn(c.ErrOrStderr(), "%s", w)
		}
		if *output == cli.JSON {
			return cli.PrintJSON(c.OutOrStdout(), out)
		}
		return printCollected(cli.NewPage(c.OutOrStdout()), t, out, len(ev.Body), len(ev.Endorsements))
	}
	return c
}

func openSource(p attest.Platform, device, socket, eventLog string, log *slog.Logger) (source, error) {
	switch p {
	case attest.AWSNitro:
		switch {
		case socket != "":
			return agent.NewNitroSocket(socket), nil
		case device != "":
			return agent.NewNitro(device), nil
		}
		return agent.NewNitro(agent.NitroDevice), nil
	case attest.AMDSEVSNP:
		o := agent.SNPOptions{Log: log}
		switch {
		case socket != "":
			return agent.NewSNPSocket(socket, o), nil
		case device != "":
			return agent.NewSNPDevice(device, o), nil
		}
		return agent.NewSNP(o), nil
	case attest.TPM2:
		o := agent.TPMOptions{Log: log, EventLog: eventLog}
		switch {
		case socket != "":
			return agent.NewTPMSocket(socket, o), nil
		case device != "":
			return agent.NewTPMDevice(device, o), nil
		}
		return agent.NewTPM(o), nil
	}
	return nil, cli.Usagef("", "--tee %s: this build cannot collect its evidence", p)
}

// collectError words hints that speak of an agent's configuration for the flags
// of this command.
func collectError(err error) error {
	var ae *attest.Error
	if !errors.As(err, &ae) || ae.Kind != attest.Unavailable || !strings.Contains(ae.Hint, "socket") && !strings.Contains(ae.Hint, "configuration") {
		return err
	}
	out := *ae
	out.Hint = "run this inside the TEE, as the owner of its device; or see --device and --socket (a simulator's: teesim)"
	return &out
}

func printCollected(p *cli.Page, t tee, out collected, size, endorsements int) error {
	verify := fmt.Sprintf("assay evidence verify --tee %s --nonce %s", t.platform, out.Nonce)
	p.Linef("COLLECTED, not verified: %s evidence", t.title)
	facts := []cli.Fact{
		{Name: "from", Value: out.Device},
		{Name: "evidence", Value: fmt.Sprintf("%s (%s)", out.Evidence, cli.Count(size, "byte"))},
	}
	if out.Endorsements != nil {
		verify += " --endorsement " + *out.Endorsements
		facts = append(facts, cli.Fact{Name: "endorsements", Value: fmt.Sprintf("%s (%d)", *out.Endorsements, endorsements)})
	} else if t.platform == attest.AMDSEVSNP {
		facts = append(facts, cli.Fact{Name: "endorsements", Value: "the host gave none"})
	}
	if out.AK != nil {
		verify += " --ak " + *out.AK
		facts = append(facts, cli.Fact{Name: "attestation key", Value: *out.AK})
	}
	p.Facts(append(facts,
		cli.Fact{Name: "nonce", Value: out.Nonce.String()},
		cli.Fact{Name: "verify", Value: verify + " " + out.Evidence},
		cli.Fact{Name: "worth", Value: "it shows what this guest is; a server refuses it"},
	)...)
	return p.Err()
}

// warnings is a log handler that keeps messages for the command to print.
type warnings struct{ to *[]string }

// Enabled takes warnings and errors.
func (w *warnings) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelWarn }

// Handle keeps the message with its attributes.
func (w *warnings) Handle(_ context.Context, r slog.Record) error {
	text := r.Message
	r.Attrs(func(a slog.Attr) bool {
		text += fmt.Sprintf(" (%s: %s)", a.Key, a.Value)
		return true
	})
	*w.to = append(*w.to, text)
	return nil
}

// WithAttrs and WithGroup drop what is common to all messages: the command says
// where it is.
func (w *warnings) WithAttrs([]slog.Attr) slog.Handler { return w }

// WithGroup returns the handler.
func (w *warnings) WithGroup(string) slog.Handler { return w }
