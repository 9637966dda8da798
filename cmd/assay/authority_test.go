package main

import (
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestAuthoritySessions runs the scripts in testdata/authority, which change the
// bundle of a server that is theirs alone: ADMIN names its socket.
func TestAuthoritySessions(t *testing.T) {
	o := newOffice(t)
	socket := o.serve(t)
	runScripts(t, "testdata/authority", o, func(env *testscript.Env) { env.Setenv("ADMIN", socket) })
}
