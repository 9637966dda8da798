package main

import (
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/assay-project/assay/internal/cli"
	simnitro "github.com/assay-project/assay/simulators/nitro"
	simsnp "github.com/assay-project/assay/simulators/sevsnp"
	simtpm "github.com/assay-project/assay/simulators/tpm"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"assayd": func() { os.Exit(cli.Run(root())) },
		// simroot writes a simulator's root to standard output.
		"simroot": func() {
			a, err := simnitro.NewAuthority(simnitro.AuthorityOptions{})
			if err != nil {
				panic(err)
			}
			_, _ = os.Stdout.Write(a.RootPEM())
		},
		// snproots writes a simulated AMD's roots to standard output.
		"snproots": func() {
			a, err := simsnp.NewAuthority(simsnp.Options{})
			if err != nil {
				panic(err)
			}
			_, _ = os.Stdout.Write(a.RootsPEM())
		},
		// tpmroot writes the root of a simulated TPM manufacturer to standard output.
		"tpmroot": func() {
			a, err := simtpm.NewAuthority(simtpm.Options{})
			if err != nil {
				panic(err)
			}
			_, _ = os.Stdout.Write(a.RootPEM())
		},
		// await waits until somebody listens.
		"await": await,
	})
}

func TestSessions(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"mode": mode,
			"port": freePort,
			"hold": hold,
			"exit": exitCode,
			"edit": edit,
			"sub":  sub,
			"glob": glob,
		},
	})
}
