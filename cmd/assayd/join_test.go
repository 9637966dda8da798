package main

import (
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/assay-project/assay/issuer/store/postgres/postgrestest"
)

// TestSessionsOfServersThatShareADatabase runs the sessions in testdata/shared,
// each with a database of its own in DATABASE.
func TestSessionsOfServersThatShareADatabase(t *testing.T) {
	cluster := postgrestest.Start(t)
	testscript.Run(t, testscript.Params{
		Dir: "testdata/shared",
		Setup: func(e *testscript.Env) error {
			e.Setenv("DATABASE", cluster.Database(t))
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"mode": mode,
			"port": freePort,
			"exit": exitCode,
			"edit": edit,
			"sub":  sub,
			"glob": glob,
		},
	})
}
