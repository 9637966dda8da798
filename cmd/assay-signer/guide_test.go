//go:build cgo

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/assay-project/assay/cmd/assay-signer/internal/config"
)

// blocks returns what the guide shows in one language.
func blocks(t *testing.T, language string) []string {
	t.Helper()
	b, err := os.ReadFile("../../docs/guides/hsm.md")
	must(t, err)
	var out []string
	for _, m := range regexp.MustCompile("(?s)```"+language+"\n(.*?)```").FindAllSubmatch(b, -1) {
		out = append(out, string(m[1]))
	}
	if len(out) == 0 {
		t.Fatalf("the guide shows no %s", language)
	}
	return out
}

func TestTheGuidesConfigurationIsOne(t *testing.T) {
	for _, src := range blocks(t, "yaml") {
		if _, err := config.Parse("hsm.md", []byte(src)); err != nil {
			t.Error(err)
		}
	}
}

// The commands run one after the other in one shell, in a trust domain of
// simulated hardware.
func TestTheGuidesCommandsWork(t *testing.T) {
	o := newOffice(t)
	o.token() // finds out whether there is a SoftHSM
	tools, err := binaries()
	must(t, err)
	bin := o.path("bin")
	must(t, os.Mkdir(bin, 0o700))
	self, err := filepath.Abs(os.Args[0])
	must(t, err)
	must(t, os.Symlink(self, filepath.Join(bin, "assay-signer")))
	must(t, os.Mkdir(o.path("guide"), 0o700))
	script := "set -euo pipefail\ntrap 'kill $(jobs -p)' EXIT\n" + strings.NewReplacer(
		"assayd init --trust-domain ", "teesim nitro root --authority sim > sim.pem\nassayd init --simulated-root sim.pem --trust-domain simulated.",
	).Replace(strings.Join(blocks(t, "bash"), "\n"))
	cmd := exec.Command("bash", "-c", script)
	cmd.Dir = o.path("guide")
	cmd.Env = append(o.env, "PATH="+bin+":"+tools+":"+os.Getenv("PATH"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // what the guide starts belongs to it
	cmd.WaitDelay = 5 * time.Second
	late := time.AfterFunc(time.Minute, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	out, err := cmd.CombinedOutput()
	late.Stop()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"ok: 4 keys signed, for 1 client", "x509-ca-", "ok: trust domain simulated.attested.example.org"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the guide's commands never printed %q:\n%s", want, out)
		}
	}
}
