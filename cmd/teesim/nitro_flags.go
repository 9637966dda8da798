package main

import (
	"path/filepath"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/internal/cli"
	simnitro "github.com/assay-project/assay/simulators/nitro"
)

// nitroAuthorityFlags open the directory with the simulated root.
type nitroAuthorityFlags struct{ dir, region string }

func (f *nitroAuthorityFlags) register(c *cobra.Command) {
	c.Flags().StringVar(&f.dir, "authority", "", "directory with the simulated root (made when missing)")
	c.Flags().StringVar(&f.region, "region", simnitro.DefaultRegion, "simulated AWS region")
	_ = c.MarkFlagRequired("authority") // the flag exists
	_ = c.MarkFlagDirname("authority")
}

var regionName = regexp.MustCompile(`^[a-z]{2}(-[a-z]+)+-[0-9]{1,2}$`)

func (f *nitroAuthorityFlags) open() (*simnitro.Authority, error) {
	if !regionName.MatchString(f.region) || len(f.region) > 24 {
		return nil, cli.Usagef("a region looks like us-east-1", "--region %.40q is no AWS region name", f.region)
	}
	a, err := simnitro.OpenAuthority(f.dir, simnitro.AuthorityOptions{Region: f.region})
	if err != nil {
		return nil, &cli.UsageError{Err: err}
	}
	return a, nil
}

// rootPath is where a verifier finds the root, for messages.
func (f *nitroAuthorityFlags) rootPath() string { return filepath.Join(f.dir, simnitro.RootFile) }

// nitroLaunchFlags say which enclave it is.
type nitroLaunchFlags struct {
	image, eif, role, instance string
	debug                      bool
}

func (f *nitroLaunchFlags) register(c *cobra.Command) {
	c.Flags().StringVar(&f.image, "image", "", "name of the enclave image; its measurements are derived from it")
	c.Flags().StringVar(&f.eif, "eif", "", "enclave image `FILE` to measure, instead of --image")
	c.Flags().StringVar(&f.role, "role", "", "ARN of the parent instance's IAM role (PCR3)")
	c.Flags().StringVar(&f.instance, "instance-id", "", "EC2 id of the parent instance (PCR4)")
	c.Flags().BoolVar(&f.debug, "debug", false, "launch in debug mode: PCR0, PCR1, PCR2 and PCR8 are zero")
	c.MarkFlagsOneRequired("image", "eif")
	c.MarkFlagsMutuallyExclusive("image", "eif")
}

// maxImage bounds an image file: it is launched from memory.
const maxImage = 256 << 20

var instanceName = regexp.MustCompile(`^i-[0-9a-f]{8,17}$`)

func (f *nitroLaunchFlags) launch() (simnitro.Launch, error) {
	l := simnitro.Launch{Role: f.role, InstanceID: f.instance, Debug: f.debug}
	if f.eif != "" {
		b, err := cli.ReadFile(f.eif, maxImage)
		if err != nil {
			return l, &cli.UsageError{Err: err}
		}
		image, err := simnitro.ReadImageFile(b)
		if err != nil {
			return l, cli.Usagef("`teesim nitro eif` writes one", "--eif %s: %w", f.eif, err)
		}
		l.Image, f.image = image.Image(), image.Name
	} else {
		l.Image = simnitro.ImageFromSeed(f.image)
	}
	switch {
	case f.image == "" && f.eif == "":
		return l, cli.Usagef("any name will do, for example --image orders", "--image is empty")
	case f.role != "" && !strings.HasPrefix(f.role, "arn:"):
		return l, cli.Usagef("for example arn:aws:iam::123456789012:role/orders", "--role %.80q is no ARN", f.role)
	case f.instance != "" && !instanceName.MatchString(f.instance):
		return l, cli.Usagef("for example i-0123456789abcdef0", "--instance-id %.40q is no EC2 instance id", f.instance)
	}
	return l, nil
}

// nitroFaults are those of the NSM.
func nitroFaults() []known {
	var out []known
	for _, f := range simnitro.Faults() {
		out = append(out, known{f.Name, f.Description})
	}
	return out
}
