package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
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
		if !strings.HasPrefix(env, "unix:") {
			return "", cli.Usagef("for example unix://"+agent.DefaultSocket, "%s is %q, which is no unix socket", endpointVariable, env)
		}
		return absoluteSocket(env, endpointVariable)
	}
	s, err := f.load()
	if usage := (*cli.UsageError)(nil); !named && errors.As(err, &usage) && errors.Is(err, fs.ErrNotExist) {
		return "", cli.Usagef("name the agent's socket with --socket, or with "+endpointVariable+"=unix://PATH", "which agent? %w", usage.Err)
	}
	if err != nil {
		return "", err
	}
	return s.Config.Socket, nil
}

// scheme is that of an address that is no path.
var scheme = regexp.MustCompile(`^[a-z][a-z0-9+.-]*:`)

// socketPath takes a path, or an address as SPIFFE has it and the agent prints it:
// unix:///run/assay/agent.sock, or unix:PATH (Workload Endpoint, section 4).
func socketPath(s, source string) (string, error) {
	path, ok := strings.CutPrefix(s, "unix:")
	if !ok {
		if scheme.MatchString(s) {
			return "", cli.Usagef("for example unix://"+agent.DefaultSocket, "%s: %q is no unix socket", source, s)
		}
		return s, nil
	}
	rest, ok := strings.CutPrefix(path, "//")
	if ok && !filepath.IsAbs(rest) {
		return "", cli.Usagef("three slashes: unix://"+agent.DefaultSocket, "%s: %q names a host, and a socket has none", source, s)
	}
	return rest, nil
}

func absoluteSocket(named, source string) (string, error) {
	path, err := socketPath(named, source)
	if err != nil {
		return "", err
	}
	abs, err := filepath.Abs(path)
	if err == nil {
		err = agent.CheckSocketPath(abs)
	}
	if err != nil || path == "" {
		return "", cli.Usagef("for example "+agent.DefaultSocket, "%s: %q is no path of a socket", source, named)
	}
	return abs, nil
}
