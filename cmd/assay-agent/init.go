package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	agent "github.com/assay-project/assay/enclave-agent"
	"github.com/assay-project/assay/enclave-agent/config"
	"github.com/assay-project/assay/internal/cli"
)

type initFlags struct {
	configFlags
	server, trustDomain, tee, socket          string
	nsmSocket, snpSocket, tpmSocket, eventLog string
	roots                                     []string
}

func initCommand() *cobra.Command {
	var f initFlags
	c := &cobra.Command{
		Use:   "init --server ADDR --bootstrap-root FILE",
		Short: "Write a configuration that starts as it is",
		Long: `init writes a commented configuration. The trust domain is read from the
bootstrap root, which ` + "`assayd bootstrap export`" + ` prints on the server. Paths of
files beside the configuration, or below it, are written relative to it, so that
the folder can be copied into an image. It overwrites nothing.

A TEE that attests to further trust domains lists them in the configuration, under
trust_domains; the file shows how.`,
		Example: `  assay-agent init --server 10.0.0.1:8443 --bootstrap-root bootstrap-root.pem
  assay-agent init --server 127.0.0.1:8443 --bootstrap-root root.pem --nsm-socket nsm.sock --data-dir ~/agent
  assay-agent init --server 127.0.0.1:8443 --bootstrap-root root.pem --snp-socket guest.sock --data-dir ~/agent
  assay-agent init --server 127.0.0.1:8443 --bootstrap-root root.pem --tpm-socket tpm.sock --event-log boot.log --data-dir ~/agent`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return f.run(c) },
	}
	f.add(c)
	c.Flags().StringVar(&f.server, "server", "", "address of the attestation service, host:port or vsock:CID:PORT (required)")
	c.Flags().StringArrayVar(&f.roots, "bootstrap-root", nil, "PEM file with the server's bootstrap root (required; again for the next root)")
	c.Flags().StringVar(&f.trustDomain, "trust-domain", "", "SPIFFE trust domain (default: the one that the bootstrap root names)")
	c.Flags().StringVar(&f.nsmSocket, "nsm-socket", "", "socket of a simulated Nitro Security Module, instead of "+agent.NitroDevice)
	c.Flags().StringVar(&f.snpSocket, "snp-socket", "", "socket of a simulated SEV-SNP guest, instead of configfs-tsm and "+agent.SNPDevice)
	c.Flags().StringVar(&f.tee, "tee", config.TeeAuto, teeUsage+"; auto finds out when the agent starts")
	completeTee(c)
	c.Flags().StringVar(&f.tpmSocket, "tpm-socket", "", "socket of a simulated machine's TPM, instead of "+agent.TPMDevice)
	c.Flags().StringVar(&f.eventLog, "event-log", "", "boot event log of the simulated machine (with --tpm-socket)")
	c.MarkFlagsMutuallyExclusive("nsm-socket", "snp-socket", "tpm-socket")
	c.Flags().StringVar(&f.socket, "socket", "", "socket to serve the Workload API on (default "+agent.DefaultSocket+", or DIR/"+config.SocketName+" with --data-dir)")
	return c
}

func (f *initFlags) run(c *cobra.Command) error {
	if err := f.check(); err != nil {
		return err
	}
	conf, err := f.configuration()
	if err != nil {
		return err
	}
	file, err := filepath.Abs(f.path())
	if err != nil {
		return err
	}
	src := config.Starter(file, conf)
	// What is written must start: the file goes through its own reader first.
	if _, err := config.Parse(file, src); err != nil {
		return err
	}
	if err := writeNew(file, src); err != nil {
		return err
	}
	f.tell(c, conf, file)
	return nil
}

// configuration checks the flags.
func (f *initFlags) configuration() (config.Config, error) {
	conf := config.Default()
	if f.server == "" {
		return conf, cli.Usagef("for example --server attest.example.org:8443", "--server is required")
	}
	if f.socket != "" {
		path, err := socketPath(f.socket, "--socket")
		if err != nil {
			return conf, err
		}
		f.socket = path
	}
	if err := agent.CheckServer(f.server); err != nil {
		return conf, cli.Usagef("for example --server attest.example.org:8443", "--server %q: %w", f.server, err)
	}
	conf.Server = f.server
	if err := config.CheckTee(f.tee); err != nil {
		return conf, cli.Usagef("auto finds out where the agent runs", "--tee: %w", err)
	}
	conf.Tee = f.tee
	if f.eventLog != "" && f.tpmSocket == "" {
		return conf, cli.Usagef("a machine's own log is found by itself", "--event-log without --tpm-socket")
	}
	roots, err := f.readRoots(&conf)
	if err != nil {
		return conf, err
	}
	td, err := roots.TrustDomain()
	switch {
	case f.trustDomain != "":
		if _, err := config.CheckTrustDomain(f.trustDomain); err != nil {
			return conf, cli.Usagef("for example --trust-domain attested.example.org", "--trust-domain %q: %w", f.trustDomain, err)
		}
		conf.TrustDomain = f.trustDomain
		if err == nil && td.Name() != f.trustDomain {
			return conf, cli.Usagef("export the root of the right server", "the bootstrap root is that of trust domain %s, not of %s", td, f.trustDomain)
		}
	case err != nil:
		return conf, cli.Usagef("name the trust domain with --trust-domain", "%w", err)
	default:
		conf.TrustDomain = td.Name()
	}
	for _, p := range []struct {
		into *string
		flag string
	}{{&conf.Nitro.Socket, f.nsmSocket}, {&conf.SNP.Socket, f.snpSocket}, {&conf.TPM.Socket, f.tpmSocket}, {&conf.TPM.EventLog, f.eventLog}, {&conf.Socket, f.socket}} {
		if p.flag == "" {
			continue
		}
		if *p.into, err = filepath.Abs(p.flag); err != nil {
			return conf, err
		}
	}
	if f.dataDir != "" && f.socket == "" {
		if conf.Socket, err = filepath.Abs(filepath.Join(f.dataDir, config.SocketName)); err != nil {
			return conf, err
		}
	}
	return conf, nil
}

func (f *initFlags) readRoots(conf *config.Config) (agent.BootstrapRoots, error) {
	var all agent.BootstrapRoots
	if len(f.roots) == 0 {
		return all, cli.Usagef("`assayd bootstrap export` prints the root of a server; there is no insecure bootstrap", "no --bootstrap-root")
	}
	for _, file := range f.roots {
		r, err := config.ReadRoots(file)
		if err == nil {
			all, err = all.Add(r)
		}
		if err != nil {
			return all, cli.Usagef("`assayd bootstrap export` prints it as PEM", "cannot use the bootstrap root: %w", err)
		}
		abs, err := filepath.Abs(file)
		if err != nil {
			return all, err
		}
		conf.BootstrapRoots = append(conf.BootstrapRoots, abs)
	}
	return all, nil
}

// writeNew makes a file that must not be there yet. It holds no secret.
func writeNew(path string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // it holds no secret
		return cli.Usagef("use --data-dir DIR for a directory of your own", "%w", err)
	}
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644) //nolint:gosec // it holds no secret
	switch {
	case errors.Is(err, fs.ErrExist):
		return cli.Usagef("start it with `assay-agent run`, or choose another --config or --data-dir", "%s is there already: nothing is overwritten", path)
	case err != nil:
		return cli.Usagef("use --data-dir DIR for a directory of your own", "%w", err)
	}
	_, err = out.Write(content)
	return errors.Join(err, out.Close())
}

func (f *initFlags) tell(c *cobra.Command, conf config.Config, file string) {
	where := " --config " + file
	switch {
	case f.dataDir != "":
		where = " --data-dir " + filepath.Dir(file)
	case file == config.DefaultPath:
		where = ""
	}
	device := "tee " + conf.Tee
	if simulated := conf.Nitro.Socket + conf.SNP.Socket + conf.TPM.Socket; simulated != "" {
		device = "SIMULATED device " + simulated
	}
	_, _ = fmt.Fprintf(c.OutOrStdout(), `trust domain %s, server %s, %s

  %s    the configuration

next:
  1. assay-agent check%s
  2. assay-agent run%s
  3. for workloads: %s=unix://%s
`, conf.TrustDomain, conf.Server, device, file, where, where, endpointVariable, strings.TrimSpace(conf.Socket))
}
