package policy

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/strictyaml"
)

// MaxIDLength is the longest SPIFFE ID in bytes: Google Cloud's workload
// identity federation takes no longer subjects.
const MaxIDLength = 127

// maxTemplate bounds the source of a template, in bytes.
const maxTemplate = 1024

// minPrefix is the shortest part of a digest that a template may expand, in
// hex characters: 32 bits, so that two releases do not share a name by accident.
const minPrefix = 8

// template is a compiled SPIFFE ID template. What it expands to has the same
// length for all claims that the workload admits, so that the length is
// checked once.
type template struct {
	source string
	parts  []part
}

// part is literal text, or the first n hex characters of a digest claim.
type part struct {
	text  string
	field *field
	n     int
}

// scope is what a template can name.
type scope struct {
	trustDomain string
	workload    string
	tee         *tee
	attributes  map[string]string
	pinned      func(claim string) bool // does the workload pin it with eq or in?
	suggest     func(word string, names []string) string
}

// expands is the least length in bytes of a claim that templates can expand, and
// whether it is the only one; 0 for every other claim.
func expands(f *field) (least int, fixed bool) {
	switch k := f.kind.(type) {
	case digest:
		return k.n, true
	case identifier:
		return k.n, true
	}
	return measures(f), false
}

// errTemplate carries a hint beside the message.
type errTemplate struct{ msg, hint string }

func (e *errTemplate) Error() string { return e.msg }

// parseTemplate compiles a template and checks every ID that it can yield.
func parseTemplate(src string, sc scope) (*template, error) {
	t := &template{source: src}
	if len(src) > maxTemplate {
		return nil, &errTemplate{fmt.Sprintf("the template is longer than %d bytes", maxTemplate), ""}
	}
	for rest := src; rest != ""; {
		i := strings.IndexAny(rest, "{}")
		if i < 0 {
			t.literal(rest)
			break
		}
		t.literal(rest[:i])
		end := strings.IndexByte(rest[i:], '}')
		if rest[i] == '}' || end < 0 {
			return nil, &errTemplate{fmt.Sprintf("unbalanced %q in the template", rest[i]), "a variable is written {name}"}
		}
		p, err := sc.variable(rest[i+1 : i+end])
		if err != nil {
			return nil, err
		}
		if p.field == nil {
			t.literal(p.text)
		} else {
			t.parts = append(t.parts, p)
		}
		rest = rest[i+end+1:]
	}
	if err := checkID(t.sample(), sc.trustDomain); err != nil {
		return nil, err
	}
	return t, nil
}

func (t *template) literal(s string) {
	if n := len(t.parts); n > 0 && t.parts[n-1].field == nil {
		t.parts[n-1].text += s
		return
	}
	if s != "" {
		t.parts = append(t.parts, part{text: s})
	}
}

// variable resolves what stands between the braces.
func (sc scope) variable(name string) (part, error) {
	switch name {
	case "td":
		return part{text: sc.trustDomain}, nil
	case "workload":
		return part{text: sc.workload}, nil
	case "tee":
		return part{text: string(sc.tee.platform)}, nil
	}
	if a, ok := strings.CutPrefix(name, "attributes."); ok {
		v, ok := sc.attributes[a]
		if !ok {
			var known []string
			for k := range sc.attributes {
				known = append(known, k)
			}
			return part{}, &errTemplate{fmt.Sprintf("the identity has no attribute %q", clip(a)), sc.suggest(a, known)}
		}
		return part{text: v}, nil
	}
	claim, length, cut := strings.Cut(name, ":")
	if why, private := sc.tee.private[claim]; private {
		return part{}, &errTemplate{claim + " must not be part of an identity", why}
	}
	f := sc.tee.byName[claim]
	if f == nil {
		known := append([]string{"td", "workload", "tee", "attributes.NAME"}, sc.pinnedDigests()...)
		return part{}, &errTemplate{fmt.Sprintf("unknown template variable %q", clip(name)), sc.suggest(claim, known)}
	}
	least, fixed := expands(f)
	if least == 0 {
		return part{}, &errTemplate{claim + " cannot be expanded: only digests and ids of a fixed length can", ""}
	}
	if !sc.pinned(claim) {
		return part{}, &errTemplate{claim + " cannot be expanded: the workload does not pin it", "an identity may only hold digests that the same workload matches with eq or in"}
	}
	n := 2 * least
	if !fixed && !cut {
		return part{}, &errTemplate{claim + " needs a length: its own depends on the bank", fmt.Sprintf("for example {%s:16}", claim)}
	}
	if cut {
		var err error
		n, err = strconv.Atoi(length)
		if err != nil || n < minPrefix || n > 2*least || length != strconv.Itoa(n) {
			return part{}, &errTemplate{fmt.Sprintf("bad length %q for %s", clip(length), claim), fmt.Sprintf("a number of hex characters from %d to %d", minPrefix, 2*least)}
		}
	}
	return part{field: f, n: n}, nil
}

func (sc scope) pinnedDigests() []string {
	var out []string
	for _, f := range sc.tee.fields {
		_, private := sc.tee.private[f.name]
		if n, _ := expands(f); n > 0 && !private && sc.pinned(f.name) {
			out = append(out, f.name)
		}
	}
	return out
}

// sample expands the template with a stand-in of the right length for each
// digest. The characters of any digest are as valid in a path as these.
func (t *template) sample() string {
	var b strings.Builder
	for _, p := range t.parts {
		if p.field == nil {
			b.WriteString(p.text)
		} else {
			b.WriteString(strings.Repeat("0", p.n))
		}
	}
	return b.String()
}

// expand yields the ID for verified claims. It fails where a digest is missing
// or has another length, which a matching workload rules out.
func (t *template) expand(c *attest.Claims) (string, error) {
	if len(t.parts) == 1 && t.parts[0].field == nil {
		return t.parts[0].text, nil
	}
	var b strings.Builder
	for _, p := range t.parts {
		if p.field == nil {
			b.WriteString(p.text)
			continue
		}
		v, ok := p.field.get(c)
		text := p.field.kind.format(v)
		if !ok || len(text) < p.n {
			return "", fmt.Errorf("the claim %s is missing or too short", p.field.name)
		}
		b.WriteString(text[:p.n])
	}
	return b.String(), nil
}

// checkID checks an ID against the SPIFFE ID specification, the trust domain,
// the length limit and the paths reserved for the service.
func checkID(id, trustDomain string) error {
	if len(id) > MaxIDLength {
		return &errTemplate{
			fmt.Sprintf("the SPIFFE ID is %d bytes long, at most %d are allowed", len(id), MaxIDLength),
			"a digest can be shortened: {pcr0:16}",
		}
	}
	parsed, err := spiffeid.FromString(id)
	if err != nil {
		return &errTemplate{fmt.Sprintf("not a SPIFFE ID: %q: %s", clip(id), err), "for example spiffe://{td}/payments/api; a path has letters, digits, dots, dashes, underscores and slashes"}
	}
	if parsed.TrustDomain().Name() != trustDomain {
		return &errTemplate{
			fmt.Sprintf("the SPIFFE ID is in the trust domain %q, the bundle's is %q", clip(parsed.TrustDomain().Name()), clip(trustDomain)),
			"begin with spiffe://{td}/",
		}
	}
	switch path := parsed.Path(); {
	case path == "":
		return &errTemplate{"the SPIFFE ID has no path: it would name the trust domain itself", "for example spiffe://{td}/payments"}
	case path == "/assay" || strings.HasPrefix(path, "/assay/"):
		return &errTemplate{"paths under /assay/ are reserved for the service", "choose another first segment"}
	}
	return nil
}

// maxExpansions bounds the values for which two templates are expanded to see
// whether they can yield the same ID. With more, they count as if they could.
const maxExpansions = 4096

// collides returns an ID that two templates of one workload can both yield, or
// "". Digests that share their first characters by accident count: 32 bits of
// one can be sought for.
func (t *template) collides(o *template, w *workload) string {
	a, b := t.shape(), o.shape()
	if len(a) != len(b) {
		return ""
	}
	for i := range a {
		meet := a[i] == b[i] || a[i] == anyHex && isHex(b[i]) || b[i] == anyHex && isHex(a[i])
		if !meet {
			return ""
		}
	}
	// As texts of hex digits they can. The workload's own values decide.
	var fields []*field
	total := 1
	for _, p := range slices.Concat(t.parts, o.parts) {
		if p.field != nil && !slices.Contains(fields, p.field) {
			fields = append(fields, p.field)
			if total *= len(w.over(p.field).test.values().entries); total > maxExpansions {
				return t.sample()
			}
		}
	}
	values := make(map[*field]value, len(fields))
	for i := range total {
		for _, f := range fields {
			entries := w.over(f).test.values().entries
			values[f], i = entries[i%len(entries)].value, i/len(entries)
		}
		if id := t.with(values); id == o.with(values) {
			return id
		}
	}
	return ""
}

// anyHex stands for a character of an expanded claim.
const anyHex = '*'

func isHex(c byte) bool { return c == anyHex || '0' <= c && c <= '9' || 'a' <= c && c <= 'f' }

// shape is the template with a stand-in for every character that depends on the
// claims. No SPIFFE ID has the stand-in.
func (t *template) shape() string {
	var b strings.Builder
	for _, p := range t.parts {
		b.WriteString(p.text)
		b.WriteString(strings.Repeat(string(anyHex), p.n))
	}
	return b.String()
}

// with expands the template for values.
func (t *template) with(values map[*field]value) string {
	var b strings.Builder
	for _, p := range t.parts {
		b.WriteString(p.text)
		if p.field != nil {
			text := p.field.kind.format(values[p.field])
			b.WriteString(text[:min(p.n, len(text))])
		}
	}
	return b.String()
}

// reportTemplate reports a template's error at its node.
func reportTemplate(d *strictyaml.Document, n *strictyaml.Node, err error) {
	hint := ""
	var te *errTemplate
	if errors.As(err, &te) {
		hint = te.hint
	}
	d.Report(n, err.Error(), hint)
}
