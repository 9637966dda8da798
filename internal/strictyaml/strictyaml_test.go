package strictyaml_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/internal/strictyaml"
)

var update = flag.Bool("update", false, "rewrite the golden files")

type sample struct {
	Name     string            `yaml:"name"`
	Anchored int               `yaml:"anchored"`
	Alias    int               `yaml:"alias"`
	Tagged   string            `yaml:"tagged"`
	Bang     string            `yaml:"bang"`
	Port     int               `yaml:"port"`
	Big      uint16            `yaml:"big"`
	Hexed    string            `yaml:"hexed"`
	On       bool              `yaml:"on"`
	Wait     time.Duration     `yaml:"wait"`
	When     time.Time         `yaml:"when"`
	Empty    string            `yaml:"empty"`
	List     []string          `yaml:"list"`
	Inner    *inner            `yaml:"inner"`
	Map      map[string]string `yaml:"map"`
	Listen   netip.AddrPort    `yaml:"listen"`
	Ratio    float64           `yaml:"ratio"`
	Secret   string            `yaml:"-"`
}

type inner struct {
	X int `yaml:"x"`
}

func decode(src string) (sample, error) {
	var s sample
	err := strictyaml.Decode("t.yaml", []byte(src), &s)
	return s, err
}

func TestEveryProblemIsRenderedAtItsPlace(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no test files: %v", err)
	}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			src, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			var s sample
			err = strictyaml.Decode(filepath.Base(f), src, &s)
			var errs strictyaml.Errors
			if !errors.As(err, &errs) {
				t.Fatalf("got %v, want Errors", err)
			}
			got := errs.Render()
			golden := strings.TrimSuffix(f, ".yaml") + ".golden"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), got); d != "" {
				t.Errorf("rendering differs (-want +got):\n%s", d)
			}
		})
	}
}

func TestAGoodFileFillsTheStruct(t *testing.T) {
	got, err := decode(`
name: "x"
port: -12
big: 65535
on: true
wait: 1h30m
when: 2027-01-31T01:00:00+01:00
list: [a, "1"]
inner: {x: 3}
map: {k: v}
listen: 127.0.0.1:80
ratio: 0.5
`)
	if err != nil {
		t.Fatal(err)
	}
	want := sample{
		Name: "x", Port: -12, Big: 65535, On: true, Wait: 90 * time.Minute,
		When: time.Date(2027, 1, 31, 0, 0, 0, 0, time.UTC), List: []string{"a", "1"},
		Inner: &inner{X: 3}, Map: map[string]string{"k": "v"},
		Listen: netip.MustParseAddrPort("127.0.0.1:80"), Ratio: 0.5,
	}
	if d := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestAbsentKeysKeepTheirDefaults(t *testing.T) {
	s := sample{Name: "default", Port: 1, Inner: &inner{X: 9}, List: []string{"a", "b"}}
	if err := strictyaml.Decode("t.yaml", []byte("port: 2\ninner: {}\nlist: [c]\n"), &s); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(sample{Name: "default", Port: 2, Inner: &inner{X: 9}, List: []string{"c"}}, s, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestAFileOfCommentsIsAnEmptyMapping(t *testing.T) {
	for _, src := range []string{"", "# nothing\n", "---\n", "\n\n"} {
		if _, err := decode(src); err != nil {
			t.Errorf("%q: %v", src, err)
		}
	}
}

// Each line is one refusal, alone in its file.
func TestWhatIsRefused(t *testing.T) {
	for _, c := range []struct{ src, want string }{
		{"nam: x", `t.yaml:1:1: unknown key "nam"`},
		{"name: x\nname: y", `t.yaml:2:1: duplicate key "name": it is first set on line 1`},
		{"name: &a x", "t.yaml:1:7: anchors are not accepted: &a"},
		{"name: *a", "t.yaml:1:7: aliases are not accepted: *a"},
		{"name: !!str x", "t.yaml:1:7: tags are not accepted"},
		{"name: ! x", "t.yaml:1:7: tags are not accepted"},
		{`name: ! "x"`, "t.yaml:1:7: tags are not accepted"},
		{"map: {<<: {a: b}}", "t.yaml:1:7: merge keys (<<) are not accepted"},
		{"name: x\n---\nname: y", "t.yaml:2:1: a second document begins here; a file holds one"},
		{"%YAML 1.1\n---\nname: x", "t.yaml:1:1: YAML directives are not accepted"},
		{"name: null", "t.yaml:1:7: want text, got nothing"},
		{"name: ~", "t.yaml:1:7: want text, got nothing"},
		{"name:", "t.yaml:1:6: want text, got nothing"},
		{"map: {~: x}", "t.yaml:1:7: a key must be a single word or text, not nothing"},
		{"name: true", "t.yaml:1:7: want text, got true or false (true)"},
		{"name: 12e4", "t.yaml:1:7: want text, got a number (12e4)"},
		{"name: [x]", "t.yaml:1:7: want text, got a list"},
		{`on: "true"`, `t.yaml:1:5: want true or false, got "true"`},
		{"on: yes", `t.yaml:1:5: want true or false, got "yes"`},
		{"on: True", `t.yaml:1:5: want true or false, got true or false (True)`},
		{"port: 0x10", "t.yaml:1:7: want a whole number, got a number (0x10)"},
		{"port: 1_000", "t.yaml:1:7: want a whole number, got a number (1_000)"},
		{"port: 010", "t.yaml:1:7: a number must not begin with 0: 010"},
		{`port: "1"`, `t.yaml:1:7: want a whole number, got "1"`},
		{"big: 65536", "t.yaml:1:6: the number 65536 is out of range"},
		{"big: -1", "t.yaml:1:6: the number -1 is out of range"},
		{"ratio: .inf", "t.yaml:1:8: want a number, got a number (.inf)"},
		{"wait: 5", "t.yaml:1:7: want a length of time, got a number (5)"},
		{"wait: 5 minutes", `t.yaml:1:7: want a length of time, got "5 minutes"`},
		{"when: 2027-01-31 00:00:00", `t.yaml:1:7: want a moment (RFC 3339), got "2027-01-31 00:00:00"`},
		{"list: x", `t.yaml:1:7: want a list, got "x"`},
		{"inner: [x]", "t.yaml:1:8: want a mapping, got a list"},
		{"- x", "t.yaml:1:1: want a mapping, got a list"},
		{"null", "t.yaml:1:1: want a mapping, got nothing"},
		{"listen: nowhere", "t.yaml:1:9: not an ip:port"},
		{"name: \"a\u202eb\"", "t.yaml:1:9: an invisible character that reorders text (U+202E) is not accepted"},
		{"name: a\u0085b", "t.yaml:1:8: a control character (U+0085) is not accepted"},
		{"name: a\u2028b", "t.yaml:1:8: an invisible line break (U+2028) is not accepted"},
		{`name: "a\e[31mb"`, "t.yaml:1:7: a control character (U+001B) is not accepted, nor an escape for it"},
		{`name: "a\0b"`, "t.yaml:1:7: a control character (U+0000) is not accepted, nor an escape for it"},
		{`name: "a\u202eb"`, "t.yaml:1:7: an invisible character that reorders text (U+202E) is not accepted, nor an escape for it"},
		{`map: {"a\eb": x}`, "t.yaml:1:7: a control character (U+001B) is not accepted, nor an escape for it"},
		{"name: a\rb", "t.yaml:1:8: a carriage return without a line feed is not accepted"},
		{"\ufeffname: a", "t.yaml:1:1: a byte order mark (U+FEFF) is not accepted"},
		{"name: \xff", "t.yaml:1:7: a byte that is not UTF-8 is not accepted"},
		{"name: a\x00", "t.yaml:1:8: a control character (U+0000) is not accepted"},
		{strings.Repeat("#", strictyaml.MaxSize+1), "t.yaml:1: the file is too large: 1048577 bytes, at most 1048576 are read"},
		{"list: " + strings.Repeat("[", strictyaml.MaxDepth) + strings.Repeat("]", strictyaml.MaxDepth), "nested too deeply"},
	} {
		_, err := decode(c.src)
		if err == nil {
			t.Errorf("%.60q: accepted, want %q", c.src, c.want)
			continue
		}
		if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.60q:\n got %s\nwant %s", c.src, err, c.want)
		}
		if n := strings.Count(err.Error(), "\n"); n > 0 && !strings.Contains(c.want, "deeply") {
			t.Errorf("%.60q: %d problems, want 1:\n%s", c.src, n+1, err)
		}
	}
}

func TestCarriageReturnLineFeedIsALineBreak(t *testing.T) {
	s, err := decode("name: a\r\nport: 1\r\n")
	if err != nil || s.Name != "a" || s.Port != 1 {
		t.Errorf("got %+v, %v", s, err)
	}
}

func TestAProgramReportsItsOwnFindingsAtTheSamePlaces(t *testing.T) {
	d := strictyaml.Open("t.yaml", []byte("name: x\ninner:\n  x: 3\n"))
	d.Report(d.At("inner", "x"), "three is too many", "")
	d.Report(d.At("inner", "missing"), "y is missing", "")
	d.Report(d.At("name"), "no", "")
	want := "t.yaml:1:7: no\nt.yaml:3:3: y is missing\nt.yaml:3:6: three is too many"
	if got := fmt.Sprint(d.Err()); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestATypeWithoutTagsIsAMistakeOfTheProgram(t *testing.T) {
	var noTag struct{ A string }
	var comma struct {
		A string `yaml:"a,omitempty"`
	}
	var fn struct {
		A func() `yaml:"a"`
	}
	for _, v := range []any{&noTag, &comma, &fn, sample{}, nil, (*sample)(nil), new(string)} {
		err := strictyaml.Decode("t.yaml", nil, v)
		var errs strictyaml.Errors
		if err == nil || errors.As(err, &errs) {
			t.Errorf("%T: got %v, want an error that is no Errors", v, err)
		}
	}
	if err := strictyaml.Check(&sample{}); err != nil {
		t.Errorf("sample: %v", err)
	}
}

func TestAReportIsCapped(t *testing.T) {
	src := strings.Repeat("unknown-key-here: 1\n", 5000)
	_, err := decode(src)
	var errs strictyaml.Errors
	if !errors.As(err, &errs) {
		t.Fatal(err)
	}
	if len(errs) != strictyaml.MaxErrors+1 || !strings.Contains(errs[len(errs)-1].Msg, "too many problems") {
		t.Errorf("%d errors, last %v", len(errs), errs[len(errs)-1])
	}
}

// The files below once were, or are elsewhere, expensive to parse. Each has the
// size of a large policy; a quadratic reader takes minutes over them.
func TestNoFileTakesLong(t *testing.T) {
	const size = strictyaml.MaxSize / 4
	fill := func(unit string) string { return strings.Repeat(unit, size/len(unit)) }
	var keys strings.Builder
	for i := 0; keys.Len() < size-20; i++ {
		fmt.Fprintf(&keys, "k%d: 1\n", i)
	}
	for name, src := range map[string]string{
		"comments":       fill("#\n"),
		"dashes":         fill("- "),
		"dash lines":     fill("-\n"),
		"flow sequences": fill("["),
		"flow mappings":  fill("{"),
		"questions":      fill("? "),
		"empty lists":    "[" + fill("[],")[:size-8] + "[]]",
		"aliases":        "a: &a [x]\nb: [" + fill("*a,")[:size-30] + "*a]",
		"anchors":        "[" + fill("&a x,")[:size-12] + "x]",
		"tags":           "[" + fill("! x,")[:size-12] + "x]",
		"duplicate keys": fill("a: 1\n"),
		"unknown keys":   keys.String(),
		"one flow line":  "{" + strings.ReplaceAll(keys.String(), "\n", ", ")[:size-20] + ": 1}",
		"not ASCII line": "[" + fill("\"é\",")[:size-30] + "]",
		"commented list": fill("- a # b\n"),
		"quotes":         fill("\"a\"\n"),
		"long text":      "name: " + fill("a")[:size-10],
		"comment blocks": fill("# a\n\n"),
		"indented":       fill("a:\n a:\n"),
		"NULs":           fill("\x00"),
	} {
		start := time.Now()
		var s sample
		err := strictyaml.Decode("t.yaml", []byte(src), &s)
		took := time.Since(start)
		var errs strictyaml.Errors
		if errors.As(err, &errs) {
			if out := errs.Render(); len(out) > 100*strictyaml.MaxErrors*10 {
				t.Errorf("%s: the report has %d bytes", name, len(out))
			}
		}
		t.Logf("%-15s %8d bytes %v", name, len(src), took.Round(time.Millisecond))
	}
}

// A file of structure alone is refused before the parser makes nodes of it; one
// of the same size with people's content is read.
func TestAFileOfTooManyPartsIsRefused(t *testing.T) {
	dense := func(size int) []byte { return []byte("[" + strings.Repeat("a,", size/2) + "a]") }
	roomy := func(size int) []byte { return []byte("[" + strings.Repeat("aaaaaaaaaa, ", size/12) + "a]") }
	for name, c := range map[string]struct {
		src     []byte
		refused bool
	}{
		"nothing but parts, small":    {dense(400 << 10), false},
		"nothing but parts, 2 MiB":    {dense(2 << 20), true},
		"nothing but parts, 40 MiB":   {dense(40 << 20), true},
		"six bytes to a part, 8 MiB":  {[]byte("[" + strings.Repeat("aaaaa,", 8<<20/6) + "a]"), true},
		"a part in each dozen, 4 MiB": {roomy(4 << 20), false},
	} {
		d := strictyaml.OpenLimit("t.yaml", c.src, 64<<20)
		err := d.Err()
		if refused := err != nil && strings.Contains(err.Error(), "the file has too many parts for its size") && d.Root() == nil; refused != c.refused || !c.refused && err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A file takes memory by its parts, and their number is bounded by its size: what is
// written to take much takes some twenty times its size, and not hundreds.
func TestTheMemoryThatAFileTakesIsBoundedByItsSize(t *testing.T) {
	for name, src := range map[string][]byte{
		"a list":    []byte("[" + strings.Repeat("aaaaaaaa, ", 1<<20) + "a]"),
		"a mapping": []byte("{" + keys(600_000) + "}"),
	} {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		d := strictyaml.OpenLimit("t.yaml", src, 64<<20)
		runtime.ReadMemStats(&after)
		if err := d.Err(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		allocated := float64(after.TotalAlloc-before.TotalAlloc) / float64(len(src))
		runtime.GC()
		runtime.ReadMemStats(&after)
		kept := float64(after.HeapAlloc-before.HeapAlloc) / float64(len(src))
		runtime.KeepAlive(d)
		t.Logf("%s: %d bytes, %.0f times as many allocated, %.0f times kept", name, len(src), allocated, kept)
		if kept > 25 || allocated > 70 {
			t.Errorf("%s: %d bytes, %.0f times as many allocated, %.0f times kept", name, len(src), allocated, kept)
		}
	}
}

// keys are the fields of a mapping in flow style, about sixteen bytes each.
func keys(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "k%09d: aaaa, ", i)
	}
	return b.String()
}

func TestDurationsInDays(t *testing.T) {
	for in, want := range map[string]time.Duration{"30d": 720 * time.Hour, "1h30m": 90 * time.Minute, "0d": 0} {
		if got, err := strictyaml.ParseDuration(in); err != nil || got != want {
			t.Errorf("%s: %v, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "d", "1", "-1d", "1d1h", "99999d"} {
		if got, err := strictyaml.ParseDuration(in); err == nil {
			t.Errorf("%q: accepted as %v", in, got)
		}
	}
}

func TestNearest(t *testing.T) {
	names := []string{"pcr0", "match", "issue", "reference", "references"}
	for in, want := range map[string]string{"mtach": "match", "isue": "issue", "Match": "match", "referense": "reference", "zzz": "", "": ""} {
		if got := strictyaml.Nearest(in, names); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range files {
		src, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(src)
	}
	f.Add([]byte("name: x\nport: 1\n"))
	f.Add([]byte("a: &a [*a]\n"))
	f.Fuzz(func(t *testing.T, src []byte) {
		var s sample
		err := strictyaml.Decode("t.yaml", src, &s)
		var errs strictyaml.Errors
		if err != nil && !errors.As(err, &errs) {
			t.Fatalf("not an Errors: %v", err)
		}
		lines := bytes.Count(src, []byte("\n")) + 1
		for i, e := range errs {
			if e.Line < 1 || e.Line > lines || e.Col < 0 || e.Msg == "" {
				t.Errorf("problem %d has no place: %+v (%d lines)", i, e, lines)
			}
			if i > 0 && (errs[i-1].Line > e.Line || errs[i-1].Line == e.Line && errs[i-1].Col > e.Col && e.Col > 0) {
				t.Errorf("problems %d and %d are not sorted", i-1, i)
			}
		}
		_ = errs.Render()
	})
}
