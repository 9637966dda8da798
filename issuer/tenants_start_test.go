package issuer_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/internal/cli"
)

// After a reboot all are served whose files are well, by the command that the
// package's unit runs.
func TestABrokenTenantDoesNotKeepTheOthersFromAStart(t *testing.T) {
	for name, breaks := range map[string]func(h *house) (mend func()){
		"its configuration has a mistake": func(h *house) func() {
			before := h.read(h.file(second))
			h.configure(second, "nope: 1\n")
			return func() { h.write(h.file(second), before) }
		},
		"its configuration is not there": func(h *house) func() {
			must(t, os.Rename(h.file(second), h.file(second)+".away"))
			return func() { must(t, os.Rename(h.file(second)+".away", h.file(second))) }
		},
		"it names what is the first one's": func(h *house) func() {
			before := h.read(h.file(second))
			h.configure(second, "keys: {location: \""+filepath.Join(h.data(first), "keys")+"\"}\n")
			return func() { h.write(h.file(second), before) }
		},
		"its policy has a mistake": func(h *house) func() {
			h.write(filepath.Join(h.data(second), "policy.yaml"), "nonsense: 1\n")
			return func() { h.policy(second, 1) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, []string{first, second})
			mend := breaks(h)
			if err := exec.Command(h.binary, "check", "--config", h.file(first)).Run(); exitOf(err) != cli.Usage {
				t.Errorf("assayd check: %v", err)
			}
			h.start(first)
			o := h.office(first)
			if _, err := o.attempt(o.connect()).run(); err != nil {
				t.Errorf("who is well: %v", err)
			}
			if ready := o.get("/ready"); !strings.HasPrefix(ready, "ok\n") {
				t.Errorf("/ready: %q", ready)
			}
			if name != "its configuration is not there" { // where nothing says its name, nobody can know it
				away := h.office(second)
				if _, err := away.attempt(away.connect()).run(); status.Code(err) != codes.Unavailable {
					t.Errorf("who is left out: %v", err)
				}
				if ready := o.get("/ready/" + second); !strings.Contains(ready, "503 Service Unavailable\nnot served: ") {
					t.Errorf("/ready of who is left out: %q", ready)
				}
			}
			mend()
			h.hangup()
			h.await(second)
			o = h.office(second)
			if _, err := o.attempt(o.connect()).run(); err != nil {
				t.Errorf("mended: %v", err)
			}
			h.stop()
		})
	}
}

// exitOf is the code that a command ended with, or -1.
func exitOf(err error) int {
	var ended *exec.ExitError
	if errors.As(err, &ended) {
		return ended.ExitCode()
	}
	return -1
}
