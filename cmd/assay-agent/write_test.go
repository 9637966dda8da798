package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// An agent that policy grants several identities learns of them with its first answer,
// and attests a second time. Its files appear with all of them, and software is told of
// a change when there is one.
func TestSeveralIdentitiesAreWrittenAtOnceAtBoot(t *testing.T) {
	s := newSite(t)
	s.grant(2, `
      - spiffe_id: "spiffe://{td}/orders"
      - spiffe_id: "spiffe://{td}/returns"
`)
	dir := filepath.Join(s.memory, "svid")
	s.start("agent", s.agent("run", "--data-dir", s.path("agent"), "--write", dir))
	const written = "certificates and keys are written"
	s.until("the files", func() bool { return strings.Contains(s.log["agent"].String(), written) })
	for _, name := range []string{"svid.pem", "svid.1.pem"} {
		if _, err := os.Stat(filepath.Join(dir, "..data", name)); err != nil {
			t.Errorf("the first files are without %s: %v", name, err)
		}
	}
	if log := s.log["agent"].String(); strings.Count(log, written) != 1 {
		t.Errorf("the files were written more than once:\n%s", log)
	}
}
