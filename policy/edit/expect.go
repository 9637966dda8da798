package edit

import (
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/assay-project/assay/internal/strictyaml"
	"github.com/assay-project/assay/policy"
)

// expectation is what the changed file has to say.
type expectation struct {
	before   *strictyaml.Node
	set      string
	created  bool
	revision uint64
	entries  []entry // of the set, the new one last
	ended    []ending
}

// entry is an entry of a set as it is meant, however it is written.
type entry struct {
	value, note, source string
	notBefore, notAfter time.Time
}

// ending is a value that gets an end.
type ending struct {
	Ended
	item  *strictyaml.Node
	index int
}

var setName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// maxRevision is the language's.
const maxRevision = 1<<53 - 1

// expected works out what the change is, and refuses one that is none.
func (f *file) expected(b *policy.Bundle, r Reference, o Options) (*expectation, error) {
	w := &expectation{before: f.root, set: r.Set, revision: o.Revision}
	if w.revision == 0 {
		w.revision = b.Revision() + 1
	}
	switch {
	case w.revision <= b.Revision():
		return nil, &Error{Err: fmt.Errorf("revision %d is not more than the file's, which is %d", w.revision, b.Revision()), Hint: "the revision grows with every change"}
	case w.revision > maxRevision:
		return nil, &Error{Err: fmt.Errorf("revision %d is too large", w.revision), Hint: fmt.Sprintf("at most %d", uint64(maxRevision))}
	case r.Value == "":
		return nil, &Error{Err: errors.New("the value is empty")}
	case !r.NotAfter.IsZero() && r.NotAfter.Before(r.NotBefore):
		return nil, &Error{Err: errors.New("not_after is before not_before: the value would never be valid")}
	}
	at := f.set(r.Set)
	if at.Node == nil {
		if !o.Create {
			return nil, f.noSet(r.Set)
		}
		if !setName.MatchString(r.Set) {
			return nil, &Error{Err: fmt.Errorf("not a name: %q", r.Set), Hint: "1 to 63 letters, digits, dots, dashes and underscores, beginning with a letter or digit"}
		}
		w.created = true
	} else {
		for i, item := range at.entries().Items {
			e := f.entryOf(item)
			if same(e.value, r.Value) {
				return nil, f.listed(item, e, r.Set)
			}
			if !o.EndOthers.IsZero() && (e.notAfter.IsZero() || e.notAfter.After(o.EndOthers)) {
				if e.notBefore.After(o.EndOthers) {
					return nil, &Error{
						Err: fmt.Errorf("the value begins at %s, and cannot end at %s", stamp(e.notBefore), stamp(o.EndOthers)), Position: f.doc.Position(item),
						Hint: "end the others at a later time, or change this entry by hand",
					}
				}
				w.ended = append(w.ended, ending{item: item, index: i, Ended: Ended{Value: e.value, Note: e.note, NotAfter: o.EndOthers.UTC(), Until: e.notAfter}})
				e.notAfter = o.EndOthers
			}
			w.entries = append(w.entries, e)
		}
	}
	w.entries = append(w.entries, entry{r.Value, r.Note, r.Source, r.NotBefore, r.NotAfter})
	return w, nil
}

// entryOf reads an entry. The policy was compiled, so that times are times.
func (f *file) entryOf(n *strictyaml.Node) entry {
	if n.Kind == strictyaml.Scalar {
		return entry{value: n.Value}
	}
	text := func(key string) string {
		if v := n.Get(key); v != nil {
			return v.Value
		}
		return ""
	}
	moment := func(key string) time.Time {
		t, _ := time.Parse(time.RFC3339, text(key)) // zero where there is none
		return t
	}
	return entry{text("value"), text("note"), text("source"), moment("not_before"), moment("not_after")}
}

func (f *file) noSet(name string) error {
	var have []string
	if sets := f.root.Get("references"); sets != nil {
		for _, s := range sets.Fields {
			have = append(have, s.Key.Value)
		}
	}
	hint := "the policy has no reference sets: --create makes this one, and a rule has to use it"
	if len(have) > 0 {
		hint = "it has " + strings.Join(have[:min(len(have), 8)], ", ") + "; --create makes a new one"
		if near := strictyaml.Nearest(name, have); near != "" {
			hint = fmt.Sprintf("did you mean %q? --create makes a new one", near)
		}
	}
	return &Error{Err: fmt.Errorf("%w: %q", ErrNoSet, name), Position: f.name, Hint: hint}
}

func (f *file) listed(item *strictyaml.Node, e entry, set string) error {
	about := ""
	if e.note != "" {
		about = fmt.Sprintf(" as %q", e.note)
	}
	hint := "it is accepted already"
	if !e.notAfter.IsZero() {
		hint = "it ends at " + stamp(e.notAfter) + ": give the entry a later not_after"
	}
	return &Error{Err: fmt.Errorf("%w, in %s%s", ErrListed, set, about), Position: f.doc.Position(item), Hint: hint}
}

// same reports whether two texts are one value. Hex is hex in either case; a
// Turin chip's id may be written with its zeros or without.
func same(a, b string) bool {
	if a == b {
		return true
	}
	x, err := hex.DecodeString(a)
	if err != nil {
		return false
	}
	y, err := hex.DecodeString(b)
	return err == nil && strings.TrimRight(string(x), "\x00") == strings.TrimRight(string(y), "\x00")
}

// holds compares a changed file with what it has to say.
func (w *expectation) holds(f *file) error {
	list := f.set(w.set).entries()
	switch {
	case f.root == nil || list == nil:
		return errors.New("the set is not there")
	case len(list.Items) != len(w.entries):
		return fmt.Errorf("the set has %d values, want %d", len(list.Items), len(w.entries))
	}
	for i, item := range list.Items {
		got, want := f.entryOf(item), w.entries[i]
		if got.value != want.value || got.note != want.note || got.source != want.source || !got.notBefore.Equal(want.notBefore) || !got.notAfter.Equal(want.notAfter) {
			return fmt.Errorf("entry %d of the set reads otherwise", i+1)
		}
	}
	return w.sameElsewhere(w.before, f.root, nil)
}

// sameElsewhere compares two trees but for what the change is about.
func (w *expectation) sameElsewhere(a, b *strictyaml.Node, path []string) error {
	where := strings.Join(path, ".")
	if a.Kind != b.Kind {
		return fmt.Errorf("%s is another kind of value", where)
	}
	switch a.Kind {
	case strictyaml.Scalar:
		if where == "revision" {
			if b.Value != strconv.FormatUint(w.revision, 10) {
				return fmt.Errorf("the revision reads %s", b.Value)
			}
			return nil
		}
		if a.Value != b.Value || a.Type != b.Type || a.Quoted != b.Quoted {
			return fmt.Errorf("%s reads otherwise", where)
		}
	case strictyaml.Sequence:
		if w.ours(path) {
			return nil // compared entry by entry
		}
		if len(a.Items) != len(b.Items) {
			return fmt.Errorf("%s has %d items, had %d", where, len(b.Items), len(a.Items))
		}
		for i := range a.Items {
			if err := w.sameElsewhere(a.Items[i], b.Items[i], append(path[:len(path):len(path)], strconv.Itoa(i))); err != nil {
				return err
			}
		}
	case strictyaml.Mapping:
		return w.sameFields(a, b, path)
	}
	return nil
}

func (w *expectation) sameFields(a, b *strictyaml.Node, path []string) error {
	i := 0
	for _, f := range b.Fields {
		at := append(path[:len(path):len(path)], f.Key.Value)
		if i < len(a.Fields) && a.Fields[i].Key.Value == f.Key.Value {
			if err := w.sameElsewhere(a.Fields[i].Value, f.Value, at); err != nil {
				return err
			}
			i++
			continue
		}
		if !w.created || !w.news(at, f.Value) {
			return fmt.Errorf("there is a key %s that was not there", strings.Join(at, "."))
		}
	}
	if i != len(a.Fields) {
		return fmt.Errorf("a key of %s is gone", strings.Join(path, "."))
	}
	return nil
}

// ours reports whether a path is that of the set's entries.
func (w *expectation) ours(path []string) bool {
	return len(path) >= 2 && path[0] == "references" && path[1] == w.set && (len(path) == 2 || len(path) == 3 && path[2] == "values")
}

// news reports whether a new key is the one that was asked for: the set, or the
// references with nothing else in them.
func (w *expectation) news(path []string, n *strictyaml.Node) bool {
	switch {
	case path[0] != "references":
		return false
	case len(path) == 1:
		return len(n.Fields) == 1 && n.Fields[0].Key.Value == w.set
	}
	return len(path) == 2 && path[1] == w.set
}
