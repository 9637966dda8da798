package policy_test

import (
	"strings"
	"testing"

	"github.com/assay-project/assay/policy"
)

func TestKeysMayBeOnADiskOnlyWhereTheIdentityItselfSaysSo(t *testing.T) {
	l := newLab(t)
	b := parse(t, change(t, base, "        x509_ttl: 1h\n", `        key_residency: file
      - {spiffe_id: "spiffe://{td}/memory", key_residency: memory}
      - {spiffe_id: "spiffe://{td}/silent"}
`))
	g, err := b.Authorize(l.verify(t, attestation{pcrs: good, requested: []string{"", "", ""}}), noon)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, is := range g.Issues() {
		got = append(got, policy.KeyResidency(is.Identity.KeysOnDisk))
	}
	if s := strings.Join(got, " "); s != "file memory memory" {
		t.Errorf("key residencies %s, want file memory memory", s)
	}
}

func TestMistakesInKeyResidencyAreErrors(t *testing.T) {
	for value, want := range map[string]string{
		"files":  `want memory or file, got "files"`,
		"true":   `18:24: want`,
		"[file]": "18:24: want",
	} {
		src := expand(change(t, base, "x509_ttl: 1h", "key_residency: "+value))
		if _, err := policy.Parse("p.yaml", []byte(src)); err == nil || strings.Count(err.Error(), "\n") > 0 || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", value, err, want)
		}
	}
}
