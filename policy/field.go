package policy

import (
	"fmt"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/strictyaml"
)

// tee is what the language knows of one platform. A new platform brings one of
// these; nothing else in the package names a platform.
type tee struct {
	platform attest.Platform
	// fields is the closed set of claims that a matcher can name.
	fields []*field
	byName map[string]*field
	// claims and measurements name the fields in few words, for hints: all that
	// can be matched, and those that can be published.
	claims, measurements string
	// describe says of every claim in a line what it tells, for editors.
	describe map[string]string
	// instead says, for claims that exist and that policies cannot match, why.
	instead map[string]string
	// root begins the names of its claims in expressions.
	root string
	// index names the claims by which workloads are found first: those that tell
	// most workloads apart. Others serve where they do not.
	index []string
	// implies lists what the rules of a workload say about other claims, for
	// lint: claims are independent of each other otherwise. May be nil.
	implies func(w *workload) []fact
	// implicit are the rules added to every workload that does not name them.
	implicit []implicitRule
	// published are the claims in an attestation result of a workload without a
	// publish list, or publishable where they depend on the workload; private ones
	// are never published, with the reason.
	published   []string
	publishable func(w *workload) []string
	private     map[string]string
	// owners says what an ownership predicate is, for the lint error; launcher
	// names claims that are taken for one and that whoever launches an environment
	// chooses, with the reason.
	owners   string
	launcher map[string]string
	// device is what evidence is asked of, for the warning that more than the
	// agent may ask.
	device string
	// lint checks one workload for what only this platform knows; codes are
	// those of its warnings that no other platform has.
	lint  func(w *workload, p *parser)
	codes []CodeInfo
	// model makes claims, for tools; no decision asks it.
	model *model
}

// field is one claim of a platform.
type field struct {
	name  string
	index int // place in tee.fields
	kind  kind
	// get reads the claim; false means that the evidence does not carry it.
	get func(c *attest.Claims) (value, bool)
	// owner is set for claims that the hardware root guarantees and that nobody
	// else gets by launching the same inputs. It is asked whether the test pins
	// such a value.
	owner func(t test) bool
	// names is set for words that name who or where, and tell of no state: their
	// rules cannot be waived.
	names bool
	// hint explains a claim that fails its rule; got is absent when ok is false.
	hint func(got value, ok bool) string
}

// implicitRule is one rule that the compiler adds: the claim has one of the
// values.
type implicitRule struct {
	claim  string
	values []value
	want   string // in words; "" = the values
}

// set is the operand of the rule. One serves all workloads.
func (i implicitRule) set(f *field) *set {
	var entries []entry
	for _, v := range i.values {
		entries = append(entries, entry{value: v, text: f.kind.format(v)})
	}
	s := newSet("", true, entries)
	if i.want != "" {
		s.want = i.want
	}
	return s
}

// fact follows from a rule of a workload: the claim passes the test.
type fact struct {
	because *field
	claim   *field
	test    test
	firm    bool // also where the rule is waived
}

// value is a claim's value in a canonical, comparable form that its kind
// chooses: the raw bytes of a digest, "true" or "false", the text of a name. A
// kind whose values are ordered chooses fixed-width bytes.
type value string

// kind is the type of a claim: how its values are written in a policy, and
// which matchers it has. Kinds are comparable, so that a reference set is
// compiled once for each kind that it is used with.
type kind interface {
	// parse reads a value, or reports what is wrong with it.
	parse(d *strictyaml.Document, n *strictyaml.Node) (value, bool)
	// format writes a value for people, at full length.
	format(v value) string
	// ops lists the matchers.
	ops() []string
	// schema describes the operand of one of ops, for editors.
	schema(op string) schema
	// compile reads the operand of one of ops, or reports what is wrong.
	compile(p *parser, f *field, op string, n *strictyaml.Node) (test, bool)
}

// test is a compiled matcher.
type test interface {
	// expected says what the test wants, for people.
	expected() string
	// eval tests a value that the evidence carries; text is its format.
	eval(v value, text string, at time.Time) verdict
	// values is the finite set of values that the test admits, or nil.
	values() *set
}

// open is a test that is no finite set. Its outcome does not depend on time.
type open interface {
	test
	// admits tests a value as eval does, without words.
	admits(v value) bool
	// excludes reports whether no value passes both this test and another open
	// one over the same claim. In doubt it is false: lint may then complain of
	// what cannot happen, and never misses what can.
	excludes(o open) bool
}

// verdict is the outcome of one test.
type verdict struct {
	holds bool
	got   string
	hint  string     // replaces the field's own
	until *time.Time // the last moment at which the same value still holds
	// strict is set where the test says nothing of such a value, rather than that it
	// falls short: no waiver stands for that.
	strict bool
}

func newTEE(t tee) *tee {
	t.byName = make(map[string]*field, len(t.fields))
	for i, f := range t.fields {
		f.index = i
		t.byName[f.name] = f
	}
	return &t
}

// suggest is the hint for a name that is not among the fields that pass the
// filter.
func (t *tee) suggest(name, summary string, filter func(*field) bool) string {
	var names []string
	for _, f := range t.fields {
		if filter == nil || filter(f) {
			names = append(names, f.name)
		}
	}
	if near := strictyaml.Nearest(name, names); near != "" {
		return fmt.Sprintf("did you mean %q? %s has %s", near, t.platform, summary)
	}
	return fmt.Sprintf("%s has %s", t.platform, summary)
}

// mayPublish reports whether a field may appear in an attestation result or
// an identity.
func (t *tee) mayPublish(f *field) bool {
	_, private := t.private[f.name]
	return measures(f) > 0 && !private
}

// measurement is implemented by the kinds of what can be published, and
// expanded in an identity.
type measurement interface {
	// shortest is the length that every value has at least, in bytes.
	shortest() int
}

// measures is the least length of a measurement's values, in bytes; 0 for a claim
// that is none.
func measures(f *field) int {
	if f == nil {
		return 0
	}
	if m, ok := f.kind.(measurement); ok {
		return m.shortest()
	}
	return 0
}

// tees lists the platforms whose workloads this version evaluates. The values
// are built once and never changed.
var tees = []*tee{nitro, snp, tpm}

func teeFor(p attest.Platform) *tee {
	for _, t := range tees {
		if t.platform == p {
			return t
		}
	}
	return nil
}
