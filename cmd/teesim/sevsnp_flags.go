package main

import (
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/internal/cli"
	simsnp "github.com/assay-project/assay/simulators/sevsnp"
)

// snpAuthorityFlags open the well-known authority, or one's own.
type snpAuthorityFlags struct{ dir string }

func (f *snpAuthorityFlags) register(c *cobra.Command) {
	c.Flags().StringVar(&f.dir, "authority", "", "directory with simulated roots of one's own (made when missing); without it, the well-known ones")
	_ = c.MarkFlagDirname("authority")
}

// open opens it; the zero time is the present.
func (f *snpAuthorityFlags) open(at time.Time) (*simsnp.Authority, error) {
	var o simsnp.Options
	if !at.IsZero() {
		o.Now = func() time.Time { return at }
	}
	if f.dir == "" {
		return simsnp.NewAuthority(o)
	}
	a, err := simsnp.OpenAuthority(f.dir, o)
	if err != nil {
		return nil, &cli.UsageError{Err: err}
	}
	return a, nil
}

// rootsPath is where a verifier finds the roots, for messages.
func (f *snpAuthorityFlags) rootsPath() string {
	if f.dir == "" {
		return "well-known"
	}
	return filepath.Join(f.dir, simsnp.RootsFile)
}

// snpLaunchFlags say which guest it is, on which machine.
type snpLaunchFlags struct {
	product, chip, image, key, csp string
	version, vmpl, svn             uint32
	hostData, idKey, authorKey     hexValue
	debug, crl                     bool
}

// registerImage adds what a policy author needs.
func (f *snpLaunchFlags) registerImage(c *cobra.Command) {
	c.Flags().StringVar(&f.image, "image", "", "name of the guest's image; its measurement is derived from it")
	c.Flags().StringVar(&f.product, "product", string(simsnp.Genoa), "milan, genoa, siena (Bergamo too) or turin")
	c.Flags().StringVar(&f.chip, "chip", "", "name of the machine; chip id and keys are derived from it (default \"chip\")")
	c.Flags().Var(&f.hostData, "host-data", "HOST_DATA that the host set at launch, up to 32 bytes")
	c.Flags().Uint32Var(&f.vmpl, "vmpl", 0, "privilege level of the software that asks, 0 to 3")
	c.Flags().BoolVar(&f.debug, "debug", false, "launch with a policy that lets the host read the guest's memory")
	_ = c.MarkFlagRequired("image") // the flag exists
	_ = c.RegisterFlagCompletionFunc("product", cobra.FixedCompletions(
		[]string{"milan", "genoa", "siena", "turin"}, cobra.ShellCompDirectiveNoFileComp))
}

func (f *snpLaunchFlags) register(c *cobra.Command) {
	f.registerImage(c)
	c.Flags().Uint32Var(&f.version, "report-version", 0, "version of the reports, 2 to 5 (default: the product's usual)")
	c.Flags().StringVar(&f.key, "signing-key", string(simsnp.VCEK), "who signs: vcek (the chip's own key) or vlek (a provider's)")
	c.Flags().StringVar(&f.csp, "csp", "", "provider that the VLEK's certificate names (default \""+simsnp.DefaultCSP+"\")")
	c.Flags().Uint32Var(&f.svn, "guest-svn", 0, "the guest's security version")
	c.Flags().Var(&f.idKey, "id-key-digest", "digest of the key that signed the guest's identity, up to 48 bytes")
	c.Flags().Var(&f.authorKey, "author-key-digest", "digest of the key that vouches for it, up to 48 bytes")
	c.Flags().BoolVar(&f.crl, "crl", false, "hand out a current CRL beside the certificates")
	_ = c.RegisterFlagCompletionFunc("signing-key", cobra.FixedCompletions([]string{"vcek", "vlek"}, cobra.ShellCompDirectiveNoFileComp))
}

// launch reads the flags, and checks what the simulator would not explain.
func (f *snpLaunchFlags) launch() (simsnp.Launch, simsnp.Product, error) {
	l := simsnp.Launch{
		Version: f.version, Measurement: simsnp.MeasurementFromSeed(f.image), HostData: f.hostData.value(), VMPL: f.vmpl,
		GuestSVN: f.svn, IDKeyDigest: f.idKey.value(), AuthorKeyDigest: f.authorKey.value(),
		SigningKey: simsnp.SigningKey(f.key), CSP: f.csp, CRL: f.crl,
	}
	if f.debug {
		l.Policy = simsnp.DefaultPolicy | simsnp.PolicyDebug
	}
	p, err := simsnp.ParseProduct(f.product)
	switch {
	case err != nil:
		return l, p, &cli.UsageError{Err: err}
	case f.image == "":
		return l, p, cli.Usagef("any name will do, for example --image ledger", "--image is empty")
	case f.key != "" && l.SigningKey != simsnp.VCEK && l.SigningKey != simsnp.VLEK:
		return l, p, cli.Usagef("want vcek or vlek", "--signing-key %.20q is no kind of key", f.key)
	case f.csp != "" && l.SigningKey != simsnp.VLEK:
		return l, p, cli.Usagef("add --signing-key vlek", "--csp is about a VLEK, and a VCEK signs")
	case f.vmpl > 3:
		return l, p, cli.Usagef("want 0 to 3", "--vmpl %d is no privilege level", f.vmpl)
	}
	return l, p, nil
}

// chipName is the machine's name.
func (f *snpLaunchFlags) chipName() string {
	if f.chip == "" {
		return "chip"
	}
	return f.chip
}

// guest launches it.
func (f *snpLaunchFlags) guest(a *simsnp.Authority, faults []simsnp.Fault) (*simsnp.Guest, error) {
	l, p, err := f.launch()
	if err != nil {
		return nil, err
	}
	c, err := a.Chip(p, f.chipName())
	if err != nil {
		return nil, err
	}
	g, err := c.Launch(l, faults...)
	if err != nil {
		return nil, &cli.UsageError{Err: err}
	}
	return g, nil
}

// snpFaults are those of reports and certificates, kdsFaults those of the KDS.
func snpFaults() []known {
	var out []known
	for _, f := range simsnp.Faults() {
		out = append(out, known{f.Name, f.Description})
	}
	return out
}

func kdsFaults() []known {
	var out []known
	for _, f := range simsnp.KDSFaults() {
		out = append(out, known{f.Name, f.Description})
	}
	return out
}
