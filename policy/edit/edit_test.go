package edit_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/internal/strictyaml"
	"github.com/assay-project/assay/policy"
	"github.com/assay-project/assay/policy/edit"
)

var (
	january  = time.Date(2027, 1, 15, 0, 0, 0, 0, time.UTC)
	february = time.Date(2027, 2, 1, 0, 0, 0, 0, time.UTC)
)

func digest(n int) string { return fmt.Sprintf("%096x", n+1) }

// source is a policy whose set is written as given, with comments around it.
func source(references string) string {
	return "# The policy of the payments team.\nversion: 1\nbundle: prod\nrevision: 7 # grows\ntrust_domain: example.org\n\n" + references + `
# What runs.
workloads:
  - name: payments
    tee: aws-nitro
    mode: enforce
    match:
      pcr0: {in: images} # the releases
      pcr3: {eq: "` + digest(1000) + `"}
    issue: [{spiffe_id: "spiffe://{td}/payments"}]
# The end.
`
}

func set(entries string) string { return source("references:\n  # Releases.\n" + entries) }

// check holds an edit to the package's invariants, and returns the result.
func check(t *testing.T, src string, r edit.Reference, o edit.Options) *edit.Result {
	t.Helper()
	res, err := edit.AddReference("policy.yaml", []byte(src), r, o)
	if err != nil {
		t.Fatalf("%v\n%s", err, src)
	}
	invariants(t, src, r, o, res)
	return res
}

func invariants(t *testing.T, src string, r edit.Reference, o edit.Options, res *edit.Result) {
	t.Helper()
	// Every byte that was not put in is where it was.
	var back strings.Builder
	at, moved := 0, 0
	for _, e := range res.Replaced {
		if string(src[e.Offset:e.Offset+len(e.Old)]) != e.Old || string(res.Source[e.Offset+moved:e.Offset+moved+len(e.New)]) != e.New {
			t.Fatalf("the change %+v is not what happened:\n%s", e, res.Source)
		}
		back.Write(res.Source[at : e.Offset+moved])
		back.WriteString(e.Old)
		at = e.Offset + moved + len(e.New)
		moved += len(e.New) - len(e.Old)
	}
	back.Write(res.Source[at:])
	if diff := cmp.Diff(src, back.String()); diff != "" {
		t.Fatalf("taking the changes out does not give the old file (-want +got):\n%s", diff)
	}
	// Meaning: the old tree and the change.
	want, got := meaning(t, []byte(src), r.Set), meaning(t, res.Source, r.Set)
	for i := range want.entries {
		if e := want.entries[i]; !o.EndOthers.IsZero() && (e["not_after"] == "" || later(e["not_after"], o.EndOthers)) {
			want.entries[i]["not_after"] = o.EndOthers.UTC().Format(time.RFC3339)
		}
	}
	add := map[string]string{"value": r.Value}
	for key, v := range map[string]string{"note": r.Note, "source": r.Source, "not_before": text(r.NotBefore), "not_after": text(r.NotAfter)} {
		if v != "" {
			add[key] = v
		}
	}
	want.entries = append(want.entries, add)
	want.rest = strings.Replace(want.rest, fmt.Sprintf("revision=%q", fmt.Sprint(res.Before.Revision())), fmt.Sprintf("revision=%q", fmt.Sprint(res.Bundle.Revision())), 1)
	if diff := cmp.Diff(want.entries, got.entries); diff != "" {
		t.Fatalf("the set (-want +got):\n%s\n%s", diff, res.Source)
	}
	if !res.Created {
		if diff := cmp.Diff(want.rest, got.rest); diff != "" {
			t.Fatalf("the rest (-want +got):\n%s\n%s", diff, res.Source)
		}
	}
	line := strings.Split(string(res.Source), "\n")[res.Line-1]
	if !strings.Contains(line, r.Value) {
		t.Errorf("line %d, where the value is said to be, is %q", res.Line, line)
	}
}

func later(s string, than time.Time) bool {
	at, err := time.Parse(time.RFC3339, s)
	return err == nil && at.After(than)
}

func text(at time.Time) string {
	if at.IsZero() {
		return ""
	}
	return at.UTC().Format(time.RFC3339)
}

// meant is what a file says: the entries of one set, and everything else.
type meant struct {
	entries []map[string]string
	rest    string
}

func meaning(t *testing.T, src []byte, set string) meant {
	t.Helper()
	root, err := strictyaml.Parse("policy.yaml", src)
	if err != nil {
		t.Fatalf("%v\n%s", err, src)
	}
	list := root.Get("references").Get(set)
	if list.Get("values") != nil {
		list = list.Get("values")
	}
	var out meant
	if list != nil {
		for _, item := range list.Items {
			e := map[string]string{"value": item.Value}
			for _, f := range item.Fields {
				e[f.Key.Value] = f.Value.Value
			}
			out.entries = append(out.entries, e)
		}
	}
	var b strings.Builder
	var walk func(n *strictyaml.Node, path string)
	walk = func(n *strictyaml.Node, path string) {
		if n == list {
			return
		}
		if n.Kind == strictyaml.Scalar {
			fmt.Fprintf(&b, "%s=%q %v\n", path, n.Value, n.Quoted)
		}
		for i, item := range n.Items {
			walk(item, fmt.Sprintf("%s[%d]", path, i))
		}
		for _, f := range n.Fields {
			walk(f.Value, strings.TrimPrefix(path+"."+f.Key.Value, "."))
		}
	}
	walk(root, "")
	out.rest = b.String()
	return out
}

// One layout each, and what becomes of its lines.
func TestAValueIsAddedInTheLayoutOfTheSet(t *testing.T) {
	a, b, c := digest(1), digest(2), digest(3)
	added := `{value: "` + c + `", not_before: 2027-01-15T00:00:00Z, note: "release 43", source: "app.eif"}`
	for name, x := range map[string]struct{ before, after string }{
		"one entry a line": {
			"  images:\n    - {value: \"" + a + "\", note: \"release 41\"} # the first\n    - {value: \"" + b + "\"} # the second\n  # Nothing more.\n",
			"  images:\n    - {value: \"" + a + "\", note: \"release 41\"} # the first\n    - {value: \"" + b + "\"} # the second\n    - " + added + "\n  # Nothing more.\n",
		},
		"values alone, not indented": {
			"  images:\n  - \"" + a + "\"\n  - '" + b + "'\n",
			"  images:\n  - \"" + a + "\"\n  - '" + b + "'\n  - " + added + "\n",
		},
		"keys of an entry on lines": {
			"  images:\n    - value: \"" + a + "\"\n      note: \"it's # 41\"\n    - value: \"" + b + "\"\n      # of the hotfix\n      not_after: 2027-03-01T00:00:00Z\n",
			"  images:\n    - value: \"" + a + "\"\n      note: \"it's # 41\"\n    - value: \"" + b + "\"\n      # of the hotfix\n      not_after: 2027-03-01T00:00:00Z\n    - " + added + "\n",
		},
		"brackets on one line": {
			"  images: [\"" + a + "\", {value: \"" + b + "\", note: it's}] # two\n",
			"  images: [\"" + a + "\", {value: \"" + b + "\", note: it's}, " + added + "] # two\n",
		},
		"brackets over lines": {
			"  images: [\n    \"" + a + "\", # one\n    {value: \"" + b + "\"} # two ] }\n  ]\n",
			"  images: [\n    \"" + a + "\", # one\n    {value: \"" + b + "\"}, # two ] }\n    " + added + "\n  ]\n",
		},
		"brackets over lines, with a last comma": {
			"  images: [\n    \"" + a + "\",\n    {value: \"" + b + "\"}, # two\n  ]\n",
			"  images: [\n    \"" + a + "\",\n    {value: \"" + b + "\"}, # two\n    " + added + ",\n  ]\n",
		},
		"an entry in braces over lines": {
			"  images:\n    - {value: \"" + a + "\",\n       note: \"a } b\"} # here\n",
			"  images:\n    - {value: \"" + a + "\",\n       note: \"a } b\"} # here\n    - " + added + "\n",
		},
		"a mapping with values": {
			"  images:\n    dedicated: false\n    values:\n      - \"" + a + "\"\n",
			"  images:\n    dedicated: false\n    values:\n      - \"" + a + "\"\n      - " + added + "\n",
		},
		"a mapping with values first": {
			"  images:\n    values: [\"" + a + "\"]\n    dedicated: false\n",
			"  images:\n    values: [\"" + a + "\", " + added + "]\n    dedicated: false\n",
		},
		"a mapping in braces": {
			"  images: {values: [\"" + a + "\"], dedicated: false}\n",
			"  images: {values: [\"" + a + "\", " + added + "], dedicated: false}\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := edit.Reference{Set: "images", Value: c, NotBefore: january, Note: "release 43", Source: "app.eif"}
			for _, eol := range []string{"\n", "\r\n"} {
				res := check(t, strings.ReplaceAll(set(x.before), "\n", eol), r, edit.Options{})
				want := strings.ReplaceAll(strings.Replace(set(x.after), "revision: 7", "revision: 8", 1), "\n", eol)
				if diff := cmp.Diff(want, string(res.Source)); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
			}
		})
	}
}

func TestTheOthersEndWhereTheySayNothingEarlier(t *testing.T) {
	a, b, c, d := digest(1), digest(2), digest(3), digest(4)
	before := "  images:\n    - \"" + a + "\" # bare\n    - {value: '" + b + "', note: \"release 41\"}\n    - value: \"" + c + "\" # on lines\n      note: \"x\"\n    - {value: \"" + d + "\", not_after: 2026-12-01T00:00:00Z}\n    - {not_after: 2028-01-01T00:00:00+01:00, value: \"" + digest(5) + "\"}\n"
	after := "  images:\n    - {value: \"" + a + "\", not_after: 2027-02-01T00:00:00Z} # bare\n    - {value: '" + b + "', not_after: 2027-02-01T00:00:00Z, note: \"release 41\"}\n    - value: \"" + c + "\" # on lines\n      not_after: 2027-02-01T00:00:00Z\n      note: \"x\"\n    - {value: \"" + d + "\", not_after: 2026-12-01T00:00:00Z}\n    - {not_after: 2027-02-01T00:00:00Z, value: \"" + digest(5) + "\"}\n    - {value: \"" + digest(6) + "\"}\n"
	res := check(t, set(before), edit.Reference{Set: "images", Value: digest(6)}, edit.Options{EndOthers: february, Revision: 12})
	if diff := cmp.Diff(strings.Replace(set(after), "revision: 7", "revision: 12", 1), string(res.Source)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	var ended []string
	for _, e := range res.Ended {
		ended = append(ended, fmt.Sprintf("%d %s", e.Line, e.Value[95:]))
	}
	if diff := cmp.Diff([]string{"10 2", "11 3", "12 4", "16 6"}, ended); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestASetIsMadeOnlyWhenAskedFor(t *testing.T) {
	inline := strings.Replace(source(""), "in: images", `eq: "`+digest(1)+`"`, 1)
	other := strings.Replace(set("  images:\n    - \""+digest(1)+"\"\n"), "# What runs.", "# What\n# runs.", 1)
	r := edit.Reference{Set: "releases", Value: digest(2)}
	for _, src := range []string{inline, other} {
		_, err := edit.AddReference("policy.yaml", []byte(src), r, edit.Options{})
		if !errors.Is(err, edit.ErrNoSet) {
			t.Errorf("%v, want ErrNoSet", err)
		}
		res := check(t, src, r, edit.Options{Create: true})
		if !res.Created {
			t.Error("the set is not said to be new")
		}
	}
	res := check(t, inline, r, edit.Options{Create: true})
	want := strings.Replace(strings.Replace(inline, "# What runs.", "references:\n  releases:\n    - {value: \""+digest(2)+"\"}\n\n# What runs.", 1), "revision: 7", "revision: 8", 1)
	if diff := cmp.Diff(want, string(res.Source)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	res = check(t, other, r, edit.Options{Create: true})
	want = strings.Replace(strings.Replace(other, digest(1)+"\"\n", digest(1)+"\"\n  releases:\n    - {value: \""+digest(2)+"\"}\n", 1), "revision: 7", "revision: 8", 1)
	if diff := cmp.Diff(want, string(res.Source)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Each is refused for its own reason, with what to do about it.
func TestAnEditThatIsNoneIsRefused(t *testing.T) {
	good := set("  images:\n    - {value: \"" + digest(1) + "\", note: \"release 41\", not_before: 2027-03-01T00:00:00Z}\n")
	value := edit.Reference{Set: "images", Value: digest(2)}
	for name, c := range map[string]struct {
		src        string
		r          edit.Reference
		o          edit.Options
		is         error
		says, hint string
	}{
		"no such set":          {good, edit.Reference{Set: "imags", Value: digest(2)}, edit.Options{}, edit.ErrNoSet, `"imags"`, `did you mean "images"`},
		"listed":               {good, edit.Reference{Set: "images", Value: digest(1)}, edit.Options{}, edit.ErrListed, `policy.yaml:10:7: the value is listed already, in images as "release 41"`, "accepted already"},
		"listed in upper case": {strings.Replace(good, digest(1), digest(0xabcdef), 1), edit.Reference{Set: "images", Value: strings.ToUpper(digest(0xabcdef))}, edit.Options{}, edit.ErrListed, "", ""},
		"wrong length":         {good, edit.Reference{Set: "images", Value: "abcd"}, edit.Options{}, nil, "the policy would not accept the new value: ", ""},
		"all zero":             {good, edit.Reference{Set: "images", Value: strings.Repeat("0", 96)}, edit.Options{}, nil, "the policy would not accept the new value: ", ""},
		"a note of two lines":  {good, edit.Reference{Set: "images", Value: digest(2), Note: "a\nb"}, edit.Options{}, nil, "the policy would not accept the new value: ", ""},
		"empty":                {good, edit.Reference{Set: "images"}, edit.Options{}, nil, "the value is empty", ""},
		"window":               {good, edit.Reference{Set: "images", Value: digest(2), NotBefore: february, NotAfter: january}, edit.Options{}, nil, "never be valid", ""},
		"revision":             {good, value, edit.Options{Revision: 7}, nil, "revision 7 is not more than the file's, which is 7", ""},
		"revision too large":   {good, value, edit.Options{Revision: 1 << 53}, nil, "too large", ""},
		"ends before it begins": {
			good, value, edit.Options{EndOthers: february}, nil, "policy.yaml:10:7: the value begins at 2027-03-01T00:00:00Z, and cannot end at 2027-02-01T00:00:00Z", "",
		},
		"name of a set": {good, edit.Reference{Set: "a: b", Value: digest(2)}, edit.Options{Create: true}, nil, `not a name: "a: b"`, ""},
		"a folded note": {set("  images:\n    - value: \"" + digest(1) + "\"\n      note: >-\n        two\n        lines\n"), value, edit.Options{}, edit.ErrLayout, "policy.yaml:10:", "by hand"},
		"references in braces": {
			source("references: {images: [\"" + digest(1) + "\"]}\n"), edit.Reference{Set: "more", Value: digest(2)}, edit.Options{Create: true}, edit.ErrLayout, "braces", "by hand",
		},
	} {
		t.Run(name, func(t *testing.T) {
			res, err := edit.AddReference("policy.yaml", []byte(c.src), c.r, c.o)
			if err == nil {
				t.Fatalf("accepted:\n%s", res.Source)
			}
			var e *edit.Error
			if !errors.As(err, &e) || c.is != nil && !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.says) || !strings.Contains(e.Hint, c.hint) {
				t.Errorf("%v (hint %q), want %q", err, e.Hint, c.says)
			}
		})
	}
}

func TestAPolicyWithErrorsIsNotEdited(t *testing.T) {
	_, err := edit.AddReference("policy.yaml", []byte("version: 1\n"), edit.Reference{Set: "images", Value: digest(1)}, edit.Options{Create: true})
	var found strictyaml.Errors
	if !errors.As(err, &found) {
		t.Errorf("%v, want the errors of the file", err)
	}
}

// generate writes a policy in a layout that the dice choose, with comments where
// there may be any.
func generate(r *rand.Rand) string {
	pick := func(s ...string) string { return s[r.IntN(len(s))] }
	comment := func() string {
		return pick("", "", " # a [comment], {with} \"quotes", " # it's", "\t#x")
	}
	blank := func(indent string) string {
		return pick("", "", "", "\n", indent+"# between\n", "\n\n"+indent+"#x: y\n")
	}
	n := 1 + r.IntN(4)
	flow := r.IntN(3) == 0
	entry := func(i int, indent string) string {
		v := pick(`"`, `'`)
		v += digest(10+i) + v
		extra := ""
		if r.IntN(2) == 0 {
			extra += ", " + pick(`note: "r } ] , # \" 41"`, `note: 'it''s'`, "note: it's", "note: a:b")
		}
		if r.IntN(3) == 0 {
			extra += ", " + pick("not_after: 2027-03-01T00:00:00Z", "not_after: 2026-03-01T00:00:00Z", `"not_after": 2027-03-01T01:00:00+01:00`)
		}
		switch {
		case r.IntN(3) == 0:
			return v
		case flow || r.IntN(2) == 0:
			return "{" + pick("", " ") + "value: " + v + extra + pick("", " ", ",") + "}"
		}
		return strings.ReplaceAll("value: "+v+extra, ", not", comment()+"\n"+indent+"  not")
	}
	var b strings.Builder
	b.WriteString("references:" + comment() + "\n")
	if r.IntN(2) == 0 {
		b.WriteString("  # é ü 漢字\n  other:\n  - \"" + digest(500) + "\"\n")
	}
	b.WriteString("  images:")
	indent := "  "
	if r.IntN(3) == 0 {
		b.WriteString(comment() + "\n    dedicated: false" + comment() + "\n    values:")
		indent = "    "
	}
	switch {
	case flow && r.IntN(2) == 0:
		b.WriteString(" [")
		for i := range n {
			b.WriteString(entry(i, ""))
			if i < n-1 {
				b.WriteString(pick(",", ", ", " , "))
			}
		}
		b.WriteString(pick("]", ", ]", " ]") + comment() + "\n")
	case flow:
		b.WriteString(" [" + comment() + "\n")
		for i := range n {
			b.WriteString(blank(indent) + indent + "  " + entry(i, ""))
			if i < n-1 {
				b.WriteString(",")
			} else {
				b.WriteString(pick(",", "", "]"))
			}
			b.WriteString(comment() + "\n")
		}
		if s := b.String(); !closed(s[strings.LastIndex(s, digest(10+n-1)):]) {
			b.WriteString(indent + "]" + comment() + "\n")
		}
	default:
		indent += pick("", "  ", "    ")
		b.WriteString(comment() + "\n")
		for i := range n {
			dash := indent + "- "
			b.WriteString(blank(indent) + dash + entry(i, indent) + comment() + "\n")
		}
	}
	if r.IntN(2) == 0 {
		b.WriteString(blank("  ") + "  later: [\"" + digest(501) + "\"]\n")
	}
	return source(b.String())
}

// closed reports whether the text behind the last value ends its list.
func closed(tail string) bool {
	for _, line := range strings.Split(tail, "\n") {
		line, _, _ = strings.Cut(line, " # ")
		line, _, _ = strings.Cut(line, "\t#")
		if strings.HasSuffix(strings.TrimSpace(line), "]") {
			return true
		}
	}
	return false
}

func TestEditsOfAnyLayoutChangeNothingElse(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 41))
	edited, refused := 0, 0
	for range 2000 {
		src := generate(r)
		if _, err := policy.Parse("policy.yaml", []byte(src)); err != nil {
			continue // the dice wrote no policy
		}
		ref := edit.Reference{Set: "images", Value: digest(2), Note: `the "new" one`}
		var o edit.Options
		if r.IntN(2) == 0 {
			o.EndOthers = february
		}
		if r.IntN(4) == 0 {
			ref.Set, o = "created", edit.Options{Create: true}
		}
		res, err := edit.AddReference("policy.yaml", []byte(src), ref, o)
		if err != nil {
			refused++
			t.Logf("refused: %v\n%s", err, src)
			continue
		}
		invariants(t, src, ref, o, res)
		edited++
	}
	t.Logf("%d edited, %d refused", edited, refused)
	if edited < 1000 || refused > edited/50 {
		t.Errorf("%d edited, %d refused: people's layouts are to be understood", edited, refused)
	}
}

func FuzzAddReference(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 16 {
		f.Add(generate(r), true)
	}
	f.Fuzz(func(t *testing.T, src string, end bool) {
		ref := edit.Reference{Set: "images", Value: digest(2), Note: "new"}
		o := edit.Options{}
		if end {
			o.EndOthers = february
		}
		if res, err := edit.AddReference("policy.yaml", []byte(src), ref, o); err == nil {
			invariants(t, src, ref, o, res)
		}
	})
}
