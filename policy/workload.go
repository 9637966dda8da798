package policy

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/strictyaml"
)

// Limits on identities. An X.509-SVID of under a minute would be renewed all
// the time; one of over a day outlives what is known about the machine.
const (
	MinX509TTL     = time.Minute
	MaxX509TTL     = 24 * time.Hour
	DefaultX509TTL = time.Hour
	MinJWTTTL      = 30 * time.Second
	MaxJWTTTL      = time.Hour
	DefaultJWTTTL  = 5 * time.Minute
	MaxIdentities  = attest.MaxKeys // of one workload: one key each
	MaxAudiences   = 16
	MaxAttributes  = 16
	maxAudience    = 256 // bytes
	maxAttribute   = 128 // bytes of a value
)

func (p *parser) workload(n *strictyaml.Node, first map[string]*strictyaml.Node) {
	if !p.doc.Want(n, strictyaml.Mapping) {
		return
	}
	p.only(n, workloadKeys)
	w := &workload{key: n}
	p.current = w
	defer func() { p.current = nil }()
	w.silence = p.silenceKey(n.Get("silence"))
	if v := p.need(n, "name", ""); v != nil {
		w.name, w.key = p.name(v), v
		if before, dup := first[w.name]; dup && w.name != "" {
			p.doc.Report(v, fmt.Sprintf("the name %q is taken by the workload on line %d", w.name, before.Line), "")
		} else {
			first[w.name] = v
		}
	}
	p.mode(w, n)
	w.tee = p.platform(n)
	match := p.need(n, "match", "which claims the workload must have")
	issue := n.Get("issue")
	if w.tee == nil {
		return // its claims are not known: nothing of the rest can be checked
	}
	w.whole = match != nil && p.match(w, match)
	p.implicit(w, n)
	p.waivers(w, n.Get("waivers"))
	p.expression(w, n)
	p.contradictions(w)
	p.ownership(w, n)
	p.publish(w, n.Get("publish"))
	p.issue(w, n, issue)
	p.lint(w)
	p.b.workloads = append(p.b.workloads, w)
	p.b.byTEE[w.tee.platform] = append(p.b.byTEE[w.tee.platform], w)
}

func (p *parser) platform(n *strictyaml.Node) *tee {
	v := p.need(n, "tee", "for example aws-nitro")
	if v == nil {
		return nil
	}
	s, ok := p.doc.Text(v)
	if !ok {
		return nil
	}
	known := make([]string, len(tees))
	for i, t := range tees {
		known[i] = string(t.platform)
	}
	platform, err := attest.ParsePlatform(s)
	if err != nil {
		p.doc.Report(v, fmt.Sprintf("unknown TEE %q", clip(s)), p.doc.Suggest(s, known))
		return nil
	}
	t := teeFor(platform)
	if t == nil {
		p.doc.Report(v, fmt.Sprintf("policies for %s are not supported yet", platform), "supported: "+strings.Join(known, ", "))
	}
	return t
}

// match compiles the rules; it is false when one of them is unusable, so that
// later checks do not report what follows from that.
func (p *parser) match(w *workload, n *strictyaml.Node) bool {
	if !p.doc.Want(n, strictyaml.Mapping) {
		return false
	}
	if len(n.Fields) == 0 {
		p.doc.Report(n, "match is empty: every "+string(w.tee.platform)+" environment would match", "name at least one claim")
		return false
	}
	ok := true
	for _, f := range n.Fields {
		if r := p.rule(w.tee, f); r != nil {
			w.rules = append(w.rules, r)
		} else {
			ok = false
		}
	}
	return ok
}

// suggestClaim is a platform's hint for an unknown name, while hints are given.
func (p *parser) suggestClaim(t *tee, name, summary string, filter func(*field) bool) string {
	if p.doc.Full() {
		return ""
	}
	return t.suggest(name, summary, filter)
}

func (p *parser) rule(t *tee, f strictyaml.Field) *rule {
	p.work++
	name := f.Key.Value
	claim := t.byName[name]
	if claim == nil {
		why, exists := t.instead[name]
		switch {
		case exists:
			p.doc.Report(f.Key, fmt.Sprintf("the claim %q cannot be matched", name), why)
		default:
			p.doc.Report(f.Key, fmt.Sprintf("%s has no claim %q", t.platform, clip(name)), p.suggestClaim(t, name, t.claims, nil))
		}
		return nil
	}
	example := fmt.Sprintf("for example %s: {eq: …}; matchers: %s", name, strings.Join(claim.kind.ops(), ", "))
	if f.Value.Kind != strictyaml.Mapping {
		p.doc.Report(f.Value, "want a matcher, got "+f.Value.Describe(), example)
		return nil
	}
	if len(f.Value.Fields) != 1 {
		p.doc.Report(f.Value, fmt.Sprintf("want exactly one matcher, got %d", len(f.Value.Fields)), example)
		return nil
	}
	m := f.Value.Fields[0]
	op := m.Key.Value
	if !slices.Contains(claim.kind.ops(), op) {
		p.doc.Report(m.Key, fmt.Sprintf("%s has no matcher %q", name, clip(op)), p.doc.Suggest(op, claim.kind.ops()))
		return nil
	}
	test, ok := claim.kind.compile(p, claim, op, m.Value)
	if !ok {
		return nil
	}
	return &rule{field: claim, op: op, test: test, position: p.position(f.Key), at: f.Key}
}

// implicit adds the rules that hold unless a workload names their claim. Their
// position is that of the workload.
func (p *parser) implicit(w *workload, n *strictyaml.Node) {
	match := n.Get("match")
	for _, i := range w.tee.implicit {
		if match.Get(i.claim) != nil {
			continue
		}
		f := w.tee.byName[i.claim]
		s := p.implied[f]
		if s == nil {
			s = i.set(f)
			p.implied[f] = s
		}
		w.rules = append(w.rules, &rule{field: f, op: "eq", implicit: true, position: p.position(w.key), test: s})
	}
}

// ownership finds the predicate that says whose environment this is, or the
// waiver that explains its absence. Without either an enforced workload is
// refused: measurement is not ownership, anyone can boot the same image.
func (p *parser) ownership(w *workload, n *strictyaml.Node) {
	by := ""
	for _, r := range w.rules {
		if r.field.owner != nil && r.field.owner(r.test) {
			w.ownership, by = true, r.field.name
		}
	}
	v := n.Get("ownership")
	if v == nil {
		if !w.ownership && w.mayGrant() && w.whole {
			p.doc.Report(w.key, fmt.Sprintf("workload %q has no ownership predicate: anyone who boots the same image would get its identities", w.name),
				"match "+w.tee.owners+"; or say ownership: {none: REASON, owner: WHO, expires: DATE}")
		}
		return
	}
	if !p.doc.Want(v, strictyaml.Mapping) {
		return
	}
	p.only(v, ownershipKeys)
	w.waiver = &waiver{position: p.position(n.Key("ownership"))}
	if t := p.need(v, "none", "the reason"); t != nil {
		w.waiver.reason = p.prose(t)
	}
	if t := p.need(v, "owner", "who answers for it"); t != nil {
		w.waiver.owner = p.prose(t)
	}
	if t := p.need(v, "expires", "a date, such as 2027-06-30"); t != nil {
		w.waiver.expires = p.date(t)
		if !w.waiver.expires.IsZero() {
			p.ends(t, CodeExpiredWaiver, "the ownership waiver expired", w.waiver.expires, "match "+w.tee.owners)
		}
	}
	if w.ownership {
		p.doc.Report(v, fmt.Sprintf("workload %q needs no ownership waiver: %s is an ownership predicate", w.name, by), "remove it")
	}
}

// date reads a moment, or a day, which ends at its beginning in UTC: the
// stricter of two readings.
func (p *parser) date(n *strictyaml.Node) time.Time {
	if n.Kind == strictyaml.Scalar {
		if t, err := time.Parse(time.DateOnly, n.Value); err == nil {
			return p.modern(n, t)
		}
	}
	return p.moment(n)
}

// publish reads the claims that attestation results of this workload show.
func (p *parser) publish(w *workload, n *strictyaml.Node) {
	if n == nil {
		w.publish = w.tee.published
		if w.tee.publishable != nil {
			w.publish = w.tee.publishable(w)
		}
		return
	}
	w.publish = []string{}
	if !p.doc.Want(n, strictyaml.Sequence) {
		return
	}
	for _, item := range n.Items {
		s, ok := p.doc.Text(item)
		if !ok {
			continue
		}
		f := w.tee.byName[s]
		why, private := w.tee.private[s]
		switch {
		case private:
			p.doc.Report(item, s+" is never published", why)
		case measures(f) == 0:
			p.doc.Report(item, fmt.Sprintf("%q is not a measurement of %s", clip(s), w.tee.platform), p.suggestClaim(w.tee, s, w.tee.measurements, w.tee.mayPublish))
		case slices.Contains(w.publish, s):
			p.doc.Report(item, s+" is listed twice", "")
		default:
			w.publish = append(w.publish, s)
		}
	}
}

// issue reads the identities.
func (p *parser) issue(w *workload, n, issue *strictyaml.Node) {
	var age time.Duration
	ageNode := n.Get("max_evidence_age")
	if ageNode != nil {
		age = p.duration(ageNode, "max_evidence_age", MinX509TTL, MaxX509TTL)
	}
	if issue == nil {
		if w.mayGrant() {
			p.need(n, "issue", "the identities that the workload gets")
		}
		return
	}
	if !p.doc.Want(issue, strictyaml.Sequence) {
		return
	}
	if len(issue.Items) == 0 || len(issue.Items) > MaxIdentities {
		p.doc.Report(issue, fmt.Sprintf("issue has %d identities, want 1 to %d", len(issue.Items), MaxIdentities), "")
	}
	for _, item := range issue.Items[:min(len(issue.Items), MaxIdentities)] {
		id := p.identity(w, item)
		if id == nil {
			continue
		}
		id.maxEvidenceAge = id.x509TTL
		if ageNode != nil {
			id.maxEvidenceAge = age
			if age > id.x509TTL {
				p.warn(ageNode, CodeNoEffect, "max_evidence_age is longer than x509_ttl: it has no effect on "+id.template.source, "")
			}
		}
		if !p.distinct(w, id, item) {
			continue
		}
		if size := travels(w.publish, id.attributes); size > maxTravels {
			p.doc.Report(item, fmt.Sprintf("published measurements and attributes take %d bytes in every SVID, at most %d fit", size, maxTravels), "publish less, or shorten the attributes")
		}
		w.identities = append(w.identities, id)
	}
}

// distinct reports an identity whose ID another one of the workload has, or can
// have: keys are given identities by their IDs.
func (p *parser) distinct(w *workload, id *identity, n *strictyaml.Node) bool {
	for _, o := range w.identities {
		p.work++
		both := id.template.collides(o.template, w)
		switch {
		case both == "":
			continue
		case id.template.shape() == o.template.shape() && slices.Equal(id.template.parts, o.template.parts):
			p.doc.Report(n, "the same SPIFFE ID is issued twice by this workload", "")
		default:
			p.doc.Report(n, fmt.Sprintf("this SPIFFE ID and %s can be the same, for example %s", o.template.source, clip(both)), "let their literal parts differ")
		}
		return false
	}
	return true
}

// maxTravels bounds what a policy may add to an attestation result, in bytes. A
// result has at most 4096 (docs/spec/attested-svid.md), and without measurements
// and attributes, but with the longest names, about 800.
const maxTravels = 3072

// travels is the most that measurements and attributes take in a result: names,
// values, and up to three bytes of CBOR before each (RFC 8949, section 3).
func travels(publish []string, attributes map[string]string) int {
	n := 0
	for _, name := range publish {
		n += len(name) + 48 + 6 // the longest digest is SHA-384
	}
	for k, v := range attributes {
		n += len(k) + len(v) + 6
	}
	return n
}

func (p *parser) identity(w *workload, n *strictyaml.Node) *identity {
	if !p.doc.Want(n, strictyaml.Mapping) {
		return nil
	}
	p.only(n, identityKeys)
	id := &identity{x509TTL: DefaultX509TTL, attributes: p.attributes(n.Get("attributes")), selectors: p.selectors(n.Get("selectors")), at: cmp.Or(n.Key("selectors"), n)}
	at := n
	if v := n.Get("x509_ttl"); v != nil {
		id.x509TTL, at = p.duration(v, "x509_ttl", MinX509TTL, MaxX509TTL), v
	}
	p.b.ttls = append(p.b.ttls, lifetimeOf{id.x509TTL, p.doc.Problem(at, "", ""), w})
	if v := n.Get("jwt"); v != nil {
		id.jwt = p.jwt(v, id)
	}
	if v := n.Get("key_residency"); v != nil {
		id.keysOnDisk, id.diskAt = p.keysOnDisk(v), v
	}
	if v := n.Get("hint"); v != nil {
		id.hint, id.hintAt = p.hint(v), v
	}
	v := p.need(n, "spiffe_id", "for example spiffe://{td}/payments/api")
	if v == nil {
		return nil
	}
	src, ok := p.doc.Text(v)
	if !ok || p.b.trustDomain == "" || w.name == "" {
		return nil // what the template would be checked against is wrong already
	}
	t, err := parseTemplate(src, scope{
		trustDomain: p.b.trustDomain, workload: w.name, tee: w.tee, attributes: id.attributes, suggest: p.doc.Suggest,
		pinned: func(claim string) bool {
			r := w.find(claim)
			return r != nil && r.test.values() != nil
		},
	})
	if err != nil {
		reportTemplate(p.doc, v, err)
		return nil
	}
	id.template = t
	return id
}

func (p *parser) jwt(n *strictyaml.Node, id *identity) *JWT {
	if !p.doc.Want(n, strictyaml.Mapping) {
		return nil
	}
	p.only(n, jwtKeys)
	out := &JWT{TTL: DefaultJWTTTL}
	if v := n.Get("ttl"); v != nil {
		out.TTL = p.duration(v, "jwt.ttl", MinJWTTTL, MaxJWTTTL)
		if out.TTL > id.x509TTL {
			p.warn(v, CodeNoEffect, "jwt.ttl is longer than x509_ttl: no JWT-SVID outlives the X.509-SVID it was minted for", "")
		}
	}
	if v := n.Get("aws_tags"); v != nil {
		out.AWSTags = p.awsTags(v, id.attributes)
	}
	v := p.need(n, "audiences", "who may be shown the JWT-SVID, such as [sts.amazonaws.com]")
	if v == nil {
		return out
	}
	if !p.doc.Want(v, strictyaml.Sequence) {
		return out
	}
	if len(v.Items) == 0 || len(v.Items) > MaxAudiences {
		p.doc.Report(v, fmt.Sprintf("audiences has %d entries, want 1 to %d", len(v.Items), MaxAudiences), "")
	}
	for _, item := range v.Items[:min(len(v.Items), MaxAudiences)] {
		s, ok := p.doc.Text(item)
		switch {
		case !ok:
		case s == "" || len(s) > maxAudience || !printable(s):
			p.doc.Report(item, fmt.Sprintf("not an audience: %q", clip(s)), fmt.Sprintf("1 to %d printable ASCII characters without spaces", maxAudience))
		case slices.Contains(out.Audiences, s):
			p.doc.Report(item, fmt.Sprintf("the audience %q is listed twice", clip(s)), "")
		default:
			out.Audiences = append(out.Audiences, s)
		}
	}
	return out
}

// awsTags names attributes of the identity. What AWS asks of session tags and
// attributes do not satisfy anyway (50 tags, keys of 128 characters, values of 256)
// is checked here.
func (p *parser) awsTags(n *strictyaml.Node, attributes map[string]string) (out []string) {
	if !p.doc.Want(n, strictyaml.Sequence) {
		return nil
	}
	if len(n.Items) == 0 || len(n.Items) > MaxAttributes {
		p.doc.Report(n, fmt.Sprintf("aws_tags has %d entries, want 1 to %d", len(n.Items), MaxAttributes), "")
	}
	for _, item := range n.Items[:min(len(n.Items), MaxAttributes)] {
		s, ok := p.doc.Text(item)
		if !ok {
			continue
		}
		value, there := attributes[s]
		// AWS takes "Team" and "team" for one key.
		same := slices.IndexFunc(out, func(o string) bool { return strings.EqualFold(o, s) })
		switch {
		case !there:
			p.doc.Report(item, fmt.Sprintf("no attribute of this identity: %q", clip(s)), "a tag's value is that of the attribute with its name, under attributes:")
		case same >= 0 && out[same] == s:
			p.doc.Report(item, fmt.Sprintf("the tag %q is listed twice", clip(s)), "")
		case same >= 0:
			p.doc.Report(item, fmt.Sprintf("the tags %q and %q are the same to AWS", out[same], s), "")
		case !awsTagValue.MatchString(value):
			p.doc.Report(item, fmt.Sprintf("AWS does not take the value of the attribute %q as a tag: %q", s, clip(value)), "letters, numbers, spaces and _ . : / = + - @")
		default:
			out = append(out, s)
		}
	}
	return out
}

// awsTagValue is what AWS takes as the value of a session tag (STS API Reference,
// Tag).
var awsTagValue = regexp.MustCompile(`^[\p{L}\p{Z}\p{N}_.:/=+\-@]*$`)

func (p *parser) attributes(n *strictyaml.Node) map[string]string {
	if n == nil || !p.doc.Want(n, strictyaml.Mapping) {
		return nil
	}
	if len(n.Fields) > MaxAttributes {
		p.doc.Report(n, fmt.Sprintf("%d attributes, at most %d are allowed", len(n.Fields), MaxAttributes), "they travel in every SVID")
	}
	out := make(map[string]string, len(n.Fields))
	for _, f := range n.Fields {
		if !namePattern.MatchString(f.Key.Value) {
			p.doc.Report(f.Key, fmt.Sprintf("not a name: %q", clip(f.Key.Value)), nameHint)
		}
		s, ok := p.doc.Text(f.Value)
		if ok && (s == "" || len(s) > maxAttribute) {
			p.doc.Report(f.Value, fmt.Sprintf("an attribute has 1 to %d bytes, got %d", maxAttribute, len(s)), "it travels in every SVID")
		}
		if strings.ContainsAny(s, "\n\t") {
			p.doc.Report(f.Value, "an attribute has no line breaks and no tabs", "")
		}
		out[f.Key.Value] = s
	}
	return out
}

// printable accepts ASCII without spaces and controls.
func printable(s string) bool {
	for i := range len(s) {
		if s[i] <= 0x20 || s[i] > 0x7e {
			return false
		}
	}
	return true
}
