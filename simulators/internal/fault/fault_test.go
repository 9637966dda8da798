package fault

import (
	"slices"
	"strings"
	"testing"
)

func good() Label {
	return Label{Name: "leaf-p521", Description: "the leaf is on P-521", Check: "leaf_curve", Kind: Untrusted, Stage: Authenticate}
}

func TestAGoodLabelGivesNothingToComplainOf(t *testing.T) {
	seen := good()
	seen.Name, seen.Check, seen.Kind, seen.Stage = "debug", "", "", Bound
	if got := Complaints([]Label{good(), seen}); len(got) != 0 {
		t.Errorf("complaints: %q", got)
	}
}

func TestEachThingWrongWithALabelIsComplainedOf(t *testing.T) {
	for want, spoil := range map[string]func(*Label){
		"lower case with hyphens": func(l *Label) { l.Name = "Leaf_P521" },
		"used twice":              func(l *Label) { l.Name = "first" },
		`description is ""`:       func(l *Label) { l.Description = "" },
		"without a full stop":     func(l *Label) { l.Description += "." },
		"one line":                func(l *Label) { l.Description += "\nand more" },
		"of no check":             func(l *Label) { l.Check = "" },
		"of no kind":              func(l *Label) { l.Kind = "" },
		"no kind \"odd\"":         func(l *Label) { l.Kind = "odd" },
		"no stage":                func(l *Label) { l.Stage = "" },
	} {
		first, l := good(), good()
		first.Name = "first"
		spoil(&l)
		if got := Complaints([]Label{first, l}); len(got) != 1 || !strings.Contains(got[0], want) {
			t.Errorf("complaints: %q, want one with %q", got, want)
		}
	}
}

func TestAFaultIsFoundByItsNameAlone(t *testing.T) {
	name := func(l Label) string { return l.Name }
	all := []Label{{Name: "a"}, good()}
	if got, ok := Find(all, "leaf-p521", name); !ok || got != good() {
		t.Errorf("found %v, %v", got, ok)
	}
	for _, n := range []string{"", "leaf", "leaf-p5211", "LEAF-P521"} {
		if got, ok := Find(all, n, name); ok || got != (Label{}) {
			t.Errorf("%q: found %v, %v", n, got, ok)
		}
	}
	if _, ok := Find(slices.Clone(all[:0]), "a", name); ok {
		t.Error("found a fault where there is none")
	}
}
