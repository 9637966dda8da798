package policytest_test

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/assay-project/assay/internal/strictyaml"
	"github.com/assay-project/assay/policy"
	"github.com/assay-project/assay/policy/policytest"
)

const examples = "../../examples/policies"

func TestTheExamplesPassTheirTests(t *testing.T) { policytest.Run(t, examples) }

// recorder is a T that remembers what fails.
type recorder struct {
	name   string
	failed *[]string
	ran    *int
}

func (r recorder) Helper() {}
func (r recorder) Run(name string, f func(recorder)) bool {
	*r.ran++
	f(recorder{name, r.failed, r.ran})
	return true
}
func (r recorder) Errorf(format string, args ...any) {
	*r.failed = append(*r.failed, r.name+": "+fmt.Sprintf(format, args...))
}
func (r recorder) Fatalf(format string, args ...any) { r.Errorf(format, args...) }

func run(path string) (failed []string, ran int) {
	policytest.Run(recorder{"", &failed, &ran}, path)
	return failed, ran
}

// write makes a directory with a policy and tests.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

var (
	image = strings.Repeat("1a", 48)
	role  = strings.Repeat("2b", 48)
	small = `version: 1
bundle: small
revision: 1
trust_domain: attested.example.org
workloads:
  - name: api
    tee: aws-nitro
    mode: enforce
    match: {pcr0: {in: [{value: "` + image + `", not_after: 2027-02-01T00:00:00Z}]}, pcr3: {eq: "` + role + `"}}
    issue: [{spiffe_id: "spiffe://{td}/api"}]
  - name: canary
    tee: aws-nitro
    mode: {rollout: 50%}
    match: {pcr0: {eq: "` + strings.Repeat("3c", 48) + `"}, pcr3: {eq: "` + role + `"}}
    issue: [{spiffe_id: "spiffe://{td}/canary"}]
`
	head = `version: 1
at: 2027-01-20T12:00:00Z
claims:
  good: {tee: aws-nitro, pcr0: "` + image + `", pcr3: "` + role + `"}
cases:
`
)

// Each wrong demand fails its case, and says what was wanted and what was got.
func TestAWrongDemandFailsItsCase(t *testing.T) {
	for want, says := range map[string]string{
		`{outcome: granted, workload: api, spiffe_ids: ["spiffe://attested.example.org/api"], valid_until: 2027-02-01T00:00:00Z, reason: granted}`: "",
		`{outcome: denied}`:                                     "outcome: want denied, got granted (by workload api)",
		`{outcome: granted, workload: canary}`:                  "workload: want canary, got api",
		`{outcome: granted, reason: ambiguous}`:                 "reason: want ambiguous, got granted",
		`{outcome: granted, spiffe_ids: []}`:                    "spiffe_ids: want none, got spiffe://attested.example.org/api",
		`{outcome: granted, spiffe_ids: ["x"]}`:                 "spiffe_ids: want x, got spiffe://attested.example.org/api",
		`{outcome: granted, valid_until: 2027-03-01T00:00:00Z}`: "valid_until: want 2027-03-01T00:00:00Z, got 2027-02-01T00:00:00Z",
	} {
		dir := write(t, map[string]string{"p.yaml": small, "p.test.yaml": head + "  - {name: a, claims: good, want: " + want + "}\n"})
		failed, ran := run(dir)
		switch {
		case ran != 1:
			t.Errorf("%s: %d cases ran, %v", want, ran, failed)
		case says == "" && len(failed) > 0:
			t.Errorf("%s: %v", want, failed)
		case says != "" && (len(failed) != 1 || !strings.Contains(failed[0], "p.test.yaml:6:12: "+says)):
			t.Errorf("%s: %v, want %s", want, failed, says)
		}
	}
	for want, says := range map[string]string{
		`{outcome: denied, fails: [pcr3], reason: no_match, workload: api}`: "",
		`{outcome: denied, fails: [pcr0]}`:                                  "fails: want pcr0, got pcr3 of workload api",
		`{outcome: denied, fails: [pcr0, pcr3, rollout], workload: canary}`: "",
		`{outcome: denied, fails: [pcr0], workload: nobody}`:                "fails: the policy has no such workload",
		`{outcome: denied, workload: nobody}`:                               "workload: the policy has no workload nobody",
		`{outcome: granted}`:                                                "pcr3 eq: expected " + role,
	} {
		dir := write(t, map[string]string{"p.yaml": small, "p.test.yaml": head + "  - {name: a, claims: {from: good, pcr3: zero}, rollout: out, want: " + want + "}\n"})
		failed, _ := run(dir)
		if got := strings.Join(failed, "\n"); says == "" && got != "" || !strings.Contains(got, says) {
			t.Errorf("%s: %q, want %q", want, got, says)
		}
	}
}

func TestRolloutsAreAssumedAsTheCaseSays(t *testing.T) {
	canary := `  - {name: N, claims: {from: good, pcr0: "` + strings.Repeat("3c", 48) + `"}, want: W}` + "\n"
	dir := write(t, map[string]string{"p.yaml": small, "p.test.yaml": head +
		strings.NewReplacer("N", "in", "W", "{outcome: granted, workload: canary}", "want", "rollout: in, want").Replace(canary) +
		strings.NewReplacer("N", "out", "W", "{outcome: denied, reason: not_in_rollout}", "want", "rollout: out, want").Replace(canary) +
		strings.NewReplacer("N", "unknown", "W", "{outcome: denied, reason: rollout_undecided}").Replace(canary)})
	if failed, ran := run(dir); len(failed) > 0 || ran != 3 {
		t.Errorf("%d ran, %v", ran, failed)
	}
}

func TestClaimsAreReadFromJSON(t *testing.T) {
	claims := `{"platform": "aws-nitro", "simulated": false, "nitro": {"module_id": "i-1", "timestamp": "2027-01-20T12:00:00Z", "pcrs": {"0": "` + image + `", "3": "` + role + `"}, "debug": false, "public_key": null, "user_data": null, "nonce": null}}`
	cases := head + "  - {name: file, claims: {file: c.json}, want: {outcome: granted}}\n  - {name: changed, claims: {file: c.json, pcr3: zero}, want: {outcome: denied, fails: [pcr3]}}\n"
	for name, content := range map[string]string{"claims": claims, "a verdict": `{"verified": true, "claims": ` + claims + `, "decision": null}`} {
		dir := write(t, map[string]string{"p.yaml": small, "p.test.yaml": cases, "c.json": content})
		if failed, ran := run(dir); len(failed) > 0 || ran != 2 {
			t.Errorf("%s: %d ran, %v", name, ran, failed)
		}
	}
	for content, says := range map[string]string{
		`{`:                                     "no JSON of claims",
		`{"verified": false, "claims": null}`:   "no claims are in it",
		`{"verified": false, "claims": {}}`:     "its claims are not verified",
		`{"platform": "aws-nitro", "tpm": {}}`:  "the claims are not those of",
		`{"platform": "aws-nitro", "extra": 1}`: "unknown field",
	} {
		dir := write(t, map[string]string{"p.yaml": small, "p.test.yaml": cases, "c.json": content})
		if failed, ran := run(dir); ran != 0 || len(failed) != 1 || !strings.Contains(failed[0], says) {
			t.Errorf("%s: %v", content, failed)
		}
	}
}

// Every mistake has its place, all in one run.
func TestMistakesInTestsHaveTheirPlaces(t *testing.T) {
	src := `version: 2
polcy: p.yaml
policy: ../p.yaml
claims:
  a: {tee: sgx}
  b: {tee: aws-nitro, pcr99: zero}
  c: {from: nobody}
  d: {tee: aws-nitro, from: a}
  e: {file: /etc/passwd}
  f: {evidence: {file: x.cbor, tee: aws-nitro}, pcr0: zero}
  good: {tee: aws-nitro}
cases:
  - {name: one, claims: good, want: {outcome: granted}}
  - {name: one, claims: good, at: 2027-01-01T00:00:00Z, want: {outcome: maybe}}
  - {name: three, claims: other, at: soon, rollout: perhaps, want: {outcome: granted, fails: [pcr0]}}
  - {name: four, at: 2027-01-01T00:00:00Z, want: {outcome: denied, spiffe_ids: [], valid_until: 2027-01-01T00:00:00Z}}
  - {claims: good, at: 2027-01-01T00:00:00Z}
`
	_, err := policytest.Parse("p.test.yaml", []byte(src), func(string) ([]byte, error) { return nil, os.ErrNotExist })
	var found strictyaml.Errors
	if !errors.As(err, &found) {
		t.Fatal(err)
	}
	var got []string
	for _, e := range found {
		got = append(got, fmt.Sprintf("%d:%d %s", e.Line, e.Col, e.Msg))
	}
	for _, want := range []string{
		"1:10 version 2 of tests", "2:1 unknown key \"polcy\"", "3:9 not a file beside the tests", "5:12 no TEE that policies are for", "6:23 aws-nitro has no claim",
		"7:13 there are no claims named", "8:6 claims begin with one of", "9:13 not a file beside", "10:6 claims of evidence are as",
		"13:5 the case has no moment", "14:12 the case on line 13 has the same name", "14:73 want granted or denied", "15:27 there are no claims named",
		"15:38 want a moment", "15:53 want in or out", "15:87 of what grants no rule fails", "16:5 the key \"claims\" is missing", "16:68 who is denied gets", "16:84 a denial has no end",
		"17:5 the key \"name\" is missing", "17:5 the key \"want\" is missing",
	} {
		ok := false
		for _, g := range got {
			ok = ok || strings.HasPrefix(g, want)
		}
		if !ok {
			t.Errorf("no mistake %q in\n%s", want, strings.Join(got, "\n"))
		}
	}
}

// What is empty is not compared: written down it would be a demand that passes
// whatever the policy says.
func TestADemandThatWouldNotBeComparedIsAMistake(t *testing.T) {
	for _, c := range []struct{ at, want, mistake string }{
		{"2027-01-01T00:00:00Z", `{outcome: granted, workload: ""}`, "2:131 workload is empty"},
		{"2027-01-01T00:00:00Z", `{outcome: denied, reason: ""}`, "2:128 reason is empty"},
		{"2027-01-01T00:00:00Z", "{outcome: granted, valid_until: 0001-01-01T00:00:00Z}", "2:134 0001-01-01T00:00:00Z is before 2000"},
		{"2027-01-01T00:00:00Z", "{outcome: granted, valid_until: 0001-01-01T05:00:00+05:00}", "2:134 0001-01-01T05:00:00+05:00 is before 2000"},
		{"0001-01-01T00:00:00Z", "{outcome: granted}", "2:74 0001-01-01T00:00:00Z is before 2000"},
	} {
		src := "{version: 1, at: 2027-01-20T12:00:00Z, cases: [\n" + `  {name: "it is decided as the case says", claims: {tee: aws-nitro}, at: ` + c.at + ", want: " + c.want + "}]}\n"
		_, err := policytest.Parse("p.test.yaml", []byte(src), nil)
		var found strictyaml.Errors
		if !errors.As(err, &found) || len(found) != 1 {
			t.Errorf("%s at %s: got %v, want one mistake", c.want, c.at, err)
			continue
		}
		if got := fmt.Sprintf("%d:%d %s", found[0].Line, found[0].Col, found[0].Msg); !strings.HasPrefix(got, c.mistake) {
			t.Errorf("%s at %s: got %s, want %s", c.want, c.at, got, c.mistake)
		}
	}
}

func TestTestsAreFoundByThePolicyThatTheyAreAbout(t *testing.T) {
	dir := write(t, map[string]string{"p.yaml": small, "q.yaml": small,
		"p.test.yaml":    head + "  - {name: p, claims: good, want: {outcome: granted}}\n",
		"more.test.yaml": strings.Replace(head, "at:", "policy: p.yaml\nat:", 1) + "  - {name: more, claims: good, want: {outcome: granted}}\n"})
	for path, want := range map[string]int{"p.yaml": 2, "": 2, "more.test.yaml": 1} {
		files, err := policytest.Find(filepath.Join(dir, path))
		if err != nil || len(files) != want {
			t.Errorf("%q: %v, %v", path, files, err)
		}
	}
	if _, err := policytest.Find(filepath.Join(dir, "q.yaml")); err == nil || !strings.Contains(err.Error(), "there are no tests") {
		t.Errorf("a policy without tests: %v", err)
	}
}

func TestJUnitCountsWhatFails(t *testing.T) {
	dir := write(t, map[string]string{"p.yaml": small, "p.test.yaml": head + "  - {name: \"a < b\", claims: good, want: {outcome: granted}}\n  - {name: wrong, claims: good, want: {outcome: denied}}\n"})
	s, err := policytest.Load(filepath.Join(dir, "p.test.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	r := policytest.FileResults{File: "p.test.yaml"}
	for i := range s.File.Cases {
		r.Results = append(r.Results, s.File.Cases[i].Check(s.Bundle))
	}
	var b bytes.Buffer
	if err := policytest.WriteJUnit(&b, []policytest.FileResults{r}); err != nil {
		t.Fatal(err)
	}
	var back struct {
		Tests    int `xml:"tests,attr"`
		Failures int `xml:"failures,attr"`
		Suites   []struct {
			Cases []struct {
				Name    string  `xml:"name,attr"`
				Failure *string `xml:"failure"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(b.Bytes(), &back); err != nil {
		t.Fatal(err)
	}
	if c := back.Suites[0].Cases; back.Tests != 2 || back.Failures != 1 || c[0].Name != "a < b" || c[0].Failure != nil || c[1].Failure == nil {
		t.Errorf("%+v\n%s", back, b.String())
	}
}

// No file of tests makes the parser panic, and what it accepts can be evaluated.
func FuzzTests(f *testing.F) {
	files, err := filepath.Glob(filepath.Join(examples, "*"+policytest.Suffix))
	if err != nil || len(files) == 0 {
		f.Fatal(files, err)
	}
	var bundles []*policy.Bundle
	for _, name := range files {
		src, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(src))
		s, err := policytest.Load(name)
		if err != nil {
			f.Fatal(err)
		}
		bundles = append(bundles, s.Bundle)
	}
	f.Add(head + "  - {name: a, claims: {evidence: {file: a, tee: tpm2, at: 2027-01-01T00:00:00Z}}, rollout: in, want: {outcome: denied, fails: []}}\n")
	f.Fuzz(func(t *testing.T, src string) {
		read := func(string) ([]byte, error) { return []byte(src), nil }
		out, err := policytest.Parse("p.test.yaml", []byte(src), read)
		if (out == nil) == (err == nil) {
			t.Fatal("neither or both")
		}
		if err != nil {
			return
		}
		for i := range out.Cases {
			if c := &out.Cases[i]; c.Evidence == nil {
				for _, b := range bundles {
					_ = c.Check(b)
				}
			}
		}
	})
}

// block is the first YAML of a document.
func block(t *testing.T, doc string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("../../docs/spec", doc))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(b), "\n```yaml\n")
	src, _, end := strings.Cut(rest, "\n```\n")
	if !ok || !end {
		t.Fatalf("%s has no YAML", doc)
	}
	return src + "\n"
}

// The example of the specification tests the example of the language.
func TestTheExampleOfTheSpecificationRuns(t *testing.T) {
	dir := write(t, map[string]string{"policy.yaml": block(t, "policy.md"), "policy.test.yaml": block(t, "policy-tests.md")})
	if failed, ran := run(dir); len(failed) > 0 || ran != 3 {
		t.Errorf("%d ran, %v", ran, failed)
	}
}
