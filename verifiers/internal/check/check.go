// Package check is what every verifier does alike around its named checks: a
// refusal that takes its kind from the verifier's table, and the few checks that
// are about the caller and not about a TEE. What is checked, in which order and
// why, each verifier says itself, in its own table.
package check

import (
	"encoding/hex"
	"fmt"

	"github.com/assay-project/assay/attest"
)

// Check describes one named check.
type Check struct {
	Name    string      // what attest.Error.Check holds
	Kind    attest.Kind // the kind of the error when it fails
	Demands string      // what must hold
	Source  string      // who says so
}

// A Row is a verifier's own Check type, which is written like [Check].
type Row interface {
	~struct {
		Name    string
		Kind    attest.Kind
		Demands string
		Source  string
	}
}

// Detail is what a refusal may add to its check's name. The fields are those of
// [attest.Error].
type Detail struct {
	Err      error
	Expected string
	Got      string
	Hint     string
}

// Refuse makes the error of a check. Its kind comes from the table, so that a
// check cannot end in two kinds. A check that is not in the table is our own
// fault: the error is internal, and says so.
func Refuse[R Row](table []R, name string, d Detail) *attest.Error {
	e := &attest.Error{Check: name, Err: d.Err, Expected: d.Expected, Got: d.Got, Hint: d.Hint}
	for i := range table {
		if c := Check(table[i]); c.Name == name {
			e.Kind = c.Kind
			return e
		}
	}
	e.Err = fmt.Errorf("check %q is not in the table: %w", name, d.Err)
	return e
}

// ClipHex renders bytes for a message, at most 32 of them.
func ClipHex(b []byte) string {
	if len(b) <= 32 {
		return hex.EncodeToString(b)
	}
	return hex.EncodeToString(b[:32]) + fmt.Sprintf("… (%d bytes)", len(b))
}
