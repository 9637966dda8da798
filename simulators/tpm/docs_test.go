package tpm

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

const specificationFile = "../../docs/spec/tpm-simulator.md"

// faultTable is the table of the specification.
func faultTable() string {
	var b strings.Builder
	for _, f := range Faults() {
		end := "verifies"
		if f.Check != "" {
			end = fmt.Sprintf("`%s` (%s)", f.Check, f.Kind)
		}
		note := ""
		switch {
		case f.Activation:
			note = " (shows at activation)"
		case f.Resident:
			note = " (shows with keys that live in the TPM)"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s%s |\n", f.Name, end, f.Description, note)
	}
	return b.String()
}

func TestTheSpecificationNamesEveryFault(t *testing.T) {
	b, err := os.ReadFile(specificationFile)
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		text := string(b)
		head, rest, ok := strings.Cut(text, "| fault | ends in | what is wrong |\n|---|---|---|\n")
		if !ok {
			t.Fatal("the table of faults is gone")
		}
		_, tail, ok := strings.Cut(rest, "\n\n")
		if !ok {
			t.Fatal("nothing follows the table of faults")
		}
		text = head + "| fault | ends in | what is wrong |\n|---|---|---|\n" + faultTable() + "\n" + tail
		if err := os.WriteFile(specificationFile, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if !strings.Contains(string(b), faultTable()) {
		t.Errorf("docs/spec/tpm-simulator.md has another table of faults: run the test with -update\n%s", faultTable())
	}
}

func TestTheSpecificationNamesEveryPlaceAndCommand(t *testing.T) {
	b, err := os.ReadFile(specificationFile)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{fmt.Sprintf("0x%08x", nvChain), Manufacturer, Model, Version, lockFile, recordFile, tpmDir}
	for _, k := range EKKinds() {
		p, err := k.place()
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, fmt.Sprintf("0x%08x", p.nv), fmt.Sprintf("0x%08x", p.handle))
	}
	for _, c := range []uint32{commandReset, commandPowerCut, commandResume, commandClear} {
		want = append(want, fmt.Sprintf("0x%08x", c))
	}
	for _, w := range want {
		if !strings.Contains(string(b), w) {
			t.Errorf("docs/spec/tpm-simulator.md does not name %s", w)
		}
	}
}
