package strictyaml_test

import (
	"strings"
	"testing"

	"github.com/assay-project/assay/internal/strictyaml"
)

func TestAPlaceWithinAValueIsFoundHoweverItIsWritten(t *testing.T) {
	for _, c := range []struct{ name, src string }{
		{"plain", "k: first && X"},
		{"plain over lines", "k: first\n   && X\n"},
		{"double quotes", `k: "first && X"`},
		{"double quotes with escapes", `k: "fi\"r\"st \\ \n && X"`},
		{"double quotes over lines", "k: \"first &&\n     X\"\n"},
		{"double quotes with an escaped line break", "k: \"first && \\\n     X\"\n"},
		{"single quotes", "k: 'first == ''a'' && X'"},
		{"literal", "k: |\n    first &&\n      second &&\n\n    X\nz: 1\n"},
		{"literal, chomped, with a comment", "k: |-  # why\n  first &&\n  X\n"},
		{"folded", "k: >\n  first &&\n  second\n\n  && X\n"},
		{"other characters before it", `k: "ä€𝄞 && X"`},
		{"deeper", "a:\n  - b: {k: \"first && X\"}\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := strictyaml.Open("f.yaml", []byte(c.src))
			if err := d.Err(); err != nil {
				t.Fatal(err)
			}
			n := d.At("k")
			if a := d.At("a"); a.Kind == strictyaml.Sequence {
				n = a.Items[0].Get("b").Get("k")
			}
			before, _, ok := strings.Cut(n.Value, "X")
			if !ok {
				t.Fatalf("no X in %q", n.Value)
			}
			line, col := d.Within(n, len([]rune(before)))
			lines := strings.Split(c.src, "\n")
			if line < 1 || line > len(lines) || col < 1 || col > len([]rune(lines[line-1])) || []rune(lines[line-1])[col-1] != 'X' {
				t.Errorf("got %d:%d", line, col)
			}
		})
	}
}

func TestAPlaceThatCannotBeFollowedIsThatOfTheValue(t *testing.T) {
	d := strictyaml.Open("f.yaml", []byte(`k: "\u0041 && X"`))
	if line, col := d.Within(d.At("k"), 5); line != 1 || col != 4 {
		t.Errorf("got %d:%d", line, col)
	}
}
