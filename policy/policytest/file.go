package policytest

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/strictyaml"
	"github.com/assay-project/assay/policy"
)

// Limits of one file.
const (
	MaxSize  = 1 << 20 // bytes
	MaxCases = 10_000
	maxName  = 200 // bytes
)

// Suffix ends the name of every file of tests.
const Suffix = ".test.yaml"

// File is one file of tests.
type File struct {
	Name   string // as it was given
	Policy string // the file of the policy that it tests, beside it
	Cases  []Case
}

// Case is one case.
type Case struct {
	Name     string
	Position string // "file:line:col" of its name
	At       time.Time
	Claims   attest.Claims
	// Evidence is what the claims come from, where they are not written down;
	// Claims are then set by [File.Verify].
	Evidence *Evidence
	Rollout  Rollout
	Want     Want
}

// Rollout is what a case assumes of rollouts: their secret is the server's.
type Rollout string

// What a case can assume of rollouts.
const (
	RolloutUnknown Rollout = ""    // nothing: a workload in mode rollout is undecided
	RolloutIn      Rollout = "in"  // every rollout admits
	RolloutOut     Rollout = "out" // none does
)

// Evidence is recorded evidence, to be verified as of the time it was made.
type Evidence struct {
	TEE          attest.Platform
	File         string // all files are beside the file of tests
	Roots        string // PEM; "" is the vendor's pinned roots
	Endorsements []string
	EventLog     string
	At           time.Time
	Position     string
}

// Want is what a case demands of the decision. What is empty is not compared.
type Want struct {
	Outcome    string // always there
	Reason     string
	Workload   string   // that grants; in a denial the one that Fails is about
	SPIFFEIDs  []string // nil: not compared; sorted
	Fails      []string // rules of the workload that do not hold, or of the nearest; nil: not compared; sorted
	ValidUntil time.Time
	position   string
}

// Reader reads a file beside the file of tests.
type Reader func(name string) ([]byte, error)

// Parse reads a file of tests. The error is a strictyaml.Errors that lists
// everything that is wrong, sorted by position.
func Parse(name string, src []byte, read Reader) (*File, error) {
	p := &parser{
		doc: strictyaml.OpenLimit(name, src, MaxSize), out: &File{Name: name}, read: read,
		claims: map[string]*given{}, files: map[string]attest.Claims{},
	}
	if root := p.doc.Root(); root != nil && p.doc.Want(root, strictyaml.Mapping) {
		p.file(root)
	}
	if err := p.doc.Err(); err != nil {
		return nil, err
	}
	return p.out, nil
}

type parser struct {
	doc    *strictyaml.Document
	out    *File
	read   Reader
	at     time.Time
	claims map[string]*given // by name
	files  map[string]attest.Claims
}

// given are claims, or what they come from.
type given struct {
	claims   attest.Claims
	evidence *Evidence
}

func (p *parser) file(root *strictyaml.Node) {
	p.doc.OnlyKeys(root, "version", "policy", "at", "claims", "cases")
	if n := p.need(root, "version", "version: 1"); n != nil {
		if v, ok := p.doc.Int(n, 64); ok && v != 1 {
			p.doc.Report(n, fmt.Sprintf("version %d of tests is not known", v), "this release reads version 1")
		}
	}
	base := filepath.Base(p.out.Name)
	p.out.Policy = strings.TrimSuffix(base, Suffix) + ".yaml"
	if n := root.Get("policy"); n != nil {
		if s, ok := p.beside(n); ok {
			p.out.Policy = s
		}
	}
	if n := root.Get("at"); n != nil {
		p.at = p.moment(n)
	}
	if n := root.Get("claims"); n != nil && p.doc.Want(n, strictyaml.Mapping) {
		for _, f := range n.Fields {
			if g := p.given(f.Value); g != nil {
				p.claims[f.Key.Value] = g
			} else {
				p.claims[f.Key.Value] = nil
			}
		}
	}
	n := p.need(root, "cases", "a list of cases")
	if n == nil || !p.doc.Want(n, strictyaml.Sequence) {
		return
	}
	if len(n.Items) == 0 || len(n.Items) > MaxCases {
		p.doc.Report(n, fmt.Sprintf("cases has %d entries, want 1 to %d", len(n.Items), MaxCases), "")
		return
	}
	names := map[string]int{}
	for _, item := range n.Items {
		p.testCase(item, names)
	}
}

func (p *parser) need(n *strictyaml.Node, key, hint string) *strictyaml.Node {
	v := n.Get(key)
	if v == nil {
		p.doc.Report(n, fmt.Sprintf("the key %q is missing", key), hint)
	}
	return v
}

// moment reads a time. One before 2000 is a mistake, as in a policy: the zero time
// would stand for a case that says none.
func (p *parser) moment(n *strictyaml.Node) time.Time {
	t, ok := p.doc.Time(n)
	if ok && t.Before(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)) {
		p.doc.Report(n, n.Value+" is before 2000", "the time that a program writes when nobody set one is no moment")
		return time.Time{}
	}
	return t
}

// beside reads the name of a file in the directory of the tests, or below it.
func (p *parser) beside(n *strictyaml.Node) (string, bool) {
	s, ok := p.doc.Text(n)
	if ok && !filepath.IsLocal(s) {
		p.doc.Report(n, fmt.Sprintf("not a file beside the tests: %q", s), "a path without .. that does not begin with /")
		return "", false
	}
	return s, ok
}

func (p *parser) testCase(n *strictyaml.Node, names map[string]int) {
	if !p.doc.Want(n, strictyaml.Mapping) {
		return
	}
	p.doc.OnlyKeys(n, "name", "claims", "at", "rollout", "want")
	c := Case{Position: p.doc.Position(n)}
	if v := p.need(n, "name", "what the case shows, in a few words"); v != nil {
		c.Name, _ = p.doc.Text(v)
		c.Position = p.doc.Position(v)
		line, dup := names[c.Name]
		switch {
		case c.Name == "" || len(c.Name) > maxName || strings.ContainsAny(c.Name, "\n\t"):
			p.doc.Report(v, fmt.Sprintf("a name has 1 to %d bytes in one line", maxName), "")
		case dup:
			p.doc.Report(v, fmt.Sprintf("the case on line %d has the same name", line), "")
		default:
			names[c.Name] = v.Line
		}
	}
	if v := p.need(n, "claims", "claims by their names with tee, or the name of some under claims"); v != nil {
		if g := p.given(v); g != nil {
			c.Claims, c.Evidence = g.claims, g.evidence
			if c.Evidence != nil {
				c.At = c.Evidence.At
			}
		}
	}
	if v := n.Get("at"); v != nil {
		c.At = p.moment(v)
	}
	if c.At.IsZero() {
		c.At = p.at
	}
	if c.At.IsZero() && n.Get("at") == nil {
		p.doc.Report(n, "the case has no moment", "give at, in the case or for the whole file: decisions depend on it")
	}
	if v := n.Get("rollout"); v != nil {
		if s, ok := p.doc.Text(v); ok {
			if c.Rollout = Rollout(s); c.Rollout != RolloutIn && c.Rollout != RolloutOut {
				p.doc.Report(v, fmt.Sprintf("want in or out, got %q", s), "whether the rollouts admit the environment; only the server's secret tells")
			}
		}
	}
	if v := p.need(n, "want", "for example {outcome: denied, reason: no_match, fails: [pcr0]}"); v != nil {
		c.Want = p.want(v)
	}
	p.out.Cases = append(p.out.Cases, c)
}

// given reads claims: a name, or a mapping with tee, from, file or evidence.
func (p *parser) given(n *strictyaml.Node) *given {
	if n.Kind == strictyaml.Scalar {
		return p.named(n)
	}
	if !p.doc.Want(n, strictyaml.Mapping) {
		return nil
	}
	var out *given
	var how []string
	for _, key := range []string{"tee", "from", "file", "evidence"} {
		if n.Get(key) != nil {
			how = append(how, key)
		}
	}
	if len(how) != 1 {
		p.doc.Report(n, "claims begin with one of tee, from, file and evidence", "tee: claims by their names; from: those of another, changed; file: JSON; evidence: recorded evidence")
		return nil
	}
	v := n.Get(how[0])
	switch how[0] {
	case "tee":
		s, ok := p.doc.Text(v)
		if !ok {
			return nil
		}
		var known []string
		for _, t := range policy.Platforms() {
			known = append(known, string(t))
		}
		if !slices.Contains(known, s) {
			p.doc.Report(v, fmt.Sprintf("no TEE that policies are for: %q", s), p.doc.Suggest(s, known))
			return nil
		}
		c, ok := policy.ReadClaims(p.doc, attest.Platform(s), without(n, "tee"), nil)
		if !ok {
			return nil
		}
		return &given{claims: c}
	case "from":
		out = p.named(v)
	case "file":
		out = p.json(v)
	case "evidence":
		if len(n.Fields) > 1 {
			p.doc.Report(n, "claims of evidence are as the verifier finds them", "to change some, write them to a file: `assay evidence verify --output json`, and begin with file")
			return nil
		}
		return p.evidence(v)
	}
	changes := without(n, how[0])
	if out == nil || len(changes.Fields) == 0 {
		return out
	}
	if out.evidence != nil {
		p.doc.Report(n, "claims of evidence are as the verifier finds them", "to change some, write them to a file: `assay evidence verify --output json`, and begin with file")
		return nil
	}
	c, ok := policy.ReadClaims(p.doc, out.claims.Platform, changes, &out.claims)
	if !ok {
		return nil
	}
	return &given{claims: c}
}

// without is the mapping without one key.
func without(n *strictyaml.Node, key string) *strictyaml.Node {
	out := &strictyaml.Node{Kind: strictyaml.Mapping, Line: n.Line, Col: n.Col}
	for _, f := range n.Fields {
		if f.Key.Value != key {
			out.Fields = append(out.Fields, f)
		}
	}
	return out
}

func (p *parser) named(n *strictyaml.Node) *given {
	s, ok := p.doc.Text(n)
	if !ok {
		return nil
	}
	g, known := p.claims[s]
	if !known {
		var names []string
		for name := range p.claims {
			names = append(names, name)
		}
		slices.Sort(names)
		p.doc.Report(n, fmt.Sprintf("there are no claims named %q above", s), p.doc.Suggest(s, names))
	}
	return g
}

// json reads claims as other commands write them: attest.Claims, or the output of
// `assay evidence verify --output json` around them.
func (p *parser) json(n *strictyaml.Node) *given {
	s, ok := p.beside(n)
	if !ok {
		return nil
	}
	c, ok := p.files[s]
	if !ok {
		b, err := p.read(s)
		if err == nil {
			c, err = decodeClaims(b)
		}
		if err != nil {
			p.doc.Report(n, err.Error(), "JSON as of `assay evidence verify --output json`, or what it has under claims")
			return nil
		}
		p.files[s] = c
	}
	return &given{claims: c}
}

// decodeClaims reads claims strictly, or the verdict around them.
func decodeClaims(b []byte) (attest.Claims, error) {
	var around struct {
		Platform *attest.Platform `json:"platform"`
		Claims   json.RawMessage  `json:"claims"`
		Verified *bool            `json:"verified"`
	}
	if err := json.Unmarshal(b, &around); err != nil {
		return attest.Claims{}, fmt.Errorf("no JSON of claims: %w", err)
	}
	if around.Platform == nil {
		if around.Claims == nil || string(around.Claims) == "null" {
			return attest.Claims{}, errors.New("no claims are in it")
		}
		if around.Verified != nil && !*around.Verified {
			return attest.Claims{}, errors.New("its claims are not verified")
		}
		b = around.Claims
	}
	dec := json.NewDecoder(strings.NewReader(string(b)))
	dec.DisallowUnknownFields()
	var c attest.Claims
	if err := dec.Decode(&c); err != nil {
		return attest.Claims{}, fmt.Errorf("no claims: %w", err)
	}
	if (c.Nitro != nil) != (c.Platform == attest.AWSNitro) || (c.SNP != nil) != (c.Platform == attest.AMDSEVSNP) || (c.TPM != nil) != (c.Platform == attest.TPM2) {
		return attest.Claims{}, fmt.Errorf("the claims are not those of %q", c.Platform)
	}
	return c, nil
}

func (p *parser) evidence(n *strictyaml.Node) *given {
	if !p.doc.Want(n, strictyaml.Mapping) {
		return nil
	}
	p.doc.OnlyKeys(n, "file", "tee", "roots", "endorsements", "event_log", "at")
	e := &Evidence{Position: p.doc.Position(n)}
	if v := p.need(n, "file", "the evidence, beside the tests"); v != nil {
		e.File, _ = p.beside(v)
	}
	if v := p.need(n, "tee", "which TEE made it"); v != nil {
		if s, ok := p.doc.Text(v); ok {
			var err error
			if e.TEE, err = attest.ParsePlatform(s); err != nil {
				p.doc.Report(v, err.Error(), "")
			}
		}
	}
	if v := n.Get("roots"); v != nil {
		e.Roots, _ = p.beside(v)
	}
	if v := n.Get("event_log"); v != nil {
		e.EventLog, _ = p.beside(v)
	}
	if v := n.Get("endorsements"); v != nil && p.doc.Want(v, strictyaml.Sequence) {
		for _, item := range v.Items {
			if s, ok := p.beside(item); ok {
				e.Endorsements = append(e.Endorsements, s)
			}
		}
	}
	if v := p.need(n, "at", "when it was recorded: it is verified as of then"); v != nil {
		e.At = p.moment(v)
	}
	return &given{evidence: e}
}

func (p *parser) want(n *strictyaml.Node) Want {
	w := Want{position: p.doc.Position(n)}
	if !p.doc.Want(n, strictyaml.Mapping) {
		return w
	}
	p.doc.OnlyKeys(n, "outcome", "reason", "workload", "spiffe_ids", "fails", "valid_until")
	text := func(key string) string {
		if v := n.Get(key); v != nil {
			s, ok := p.doc.Text(v)
			if ok && s == "" {
				p.doc.Report(v, key+" is empty", "leave it out where the case does not say it")
			}
			return s
		}
		return ""
	}
	list := func(key string) []string {
		v := n.Get(key)
		if v == nil {
			return nil
		}
		out, _ := p.doc.Strings(v)
		if out == nil {
			out = []string{}
		}
		slices.Sort(out)
		return out
	}
	if v := p.need(n, "outcome", "granted or denied"); v != nil {
		if w.Outcome, _ = p.doc.Text(v); w.Outcome != policy.Granted && w.Outcome != policy.Refused {
			p.doc.Report(v, fmt.Sprintf("want granted or denied, got %q", w.Outcome), "")
		}
	}
	w.Reason, w.Workload, w.SPIFFEIDs, w.Fails = text("reason"), text("workload"), list("spiffe_ids"), list("fails")
	if v := n.Get("valid_until"); v != nil {
		w.ValidUntil = p.moment(v)
	}
	for _, x := range []struct{ outcome, key, msg string }{
		{policy.Granted, "fails", "of what grants no rule fails"},
		{policy.Refused, "spiffe_ids", "who is denied gets no SPIFFE IDs"},
		{policy.Refused, "valid_until", "a denial has no end"},
	} {
		if k := n.Key(x.key); k != nil && w.Outcome == x.outcome {
			p.doc.Report(k, x.msg, "leave "+x.key+" out")
		}
	}
	return w
}
