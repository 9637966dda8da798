package attest

import (
	"errors"
	"fmt"
	"strings"
)

// Kind says what is wrong in the way that decides who must act: the sender
// (Malformed), nobody (Untrusted), the sender after a fresh challenge (Stale),
// the policy author (Denied), the operator (Unavailable), us (Internal).
type Kind int

// The kinds. The zero Kind is Internal on purpose: an error that nobody
// classified must not look like the attester's fault.
const (
	Internal    Kind = iota // a fault of this software or machine
	Malformed               // the bytes are not what the format demands
	Untrusted               // signature, chain, revocation or binding does not hold
	Stale                   // right once, but not at this time
	Denied                  // authentic, and refused by policy
	Unavailable             // something that is needed can't be reached or is overloaded
)

var kindNames = [...]string{"internal", "malformed", "untrusted", "stale", "denied", "unavailable"}

// String returns the lower-case name that logs, JSON and the protocol use.
func (k Kind) String() string {
	if k < 0 || int(k) >= len(kindNames) {
		return fmt.Sprintf("kind(%d)", int(k))
	}
	return kindNames[k]
}

// MarshalText writes the name of the kind.
func (k Kind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads the name of a kind.
func (k *Kind) UnmarshalText(b []byte) error {
	for i, n := range kindNames {
		if string(b) == n {
			*k = Kind(i)
			return nil
		}
	}
	return fmt.Errorf("unknown error kind %q", clip(string(b), 40))
}

// Error is the failure of one named check.
type Error struct {
	Kind     Kind
	Check    string // the check's name, stable: "cose_alg", "chain_root", …
	Err      error  // what happened, in words
	Expected string // what would have passed; may be empty
	Got      string // what was found, clipped; may be empty
	Hint     string // what to do about it; may be empty
}

// Error renders "check: what happened (expected …, got …)". The hint is left
// to whoever prints for people.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Check)
	if e.Err != nil {
		b.WriteString(": ")
		b.WriteString(e.Err.Error())
	}
	switch {
	case e.Expected != "" && e.Got != "":
		fmt.Fprintf(&b, " (expected %s, got %s)", e.Expected, e.Got)
	case e.Expected != "":
		fmt.Fprintf(&b, " (expected %s)", e.Expected)
	case e.Got != "":
		fmt.Fprintf(&b, " (got %s)", e.Got)
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// KindOf returns the Kind of the outermost [Error] in err's chain, and
// Internal for an error that holds none.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return Internal
}

// CheckOf returns the name of the check that failed, or "" for an error that
// holds no [Error].
func CheckOf(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Check
	}
	return ""
}

// clip shortens attacker-controlled text to n bytes before it is printed.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return s[:n] + "…"
}
