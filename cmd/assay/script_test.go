package main

import (
	"encoding/hex"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestSessions runs the scripts in testdata: each is a session at a shell, with
// what every command prints and its exit code. Each has the fixtures in its
// directory, and in its environment:
//
//	AT       the time at which the fixtures were made
//	BINDING  the binding that good.cbor carries, in hex
//	NONCE    its nonce, in hex
//	PCR0     its PCR0, in hex
//	LIVE     the address of a server with an SVID of live.example.test; LIVE12 of one that speaks TLS 1.2,
//	         LIVE_… of those whose SVID is wrong for one reason (see liveFixtures)
//	data/    a server's data directory, see newOffice
func TestSessions(t *testing.T) { runScripts(t, "testdata", newOffice(t), nil) }

// TestLedgerSessionsOverADatabaseFile runs the scripts in testdata/ledger, with
// SOURCE naming the database.
func TestLedgerSessionsOverADatabaseFile(t *testing.T) {
	runScripts(t, "testdata/ledger", newOffice(t), func(env *testscript.Env) {
		env.Setenv("SOURCE", "--db="+filepath.Join(env.WorkDir, "data", "assay.db"))
	})
}

// TestLedgerSessionsOverTheAdminSocket runs the same scripts with SOURCE naming
// the socket of a server that serves the same ledger.
func TestLedgerSessionsOverTheAdminSocket(t *testing.T) {
	o := newOffice(t)
	socket := o.serve(t)
	runScripts(t, "testdata/ledger", o, func(env *testscript.Env) { env.Setenv("SOURCE", "--admin="+socket) })
}

// TestServerSessions runs the scripts in testdata/server, which need a server:
// ADMIN names its socket.
func TestServerSessions(t *testing.T) {
	o := newOffice(t)
	socket := o.serve(t)
	runScripts(t, "testdata/server", o, func(env *testscript.Env) {
		env.Setenv("ADMIN", socket)
		env.Setenv("LISTED", o.Now().UTC().Format(time.RFC3339)) // what is signed now holds then
	})
}

func runScripts(t *testing.T, dir string, o *office, setup func(*testscript.Env)) {
	t.Helper()
	runScriptsWith(t, dir, o, setup, nil)
}

// runScriptsWith is runScripts with further script commands.
func runScriptsWith(t *testing.T, dir string, o *office, setup func(*testscript.Env), more map[string]func(*testscript.TestScript, bool, []string)) {
	t.Helper()
	cmds := map[string]func(*testscript.TestScript, bool, []string){"ends": ends, "tamper": tamper}
	maps.Copy(cmds, more)
	fixtures := t.TempDir()
	evidenceFixtures(t, fixtures)
	snpFixtures(t, fixtures)
	firmwareFixtures(t, fixtures)
	tpmFixtures(t, fixtures)
	imageFixtures(t, fixtures)
	svidFixtures(t, fixtures)
	live := liveFixtures(t, fixtures)
	testscript.Run(t, testscript.Params{
		Dir:  dir,
		Cmds: cmds,
		Setup: func(env *testscript.Env) error {
			env.Setenv("AT", fixtureTime.Format(time.RFC3339))
			env.Setenv("BINDING", hex.EncodeToString(fixtureBinding[:]))
			env.Setenv("NONCE", hex.EncodeToString([]byte(fixtureNonce)))
			for name, address := range live {
				env.Setenv(name, address)
			}
			env.Setenv("PCR0", hex.EncodeToString(launched.Image.PCR0))
			if err := copyFiles(fixtures, env.WorkDir); err != nil {
				return err
			}
			if err := copyFiles(o.dir, filepath.Join(env.WorkDir, "data")); err != nil {
				return err
			}
			if setup != nil {
				setup(env)
			}
			return nil
		},
	})
}

func copyFiles(from, to string) error {
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	files, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, f := range files {
		if !f.Type().IsRegular() {
			continue
		}
		b, err := os.ReadFile(filepath.Join(from, f.Name()))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(to, f.Name()), b, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// ends is the script command `ends CODE COMMAND…`: the command ends with that
// exit code. Its output is there for stdout and stderr to look at.
func ends(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: ends CODE COMMAND...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if err != nil {
		if _, after, ok := strings.Cut(err.Error(), "exit status "); ok {
			got, err = strconv.Atoi(after)
		}
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("%s ended with exit code %d, want %d", strings.Join(args[1:], " "), got, want)
	}
	if args[1] == "assay" && asksForJSON(args) {
		if err := onlyJSON(ts.ReadFile("stdout"), got); err != nil {
			ts.Fatalf("%s: standard output: %v", strings.Join(args[1:], " "), err)
		}
	}
}
