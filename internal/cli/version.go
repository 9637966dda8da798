package cli

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"
)

// release is the version that `make dist` and the container images set when they
// link (-X). Nothing else writes it.
var release string

// Version is the version of this build: that of the release, the module version,
// or the commit.
func Version() string {
	if release != "" {
		return release
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	rev, dirty := "devel", ""
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			rev = s.Value
			if len(rev) > 12 {
				rev = rev[:12]
			}
		case "vcs.modified":
			if s.Value == "true" {
				dirty = "+changes"
			}
		}
	}
	return rev + dirty
}

// Built is a moment before this program was built: that of the commit that it was
// built from. It is zero where the build does not tell.
func Built() time.Time {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return time.Time{}
	}
	for _, s := range info.Settings {
		if at, err := time.Parse(time.RFC3339, s.Value); s.Key == "vcs.time" && err == nil {
			return at
		}
	}
	return time.Time{}
}

// VersionCommand is `NAME version`.
func VersionCommand(name string) *cobra.Command {
	var output *Format
	c := &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Example: fmt.Sprintf("  %s version\n  %s version --output json", name, name),
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if *output == JSON {
				return PrintJSON(c.OutOrStdout(), map[string]string{
					"name": name, "version": Version(), "go": runtime.Version(), "os": runtime.GOOS, "arch": runtime.GOARCH,
				})
			}
			_, err := fmt.Fprintf(c.OutOrStdout(), "%s %s (%s, %s/%s)\n", name, Version(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
	output = OutputFlag(c)
	return c
}
