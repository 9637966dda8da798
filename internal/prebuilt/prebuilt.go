// Package prebuilt gives tests the commands of this module, as the processes that
// people run. `make test` builds them once, with the flags of `make build`, and
// names their directory in ASSAY_BINARIES; a test that runs by itself builds what
// it needs. It is for tests alone.
package prebuilt

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Variable names the directory of commands that are there already. They have to
// be those of the source under test.
const Variable = "ASSAY_BINARIES"

func all() []string { return []string{"assayd", "assay", "assay-agent", "teesim"} }

// Into puts commands, or all where none is named, into dir, which it makes. They
// are dir's own, to be changed and removed; module is the root of the module from
// where the test runs. A command that ASSAY_BINARIES lacks is an error.
func Into(dir, module string, commands ...string) error {
	from := os.Getenv(Variable)
	if from == "" {
		return Build(dir, module, commands...)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if len(commands) == 0 {
		commands = all()
	}
	args := []string{"--"}
	for _, c := range commands {
		path := filepath.Join(from, c)
		// The go command, which keeps results of tests, sees that this one depends
		// on the file.
		if _, err := os.Stat(path); err != nil {
			return fmt.Errorf("%s: %w", Variable, err)
		}
		args = append(args, path)
	}
	// Another process writes them: a file that this one has open for writing, as a
	// child of another test would too for a moment, can't be run.
	if out, err := exec.Command("cp", append(args, dir)...).CombinedOutput(); err != nil {
		return fmt.Errorf("copying commands: %w\n%s", err, out)
	}
	return nil
}

// Build builds commands, or all, of the module in the folder module into dir,
// wherever ASSAY_BINARIES points. What it compiles is kept by the go command
// whatever the folder is called.
func Build(dir, module string, commands ...string) error {
	if len(commands) == 0 {
		commands = all()
	}
	args := []string{"build", "-trimpath", "-tags=grpcnotrace", "-ldflags=-s -w", "-o", dir + string(filepath.Separator)}
	for _, c := range commands {
		args = append(args, "./cmd/"+c)
	}
	c := exec.Command("go", args...)
	c.Dir = module
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("go build in %s: %w\n%s", module, err, out)
	}
	return nil
}
