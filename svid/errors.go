package svid

import (
	"errors"
	"fmt"

	"github.com/assay-project/assay/attest"
)

// fail builds the error of one named check.
func fail(kind attest.Kind, check, format string, args ...any) *attest.Error {
	return &attest.Error{Kind: kind, Check: check, Err: fmt.Errorf(format, args...)}
}

// mismatch is fail with what would have passed and what was found.
func mismatch(kind attest.Kind, check, what, expected, got string) *attest.Error {
	return &attest.Error{Kind: kind, Check: check, Err: errors.New(what), Expected: expected, Got: clip(got)}
}

// clip shortens text of strangers before it is printed.
func clip(s string) string {
	const n = 160
	if len(s) <= n {
		return s
	}
	return s[:n] + "…"
}
