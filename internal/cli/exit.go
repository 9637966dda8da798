package cli

import (
	"errors"
	"fmt"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/strictyaml"
)

// Exit codes. Scripts and CI rely on them (docs/reference/cli.md).
const (
	OK          = 0
	Internal    = 1
	Usage       = 2 // usage or configuration
	Malformed   = 3
	Untrusted   = 4 // signature, chain, revocation, binding
	Stale       = 5 // time
	Denied      = 6 // policy
	Unavailable = 7
)

// Silent ends the command with a code and prints nothing more: the command has
// already told everything on standard output.
type Silent struct{ Code int }

func (s *Silent) Error() string { return fmt.Sprintf("exit code %d", s.Code) }

// ExitCode maps an error to the exit code of its kind. An error that nobody
// classified is [Internal].
func ExitCode(err error) int {
	var (
		silent *Silent
		usage  *UsageError
		yaml   strictyaml.Errors
		ae     *attest.Error
	)
	switch {
	case err == nil:
		return OK
	case errors.As(err, &silent):
		return silent.Code
	case errors.As(err, &usage), errors.As(err, &yaml):
		return Usage
	case errors.As(err, &ae):
		return KindCode(ae.Kind)
	}
	return Internal
}

// KindCode maps an error kind to its exit code.
func KindCode(k attest.Kind) int {
	switch k {
	case attest.Malformed:
		return Malformed
	case attest.Untrusted:
		return Untrusted
	case attest.Stale:
		return Stale
	case attest.Denied:
		return Denied
	case attest.Unavailable:
		return Unavailable
	case attest.Internal:
		return Internal
	}
	return Internal
}
