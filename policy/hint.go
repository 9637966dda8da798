package policy

import (
	"fmt"
	"regexp"

	"github.com/assay-project/assay/internal/strictyaml"
)

// hintPattern is what a hint may look like. It reaches every program beside the
// agent, through the SPIFFE Workload API.
const hintPattern = `^[a-z0-9._-]{1,64}$`

var hintRegexp = regexp.MustCompile(hintPattern)

// hint reads what an identity is for, in the operator's word.
func (p *parser) hint(n *strictyaml.Node) string {
	s, ok := p.doc.Text(n)
	if ok && !hintRegexp.MatchString(s) {
		p.doc.Report(n, fmt.Sprintf("%q is no hint", clip(s)), "1 to 64 characters of a-z, 0-9, -, _ and .; for example internal")
	}
	return s
}

// lintHints: a message of the Workload API has each hint once (section 5.2.1), so that
// the agent leaves the second one out.
func (p *parser) lintHints(w *workload) {
	taken := map[string]bool{}
	for _, id := range w.identities {
		if id.hint == "" {
			continue
		}
		if taken[id.hint] {
			p.warn(id.hintAt, CodeSameHint, fmt.Sprintf("two identities of workload %s have the hint %s: a process that gets both sees it on the first alone", w.name, id.hint), "give them different ones")
		}
		taken[id.hint] = true
	}
}
