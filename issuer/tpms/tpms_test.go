package tpms_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/issuer/store"
	"github.com/assay-project/assay/issuer/tpms"
)

const td = "simulated.example.org"

var start = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

func open(t testing.TB) (*store.SQLite, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "assay.db")
	st, err := store.OpenSQLite(t.Context(), path)
	must(t, err)
	t.Cleanup(func() { _ = st.Close() })
	must(t, st.InitTrustDomain(t.Context(), store.TrustDomain{Name: td, Simulated: true, CreatedAt: start}))
	return st, path
}

func registry(t testing.TB, st store.TPMStore) *tpms.Registry {
	t.Helper()
	r, err := tpms.Open(t.Context(), st, td, func() time.Time { return start })
	must(t, err)
	return r
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func ek(n byte) tpms.EK { return tpms.EK{n, 0xee} }

func wantGroup(t *testing.T, r *tpms.Registry, n byte, want string) {
	t.Helper()
	got, ok, err := r.Group(t.Context(), ek(n))
	if err != nil || got != want || ok != (want != "") {
		t.Errorf("EK %d is in %q (%t), %v; want %q", n, got, ok, err, want)
	}
}

func TestEveryChangeOfTheInventoryIsSeenAtOnce(t *testing.T) {
	st, _ := open(t)
	r := registry(t, st)
	wantGroup(t, r, 1, "")
	added, _, err := r.Add(t.Context(), []tpms.Entry{{EK: ek(1), Group: "rack-4", Note: "top"}, {EK: ek(2), Group: "rack-5"}}, false)
	must(t, err)
	wantGroup(t, r, 1, "rack-4")
	wantGroup(t, r, 2, "rack-5")
	// The same again changes nothing; other content needs to be asked for.
	again, _, err := r.Add(t.Context(), []tpms.Entry{{EK: ek(1), Group: "rack-4", Note: "top"}}, false)
	if err != nil || added != 2 || again != 0 {
		t.Errorf("added %d, then %d, %v", added, again, err)
	}
	_, _, err = r.Add(t.Context(), []tpms.Entry{{EK: ek(3), Group: "new"}, {EK: ek(1), Group: "rack-9"}}, false)
	if !errors.Is(err, store.ErrConflict) || !strings.Contains(err.Error(), ek(1).String()) {
		t.Errorf("another group: %v", err)
	}
	wantGroup(t, r, 3, "") // all or none
	wantGroup(t, r, 1, "rack-4")
	_, replaced, err := r.Add(t.Context(), []tpms.Entry{{EK: ek(1), Group: "rack-9"}}, true)
	if err != nil || replaced != 1 {
		t.Errorf("replaced %d, %v", replaced, err)
	}
	wantGroup(t, r, 1, "rack-9")

	err = r.Remove(t.Context(), []tpms.EK{ek(2), ek(7)})
	if !errors.Is(err, store.ErrNotFound) || !strings.Contains(err.Error(), ek(7).String()) {
		t.Errorf("a removal of one that is not there: %v", err)
	}
	wantGroup(t, r, 2, "rack-5")
	must(t, r.Remove(t.Context(), []tpms.EK{ek(2)}))
	wantGroup(t, r, 2, "")

	list, err := r.List(t.Context(), "")
	must(t, err)
	if d := cmp.Diff([]tpms.Entry{{EK: ek(1), Group: "rack-9", AddedAt: start}}, list); d != "" {
		t.Error(d)
	}
	if r.Size() != 1 {
		t.Errorf("size %d", r.Size())
	}
	wantGroup(t, registry(t, st), 1, "rack-9")
}

func TestABindingIsRememberedOverARestart(t *testing.T) {
	st, _ := open(t)
	r := registry(t, st)
	b := store.TPMBinding{TrustDomain: td, EK: ek(1), AK: []byte{0, 11, 1}, HasClock: true, Reset: 4, Restart: 2, At: start}
	if _, ok, err := r.Binding(t.Context(), ek(1)); ok || err != nil {
		t.Errorf("before: %t, %v", ok, err)
	}
	must(t, r.Remember(t.Context(), b))
	for name, reg := range map[string]*tpms.Registry{"from memory": r, "from the store": registry(t, st)} {
		got, ok, err := reg.Binding(t.Context(), ek(1))
		if d := cmp.Diff(b, got); d != "" || !ok || err != nil {
			t.Errorf("%s: %t, %v %s", name, ok, err, d)
		}
	}
	b.Reset = 5
	must(t, r.Remember(t.Context(), b))
	if got, _, _ := r.Binding(t.Context(), ek(1)); got.Reset != 5 {
		t.Errorf("an old binding is remembered: %+v", got)
	}
	must(t, r.Forget(t.Context(), ek(1)))
	if _, ok, _ := r.Binding(t.Context(), ek(1)); ok {
		t.Error("a binding that was forgotten is remembered")
	}
}

func TestATPMThatIsTakenOutOfTheInventoryHasToShowItsKeysAgain(t *testing.T) {
	st, _ := open(t)
	r := registry(t, st)
	_, _, err := r.Add(t.Context(), []tpms.Entry{{EK: ek(1), Group: "a"}}, false)
	must(t, err)
	must(t, r.Remember(t.Context(), store.TPMBinding{EK: ek(1), AK: []byte{1}, At: start}))
	list, err := r.List(t.Context(), "a")
	must(t, err)
	if len(list) != 1 || !list[0].ActivatedAt.Equal(start) {
		t.Errorf("%+v", list)
	}
	must(t, r.Remove(t.Context(), []tpms.EK{ek(1)}))
	if _, ok, err := r.Binding(t.Context(), ek(1)); ok || err != nil {
		t.Errorf("its binding is still there: %v", err)
	}
}

func TestWhatIsWrongWithAnEntryIsSaid(t *testing.T) {
	st, _ := open(t)
	r := registry(t, st)
	for name, list := range map[string][]tpms.Entry{
		"the endorsement key is missing": {{Group: "a"}},
		"is not the name of a group":     {{EK: ek(1), Group: "rack 4"}},
		"want at most 256":               {{EK: ek(1), Group: "a", Note: strings.Repeat("x", 257)}},
		"no line of text":                {{EK: ek(1), Group: "a", Note: "a\nb"}},
		"entries 1 and 2":                {{EK: ek(1), Group: "a"}, {EK: ek(1), Group: "b"}},
	} {
		_, _, err := r.Add(t.Context(), list, true)
		if attest.KindOf(err) != attest.Malformed || !strings.Contains(err.Error(), name) {
			t.Errorf("%v, want %s", err, name)
		}
	}
	wantGroup(t, r, 1, "")
}

// broken is a store whose disk fails when it is told to.
type broken struct {
	store.TPMStore
	fail bool
}

var errDisk = errors.New("input/output error")

func (b *broken) TPMInventory(ctx context.Context, td string) ([]store.TPMEntry, error) {
	if b.fail {
		return nil, errDisk
	}
	return b.TPMStore.TPMInventory(ctx, td)
}

func (b *broken) TPMBinding(ctx context.Context, td string, ek [32]byte) (store.TPMBinding, error) {
	if b.fail {
		return store.TPMBinding{}, errDisk
	}
	return b.TPMStore.TPMBinding(ctx, td, ek)
}

// The commit's outcome is not known: it may have reached the disk.
func (b *broken) DeleteTPMs(ctx context.Context, td string, eks [][32]byte) error {
	if err := b.TPMStore.DeleteTPMs(ctx, td, eks); err != nil || !b.fail {
		return err
	}
	return errDisk
}

func (b *broken) PutTPMBinding(ctx context.Context, x store.TPMBinding) error {
	if err := b.TPMStore.PutTPMBinding(ctx, x); err != nil || !b.fail {
		return err
	}
	return errDisk
}

func TestAFaultOfTheStoreIsNeverAnAnswer(t *testing.T) {
	st, _ := open(t)
	b := &broken{TPMStore: st}
	r := registry(t, b)
	_, _, err := r.Add(t.Context(), []tpms.Entry{{EK: ek(1), Group: "a"}, {EK: ek(2), Group: "a"}}, false)
	must(t, err)
	b.fail = true
	if err := r.Remove(t.Context(), []tpms.EK{ek(1)}); attest.KindOf(err) != attest.Unavailable {
		t.Errorf("removing: %v", err)
	}
	if _, _, err := r.Group(t.Context(), ek(2)); attest.KindOf(err) != attest.Unavailable || !errors.Is(err, errDisk) {
		t.Errorf("after a change with an unknown outcome: %v", err)
	}
	if _, _, err := r.Binding(t.Context(), ek(2)); attest.KindOf(err) != attest.Unavailable {
		t.Errorf("a binding: %v", err)
	}
	if err := r.Remember(t.Context(), store.TPMBinding{EK: ek(2), AK: []byte{2}, At: start}); attest.KindOf(err) != attest.Unavailable {
		t.Errorf("remembering: %v", err)
	}
	if _, err := tpms.Open(t.Context(), b, td, time.Now); attest.KindOf(err) != attest.Unavailable {
		t.Errorf("opening: %v", err)
	}
	b.fail = false
	wantGroup(t, r, 1, "")
	wantGroup(t, r, 2, "a")
	if got, ok, err := r.Binding(t.Context(), ek(2)); !ok || err != nil || len(got.AK) != 1 {
		t.Errorf("what reached the disk: %+v %t %v", got, ok, err)
	}
}

func TestTrustDomainsHaveInventoriesOfTheirOwn(t *testing.T) {
	st, _ := open(t)
	const other = "simulated.elsewhere.example"
	must(t, st.InitTrustDomain(t.Context(), store.TrustDomain{Name: other, Simulated: true, CreatedAt: start}))
	r := registry(t, st)
	_, _, err := r.Add(t.Context(), []tpms.Entry{{EK: ek(1), Group: "a"}}, false)
	must(t, err)
	must(t, r.Remember(t.Context(), store.TPMBinding{EK: ek(1), AK: []byte{1}, At: start}))
	o, err := tpms.Open(t.Context(), st, other, time.Now)
	must(t, err)
	wantGroup(t, o, 1, "")
	if _, ok, err := o.Binding(t.Context(), ek(1)); ok || err != nil {
		t.Errorf("a binding of another trust domain: %t, %v", ok, err)
	}
}

// What a look-up brings back late never hides what was written meanwhile.
func TestReadersAndWritersOfOneBindingAgreeAtTheEnd(t *testing.T) {
	st, _ := open(t)
	r := registry(t, st)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 25 {
				b := store.TPMBinding{EK: ek(1), AK: fmt.Appendf(nil, "%d/%d", w, i), At: start}
				if err := r.Remember(t.Context(), b); err != nil {
					t.Error(err)
				}
				if i%5 == 0 {
					if err := r.Forget(t.Context(), ek(1)); err != nil {
						t.Error(err)
					}
				}
				if _, _, err := r.Binding(t.Context(), ek(1)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	memory, inMemory, err := r.Binding(t.Context(), ek(1))
	must(t, err)
	stored, inStore, err := registry(t, st).Binding(t.Context(), ek(1))
	must(t, err)
	if d := cmp.Diff(stored, memory); d != "" || inMemory != inStore {
		t.Error(d)
	}
}
