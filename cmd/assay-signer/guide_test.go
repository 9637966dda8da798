//go:build cgo

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

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

func TestTheGuidesCommandsWork(t *testing.T) {
	o := newOffice(t)
	o.token() // finds out whether there is a SoftHSM
	bin := o.path("bin")
	must(t, os.Mkdir(bin, 0o700))
	self, err := filepath.Abs(os.Args[0])
	must(t, err)
	must(t, os.Symlink(self, filepath.Join(bin, "assay-signer")))
	must(t, os.Mkdir(o.path("guide"), 0o700))
	for _, script := range blocks(t, "bash") {
		cmd := exec.Command("bash", "-e", "-c", script)
		cmd.Dir = o.path("guide")
		cmd.Env = append(o.env, "PATH="+bin+":"+os.Getenv("PATH"))
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "ok: 1 key signed, for 1 client") || !strings.Contains(string(out), "x509-1  P-256") {
			t.Errorf("%v\n%s", err, out)
		}
	}
}
