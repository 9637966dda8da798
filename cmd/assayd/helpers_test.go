package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// mode checks, or with three arguments sets, the permissions of a file:
//
//	mode 0600 FILE
//	mode set 0644 FILE
func mode(ts *testscript.TestScript, neg bool, args []string) {
	set := len(args) == 3 && args[0] == "set"
	if set {
		args = args[1:]
	}
	if neg || len(args) != 2 {
		ts.Fatalf("usage: mode [set] MODE FILE")
	}
	want, err := strconv.ParseUint(args[0], 8, 32)
	ts.Check(err)
	path := ts.MkAbs(args[1])
	if set {
		ts.Check(os.Chmod(path, fs.FileMode(want)))
		return
	}
	info, err := os.Stat(path)
	ts.Check(err)
	if got := info.Mode().Perm(); got != fs.FileMode(want) {
		ts.Fatalf("%s has mode %04o, want %04o", args[1], got, want)
	}
}

// freePort sets the variable to an address that nobody listens on.
func freePort(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: port VARIABLE")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Setenv(args[0], l.Addr().String())
	ts.Check(l.Close())
}

// hold listens until the session ends:
//
//	hold tcp VARIABLE
//	hold unix PATH
func hold(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: hold tcp VARIABLE | hold unix PATH")
	}
	addr := "127.0.0.1:0"
	if args[0] == "unix" {
		addr = ts.MkAbs(args[1])
	}
	l, err := net.Listen(args[0], addr)
	ts.Check(err)
	if args[0] == "tcp" {
		ts.Setenv(args[1], l.Addr().String())
	}
	ts.Defer(func() { _ = l.Close() })
}

// exitCode runs a command and checks its exit code: exit 2 assayd check
func exitCode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exit CODE COMMAND ARGS…")
	}
	err := ts.Exec(args[1], args[2:]...)
	code := 0
	var ee *exec.ExitError
	if errors.As(err, &ee) {
		code = ee.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("exit code %d, want %s", code, args[0])
	}
}

// await waits until somebody listens: await unix PATH | tcp ADDRESS.
func await() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: await unix PATH | tcp ADDRESS")
		os.Exit(2)
	}
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial(os.Args[1], strings.TrimSpace(os.Args[2]))
		if err == nil {
			_ = c.Close()
			return
		}
	}
	fmt.Fprintln(os.Stderr, "nobody listens")
	os.Exit(1)
}

// edit makes the configuration listen where the session's LISTEN and METRICS say.
func edit(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: edit FILE")
	}
	replaceIn(ts, args[0], `listen: ":8443"`, "listen: "+strconv.Quote(ts.Getenv("LISTEN")))
	replaceIn(ts, args[0], "127.0.0.1:9464", ts.Getenv("METRICS"))
}

// sub replaces a word in a file, everywhere: sub FILE OLD NEW
func sub(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: sub FILE OLD NEW")
	}
	replaceIn(ts, args[0], args[1], args[2])
}

func replaceIn(ts *testscript.TestScript, file, from, to string) {
	path := ts.MkAbs(file)
	src, err := os.ReadFile(path)
	ts.Check(err)
	if !strings.Contains(string(src), from) {
		ts.Fatalf("%s does not hold %q", file, from)
	}
	ts.Check(os.WriteFile(path, []byte(strings.ReplaceAll(string(src), from, to)), 0o600))
}

// glob sets the variable to the one file that matches: glob VARIABLE PATTERN
func glob(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: glob VARIABLE PATTERN")
	}
	files, err := filepath.Glob(ts.MkAbs(args[1]))
	ts.Check(err)
	if len(files) != 1 {
		ts.Fatalf("%s matches %v", args[1], files)
	}
	ts.Setenv(args[0], files[0])
}
