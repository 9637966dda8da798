package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/attest"
	agent "github.com/assay-project/assay/enclave-agent"
	"github.com/assay-project/assay/enclave-agent/config"
	"github.com/assay-project/assay/enclave-agent/process"
)

func checkCommand() *cobra.Command {
	var f deviceFlags
	c := &cobra.Command{
		Use:   "check",
		Short: "Validate the configuration, the roots, the socket's place and the device",
		Long: `check validates everything that run needs, without starting and without
speaking to the server: the configuration, the bootstrap roots, the directory of
the socket, what the agent can see of its callers, which TEE this is, and its
device, which is asked who it is.`,
		Example: "  assay-agent check\n  assay-agent check --data-dir ~/agent",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := f.load()
			if err != nil {
				return err
			}
			return check(c, f.path(), s, time.Now())
		},
	}
	f.add(c)
	return c
}

func check(c *cobra.Command, path string, s *config.Settings, at time.Time) error {
	out := c.OutOrStdout()
	good := func(format string, a ...any) { _, _ = fmt.Fprintf(out, "ok  "+format+"\n", a...) }
	for _, m := range s.Memberships {
		good("configuration %s: trust domain %s, server %s", path, m.TrustDomain, m.Server)
		if err := checkRoots(out, c.ErrOrStderr(), m.BootstrapRoots, at); err != nil {
			return err
		}
	}
	switch err := agent.CheckSocket(s.Config.Socket); {
	case errors.Is(err, agent.ErrSocketInUse):
		_, _ = fmt.Fprintf(c.ErrOrStderr(), "warning: an agent serves on %s now; stop it before you start another\n", s.Config.Socket)
	case err != nil:
		return err
	default:
		good("socket %s", s.Config.Socket)
	}
	if process.SeesPrograms() {
		good("callers are told apart by user, group and program")
	} else {
		good("callers are told apart by user and group; programs of other users cannot be seen, so that selectors by path and sha256 match none of theirs (that needs root, or CAP_SYS_PTRACE)")
	}
	device, err := s.Attester(newLog(c.ErrOrStderr(), s))
	if err != nil {
		return err
	}
	// New checks what only the whole can tell.
	if _, err := agent.New(s.Agent(device, nil)); err != nil {
		return err
	}
	about, err := device.Probe(c.Context())
	if err != nil {
		return err
	}
	good("tee %s", device.Platform())
	good("device %s", about)
	return checkKeys(c, s, device, good)
}

// checkKeys has the hardware make a key where keys are to live in it.
func checkKeys(c *cobra.Command, s *config.Settings, device config.Device, good func(string, ...any)) error {
	holder, ok := device.(agent.KeyHolder)
	if s.KeyResidency != agent.TPMKeys || !ok {
		return nil // agent.New has refused what does not fit
	}
	if _, err := holder.NewKey(c.Context()); err != nil {
		return err
	}
	good("keys live in the TPM, which makes them")
	return nil
}

// checkRoots lists the roots. One that has ended is a warning while another is
// good, as it is when a root was replaced.
func checkRoots(out, warn io.Writer, roots agent.BootstrapRoots, at time.Time) error {
	expired := roots.Expired(at)
	if len(expired) == roots.Len() {
		return &attest.Error{
			Kind: attest.Stale, Check: "bootstrap_root", Err: fmt.Errorf("no bootstrap root is valid at %s", at.UTC().Format(time.RFC3339)),
			Hint: "check this machine's clock; `assayd bootstrap export` prints the server's current root",
		}
	}
	for _, r := range roots.Certificates() {
		_, _ = fmt.Fprintf(out, "ok  bootstrap root %x, until %s\n", sha256.Sum256(r.Raw), r.NotAfter.UTC().Format(time.DateOnly))
	}
	for _, r := range expired {
		_, _ = fmt.Fprintf(warn, "warning: the bootstrap root %x is not valid now\n", sha256.Sum256(r.Raw))
	}
	return nil
}
