package recovery

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/assay-project/assay/internal/fleet"
)

// binaries are built once for all tests of the package.
var binaries = sync.OnceValues(func() (fleet.Binaries, error) {
	dir, err := os.MkdirTemp("", "assay-recovery")
	if err != nil {
		return "", err
	}
	built = dir
	return fleet.BuildInto("../..", dir)
})

var built string

func TestMain(m *testing.M) {
	code := m.Run()
	_ = os.RemoveAll(built)
	os.Exit(code)
}

func build(t *testing.T) fleet.Binaries {
	t.Helper()
	if testing.Short() {
		t.Skip("it runs processes")
	}
	b, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// newOffice is an office whose checkpoints go to a file outside its data.
func newOffice(t *testing.T, b fleet.Binaries) *fleet.Office {
	t.Helper()
	o := fleet.NewOffice(t, b, b)
	o.Edit(`# checkpoint_sink: "/var/log/assay/checkpoints"`, "checkpoint_sink: "+o.Path("sink"))
	return o
}

// serials reads every serial of a ledger, in its order.
func serials(t *testing.T, o *fleet.Office, b fleet.Binaries, data string) (out []string) {
	t.Helper()
	type record struct {
		Entry struct {
			Identities []struct {
				Serial string `json:"serial"`
			} `json:"identities"`
		} `json:"entry"`
	}
	d := json.NewDecoder(strings.NewReader(o.Must(b, "assay", "ledger", "list", "--limit", "0", "--outcome", "granted", "--db", filepath.Join(data, "assay.db"), "--output", "json")))
	for d.More() {
		var r record
		if err := d.Decode(&r); err != nil {
			t.Fatal(err)
		}
		for _, id := range r.Entry.Identities {
			out = append(out, id.Serial)
		}
	}
	return out
}

func TestABackupUnderLoadIsRestoredElsewhereAndAgentsRenew(t *testing.T) {
	b := build(t)
	o := newOffice(t, b)
	server := o.Start(b)
	var agents []*fleet.Agent
	for _, name := range []string{"a", "b"} {
		agents = append(agents, o.StartAgent(b, name))
	}
	for _, a := range agents {
		a.Await()
	}

	// Every revision of the policy has every agent attest again.
	stop, loaded := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(loaded)
		for n := 2; ; n++ {
			select {
			case <-stop:
				return
			case <-time.After(100 * time.Millisecond):
				o.Policy(n)
			}
		}
	}()
	calm := sync.OnceFunc(func() { close(stop); <-loaded })
	t.Cleanup(calm)
	time.Sleep(500 * time.Millisecond)
	archive := o.Path("backup.tar")
	said := o.Must(b, "assayd", "backup", archive, "--data-dir", o.Data)
	t.Log(said)
	var at []string
	for _, a := range agents {
		at = append(at, fleet.Serial(a.Await()))
	}
	for _, a := range agents {
		a.Await(at...) // issued after the backup
	}
	calm()
	server.Stop() // which signs a checkpoint, and so the sink knows of what comes after the backup
	server = o.Start(b)
	agents = append(agents, o.StartAgent(b, "late"))
	var held []string
	for _, a := range agents {
		held = append(held, fleet.Serial(a.Await()))
	}
	server.Kill()

	// The machine is gone; only what is elsewhere is left: the archive, the sink,
	// the agents.
	lost := o.Data
	before := serials(t, o, b, lost)
	info, err := os.Stat(archive)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("the archive: %v, %v", info.Mode(), err)
	}
	if _, err := o.Run(b, "assayd", "restore", archive, "--data-dir", lost); err == nil || !strings.Contains(err.Error(), "nothing is overwritten") {
		t.Errorf("restoring over what is there: %v", err)
	}
	o.Data = o.Path("elsewhere")
	if _, err := o.Run(b, "assayd", "restore", archive, "--data-dir", o.Data, "--moved"); err == nil || !strings.Contains(err.Error(), "the server ran on after it") {
		t.Errorf("restoring as moved, and the sink knows more: %v", err)
	}
	if _, err := os.Lstat(o.Data); err == nil {
		t.Error("a refused restore left its directory")
	}
	said = o.Must(b, "assayd", "restore", archive, "--data-dir", o.Data)
	t.Log(said)
	for _, want := range []string{`the chain main holds: \d+ entries`, `LOST: entries \d+ to \d+ of the chain main`, `goes on in the chain main\.\d{8}t\d{6}`, `the policy was shop@\d+`} {
		if !regexp.MustCompile(want).MatchString(said) {
			t.Errorf("restore does not say %q", want)
		}
	}
	o.Must(b, "assayd", "check", "--data-dir", o.Data)
	server = o.Start(b)

	// Agents hold SVIDs that the restored ledger does not know, and renew all the same.
	for _, a := range agents {
		a.Await(held...)
	}
	fresh := o.StartAgent(b, "d")
	fresh.Await()
	server.Stop()

	// No serial was given twice, by the two histories together.
	after := serials(t, o, b, o.Data)
	known := map[string]int{}
	common := 0
	for _, s := range before {
		known[s]++
	}
	for i, s := range after {
		if i < len(before) && s == before[i] && i == common {
			common++
			continue
		}
		known[s]++
	}
	for s, n := range known {
		if n != 1 {
			t.Errorf("the serial %s was given %d times", s, n)
		}
	}
	// Chains are listed by time, and the restored ones begin with what the backup had.
	if common == 0 || common == len(before) || len(after) < common+len(agents)+1 {
		t.Errorf("the restored ledger has %d entries of the %d before, and %d in all", common, len(before), len(after))
	}

	// The restored ledger holds, every chain of it; and who kept the checkpoints of
	// what was lost sees that it is.
	key := filepath.Join(o.Data, "checkpoint.pub")
	o.Must(b, "assay", "ledger", "verify", "--db", filepath.Join(o.Data, "assay.db"), "--key", key)
	_, err = o.Run(b, "assay", "ledger", "verify", "--db", filepath.Join(o.Data, "assay.db"), "--key", key, "--checkpoint", o.Path("sink"))
	if err == nil || !strings.Contains(err.Error(), "checkpoint_truncation") {
		t.Errorf("with the sink: %v, want checkpoint_truncation", err)
	}
}
