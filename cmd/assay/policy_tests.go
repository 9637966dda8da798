package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"regexp"
	"time"

	"github.com/spf13/cobra"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/policy/policytest"
)

// policyTests is the JSON output of `policy test` (docs/reference/cli.md).
type policyTests struct {
	OK     bool             `json:"ok"`
	Cases  int              `json:"cases"`
	Failed int              `json:"failed"`
	Files  []policyTestFile `json:"files"`
}

type policyTestFile struct {
	File   string           `json:"file"`
	Policy string           `json:"policy"` // "name@revision"
	Cases  []policyTestCase `json:"cases"`
}

type policyTestCase struct {
	Name        string   `json:"name"`
	Position    string   `json:"position"`
	OK          bool     `json:"ok"`
	Outcome     string   `json:"outcome"`
	Reason      string   `json:"reason"`
	Differences []string `json:"differences"`
}

func policyTestCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "test [FILE…]",
		Short: "Run the tests that are shipped with a policy",
		Long: `Run the tests that are shipped with a policy: files *.test.yaml beside it, each a
list of cases with claims or recorded evidence in, and the decision out
(docs/spec/policy-tests.md). FILE is a policy, a file of tests or a directory; the
present directory, if there is none.

It prints as go test does. The exit code is 6 where a case fails, 2 where a file
of tests or a policy has mistakes. Recorded evidence is verified as of the time
that the case says it was recorded at; nothing is fetched from a network.`,
		Example: `  assay policy test
  assay policy test policy.yaml
  assay policy test -v --run 'release 4[12]' policy.yaml
  assay policy test --junit report.xml policies/`,
	}
	var run, junit string
	var verbose bool
	f := c.Flags()
	f.StringVar(&run, "run", "", "run only cases whose name matches the regular `EXPRESSION`")
	f.BoolVarP(&verbose, "verbose", "v", false, "name the cases that pass, too")
	f.StringVar(&junit, "junit", "", "write the results as JUnit's XML to `FILE`")
	output := cli.OutputFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		only, err := regexp.Compile(run)
		if err != nil {
			return cli.Usagef("the syntax is RE2's", "--run: %w", err)
		}
		suites, err := testSuites(c.Context(), args)
		if err != nil {
			return err
		}
		out := policyTests{OK: true, Files: []policyTestFile{}}
		var runs []policytest.FileResults
		for _, s := range suites {
			began := time.Now()
			r := policytest.FileResults{File: s.File.Name}
			for i := range s.File.Cases {
				if only.MatchString(s.File.Cases[i].Name) {
					r.Results = append(r.Results, s.File.Cases[i].Check(s.Bundle))
				}
			}
			r.Took = time.Since(began)
			runs = append(runs, r)
			out.add(s, r)
		}
		if out.Cases == 0 && run != "" {
			cli.Warn(c.ErrOrStderr(), "no case has a name that matches %q", run)
		}
		if junit != "" {
			if err := writeJUnit(junit, runs); err != nil {
				return err
			}
		}
		if *output == cli.JSON {
			err = cli.PrintJSON(c.OutOrStdout(), out)
		} else {
			err = printTests(c.OutOrStdout(), runs, verbose)
		}
		if err == nil && !out.OK {
			return &cli.Silent{Code: cli.Denied}
		}
		return err
	}
	return c
}

func (o *policyTests) add(s *policytest.Suite, r policytest.FileResults) {
	f := policyTestFile{File: s.File.Name, Policy: s.Bundle.Version(), Cases: []policyTestCase{}}
	for _, x := range r.Results {
		o.Cases++
		if !x.Passed() {
			o.OK = false
			o.Failed++
		}
		differences := x.Differences
		if differences == nil {
			differences = []string{}
		}
		f.Cases = append(f.Cases, policyTestCase{x.Case.Name, x.Case.Position, x.Passed(), x.Decision.Outcome, x.Decision.Reason, differences})
	}
	o.Files = append(o.Files, f)
}

// testSuites loads the tests that the arguments mean, with their evidence
// verified.
func testSuites(ctx context.Context, args []string) ([]*policytest.Suite, error) {
	if len(args) == 0 {
		args = []string{"."}
	}
	var suites []*policytest.Suite
	for _, arg := range args {
		files, err := policytest.Find(arg)
		if err != nil {
			return nil, testFile(err)
		}
		for _, file := range files {
			s, err := policytest.Load(file)
			if err != nil {
				return nil, testFile(err)
			}
			if err := s.File.Verify(ctx, caseEvidence, s.Read); err != nil {
				return nil, err
			}
			suites = append(suites, s)
		}
	}
	return suites, nil
}

// testFile says that a file cannot be read the way other commands do.
func testFile(err error) error {
	if cli.ExitCode(err) != cli.Internal {
		return err // mistakes in a file
	}
	return cli.Usagef(fileHint(err), "%s", clean(err))
}

// caseEvidence verifies the evidence of a case as `assay evidence verify` does.
func caseEvidence(ctx context.Context, e policytest.Evidence, read policytest.Reader) (attest.Claims, error) {
	t, err := findTEE(string(e.TEE))
	if err != nil {
		return attest.Claims{}, err
	}
	get := func(name string) ([]byte, error) {
		b, err := read(name)
		if err != nil {
			return nil, testFile(err)
		}
		return b, nil
	}
	v := verification{tee: t, at: e.At}
	var o opening
	if e.Roots != "" {
		if o.rootsPEM, err = get(e.Roots); err != nil {
			return attest.Claims{}, err
		}
	}
	if e.EventLog != "" {
		if v.eventLog, err = get(e.EventLog); err != nil {
			return attest.Claims{}, err
		}
	}
	if err := v.openRoots(nil, "", o); err != nil {
		return attest.Claims{}, err
	}
	for _, name := range e.Endorsements {
		b, err := get(name)
		if err != nil {
			return attest.Claims{}, err
		}
		es, err := parseEndorsements(name, b)
		if err != nil {
			return attest.Claims{}, err
		}
		v.endorsements = append(v.endorsements, es...)
	}
	raw, err := get(e.File)
	if err != nil {
		return attest.Claims{}, err
	}
	out := v.run(ctx, raw)
	if out.err != nil {
		return attest.Claims{}, out.err
	}
	return *out.Claims, nil
}

func writeJUnit(file string, runs []policytest.FileResults) (err error) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644) //nolint:gosec // a report for CI: others may read it
	if err != nil {
		return cli.Usagef(fileHint(err), "--junit: %s", clean(err))
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	return policytest.WriteJUnit(f, runs)
}

// printTests prints results as go test does.
func printTests(w io.Writer, runs []policytest.FileResults, verbose bool) error {
	p := cli.NewPage(w)
	failed := false
	for _, r := range runs {
		bad := 0
		for _, x := range r.Results {
			if verbose {
				p.Linef("=== RUN   %s", x.Case.Name)
			}
			switch {
			case !x.Passed():
				bad++
				p.Linef("--- FAIL: %s", x.Case.Name)
				for _, d := range x.Differences {
					p.Linef("    %s: %s", x.Case.Position, d)
				}
			case verbose:
				p.Linef("--- PASS: %s", x.Case.Name)
			}
		}
		state, note := "ok  ", cli.Count(len(r.Results), "case")
		if bad > 0 {
			failed, state = true, "FAIL"
			note = fmt.Sprintf("%d of %s failed", bad, note)
		} else if len(r.Results) == 0 {
			note = "no cases to run"
		}
		p.Linef("%s  %s  %.3fs  (%s)", state, r.File, r.Took.Seconds(), note)
	}
	if failed {
		p.Linef("FAIL")
	}
	return p.Err()
}
