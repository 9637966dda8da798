package main

import (
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/issuer/config"
)

// configFlags say which configuration file a command reads.
type configFlags struct{ file, dataDir string }

func (f *configFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.file, "config", config.DefaultPath, "configuration file")
	c.Flags().StringVar(&f.dataDir, "data-dir", "", "stands for --config DIR/"+config.FileName)
	c.MarkFlagsMutuallyExclusive("config", "data-dir")
}

func (f *configFlags) path() string {
	if f.dataDir != "" {
		return filepath.Join(f.dataDir, config.FileName)
	}
	return f.file
}

func (f *configFlags) load() (*config.Config, error) {
	if f.path() == "" {
		return nil, cli.Usagef("leave the flag away for "+config.DefaultPath, "--config is empty")
	}
	return config.Load(f.path())
}

// loadAll also reads the files of the tenants that the first one names.
func (f *configFlags) loadAll() ([]*config.Config, error) {
	if f.path() == "" {
		return nil, cli.Usagef("leave the flag away for "+config.DefaultPath, "--config is empty")
	}
	return config.LoadAll(f.path())
}

// loadStart is loadAll without the tenants whose files cannot be used.
func (f *configFlags) loadStart() ([]*config.Config, []config.LeftOut, error) {
	if f.path() == "" {
		return nil, nil, cli.Usagef("leave the flag away for "+config.DefaultPath, "--config is empty")
	}
	return config.LoadStart(f.path())
}
