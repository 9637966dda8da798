package policy

import (
	"fmt"
	"slices"
	"time"

	"github.com/assay-project/assay/internal/strictyaml"
)

// Code names one kind of warning. Codes are stable: a policy silences warnings
// by them, and tools may count on them.
type Code string

// The warnings that any platform can have. A platform adds its own in its
// table, see [tee].
const (
	CodeDebugAllowed       Code = "debug-allowed"
	CodeMigrationAllowed   Code = "migration-allowed"
	CodeLauncherData       Code = "launcher-data-as-ownership"
	CodeEvidenceOracle     Code = "evidence-oracle"
	CodeAnyUser            Code = "selector-any-user"
	CodeNoImage            Code = "no-image"
	CodeNoFloor            Code = "no-tcb-floor"
	CodeUnreachable        Code = "unreachable"
	CodeShadowed           Code = "shadowed"
	CodeBothMatch          Code = "both-match"
	CodeAlwaysHolds        Code = "always-holds"
	CodeSameHint           Code = "same-hint"
	CodeConstantExpression Code = "constant-expression"
	CodeNoEffect           Code = "no-effect"
	CodeUnusedReference    Code = "unused-reference"
	CodeExpiredReference   Code = "expired-reference"
	CodeExpiredWaiver      Code = "expired-waiver"
	CodeTTLBeyondCA        Code = "ttl-beyond-ca"
	CodeEmptyBundle        Code = "empty-bundle"
	CodeUselessSilence     Code = "useless-silence"
)

// CodeInfo describes a code.
type CodeInfo struct {
	Code    Code   `json:"code"`
	Summary string `json:"summary"`
}

var codes = []CodeInfo{
	{CodeDebugAllowed, "environments in debug mode match: the host can look into them"},
	{CodeMigrationAllowed, "guests that a migration agent may take over match"},
	{CodeLauncherData, "a value that whoever launches the environment chooses or can repeat is treated as if it told whose environment it is"},
	{CodeEvidenceOracle, "software that should not can probably have evidence made over data of its choice"},
	{CodeAnyUser, "an identity goes to whoever runs a program, and every user can"},
	{CodeNoImage, "the workload pins no image: any code of the same owner matches"},
	{CodeNoFloor, "firmware with known holes matches"},
	{CodeUnreachable, "the workload can never match, or no longer"},
	{CodeShadowed, "another workload already matches all that this one does"},
	{CodeBothMatch, "two workloads can match the same evidence, which would be denied as ambiguous"},
	{CodeAlwaysHolds, "a rule holds for every value: it demands nothing"},
	{CodeSameHint, "two identities of a workload have the same hint: programs see it on the first alone"},
	{CodeConstantExpression, "an expression has the same value for all claims"},
	{CodeNoEffect, "a setting changes nothing beside the others"},
	{CodeUnusedReference, "no rule uses the reference set"},
	{CodeExpiredReference, "the validity of a reference value has ended"},
	{CodeExpiredWaiver, "a waiver has ended"},
	{CodeTTLBeyondCA, "an SVID would outlive the CA that signs it: the CA shortens it"},
	{CodeEmptyBundle, "the bundle has no workloads: it denies everything"},
	{CodeUselessSilence, "a code is silenced of which there is no warning"},
}

// Codes lists every code of a warning, those of the platforms last.
func Codes() []CodeInfo {
	out := slices.Clone(codes)
	for _, t := range tees {
		out = append(out, t.codes...)
	}
	return out
}

// DefaultCALifetime is how long an authority of the server signs, unless
// configured otherwise.
const DefaultCALifetime = 365 * 24 * time.Hour

// LintOptions is what lint cannot know from the file.
type LintOptions struct {
	// At is the moment at which values and waivers are judged; zero judges none.
	At time.Time
	// CALifetime is the lifetime of the authorities that sign X.509-SVIDs; zero
	// is [DefaultCALifetime].
	CALifetime time.Duration
}

// Lint lists everything that is allowed and probably not meant, sorted by
// position, but for what the policy silences: what [Bundle.Warnings] lists, and
// what depends on the moment and on the server.
func (b *Bundle) Lint(o LintOptions) strictyaml.Errors {
	out := b.Warnings()
	if !o.At.IsZero() {
		for _, d := range b.dated {
			if o.At.After(d.until) {
				out = append(out, d.problem())
			}
		}
	}
	if o.CALifetime == 0 {
		o.CALifetime = DefaultCALifetime
	}
	for _, t := range b.ttls {
		if t.ttl > o.CALifetime {
			e := *t.at
			e.Code = string(CodeTTLBeyondCA)
			e.Msg = fmt.Sprintf("x509_ttl is %s, longer than the authority's lifetime of %s: SVIDs end with the authority", span(t.ttl), span(o.CALifetime))
			e.Hint = "shorten it"
			out = append(out, &e)
		}
	}
	slices.SortStableFunc(out, byPosition)
	return out
}

// Warnings lists what is allowed and probably not meant, sorted by position:
// the part of [Bundle.Lint] that depends on the file alone.
func (b *Bundle) Warnings() strictyaml.Errors { return slices.Clone(b.warnings) }

// Expired lists the reference values and waivers whose validity has ended at
// the given time, sorted by position.
func (b *Bundle) Expired(at time.Time) strictyaml.Errors {
	var out strictyaml.Errors
	for _, d := range b.dated {
		if d.code != CodeUnreachable && at.After(d.until) {
			out = append(out, d.problem())
		}
	}
	return out
}

// dated is a place in the file whose validity ends.
type dated struct {
	what  string // "the reference value": "… expired at"
	code  Code
	until time.Time
	at    *strictyaml.Error

	ref      *reference // whose value it is, for silence
	workload *workload  // in which it stands; nil in a reference set
}

func (d dated) problem() *strictyaml.Error {
	e := *d.at
	e.Code, e.Msg = string(d.code), d.what+" at "+stamp(d.until)
	return &e
}

// ends remembers a place whose validity ends.
func (p *parser) ends(n *strictyaml.Node, code Code, what string, until time.Time, hint string) {
	p.b.dated = append(p.b.dated, dated{
		what: what, code: code, until: until, at: p.doc.Problem(n, "", hint),
		ref: p.reading, workload: p.current,
	})
}

// lifetimeOf is an identity's TTL, for lint.
type lifetimeOf struct {
	ttl      time.Duration
	at       *strictyaml.Error
	workload *workload
}

// silence is a list of codes that a bundle or a workload does not want to hear.
type silence struct {
	code Code
	node *strictyaml.Node
	used bool
}

// silenceKey reads the key silence.
func (p *parser) silenceKey(n *strictyaml.Node) []*silence {
	if n == nil || !p.doc.Want(n, strictyaml.Sequence) {
		return nil
	}
	var out []*silence
	for _, item := range n.Items {
		p.work += 1 + len(out)
		s, ok := p.doc.Text(item)
		switch {
		case !ok:
		case !slices.ContainsFunc(Codes(), func(c CodeInfo) bool { return string(c.Code) == s }):
			p.doc.Report(item, fmt.Sprintf("there is no warning %q", clip(s)), p.suggestCode(s))
		case slices.ContainsFunc(out, func(o *silence) bool { return string(o.code) == s }):
			p.doc.Report(item, fmt.Sprintf("the warning %q is silenced twice", s), "")
		default:
			out = append(out, &silence{code: Code(s), node: item})
		}
	}
	return out
}

func (p *parser) suggestCode(s string) string {
	var known []string
	for _, c := range Codes() {
		known = append(known, string(c.Code))
	}
	return p.doc.Suggest(s, known)
}

// warn reports what is allowed and probably not meant, about the workload that
// is being compiled, if one is.
func (p *parser) warn(n *strictyaml.Node, code Code, msg, hint string) {
	p.warnAbout([]*workload{p.current}, n, code, msg, hint)
}

// warnAbout reports what concerns several workloads: each of them can silence
// it.
func (p *parser) warnAbout(ws []*workload, n *strictyaml.Node, code Code, msg, hint string) {
	silenced := hush(p.silence, code)
	for _, w := range ws {
		if w != nil && hush(w.silence, code) {
			silenced = true
		}
	}
	if silenced {
		return
	}
	if len(p.b.warnings) >= strictyaml.MaxErrors {
		p.moreWarnings = true
		return
	}
	e := p.doc.Problem(n, msg, hint)
	e.Code = string(code)
	p.b.warnings = append(p.b.warnings, e)
}

// hush reports whether a code is silenced, and remembers that it was of use.
func hush(list []*silence, code Code) bool {
	for _, s := range list {
		if s.code == code {
			s.used = true
			return true
		}
	}
	return false
}

// settle takes out the dated findings that are silenced, and warns of silences
// that silence nothing. It is the last step of lint.
func (p *parser) settle() {
	p.b.dated = slices.DeleteFunc(p.b.dated, func(d dated) bool {
		p.work++
		if hush(p.silence, d.code) {
			return true
		}
		if d.ref != nil {
			return d.ref.hushed(p, d.code)
		}
		return d.workload != nil && hush(d.workload.silence, d.code)
	})
	p.b.ttls = slices.DeleteFunc(p.b.ttls, func(t lifetimeOf) bool {
		return hush(p.silence, CodeTTLBeyondCA) || hush(t.workload.silence, CodeTTLBeyondCA)
	})
	useless := func(w *workload, list []*silence, where string) {
		for _, s := range list {
			p.work++
			if !s.used && s.code != CodeUselessSilence {
				p.warnAbout([]*workload{w}, s.node, CodeUselessSilence, fmt.Sprintf("there is no warning %s %s: nothing is silenced", s.code, where), "remove it, so that the next one is heard")
			}
		}
	}
	for _, w := range p.b.workloads {
		useless(w, w.silence, "about workload "+w.name)
	}
	useless(nil, p.silence, "about this bundle")
	slices.SortStableFunc(p.b.warnings, byPosition)
	if p.moreWarnings {
		e := *p.b.warnings[len(p.b.warnings)-1]
		e.Col, e.Source, e.Hint, e.Code = 0, "", "", ""
		e.Msg = fmt.Sprintf("too many warnings: only the first %d found are listed", strictyaml.MaxErrors)
		p.b.warnings = append(p.b.warnings, &e)
	}
}
