// Package tpms is what a server knows of TPMs: the operator's inventory of
// endorsement keys, and which attestation key was last activated beside each.
//
//	r, err := tpms.Open(ctx, store, "attested.example.org", time.Now)
//	group, ok, err := r.Group(ctx, ek)      // an attestation asks: from memory
//	added, replaced, err := r.Add(ctx, …)   // an operator changes it
//
// Attestations are answered from memory: the whole inventory, and as many bindings
// as fit. Every change goes to the store first and then to the memory; so nothing is
// answered that the store did not say. What another server changes is read anew as
// soon as it is heard of: see Changed and Rebound. (A binding that the store drops
// for want of room may be remembered until the next start.)
//
// An EK is named by SHA-256 of its DER SubjectPublicKeyInfo.
package tpms

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"sync"
	"time"
	"unicode"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/lru"
	"github.com/assay-project/assay/issuer/store"
)

// EK names an endorsement key: SHA-256 of its DER SubjectPublicKeyInfo.
type EK [32]byte

// String is lower-case hex.
func (e EK) String() string { return hex.EncodeToString(e[:]) }

// Limits of the inventory. A group is what policies match, so that it has the
// form of a name there.
const (
	MaxEntries = 1_000_000
	MaxNote    = 256    // bytes
	bindings   = 50_000 // in memory; 200 bytes each
)

var groupPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// Entry is a TPM in the inventory.
type Entry struct {
	EK          EK
	Group       string
	Note        string
	AddedAt     time.Time
	ActivatedAt time.Time // when its attestation key was last activated; zero for never
}

// Check says what is wrong with what an operator gave, if anything.
func (e Entry) Check() error {
	switch {
	case e.EK == EK{}:
		return errors.New("the endorsement key is missing")
	case !groupPattern.MatchString(e.Group):
		return fmt.Errorf("%.70q is not the name of a group: want 1 to 63 letters, digits, dots, dashes and underscores, beginning with a letter or digit", e.Group)
	case len(e.Note) > MaxNote:
		return fmt.Errorf("the note has %d bytes, want at most %d", len(e.Note), MaxNote)
	}
	for _, r := range e.Note {
		if unicode.IsControl(r) || r == unicode.ReplacementChar {
			return errors.New("the note is no line of text")
		}
	}
	return nil
}

// Registry is the inventory and the bindings of one trust domain. It is safe for
// concurrent use.
type Registry struct {
	st  store.TPMStore
	td  string
	now func() time.Time

	changing sync.Mutex // one change of the inventory at a time

	mu     sync.RWMutex
	groups map[EK]string // the inventory
	stale  bool          // a change may have reached the store and not groups

	bound *lru.Cache[EK, store.TPMBinding]
	// storing keeps the order of the store's writes and the memory's the same.
	storing sync.Mutex
	// writes counts changes of bound: what a look-up brings back from the store
	// that began before one may be old.
	writing sync.Mutex
	writes  uint64
}

// Open reads the inventory into memory.
func Open(ctx context.Context, st store.TPMStore, trustDomain string, now func() time.Time) (*Registry, error) {
	if now == nil {
		return nil, errors.New("tpms: no clock")
	}
	r := &Registry{st: st, td: trustDomain, now: now, bound: lru.New[EK, store.TPMBinding](bindings)}
	if err := r.load(ctx); err != nil {
		return nil, err
	}
	return r, nil
}

func (r *Registry) load(ctx context.Context) error {
	list, err := r.st.TPMInventory(ctx, r.td)
	if err != nil {
		return unavailable(err)
	}
	groups := make(map[EK]string, len(list))
	for _, e := range list {
		groups[e.EK] = e.Group
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.groups, r.stale = groups, false
	return nil
}

// Group returns the group of an EK; ok is false for one that is not in the
// inventory. The error is of kind Unavailable: it cannot be told.
func (r *Registry) Group(ctx context.Context, ek [32]byte) (group string, ok bool, err error) {
	r.mu.RLock()
	group, ok = r.groups[ek]
	stale := r.stale
	r.mu.RUnlock()
	if !stale {
		return group, ok, nil
	}
	r.changing.Lock()
	defer r.changing.Unlock()
	if err := r.load(ctx); err != nil {
		return "", false, err
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	group, ok = r.groups[ek]
	return group, ok, nil
}

// Size is the number of TPMs in the inventory.
func (r *Registry) Size() int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return len(r.groups)
}

// List reads the inventory, by group and EK; of one group if it is not empty.
func (r *Registry) List(ctx context.Context, group string) ([]Entry, error) {
	list, err := r.st.TPMInventory(ctx, r.td)
	if err != nil {
		return nil, unavailable(err)
	}
	return Select(list, group), nil
}

// Select turns what a store lists into entries; of one group if it is not empty.
func Select(list []store.TPMEntry, group string) []Entry {
	var out []Entry
	for _, e := range list {
		if group == "" || e.Group == group {
			out = append(out, Entry{EK: e.EK, Group: e.Group, Note: e.Note, AddedAt: e.AddedAt, ActivatedAt: e.ActivatedAt})
		}
	}
	return out
}

// Add puts TPMs into the inventory, all or none. One that is there with other
// content is replaced, or the error, which satisfies errors.Is(err,
// store.ErrConflict), names it. What is wrong with an entry is a Malformed error.
func (r *Registry) Add(ctx context.Context, entries []Entry, replace bool) (added, replaced int, err error) {
	at := r.now().UTC()
	rows := make([]store.TPMEntry, len(entries))
	seen := make(map[EK]int, len(entries))
	for i, e := range entries {
		if err := e.Check(); err != nil {
			return 0, 0, malformed(fmt.Errorf("entry %d: %w", i+1, err))
		}
		if before, dup := seen[e.EK]; dup {
			return 0, 0, malformed(fmt.Errorf("entries %d and %d are of the same key %s", before+1, i+1, e.EK))
		}
		seen[e.EK] = i
		rows[i] = store.TPMEntry{TrustDomain: r.td, EK: e.EK, Group: e.Group, Note: e.Note, AddedAt: at}
	}
	r.changing.Lock()
	defer r.changing.Unlock()
	if r.Size()+len(rows) > MaxEntries {
		return 0, 0, malformed(fmt.Errorf("the inventory would have more than %d entries", MaxEntries))
	}
	err = r.change(func(groups map[EK]string) {
		for _, e := range rows {
			groups[e.EK] = e.Group
		}
	}, func() (err error) {
		added, replaced, err = r.st.PutTPMs(ctx, rows, replace)
		return err
	})
	return added, replaced, err
}

// Remove takes TPMs out of the inventory, all or none, and forgets their
// attestation keys. The error satisfies errors.Is(err, store.ErrNotFound) where
// one is not there, and names it.
func (r *Registry) Remove(ctx context.Context, eks []EK) error {
	rows := make([][32]byte, len(eks))
	for i, ek := range eks {
		rows[i] = ek
	}
	r.changing.Lock()
	defer r.changing.Unlock()
	return r.change(func(groups map[EK]string) {
		for _, ek := range eks {
			delete(groups, ek)
			r.wrote(ek, nil)
		}
	}, func() error { return r.st.DeleteTPMs(ctx, r.td, rows) })
}

// change writes to the store and then to the memory. When it is not known
// whether the store took it, the memory is read anew before it answers again.
func (r *Registry) change(memory func(map[EK]string), write func() error) error {
	err := write()
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case err == nil:
		memory(r.groups)
		return nil
	case errors.Is(err, store.ErrConflict), errors.Is(err, store.ErrNotFound):
		return err // nothing was written
	}
	r.stale = true
	return unavailable(err)
}

// Binding returns the attestation key that was last activated beside an EK.
func (r *Registry) Binding(ctx context.Context, ek EK) (b store.TPMBinding, ok bool, err error) {
	if b, ok := r.bound.Get(ek); ok {
		return b, true, nil
	}
	r.writing.Lock()
	before := r.writes
	r.writing.Unlock()
	b, err = r.st.TPMBinding(ctx, r.td, ek)
	if errors.Is(err, store.ErrNotFound) {
		return store.TPMBinding{}, false, nil
	}
	if err != nil {
		return store.TPMBinding{}, false, unavailable(err)
	}
	r.writing.Lock()
	defer r.writing.Unlock()
	if r.writes == before {
		r.bound.Put(ek, b)
	}
	return b, true, nil
}

// Remember stores a binding in place of the one before.
func (r *Registry) Remember(ctx context.Context, b store.TPMBinding) error {
	b.TrustDomain, b.AK = r.td, slices.Clone(b.AK)
	r.storing.Lock()
	defer r.storing.Unlock()
	r.wrote(b.EK, nil)
	if err := r.st.PutTPMBinding(ctx, b); err != nil {
		return unavailable(err)
	}
	r.wrote(b.EK, &b)
	return nil
}

// Forget drops a binding: the TPM has to show its keys again.
func (r *Registry) Forget(ctx context.Context, ek EK) error {
	r.storing.Lock()
	defer r.storing.Unlock()
	r.wrote(ek, nil)
	if err := r.st.DeleteTPMBinding(ctx, r.td, ek); err != nil {
		return unavailable(err)
	}
	r.wrote(ek, nil)
	return nil
}

// wrote puts a binding into the memory, or takes it out.
func (r *Registry) wrote(ek EK, b *store.TPMBinding) {
	r.writing.Lock()
	defer r.writing.Unlock()
	r.writes++
	if b == nil {
		r.bound.Remove(ek)
		return
	}
	r.bound.Put(ek, *b)
}

// Changed says that another server changed the inventory: it is read before the
// next attestation is answered from it.
func (r *Registry) Changed() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stale = true
}

// Reload reads the inventory, so that no attestation has to.
func (r *Registry) Reload(ctx context.Context) error {
	r.changing.Lock()
	defer r.changing.Unlock()
	return r.load(ctx)
}

// Rebound says that another server stored a binding, or dropped one: of one EK, by
// its hex, or of any where it is empty or cannot be read.
func (r *Registry) Rebound(ek string) {
	raw, err := hex.DecodeString(ek)
	if err == nil && len(raw) == len(EK{}) {
		r.wrote(EK(raw), nil)
		return
	}
	r.writing.Lock()
	defer r.writing.Unlock()
	r.writes++
	r.bound.Clear()
}

func unavailable(err error) error {
	return &attest.Error{Kind: attest.Unavailable, Check: "tpm_store", Err: err, Hint: "look at the server's log; check the disk's free space and health"}
}

func malformed(err error) error {
	return &attest.Error{Kind: attest.Malformed, Check: "ek_inventory", Err: err}
}
