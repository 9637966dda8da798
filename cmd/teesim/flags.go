package main

import (
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/internal/cli"
	simnitro "github.com/assay-project/assay/simulators/nitro"
)

// authorityFlags open the directory with the simulated root.
type authorityFlags struct{ dir, region string }

func (f *authorityFlags) register(c *cobra.Command) {
	c.Flags().StringVar(&f.dir, "authority", "", "directory with the simulated root (made when missing)")
	c.Flags().StringVar(&f.region, "region", simnitro.DefaultRegion, "simulated AWS region")
	_ = c.MarkFlagRequired("authority") // the flag exists
	_ = c.MarkFlagDirname("authority")
}

var regionName = regexp.MustCompile(`^[a-z]{2}(-[a-z]+)+-[0-9]{1,2}$`)

func (f *authorityFlags) open() (*simnitro.Authority, error) {
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
func (f *authorityFlags) rootPath() string { return filepath.Join(f.dir, simnitro.RootFile) }

// launchFlags say which enclave it is.
type launchFlags struct {
	image, role, instance string
	debug                 bool
}

func (f *launchFlags) register(c *cobra.Command) {
	c.Flags().StringVar(&f.image, "image", "", "name of the enclave image; its measurements are derived from it")
	c.Flags().StringVar(&f.role, "role", "", "ARN of the parent instance's IAM role (PCR3)")
	c.Flags().StringVar(&f.instance, "instance-id", "", "EC2 id of the parent instance (PCR4)")
	c.Flags().BoolVar(&f.debug, "debug", false, "launch in debug mode: PCR0, PCR1, PCR2 and PCR8 are zero")
	_ = c.MarkFlagRequired("image") // the flag exists
}

var instanceName = regexp.MustCompile(`^i-[0-9a-f]{8,17}$`)

func (f *launchFlags) launch() (simnitro.Launch, error) {
	l := simnitro.Launch{Image: simnitro.ImageFromSeed(f.image), Role: f.role, InstanceID: f.instance, Debug: f.debug}
	switch {
	case f.image == "":
		return l, cli.Usagef("any name will do, for example --image orders", "--image is empty")
	case f.role != "" && !strings.HasPrefix(f.role, "arn:"):
		return l, cli.Usagef("for example arn:aws:iam::123456789012:role/orders", "--role %.80q is no ARN", f.role)
	case f.instance != "" && !instanceName.MatchString(f.instance):
		return l, cli.Usagef("for example i-0123456789abcdef0", "--instance-id %.40q is no EC2 instance id", f.instance)
	}
	return l, nil
}

// faultFlags name what should be wrong.
type faultFlags struct{ names []string }

func (f *faultFlags) register(c *cobra.Command) {
	c.Flags().StringArrayVar(&f.names, "fault", nil, "make this wrong (see `teesim nitro faults`); may be repeated")
	_ = c.RegisterFlagCompletionFunc("fault", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		var out []string
		for _, f := range simnitro.Faults() {
			out = append(out, f.Name+"\t"+f.Description)
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	})
}

func (f *faultFlags) faults() ([]simnitro.Fault, error) {
	out := make([]simnitro.Fault, 0, len(f.names))
	for _, name := range f.names {
		fault, ok := simnitro.FaultByName(name)
		if !ok {
			return nil, cli.Usagef(nearFaults(name), "there is no fault %.60q", name)
		}
		out = append(out, fault)
	}
	return out, nil
}

// nearFaults suggests the faults that were perhaps meant.
func nearFaults(name string) string {
	var near []string
	best := 4 // typing errors, at most three of them
	for _, f := range simnitro.Faults() {
		switch d := distance(name, f.Name); {
		case d < best:
			best, near = d, []string{f.Name}
		case d == best && best < 4:
			near = append(near, f.Name)
		}
	}
	if len(near) == 0 {
		return "see `teesim nitro faults`"
	}
	return "did you mean " + strings.Join(near, " or ") + "?"
}

// distance is the number of bytes to insert, remove or replace between the two.
func distance(a, b string) int {
	if len(a) > 60 || len(b) > 60 {
		return 60
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// hexValue is a byte string flag; absent is nil, which is not the same as empty.
type hexValue struct {
	set   bool
	bytes []byte
}

// String, Set and Type make hexValue a flag.
func (h *hexValue) String() string { return hex.EncodeToString(h.bytes) }

// Set reads hex of either case.
func (h *hexValue) Set(s string) error {
	b, err := hex.DecodeString(s)
	if err != nil {
		return fmt.Errorf("want hex: %w", err)
	}
	h.set, h.bytes = true, append([]byte{}, b...)
	return nil
}

// Type is the word that help shows for the value.
func (h *hexValue) Type() string { return "HEX" }

func (h *hexValue) value() []byte {
	if !h.set {
		return nil
	}
	return h.bytes
}

// timeValue is an RFC 3339 time flag; absent is the zero time.
type timeValue struct{ t time.Time }

// String, Set and Type make timeValue a flag.
func (v *timeValue) String() string {
	if v.t.IsZero() {
		return ""
	}
	return v.t.Format(time.RFC3339)
}

// Set reads RFC 3339, with or without fractions of a second.
func (v *timeValue) Set(s string) error {
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return fmt.Errorf("want RFC 3339, for example 2026-01-31T12:00:00Z")
	}
	v.t = t
	return nil
}

// Type is the word that help shows for the value.
func (v *timeValue) Type() string { return "RFC3339" }

// toTerminal reports whether bytes written to the command's output would end up
// on a screen.
func toTerminal(c *cobra.Command) bool {
	f, ok := c.OutOrStdout().(*os.File)
	return ok && cli.IsTerminal(f)
}
