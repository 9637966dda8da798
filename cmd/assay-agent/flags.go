package main

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/attest"
	agent "github.com/assay-project/assay/enclave-agent"
	"github.com/assay-project/assay/enclave-agent/config"
	"github.com/assay-project/assay/internal/cli"
)

// endpointVariable is where SPIFFE libraries look for the Workload API.
const endpointVariable = "SPIFFE_ENDPOINT_SOCKET"

// configFlags say which configuration file a command reads.
type configFlags struct {
	file, dataDir string
	both          func() bool
}

func (f *configFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.file, "config", config.DefaultPath, "configuration file")
	c.Flags().StringVar(&f.dataDir, "data-dir", "", "stands for --config DIR/"+config.FileName)
	f.both = func() bool { return c.Flags().Changed("config") && c.Flags().Changed("data-dir") }
}

// check refuses two answers to one question.
func (f *configFlags) check() error {
	switch {
	case f.both():
		return cli.Usagef("--data-dir DIR stands for --config DIR/"+config.FileName, "both --config and --data-dir")
	case f.path() == "":
		return cli.Usagef("leave the flag away for "+config.DefaultPath, "--config is empty")
	}
	return nil
}

func (f *configFlags) path() string {
	if f.dataDir != "" {
		return filepath.Join(f.dataDir, config.FileName)
	}
	return f.file
}

func (f *configFlags) load() (*config.Settings, error) {
	if err := f.check(); err != nil {
		return nil, err
	}
	return config.Load(f.path())
}

// deviceFlags say also which TEE this is.
type deviceFlags struct {
	configFlags
	tee string
}

func (f *deviceFlags) add(c *cobra.Command) {
	f.configFlags.add(c)
	c.Flags().StringVar(&f.tee, "tee", "", teeUsage+" (default: that of the configuration)")
	completeTee(c)
}

// completeTee offers the kinds of TEE for --tee.
func completeTee(c *cobra.Command) {
	words := []string{config.TeeAuto}
	for _, p := range attest.Platforms() {
		words = append(words, string(p))
	}
	cli.Complete(c, "tee", words...)
}

const teeUsage = "kind of TEE: auto, aws-nitro, amd-sev-snp or tpm2"

func (f *deviceFlags) load() (*config.Settings, error) {
	if f.tee != "" {
		if err := config.CheckTee(f.tee); err != nil {
			return nil, cli.Usagef("auto finds out where the agent runs", "--tee: %w", err)
		}
	}
	s, err := f.configFlags.load()
	if err != nil {
		return nil, err
	}
	if f.tee != "" {
		s.Config.Tee = f.tee
	}
	return s, nil
}

// socketFlags say where a running agent is: --socket, or the variable that
// workloads use, or the configuration.
type socketFlags struct {
	configFlags
	socket string
}

func (f *socketFlags) add(c *cobra.Command) {
	f.configFlags.add(c)
	c.Flags().StringVar(&f.socket, "socket", "", "the agent's socket (default: $"+endpointVariable+", or that of the configuration)")
}

// find returns the path of the socket. Flags go before the variable, which may
// belong to another agent.
func (f *socketFlags) find(c *cobra.Command) (string, error) {
	named := c.Flags().Changed("config") || c.Flags().Changed("data-dir")
	switch env := os.Getenv(endpointVariable); {
	case f.socket != "":
		return absoluteSocket(f.socket, "--socket")
	case env != "" && !named:
		path, ok := strings.CutPrefix(env, "unix:")
		if !ok {
			return "", cli.Usagef("for example unix://"+agent.DefaultSocket, "%s is %q, which is no unix socket", endpointVariable, env)
		}
		if rest, ok := strings.CutPrefix(path, "//"); ok {
			path = rest
		}
		return absoluteSocket(path, endpointVariable)
	}
	s, err := f.load()
	if err != nil {
		return "", err
	}
	return s.Config.Socket, nil
}

func absoluteSocket(path, source string) (string, error) {
	abs, err := filepath.Abs(path)
	if err == nil {
		err = agent.CheckSocketPath(abs)
	}
	if err != nil || path == "" {
		return "", cli.Usagef("for example "+agent.DefaultSocket, "%s: %q is no path of a socket", source, path)
	}
	return abs, nil
}
