package compat

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/assay-project/assay/internal/fleet"
	"github.com/assay-project/assay/internal/prebuilt"
)

var (
	shared   string
	thisOne  = sync.OnceValues(func() (fleet.Binaries, error) { return fleet.BuildInto("../..", filepath.Join(shared, "new")) })
	previous = sync.OnceValues(func() (fleet.Binaries, error) {
		source := filepath.Join(shared, "source")
		if err := unpack(source); err != nil {
			return "", err
		}
		into := filepath.Join(shared, "old")
		return fleet.Binaries(into), prebuilt.Build(into, source)
	})
)

func TestMain(m *testing.M) {
	var err error
	if shared, err = os.MkdirTemp("", "assay-compat"); err != nil {
		panic(err)
	}
	code := m.Run()
	_ = os.RemoveAll(shared)
	os.Exit(code)
}

// unpack writes the sources of the version before, out of the history.
func unpack(into string) error {
	c := exec.Command("git", "archive", "--format=tar", Previous)
	c.Dir = filepath.Join("..", "..")
	out, err := c.Output()
	if err != nil {
		return err
	}
	t := tar.NewReader(bytes.NewReader(out))
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		path := filepath.Join(into, filepath.FromSlash(h.Name))
		if h.Typeflag != tar.TypeReg {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		body, err := io.ReadAll(t)
		if err != nil {
			return err
		}
		if err := os.WriteFile(path, body, 0o600); err != nil {
			return err
		}
	}
}

// both builds this version and the one before. Without the history (a shallow
// clone, a tarball) it skips, unless CI says that it has to be there.
func both(t *testing.T) (old, current fleet.Binaries) {
	t.Helper()
	if testing.Short() {
		t.Skip("it builds two versions and runs processes")
	}
	check := exec.Command("git", "cat-file", "-e", Previous+"^{commit}")
	check.Dir = filepath.Join("..", "..")
	if err := check.Run(); err != nil {
		if os.Getenv("ASSAY_HISTORY") == "required" {
			t.Fatalf("the history does not have the version before, %s: %v", Previous, err)
		}
		t.Skipf("NOT TESTED against the version before: the history does not have %s (a shallow clone?)", Previous)
	}
	old, err := previous()
	if err != nil {
		t.Fatal(err)
	}
	if current, err = thisOne(); err != nil {
		t.Fatal(err)
	}
	return old, current
}

// renews has the agent attest, renew, and renew again after it was restarted.
func renews(t *testing.T, o *fleet.Office, b fleet.Binaries, name string, revision int) {
	t.Helper()
	a := o.StartAgent(b, name)
	first := fleet.Serial(a.Await())
	o.Policy(revision) // the server asks whom it concerns to attest again
	second := fleet.Serial(a.Await(first))
	if !strings.Contains(a.Log(), "attested") {
		t.Errorf("the agent does not say that it attested:\n%s", a.Log())
	}
	a.Kill()
	o.RestartAgent(b, name).Await(first, second)
}

func TestAnOldAgentAttestsAndRenewsAtANewServer(t *testing.T) {
	old, current := both(t)
	o := fleet.NewOffice(t, current, old)
	server := o.Start(current)
	renews(t, o, old, "old", 2)
	if !strings.Contains(server.Log(), "purpose=renew") {
		t.Error("the server saw no renewal")
	}
	server.Stop()
}

func TestANewAgentAttestsAndRenewsAtAnOldServer(t *testing.T) {
	old, current := both(t)
	o := fleet.NewOffice(t, old, old)
	server := o.Start(old)
	renews(t, o, current, "new", 2)
	if !strings.Contains(server.Log(), "purpose=renew") {
		t.Error("the server saw no renewal")
	}
	server.Stop()
}

// The upgrade of docs/guides/upgrading.md: the server first, under agents that
// run; then the agents. What the old server issued and recorded stays good.
func TestANewServerTakesOverWhatAnOldOneWrote(t *testing.T) {
	old, current := both(t)
	o := fleet.NewOffice(t, old, old)
	server := o.Start(old)
	a := o.StartAgent(old, "a")
	first := fleet.Serial(a.Await())
	server.Stop()

	// Checking changes nothing, and so says that a start would migrate.
	if _, err := o.Run(current, "assayd", "check", "--data-dir", o.Data); err == nil || !strings.Contains(err.Error(), "schema version") {
		t.Errorf("checking data of before: %v", err)
	}
	server = o.Start(current)
	// The agent goes on with the SVID of before, and proves by it that it renews.
	o.Policy(2)
	second := fleet.Serial(a.Await(first))
	if !strings.Contains(server.Log(), "purpose=renew") {
		t.Error("the agent did not renew by the SVID that the old server issued")
	}
	a.Kill()
	o.RestartAgent(current, "a").Await(first, second)
	db := filepath.Join(o.Data, "assay.db")
	o.Must(current, "assay", "ledger", "verify", "--admin", filepath.Join(o.Data, "admin.sock"), "--key", filepath.Join(o.Data, "checkpoint.pub"))
	server.Stop()
	o.Must(current, "assay", "ledger", "verify", "--db", db, "--key", filepath.Join(o.Data, "checkpoint.pub"))

	// There is no way back on the same data, and the old server says so before it
	// touches anything.
	if out, err := o.Run(old, "assayd", "check", "--data-dir", o.Data); err == nil || !strings.Contains(err.Error(), "newer") {
		t.Errorf("the old server on the new data: %v\n%s", err, out)
	}
	o.Start(current).Stop()
}
