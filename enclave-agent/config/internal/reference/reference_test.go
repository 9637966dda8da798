package reference

import (
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTheReferencePageIsCurrent(t *testing.T) {
	want, err := Page("../..")
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("../../../../docs/reference/agent-config.md")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("run go generate ./enclave-agent/config\n%s", d)
	}
}
