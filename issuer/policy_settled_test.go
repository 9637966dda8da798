package issuer_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/assay-project/assay/issuer"
)

// halves are a policy, cut between two workloads: either way it is one.
func halves(t testing.TB, revision int) (first, second string) {
	t.Helper()
	first, second, ok := strings.Cut(twoWorkloads(revision), "  - name: orders")
	if !ok {
		t.Fatal("there is nothing to cut")
	}
	return first, "  - name: orders" + second
}

func TestAPolicyFileThatIsHalfWrittenDoesNotComeIntoForce(t *testing.T) {
	for name, open := range map[string]func(path string) (*os.File, error){
		"in place": func(path string) (*os.File, error) { return os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0) },
		"anew": func(path string) (*os.File, error) {
			if err := os.Remove(path); err != nil {
				return nil, err
			}
			return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		},
		"anew, beside what was there": func(path string) (*os.File, error) {
			if err := os.Rename(path, path+"~"); err != nil {
				return nil, err
			}
			return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "policy.yaml")
			must(t, os.WriteFile(path, []byte(policyText(1)), 0o600))
			p, err := issuer.LoadPolicyFile(path, trustDomain, slog.New(slog.DiscardHandler))
			must(t, err)
			f, err := open(path)
			must(t, err)
			first, second := halves(t, 2)
			_, err = f.WriteString(first)
			must(t, err)
			if again := p.Reload(t.Context()); !again || p.Current().Revision() != 1 || p.Refused() != "" {
				t.Errorf("half of it: in force %d, refused %q, to be looked at again %t", p.Current().Revision(), p.Refused(), again)
			}
			_, err = f.WriteString(second)
			must(t, err)
			must(t, f.Close())
			for end := time.Now().Add(10 * time.Second); p.Reload(t.Context()); time.Sleep(50 * time.Millisecond) {
				if time.Now().After(end) {
					t.Fatal("it never settles")
				}
			}
			if n := len(p.Current().Workloads()); p.Current().Revision() != 2 || n != 2 || p.Refused() != "" {
				t.Errorf("all of it: in force %d with %d workloads, refused %q", p.Current().Revision(), n, p.Refused())
			}
		})
	}
}

// A program may close what it wrote, and open it again for the rest.
func TestAPolicyFileThatIsWrittenInTwoGoesIsReadWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy.yaml")
	must(t, os.WriteFile(path, []byte(policyText(1)), 0o600))
	p, err := issuer.LoadPolicyFile(path, trustDomain, slog.New(slog.DiscardHandler))
	must(t, err)
	hup := make(chan os.Signal)
	go func() { _ = p.Run(t.Context(), hup) }()

	first, second := halves(t, 2)
	must(t, os.WriteFile(path, []byte(first), 0o600))
	hup <- os.Interrupt
	hup <- os.Interrupt // the first has been looked at
	if p.Current().Revision() != 1 {
		t.Error("half of it is in force, after a signal")
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	must(t, err)
	_, err = f.WriteString(second)
	must(t, err)
	must(t, f.Close())
	eventually(t, "revision 2 by itself", func() bool { return p.Current().Revision() == 2 })
	if len(p.Current().Workloads()) != 2 || p.Refused() != "" {
		t.Errorf("%d workloads, refused %q", len(p.Current().Workloads()), p.Refused())
	}
}

func TestAPolicyFileThatIsMovedIntoPlaceIsInForceAtOnce(t *testing.T) {
	o := open(t)
	for revision := 2; revision < 6; revision++ {
		o.movePolicy(policyText(revision))
		if again := o.policy.Reload(t.Context()); again || o.policy.Current().Revision() != uint64(revision) {
			t.Errorf("in force: %d, want %d", o.policy.Current().Revision(), revision)
		}
	}
}

// An old time says that the content is settled, and not that it is known.
func TestAPolicyFileOfTheSameSizeAndAnOldTimeIsReadAgain(t *testing.T) {
	o := open(t)
	old := time.Now().Add(-time.Hour)
	for revision := 2; revision < 6; revision++ {
		must(t, os.WriteFile(o.cfg.Policy, []byte(policyText(revision)), 0o600))
		must(t, os.Chtimes(o.cfg.Policy, old, old))
		if o.policy.Reload(t.Context()); o.policy.Current().Revision() != uint64(revision) {
			t.Errorf("in force: %d, want %d", o.policy.Current().Revision(), revision)
		}
		time.Sleep(10 * time.Millisecond) // file times are coarse
	}
}

// Nothing is read while nothing changes.
func TestAPolicyFileThatHasNotChangedIsNotRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy.yaml")
	must(t, os.WriteFile(path, []byte(policyText(1)+strings.Repeat("# padding, padding, padding\n", 200_000)), 0o600))
	old := time.Now().Add(-time.Hour)
	must(t, os.Chtimes(path, old, old))
	p, err := issuer.LoadPolicyFile(path, trustDomain, slog.New(slog.DiscardHandler))
	must(t, err)
	if n := testing.Benchmark(func(b *testing.B) {
		for range b.N {
			p.Reload(b.Context())
		}
	}).AllocedBytesPerOp(); n > 100_000 {
		t.Errorf("a look at an unchanged file takes %d bytes of memory", n)
	}
}

func TestAServerDoesNotStartOnAPolicyFileThatIsHalfWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy.yaml")
	f, err := os.Create(path)
	must(t, err)
	first, second := halves(t, 1)
	_, err = f.WriteString(first)
	must(t, err)
	go func() {
		time.Sleep(300 * time.Millisecond)
		_, _ = f.WriteString(second)
		_ = f.Close()
	}()
	p, err := issuer.LoadPolicyFile(path, trustDomain, slog.New(slog.DiscardHandler))
	must(t, err)
	if n := len(p.Current().Workloads()); n != 2 {
		t.Errorf("it has %d workloads, want 2", n)
	}
}
