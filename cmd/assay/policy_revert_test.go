package main

import (
	"strings"
	"testing"
)

// A revert changes the number and nothing else, wherever it stands.
func TestARevisionIsExchangedWhereItStandsAndNothingElse(t *testing.T) {
	for name, src := range map[string]string{
		"plain":           "version: 1\nbundle: prod\nrevision: 7\ntrust_domain: a.example\nworkloads: []\n",
		"with a comment":  "# revision: 7\nversion: 1\nbundle: prod\nrevision: 7 # revision: 7\ntrust_domain: a.example\nworkloads: []\n",
		"last":            "version: 1\nbundle: prod\ntrust_domain: a.example\nworkloads: []\nrevision: 7",
		"in flow style":   "{version: 1, bundle: prod, revision: 7, trust_domain: a.example, workloads: []}\n",
		"spaced":          "version: 1\nbundle: prod\nrevision:     7   \ntrust_domain: a.example\nworkloads: []\n",
		"beyond the line": "version: 1\nbundle: prod\nrevision:\n  7\ntrust_domain: a.example\nworkloads: []\n",
		"after an accent": "{bundle: prod, version: 1, # é: revision: 7\nrevision: 7, trust_domain: a.example, workloads: []}\n",
		"quoted keys":     "\"version\": 1\n\"bundle\": \"prod\"\n\"revision\": 7\n\"trust_domain\": \"a.example\"\n\"workloads\": []\n",
	} {
		got, err := withRevision("p.yaml", []byte(src), 1234)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		i := strings.LastIndex(src, "7")
		if name == "with a comment" {
			i = strings.Index(src, "revision: 7 #") + len("revision: ")
		}
		if want := src[:i] + "1234" + src[i+1:]; string(got) != want {
			t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
		}
	}
	if _, err := withRevision("p.yaml", []byte("version: 1\n"), 2); err == nil {
		t.Error("a policy without a revision was changed")
	}
}
