// Package fault is what the faults of all simulators have in common: a name by
// which they are asked for, and, but for those of a service, the verifier's check
// in which they must end. What a fault does is the device's own affair.
package fault

import (
	"fmt"
	"regexp"
	"strings"
)

// The stages of verification at which a fault shows.
const (
	Authenticate = "authenticate"
	Bound        = "bound"
)

// The kinds of error that a fault must end in, as package attest names them.
const (
	Malformed = "malformed"
	Untrusted = "untrusted"
	Stale     = "stale"
)

// Label is what can be said of any fault.
type Label struct {
	Name        string // lower case with hyphens: "leaf-p521"
	Description string // one line, not a sentence
	Check       string // "" when it verifies
	Kind        string // "" with Check ""
	Stage       string
}

// Find returns the fault of a name.
func Find[F any](all []F, name string, nameOf func(F) string) (F, bool) {
	for _, f := range all {
		if nameOf(f) == name {
			return f, true
		}
	}
	var none F
	return none, false
}

var wellFormed = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)

// Complaints lists what is wrong with the labels of a simulator's faults.
func Complaints(all []Label) []string {
	var out []string
	seen := make(map[string]bool)
	for _, l := range all {
		complain := func(format string, args ...any) {
			out = append(out, fmt.Sprintf("fault %q: ", l.Name)+fmt.Sprintf(format, args...))
		}
		if !wellFormed.MatchString(l.Name) {
			complain("the name is not in lower case with hyphens")
		}
		if seen[l.Name] {
			complain("the name is used twice")
		}
		seen[l.Name] = true
		if l.Description == "" || strings.HasSuffix(l.Description, ".") || strings.Contains(l.Description, "\n") {
			complain("the description is %q, want one line without a full stop", l.Description)
		}
		switch l.Kind {
		case Malformed, Untrusted, Stale:
			if l.Check == "" {
				complain("it ends in an error that is %s, of no check", l.Kind)
			}
		case "":
			if l.Check != "" {
				complain("it ends in check %s, in an error of no kind", l.Check)
			}
		default:
			complain("there is no kind %q", l.Kind)
		}
		if l.Stage != Authenticate && l.Stage != Bound {
			complain("there is no stage %q", l.Stage)
		}
	}
	return out
}
