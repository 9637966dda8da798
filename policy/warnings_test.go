package policy_test

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-project/assay/internal/strictyaml"
	"github.com/assay-project/assay/policy"
)

// provocation is a policy that earns one warning, and no other.
type provocation struct {
	src  string
	lint policy.LintOptions
	at   string // where, "line:col"
	from int    // the line of the workload that can silence it; 0 where only the bundle can
}

// provocations has one for every code.
func provocations(t *testing.T) map[policy.Code]provocation {
	ch := func(src string, pairs ...string) string { return change(t, src, pairs...) }
	const workload = 10 // its line in base
	twin := base + `  - name: twin
    tee: aws-nitro
    mode: audit
    match:
      pcr3: {eq: "$role$"}
      pcr0: {in: images}
`
	later := policy.LintOptions{At: time.Date(2027, 2, 1, 0, 0, 0, 0, time.UTC)}
	return map[policy.Code]provocation{
		policy.CodeDebugAllowed:     {src: ch(base, "      pcr0: {in: images}\n", "      debug: {eq: true}\n      pcr8: {in: images}\n"), at: "10:11", from: workload},
		policy.CodeMigrationAllowed: {src: ch(snpBase, "    match:\n", "    match:\n      policy.migrate_ma: {eq: true}\n"), at: "8:11", from: 8},
		policy.CodeLauncherData:     {src: ch(base, references, "references:\n  images: {dedicated: true, values: [\"$41$\"]}\n"), at: "12:18", from: 8},
		policy.CodeEvidenceOracle:   {src: ch(base, "x509_ttl: 1h", "selectors: {unix: {uid: 1000}}"), at: "18:9", from: workload},
		// Selectors without evidence-oracle: TestAProgramThatEverybodyCanRunIsNobodys silences it for a workload.
		policy.CodeAnyUser:            {src: ch(base, "    match:", "    silence: [evidence-oracle]\n    match:", "x509_ttl: 1h", "selectors: {unix: {path: /usr/bin/api}}"), at: "19:9"},
		policy.CodeNoImage:            {src: ch(base, "      pcr0: {in: images}\n", "      pcr5: {in: images}\n"), at: "10:11", from: workload},
		policy.CodeNoFloor:            {src: ch(snpBase, "reported_tcb:", "current_tcb:"), at: "8:11", from: 8},
		policy.CodeUnreachable:        {src: ch(base, "{in: images}", `{in: [{value: "$a$", not_after: 2027-01-01T00:00:00Z}]}`, `{eq: "$role$"}`, `{in: [{value: "$role$", not_before: 2027-01-01T00:00:01Z}]}`, references, ""), at: "6:11", from: 6},
		policy.CodeShadowed:           {src: twin, at: "19:11", from: 19},
		policy.CodeBothMatch:          {src: ch(base, "    issue:", "    expr: \"size(nitro.pcr0) > 0\"\n    issue:") + strings.ReplaceAll(base[strings.Index(base, "  - name"):], "payments", "second"), at: "20:11", from: workload},
		policy.CodeAlwaysHolds:        {src: ch(snpBase, "    match:\n", "    match:\n      guest_svn: {gte: 0}\n"), at: "12:24", from: 8},
		policy.CodeSameHint:           {src: ch(base, "x509_ttl: 1h", "hint: internal\n      - {spiffe_id: \"spiffe://{td}/second\", hint: internal}"), at: "19:51", from: workload},
		policy.CodeConstantExpression: {src: ch(base, "    issue:", "    expr: \"1 < 2\"\n    issue:"), at: "16:11", from: workload},
		policy.CodeNoEffect:           {src: ch(base, "x509_ttl: 1h", "x509_ttl: 10m\n        jwt: {ttl: 20m, audiences: [a]}"), at: "19:20", from: workload},
		policy.CodeUnusedReference:    {src: ch(base, "references:\n", "references:\n  unused: [\"$u$\"]\n"), at: "6:3"},
		policy.CodeExpiredReference:   {src: base, lint: later, at: "7:126", from: workload},
		policy.CodeExpiredWaiver: {src: ch(snpBase, "    match:\n", `    waivers:
      - {rule: reported_tcb, reason: a, owner: b, expires: 2027-01-31}
    match:
`), lint: later, at: "12:60", from: 8},
		policy.CodeTTLBeyondCA:    {src: base, lint: policy.LintOptions{CALifetime: 59 * time.Minute}, at: "18:19", from: workload},
		policy.CodeEmptyBundle:    {src: base[:strings.Index(base, "references:")] + "workloads: []\n", at: "5:12"},
		policy.CodeUselessSilence: {src: ch(base, "    match:", "    silence: [no-image]\n    match:"), at: "13:15", from: workload},
		"loader-not-pinned":       {src: ch(tpmBase, "      pcr4: {eq: \"$loader/32$\"}\n      pcr7: {eq: \"$keys/32$\"}\n", "      pcr9: {eq: \"$files/32$\"}\n"), at: "6:11", from: 6},
		"command-line-open":       {src: ch(tpmBase, "      pcr7: {eq: \"$keys/32$\"}\n", "      pcr11: {eq: \"$uki/32$\"}\n"), at: "6:11", from: 6},
		"residency-contradiction": {src: ch(tpmBase, "    match:\n", "    match:\n      key_residency: {eq: tpm}\n", "store\"}]", "store\", key_residency: file}]"), at: "14:63", from: 6},
		"secure-boot-off":         {src: ch(tpmBase, "    match:\n", "    match:\n      secure_boot: {eq: false}\n"), at: "6:11", from: 6},
	}
}

// Every code that is documented can be earned, at its place, and silenced by its
// name alone.
func TestEveryWarningCanBeProvokedAndSilenced(t *testing.T) {
	cases := provocations(t)
	for _, info := range policy.Codes() {
		t.Run(string(info.Code), func(t *testing.T) {
			c, ok := cases[info.Code]
			if !ok {
				t.Fatal("nothing provokes it")
			}
			got := parse(t, c.src).Lint(c.lint)
			if len(got) != 1 || got[0].Code != string(info.Code) || !strings.HasPrefix(got[0].Error(), "p.yaml:"+c.at+": ") {
				t.Fatalf("want one warning %s at %s, got:\n%s", info.Code, c.at, got.Render())
			}
			silent := strings.Replace(c.src, "revision: 7\n", "revision: 7\nsilence: ["+string(info.Code)+"]\n", 1)
			if got := parse(t, silent).Lint(c.lint); len(got) != 0 {
				t.Errorf("silenced for the bundle, and still:\n%s", got.Render())
			}
			if c.from == 0 {
				return
			}
			lines := strings.Split(c.src, "\n")
			key := "    silence: [" + string(info.Code) + "]"
			if info.Code == policy.CodeUselessSilence {
				key = strings.Replace(key, "[", "[no-image, ", 1)
				lines = slices.DeleteFunc(lines, func(l string) bool { return l == "    silence: [no-image]" })
			}
			lines = slices.Insert(lines, c.from, key)
			if got := parse(t, strings.Join(lines, "\n")).Lint(c.lint); len(got) != 0 {
				t.Errorf("silenced for the workload, and still:\n%s", got.Render())
			}
		})
	}
}

// A warning that is not silenced is heard, whatever else is.
func TestSilencingOneWarningSilencesNoOther(t *testing.T) {
	for code, c := range provocations(t) {
		other := "no-tcb-floor"
		if code == policy.CodeNoFloor {
			other = "no-image"
		}
		got := parse(t, strings.Replace(c.src, "revision: 7\n", "revision: 7\nsilence: ["+other+"]\n", 1)).Lint(c.lint)
		if !slices.ContainsFunc(got, func(e *strictyaml.Error) bool { return e.Code == string(code) }) {
			t.Errorf("%s is no longer heard:\n%s", code, got.Render())
		}
		if !slices.ContainsFunc(got, func(e *strictyaml.Error) bool {
			return e.Code == string(policy.CodeUselessSilence) && strings.Contains(e.Msg, other)
		}) {
			t.Errorf("%s: the silence of %s is not called useless:\n%s", code, other, got.Render())
		}
	}
}

// The server's own warnings come with lint's options, and never from the file
// alone.
func TestWhatDependsOnTimeAndServerIsLintedOnly(t *testing.T) {
	b := parse(t, base)
	if w := b.Warnings(); len(w) > 0 {
		t.Errorf("got:\n%s", w.Render())
	}
	for _, c := range []struct {
		options policy.LintOptions
		want    int
	}{
		{policy.LintOptions{}, 0},
		{policy.LintOptions{At: noon}, 0},
		{policy.LintOptions{At: time.Date(2027, 1, 31, 0, 0, 0, 0, time.UTC)}, 0},
		{policy.LintOptions{At: time.Date(2027, 1, 31, 0, 0, 0, 1, time.UTC)}, 1},
		{policy.LintOptions{CALifetime: time.Hour}, 0},
		{policy.LintOptions{CALifetime: time.Hour - 1}, 1},
		{policy.LintOptions{At: time.Date(2028, 1, 1, 0, 0, 0, 0, time.UTC), CALifetime: time.Minute}, 2},
	} {
		if got := b.Lint(c.options); len(got) != c.want {
			t.Errorf("%+v: %d warnings, want %d:\n%s", c.options, len(got), c.want, got.Render())
		}
	}
}

// A set that several workloads use is silenced when all of them say so.
func TestAnExpiredValueOfASharedSetIsSilencedByAllOfItsUsers(t *testing.T) {
	two := base + `  - name: second
    tee: aws-nitro
    mode: audit
    silence: [expired-reference]
    match:
      pcr0: {in: images}
      pcr4: {eq: "$instance$"}
`
	late := policy.LintOptions{At: time.Date(2028, 1, 1, 0, 0, 0, 0, time.UTC)}
	got := parse(t, two).Lint(late)
	if len(got) != 1 || got[0].Code != string(policy.CodeExpiredReference) {
		t.Errorf("silenced by one of two:\n%s", got.Render())
	}
	both := change(t, two, "    mode: enforce\n", "    mode: enforce\n    silence: [expired-reference]\n")
	if got := parse(t, both).Lint(late); len(got) != 0 {
		t.Errorf("silenced by both, and still:\n%s", got.Render())
	}
	if got := parse(t, both).Expired(late.At); len(got) != 0 {
		t.Errorf("silenced by both, and still listed:\n%s", got.Render())
	}
}

func TestMistakesInSilenceAreErrors(t *testing.T) {
	for name, c := range map[string][2]string{
		"unknown code":  {"silence: [no-imgae]", `there is no warning "no-imgae"`},
		"twice":         {"silence: [no-image, no-image]", `the warning "no-image" is silenced twice`},
		"no list":       {"silence: no-image", `want a list, got "no-image"`},
		"no text":       {"silence: [true]", "want text, got true or false"},
		"on a workload": {"silence: []\nworkload: []", `unknown key "workload"`},
	} {
		src := expand(change(t, base, "revision: 7\n", "revision: 7\n"+c[0]+"\n"))
		if _, err := policy.Parse("p.yaml", []byte(src)); err == nil || strings.Count(err.Error(), "\n") > 0 || !strings.Contains(err.Error(), c[1]) {
			t.Errorf("%s: got %v, want %q", name, err, c[1])
		}
	}
}

func TestTheReferenceExplainsEveryWarning(t *testing.T) {
	doc, err := os.ReadFile("../docs/spec/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range policy.Codes() {
		if !strings.Contains(string(doc), "| `"+string(c.Code)+"` |") {
			t.Errorf("docs/spec/policy.md does not explain the warning %s", c.Code)
		}
	}
}

// Keys that are nowhere but in the TPM cannot be written to a disk: a workload that
// matches no others and lets them be is told; one that matches others is not.
func TestKeysInTheTPMThatMayBeOnADiskAreAContradiction(t *testing.T) {
	with := func(claim, entry string) string {
		src := tpmBase
		if claim != "" {
			src = change(t, src, "    match:\n", "    match:\n      key_residency: "+claim+"\n")
		}
		return change(t, src, "store\"}]", "store\""+entry+"}]")
	}
	for name, c := range map[string]struct {
		src  string
		want int
	}{
		"tpm and file":            {with("{eq: tpm}", ", key_residency: file"), 1},
		"a list of tpm, and file": {with("{in: [tpm]}", ", key_residency: file"), 1},
		"two identities":          {with("{eq: tpm}", `, key_residency: file}, {spiffe_id: "spiffe://{td}/other", key_residency: file`), 2},
		"tpm and memory":          {with("{eq: tpm}", ", key_residency: memory"), 0},
		"tpm and the default":     {with("{eq: tpm}", ""), 0},
		"either and file":         {with("{in: [tpm, software]}", ", key_residency: file"), 0},
		"software and file":       {with("{eq: software}", ", key_residency: file"), 0},
		"file without the claim":  {with("", ", key_residency: file"), 0},
		"tpm in another workload": {with("", ", key_residency: file") + strings.ReplaceAll(with("{eq: tpm}", "")[strings.Index(tpmBase, "  - name"):], "$loader/32$", "$other/32$"), 0},
	} {
		src := strings.Replace(c.src, "  - name: store", "  - name: second", strings.Count(c.src, "  - name: store")-1)
		got := parse(t, src).Warnings()
		n := 0
		for _, e := range got {
			if e.Code == "residency-contradiction" {
				n++
			}
		}
		if n != c.want || n != len(got) {
			t.Errorf("%s: want %d warnings, got:\n%s", name, c.want, got.Render())
		}
	}
}
