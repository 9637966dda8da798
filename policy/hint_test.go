package policy_test

import (
	"strings"
	"testing"

	"github.com/assay-project/assay/policy"
)

func TestAHintTravelsWithTheIdentityThatHasIt(t *testing.T) {
	l := newLab(t)
	b := parse(t, change(t, base, "        x509_ttl: 1h\n", `        hint: internal
      - {spiffe_id: "spiffe://{td}/outside", hint: external-2.x_y}
      - {spiffe_id: "spiffe://{td}/silent"}
`))
	g, err := b.Authorize(l.verify(t, attestation{pcrs: good, requested: []string{"", "", ""}}), noon)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, is := range g.Issues() {
		got = append(got, is.Identity.Hint)
	}
	if s := strings.Join(got, ","); s != "internal,external-2.x_y," {
		t.Errorf("hints %s", s)
	}
}

func TestMistakesInHintsAreErrors(t *testing.T) {
	for value, want := range map[string]string{
		`""`:                            `18:15: "" is no hint`,
		"Internal":                      `"Internal" is no hint`,
		"\"two words\"":                 `"two words" is no hint`,
		strings.Repeat("x", 65):         "is no hint",
		"[internal]":                    "18:15: want",
		"\"line\\n\"":                   "is no hint",
		"internal\n        hint: again": "duplicate key",
	} {
		src := expand(change(t, base, "x509_ttl: 1h", "hint: "+value))
		if _, err := policy.Parse("p.yaml", []byte(src)); err == nil || strings.Count(err.Error(), "\n") > 0 || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", value, err, want)
		}
	}
	if _, err := policy.Parse("p.yaml", []byte(expand(change(t, base, "x509_ttl: 1h", "hint: "+strings.Repeat("x", 64))))); err != nil {
		t.Error(err)
	}
}

func TestTheSameHintTwiceInAWorkloadIsAWarning(t *testing.T) {
	src := change(t, base, "        x509_ttl: 1h\n", `        hint: internal
      - {spiffe_id: "spiffe://{td}/second", hint: internal}
      - {spiffe_id: "spiffe://{td}/other", hint: external}
      - {spiffe_id: "spiffe://{td}/silent"}
      - {spiffe_id: "spiffe://{td}/silent2"}
`)
	var same int
	for _, e := range parse(t, src).Warnings() {
		if e.Code == string(policy.CodeSameHint) {
			same++
			if e.Line != 19 || !strings.Contains(e.Msg, "the hint internal") {
				t.Errorf("%v", e)
			}
		}
	}
	if same != 1 {
		t.Errorf("%d warnings of the same hint, want 1", same)
	}
}
