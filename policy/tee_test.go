package policy

import (
	"slices"
	"testing"
)

// What a platform brings is complete and speaks of its own claims.
func TestEveryPlatformBringsAllThatTheLanguageAsksOfIt(t *testing.T) {
	all := Codes()
	for _, tee := range tees {
		t.Run(string(tee.platform), func(t *testing.T) {
			if tee.claims == "" || tee.measurements == "" || tee.owners == "" || tee.device == "" || tee.lint == nil || len(tee.implicit) == 0 {
				t.Error("something is missing of what errors and warnings say, or of lint")
			}
			if tee.publishable == nil && len(tee.published) == 0 {
				t.Error("results of a workload without a publish list would show nothing")
			}
			var names []string
			for _, i := range tee.implicit {
				names = append(names, i.claim)
			}
			for name := range tee.launcher {
				names = append(names, name)
				if f := tee.byName[name]; f != nil && f.owner != nil {
					t.Errorf("%s is an ownership predicate, and what the launcher chose", name)
				}
			}
			for _, name := range slices.Concat(names, tee.published, tee.index) {
				if tee.byName[name] == nil {
					t.Errorf("there is no claim %s", name)
				}
			}
			for name := range tee.instead {
				if tee.byName[name] != nil {
					t.Errorf("%s is a claim, and told to be none", name)
				}
			}
			if !slices.ContainsFunc(tee.fields, func(f *field) bool { return f.owner != nil }) {
				t.Error("no claim is an ownership predicate")
			}
			for _, f := range tee.fields {
				for _, op := range f.kind.ops() {
					if len(f.kind.schema(op)) == 0 {
						t.Errorf("%s: %s has no schema", f.name, op)
					}
				}
			}
			for _, c := range tee.codes {
				if c.Summary == "" || !namePattern.MatchString(string(c.Code)) {
					t.Errorf("the code %q", c.Code)
				}
			}
		})
	}
	for i, c := range all {
		if slices.ContainsFunc(all[:i], func(o CodeInfo) bool { return o.Code == c.Code }) {
			t.Errorf("two warnings have the code %s", c.Code)
		}
	}
}

// A kind refuses, with a message and without a panic, whatever is not a value or
// an operand of it.
func TestNoKindTakesNonsense(t *testing.T) {
	for _, tee := range tees {
		for _, f := range tee.fields {
			for _, op := range f.kind.ops() {
				for _, src := range []string{`{}`, `[]`, `[[]]`, `""`, `"\x00"`, `{a: b}`, `-1`, `1e99`, `[{value: {}}]`, `[{note: x}]`, `no-such-set`, `99999999999999999999`} {
					p := newParser("p.yaml", []byte("x: "+src), MaxSize)
					n := p.doc.Root().Get("x")
					if p.doc.Err() != nil {
						continue // no YAML of ours
					}
					w := &workload{tee: tee}
					p.current = w
					test, ok := f.kind.compile(p, f, op, n)
					err := p.doc.Err()
					if ok != (err == nil) || ok != (test != nil) {
						t.Errorf("%s %s %s: %v, %v, %v", f.name, op, src, test, ok, err)
					}
					if _, isText := f.kind.(text); ok && !isText {
						t.Errorf("%s %s %s is accepted", f.name, op, src)
					}
				}
			}
		}
	}
}
