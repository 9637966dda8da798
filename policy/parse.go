package policy

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/strictyaml"
)

// languageVersion is the value of version: that this package reads.
const languageVersion = 1

// maxRevision is the largest revision: the largest integer that every JSON
// reader holds exactly (RFC 8259 section 6).
const maxRevision = 1<<53 - 1

// MaxSize is the size of the largest bundle in bytes: some 120,000 workloads or
// 350,000 reference values.
const MaxSize = 48 << 20

// maxNote bounds free text in a policy: notes, sources, reasons.
const maxNote = 256

var namePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

const nameHint = "1 to 63 letters, digits, dots, dashes and underscores, beginning with a letter or digit"

// Parse reads and compiles a bundle. file is its name in messages. The error is
// a strictyaml.Errors that lists everything that is wrong, sorted by position.
func Parse(file string, src []byte) (*Bundle, error) { return parseLimit(file, src, MaxSize) }

func parseLimit(file string, src []byte, limit int) (*Bundle, error) {
	p := newParser(file, src, limit)
	if root := p.doc.Root(); root != nil && p.doc.Want(root, strictyaml.Mapping) {
		p.bundle(root)
	}
	if err := p.doc.Err(); err != nil {
		return nil, err
	}
	p.b.indexed()
	p.b.forget()
	slices.SortStableFunc(p.b.dated, func(a, b dated) int { return byPosition(a.at, b.at) })
	return p.b, nil
}

func newParser(file string, src []byte, limit int) *parser {
	return &parser{
		doc:        strictyaml.OpenLimit(file, src, limit),
		b:          &Bundle{digest: sha256.Sum256(src), byTEE: map[attest.Platform][]*workload{}},
		references: map[string]*reference{},
		meetings:   map[[2]test][]window{},
		implied:    map[*field]*set{},
		exprs:      map[*tee]*exprs{},
		most:       maxEffort,
	}
}

func byPosition(a, b *strictyaml.Error) int {
	return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col))
}

// parser holds one file while it is compiled. Its methods report what is wrong
// to the document and go on, so that one run finds everything.
type parser struct {
	doc        *strictyaml.Document
	b          *Bundle
	references map[string]*reference
	ordered    []*reference
	meetings   map[[2]test][]window // see meet
	implied    map[*field]*set      // of implicit rules
	effort     int                  // spent on telling workloads apart
	most       int                  // that may be: maxEffort
	exprs      map[*tee]*exprs      // see exprsOf
	exprSize   int                  // of what was compiled, in bytes

	current      *workload  // the one that is being compiled, for warnings
	reading      *reference // the set that is being read, for silence
	silence      []*silence // of the bundle
	moreWarnings bool
	work         int // steps of the loops whose length is the file's, for tests
	patterns     patterns
}

func (p *parser) referenceNames() []string {
	out := make([]string, len(p.ordered))
	for i, r := range p.ordered {
		out[i] = r.name
	}
	return out
}

func (p *parser) position(n *strictyaml.Node) string { return p.doc.Position(n) }

// need returns the value of a required key, or reports that it is missing.
func (p *parser) need(n *strictyaml.Node, key, hint string) *strictyaml.Node {
	v := n.Get(key)
	if v == nil {
		p.doc.Report(n, fmt.Sprintf("the key %q is missing", key), hint)
	}
	return v
}

// later reports a key of the language that this version does not evaluate. It
// is an error: a rule must never be skipped in silence.
func (p *parser) later(n *strictyaml.Node, key, hint string) {
	if k := n.Key(key); k != nil {
		p.doc.Report(k, fmt.Sprintf("%q is not supported yet", key), hint)
	}
}

func (p *parser) bundle(root *strictyaml.Node) {
	p.only(root, bundleKeys)
	p.silence = p.silenceKey(root.Get("silence"))
	if n := p.need(root, "version", "version: 1"); n != nil {
		if v, ok := p.doc.Int(n, 64); ok && v != languageVersion {
			p.doc.Report(n, fmt.Sprintf("version %d of the policy language is not known", v), "this release reads version 1")
		}
	}
	if n := p.need(root, "bundle", "a name for this policy, such as prod"); n != nil {
		p.b.name = p.name(n)
	}
	if n := p.need(root, "revision", "a number that grows with every change, from 1"); n != nil {
		v, ok := p.doc.Uint(n, 64)
		if ok && (v == 0 || v > maxRevision) {
			p.doc.Report(n, fmt.Sprintf("the revision must be from 1 to %d", uint64(maxRevision)), "it grows with every change")
		}
		p.b.revision = v
	}
	if n := p.need(root, "trust_domain", "the trust domain of the identities, such as attested.example.org"); n != nil {
		p.b.trustDomain = p.trustDomain(n)
	}
	if n := root.Get("references"); n != nil && p.doc.Want(n, strictyaml.Mapping) {
		for _, f := range n.Fields {
			p.reference(f)
		}
	}
	if n := p.need(root, "workloads", "a list of workloads; [] admits nothing"); n != nil && p.doc.Want(n, strictyaml.Sequence) {
		if len(n.Items) == 0 {
			p.warn(n, CodeEmptyBundle, "the bundle has no workloads: it denies everything", "")
		}
		first := map[string]*strictyaml.Node{}
		for _, item := range n.Items {
			p.workload(item, first)
		}
		p.ambiguities()
		p.shadowed()
	}
	for _, r := range p.ordered {
		if !r.used {
			p.warn(r.key, CodeUnusedReference, fmt.Sprintf("the reference set %q is not used", clip(r.name)), "its values have not been checked either")
		}
	}
	p.settle()
}

func (p *parser) name(n *strictyaml.Node) string {
	s, ok := p.doc.Text(n)
	if ok && !namePattern.MatchString(s) {
		p.doc.Report(n, fmt.Sprintf("not a name: %q", clip(s)), nameHint)
		return ""
	}
	return s
}

func (p *parser) trustDomain(n *strictyaml.Node) string {
	s, ok := p.doc.Text(n)
	if !ok {
		return ""
	}
	td, err := spiffeid.TrustDomainFromString(s)
	if err != nil || td.Name() != s {
		p.doc.Report(n, fmt.Sprintf("not a trust domain name: %q", clip(s)), "lower-case letters, digits, dots, dashes and underscores, without spiffe://")
		return ""
	}
	if len(s) > MaxIDLength-len("spiffe:///x") {
		p.doc.Report(n, fmt.Sprintf("the trust domain is too long: %d bytes", len(s)), fmt.Sprintf("no SPIFFE ID of at most %d bytes fits into it", MaxIDLength))
		return ""
	}
	return s
}

// reference reads one named set: a list of entries, or a mapping with values
// and what is true of all of them.
func (p *parser) reference(f strictyaml.Field) {
	r := &reference{name: f.Key.Value, key: f.Key, compiled: map[kind]*set{}}
	p.references[r.name] = r
	p.ordered = append(p.ordered, r)
	if !namePattern.MatchString(r.name) {
		p.doc.Report(f.Key, fmt.Sprintf("not a name: %q", clip(r.name)), nameHint)
	}
	values := f.Value
	if values.Kind == strictyaml.Mapping {
		p.only(values, referenceKeys)
		if n := values.Get("dedicated"); n != nil {
			r.dedicated, _ = p.doc.Bool(n)
		}
		if values = p.need(values, "values", "a list of entries such as {value: \"…\", note: \"release 41\"}"); values == nil {
			r.broken = true
			return
		}
	}
	p.reading = r
	defer func() { p.reading = nil }()
	entries, ok := p.entries(values, "the reference set "+r.name)
	r.entries, r.broken = entries, !ok
}

// entries reads a list of values: text alone, or {value, not_before, not_after,
// note, source}.
func (p *parser) entries(n *strictyaml.Node, what string) ([]rawEntry, bool) {
	if !p.doc.Want(n, strictyaml.Sequence) {
		return nil, false
	}
	if len(n.Items) == 0 {
		p.doc.Report(n, what+" lists no value: nothing would match", "")
		return nil, false
	}
	out, ok := make([]rawEntry, 0, len(n.Items)), true
	for _, item := range n.Items {
		p.work++
		if item.Kind != strictyaml.Mapping {
			out = append(out, rawEntry{node: item})
			continue
		}
		e, good := p.entry(item)
		out = append(out, e)
		ok = ok && good
	}
	return out, ok
}

func (p *parser) entry(n *strictyaml.Node) (rawEntry, bool) {
	p.only(n, entryKeys)
	out := rawEntry{node: p.need(n, "value", "")}
	ok := out.node != nil
	if b := n.Get("not_before"); b != nil {
		out.entry.notBefore = p.moment(b)
	}
	if a := n.Get("not_after"); a != nil {
		out.entry.notAfter = p.moment(a)
		if !out.entry.notAfter.IsZero() {
			if out.entry.notAfter.Before(out.entry.notBefore) {
				p.doc.Report(a, "not_after is before not_before: the value is never valid", "")
			}
			p.ends(a, CodeExpiredReference, "the reference value expired", out.entry.notAfter, "remove the entry, or give it a later not_after")
		}
	}
	if t := n.Get("note"); t != nil {
		out.entry.note = p.prose(t)
	}
	if t := n.Get("source"); t != nil {
		out.entry.source = p.prose(t)
	}
	return out, ok
}

// earliest is the first moment that a policy can name. Before it there were no
// enclaves; a moment there is an unset one that some program wrote out, and must
// not stand for "no bound".
var earliest = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// moment reads a moment, RFC 3339; zero is one that was reported.
func (p *parser) moment(n *strictyaml.Node) time.Time {
	t, ok := p.doc.Time(n)
	if !ok {
		return time.Time{}
	}
	return p.modern(n, t)
}

// modern reports a moment before [earliest], and makes it zero.
func (p *parser) modern(n *strictyaml.Node, t time.Time) time.Time {
	if t.Before(earliest) {
		p.doc.Report(n, fmt.Sprintf("the moment %s is before 2000: nothing in a policy begins or ends there", stamp(t)), "to withdraw a value, remove it")
		return time.Time{}
	}
	return t
}

// prose reads a line of free text.
func (p *parser) prose(n *strictyaml.Node) string {
	s, ok := p.doc.Text(n)
	switch {
	case !ok:
		return ""
	case s == "":
		p.doc.Report(n, "the text is empty", "")
	case strings.ContainsAny(s, "\n\t"):
		p.doc.Report(n, "the text has more than one line, or a tab", "")
		return ""
	case len(s) > maxNote:
		p.doc.Report(n, fmt.Sprintf("the text is too long: %d bytes, at most %d", len(s), maxNote), "")
		return ""
	}
	return s
}

// duration reads a length of time within bounds.
func (p *parser) duration(n *strictyaml.Node, what string, least, most time.Duration) time.Duration {
	d, ok := p.doc.Duration(n)
	if ok && (d < least || d > most) {
		p.doc.Report(n, fmt.Sprintf("%s must be from %s to %s", what, span(least), span(most)), "")
		return least
	}
	if ok && d%time.Second != 0 {
		p.doc.Report(n, what+" must be whole seconds", "")
	}
	return d
}

// span writes a duration without zero parts: 1h, not 1h0m0s.
func span(d time.Duration) string {
	switch {
	case d%time.Hour == 0:
		return fmt.Sprintf("%dh", d/time.Hour)
	case d%time.Minute == 0:
		return fmt.Sprintf("%dm", d/time.Minute)
	}
	return d.String()
}
