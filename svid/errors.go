package svid

import (
	"errors"
	"fmt"
	"strings"

	"github.com/assay-project/assay/attest"
)

// fail builds the error of one named check.
func fail(kind attest.Kind, check, format string, args ...any) *attest.Error {
	return &attest.Error{Kind: kind, Check: check, Err: fmt.Errorf(format, args...), Hint: hintFor(check)}
}

// mismatch is fail with what would have passed and what was found.
func mismatch(kind attest.Kind, check, what, expected, got string) *attest.Error {
	return &attest.Error{Kind: kind, Check: check, Err: errors.New(what), Expected: expected, Got: clip(got), Hint: hintFor(check)}
}

// renamed gives the check of an error another prefix.
func renamed(err error, from, to string) error {
	var ae *attest.Error
	if !errors.As(err, &ae) || !strings.HasPrefix(ae.Check, from) {
		return err
	}
	out := *ae
	out.Check = to + strings.TrimPrefix(ae.Check, from)
	return &out
}

// clip shortens text of strangers before it is printed.
func clip(s string) string {
	const n = 160
	if len(s) <= n {
		return s
	}
	return s[:n] + "…"
}
