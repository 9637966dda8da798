package main

import (
	"crypto/sha512"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/policy"
)

// startedPolicy is the JSON output of `policy init`.
type startedPolicy struct {
	File      string          `json:"file"`
	Policy    string          `json:"policy"`
	TEE       attest.Platform `json:"tee"`
	From      string          `json:"from"`
	Verified  bool            `json:"verified"` // the values are of evidence that verifies
	Workload  string          `json:"workload"`
	Mode      string          `json:"mode"`
	Ownership bool            `json:"ownership"`
	Remaining []string        `json:"remaining"` // what is still to be decided
	Warnings  []finding       `json:"warnings"`
}

// initFlags are what `policy init` is told.
type initFlags struct {
	from, log                      string
	bank                           bankValue
	trustDomain, bundle, workload  string
	id                             string
	role, instance, group          string
	dedicated, force               bool
	revision                       uint64
	waiveReason, waiveOwner, waive string
	out                            string
}

func policyInitCommand(now clock) *cobra.Command {
	c := &cobra.Command{
		Use:   "init [EVIDENCE] --trust-domain TD",
		Short: "Write a commented starter policy from an image or from evidence",
		Long: `Write a policy with one workload, commented, from what there is: evidence of a
running environment, which is verified first ('--unverified' takes its word), or
claims in JSON; an image (--from); a TPM's boot log (--from-event-log).

A measurement says what runs, not whose it is: anybody can launch your image. What
only yours can show is filled in from evidence where it has it (Nitro: the role or
the parent instance; a TPM: the endorsement key or the cloud project), or given
with --role, --instance, --dedicated or --ek-group, or waived by somebody until a
day with --no-owner. Without any of these the workload is written in mode audit: it
grants nothing, and the comments and the list of what remains say what to do.

What it writes passes 'assay policy check'.`,
		Example: `  assay policy init --from payments-41.eif --trust-domain attested.example.org --out policy.yaml
  assay policy init --from payments-41.eif --role arn:aws:iam::123456789012:role/payments --trust-domain attested.example.org
  assay policy init document.cbor --tee aws-nitro --trust-domain attested.example.org --workload payments
  assay policy init report.bin --tee amd-sev-snp --endorsement vcek.der --dedicated --trust-domain attested.example.org
  assay policy init --from-event-log eventlog.bin --ek-group web --trust-domain attested.example.org`,
		Args: cobra.MaximumNArgs(1),
	}
	var evidence subjectFlags
	in := initFlags{bank: "sha256"}
	evidence.add(c)
	f := c.Flags()
	f.StringVar(&in.from, "from", "", "`FILE` to measure: an enclave image, or JSON of a measure command")
	f.StringVar(&in.log, "from-event-log", "", "boot event log `FILE` to measure")
	f.Var(&in.bank, "bank", "the bank of PCRs, with --from-event-log: sha256, sha384")
	f.StringVar(&in.trustDomain, "trust-domain", "", "`NAME` of the trust domain, such as attested.example.org")
	f.StringVar(&in.bundle, "bundle", "prod", "`NAME` of the policy")
	f.Uint64Var(&in.revision, "revision", 1, "`REVISION` of the policy: more than the one in force")
	f.StringVar(&in.workload, "workload", "", "`NAME` of the workload; default: the image's")
	f.StringVar(&in.id, "spiffe-id", "spiffe://{td}/{workload}", "`TEMPLATE` of the identity")
	f.StringVar(&in.role, "role", "", "Nitro: `ARN` of the IAM role of the instances that launch it")
	f.StringVar(&in.instance, "instance", "", "Nitro: `ID` of the one instance that launches it")
	f.BoolVar(&in.dedicated, "dedicated", false, "SEV-SNP: nobody else's guests run on the machine that the evidence is of")
	f.StringVar(&in.group, "ek-group", "", "TPM: `GROUP` of the server's inventory that the machines are in")
	f.StringVar(&in.waiveReason, "no-owner", "", "waive the ownership rule: `REASON`, with --owner and --expires")
	f.StringVar(&in.waiveOwner, "owner", "", "`WHO` answers for the waiver")
	f.StringVar(&in.waive, "expires", "", "`DATE` at which the waiver ends, such as 2027-06-30")
	f.StringVar(&in.out, "out", "-", "`FILE` to write; - is standard output")
	f.BoolVar(&in.force, "force", false, "replace the file where there is one")
	_ = c.MarkFlagRequired("trust-domain") // the flag exists
	c.MarkFlagsMutuallyExclusive("from", "from-event-log")
	c.MarkFlagsMutuallyExclusive("role", "instance", "dedicated", "ek-group", "no-owner")
	c.MarkFlagsRequiredTogether("no-owner", "owner", "expires")
	c.MarkFlagsMutuallyExclusive("unverified", "verify-at")
	_ = c.RegisterFlagCompletionFunc("bank", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return []string{"sha256", "sha384"}, cobra.ShellCompDirectiveNoFileComp
	}) // the flag exists
	output := cli.OutputFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		s, err := in.starter(c, args, &evidence, now)
		if err != nil {
			return err
		}
		return in.write(c, *output, s, now())
	}
	return c
}

// starter gathers what the policy is written from.
func (in *initFlags) starter(c *cobra.Command, args []string, evidence *subjectFlags, now clock) (*starter, error) {
	given := len(args)
	for _, file := range []string{in.from, in.log} {
		if file != "" {
			given++
		}
	}
	if given != 1 {
		return nil, cli.Usagef("for example: assay policy init --from payments.eif --trust-domain attested.example.org", "give evidence, or an image with --from, or a boot log with --from-event-log, and only one of them")
	}
	s := &starter{bundle: in.bundle, revision: in.revision, trustDomain: in.trustDomain, id: in.id}
	var err error
	switch {
	case in.from != "":
		m, err := readMeasured(c, in.from)
		if err != nil {
			return nil, err
		}
		s.ofImage(m)
		s.from = in.from + ", an image that was measured"
	case in.log != "":
		m, err := readBootLog(c, in.log, in.bank)
		if err != nil {
			return nil, err
		}
		s.ofImage(m)
		s.from = in.log + ", a boot log that nothing vouches for"
		s.remains("the values are those of a boot log, for which nothing vouches: take it from a machine that you trust, or give a quote")
	default:
		x, err := evidence.read(c, args[0], now)
		if err != nil {
			return nil, err
		}
		for _, w := range x.warnings {
			cli.Warn(c.ErrOrStderr(), "%s", w)
		}
		if err := s.ofClaims(x); err != nil {
			return nil, err
		}
	}
	if s.workload = in.workload; s.workload == "" {
		s.workload = workloadName(s.image)
	}
	if err = s.whole(); err != nil {
		return nil, err
	}
	if err = in.owner(s); err != nil {
		return nil, err
	}
	return s, nil
}

// owner adds what the user says about whose environments they are.
func (in *initFlags) owner(s *starter) error {
	only := func(flag string, p attest.Platform) error {
		if s.platform != p {
			return cli.Usagef("", "--%s is for %s, and this is %s", flag, p, s.platform)
		}
		return nil
	}
	switch {
	case in.role != "":
		if !strings.HasPrefix(in.role, "arn:") || !strings.Contains(in.role, ":role/") {
			return cli.Usagef("for example arn:aws:iam::123456789012:role/payments; an instance profile is something else", "--role %q is not the ARN of an IAM role", in.role)
		}
		s.own(`pcr3: {eq: "`+nitroNamePCR(in.role)+`"}`, "whose it is: enclaves of instances with the role "+in.role)
		return only("role", attest.AWSNitro)
	case in.instance != "":
		if !strings.HasPrefix(in.instance, "i-") {
			return cli.Usagef("for example i-0123456789abcdef0", "--instance %q is not the id of an instance", in.instance)
		}
		s.own(`pcr4: {eq: "`+nitroNamePCR(in.instance)+`"}`, "whose it is: enclaves of the instance "+in.instance)
		return only("instance", attest.AWSNitro)
	case in.group != "":
		s.own("ek_inventory: {eq: "+yamlString(in.group)+"}", "whose it is: TPMs that `assay ek add --group` put into the inventory")
		return only("ek-group", attest.TPM2)
	case in.dedicated:
		if err := only("dedicated", attest.AMDSEVSNP); err != nil {
			return err
		}
		if s.chip == "" {
			return cli.Usagef("give a report whose chip id is not masked", "--dedicated needs evidence that names the chip")
		}
		s.sets = append(s.sets, starterSet{name: "machines", dedicated: true, value: s.chip, note: "the machine of the evidence", about: "Machines on which nobody else's guests run: dedicated says so."})
		s.own("chip_id: {in: @machines}", "whose it is: guests on these machines")
	case in.waiveReason != "":
		if _, err := time.Parse(time.DateOnly, in.waive); err != nil {
			return cli.Usagef("for example 2027-06-30", "--expires %q is not a date", in.waive)
		}
		s.waiver = fmt.Sprintf("{none: %s, owner: %s, expires: %s}", yamlString(in.waiveReason), yamlString(in.waiveOwner), in.waive)
		s.owner = nil
	}
	return nil
}

// nitroNamePCR is the register of a role or an instance: the measurement of its
// name, extended from zero (AWS, "Where to get an enclave's measurements").
func nitroNamePCR(name string) string {
	sum := sha512.Sum384(append(make([]byte, sha512.Size384), name...))
	return attest.Bytes(sum[:]).String()
}

// write checks what was written, and puts it where it is wanted.
func (in *initFlags) write(c *cobra.Command, output cli.Format, s *starter, now time.Time) error {
	if output == cli.JSON && in.out == "-" {
		return cli.Usagef("add --out policy.yaml", "--output json needs a file for the policy")
	}
	file := in.out
	if file == "-" {
		file = "policy.yaml"
	}
	src := []byte(s.text(file))
	if _, err := policy.Parse("the policy to be written", src); err != nil {
		return err // of a name or template that the user gave: shown in its place
	}
	b, err := policy.Parse(file, src)
	if err != nil {
		return err
	}
	if in.out != "-" && !in.force {
		if _, err := os.Lstat(in.out); !errors.Is(err, fs.ErrNotExist) {
			return cli.Usagef("--force replaces it; to add a release to it use `assay policy add-reference`", "%s exists", in.out)
		}
	}
	if err := writeOut(c, in.out, src); err != nil {
		return err
	}
	warnings := b.Lint(policy.LintOptions{At: now})
	w := b.Workloads()[0]
	done := startedPolicy{
		File: in.out, Policy: b.Version(), TEE: s.platform, From: s.from, Verified: s.verified,
		Workload: w.Name, Mode: w.Mode, Ownership: w.Ownership, Remaining: append([]string{}, s.remaining...), Warnings: findings(warnings),
	}
	for _, x := range warnings {
		cli.Warn(c.ErrOrStderr(), "%s", x.Error())
	}
	if output == cli.JSON {
		return cli.PrintJSON(c.OutOrStdout(), done)
	}
	to := c.OutOrStdout()
	if in.out == "-" {
		to = c.ErrOrStderr() // standard output has the policy
	}
	p := cli.NewPage(to)
	p.Linef("%s: %s, one workload: %s, mode %s", file, done.Policy, done.Workload, done.Mode)
	if len(done.Remaining) > 0 {
		p.Title("What remains")
		for _, r := range done.Remaining {
			p.Linef("  - %s", r)
		}
	}
	return p.Err()
}
