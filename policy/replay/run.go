package replay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/policy"
)

// Options say what is compared with what, and bound the work. Zero bounds have
// defaults.
type Options struct {
	Draft *policy.Bundle
	At    time.Time // of the draft
	// Against is compared with at AgainstAt; nil is what was decided then.
	Against   *policy.Bundle
	AgainstAt time.Time
	// AtRecorded judges each record at its own time instead, by both.
	AtRecorded bool
	// Policies returns a policy that decided then, or nil where it is not kept:
	// only what was issued is compared then. It is asked from many goroutines,
	// often. May be nil.
	Policies func(Version) *policy.Bundle

	Since, Until time.Time // of records; zero has no end, Until is exclusive
	Each         bool      // count each record for itself, alike or not
	Members      int       // instances listed for each group; below 0 all

	Workers      int // default: one for each core
	MaxDistinct  int // sets of claims that are remembered; default 1 << 18
	MaxGroups    int // default 4096
	MaxInstances int // in all groups; default 1 << 18
	MaxBad       int // unreadable records that are named; default 100
	// Progress is told now and then how many items were read; it may be nil.
	Progress func(read uint64)
}

// Report is what a replay found.
type Report struct {
	Draft   string       `json:"draft"` // "name@revision"
	Digest  attest.Bytes `json:"digest"`
	Against string       `json:"against"` // likewise; empty: what was decided then
	At      *time.Time   `json:"at"`      // nil: each record at its own time
	// AgainstAt is nil where it is the record's own time.
	AgainstAt *time.Time `json:"against_at"`

	Attestations uint64     `json:"attestations"`
	Distinct     uint64     `json:"distinct"`
	Instances    uint64     `json:"instances"`
	AtLeast      bool       `json:"at_least"` // there are more instances than were counted
	First        *time.Time `json:"first"`    // of the records; nil without any
	Last         *time.Time `json:"last"`
	Totals       []Total    `json:"totals"` // one for each of AllChanges
	Groups       []Group    `json:"groups"`

	// Unreadable counts records that nothing is known of; Bad names the first.
	Unreadable uint64 `json:"unreadable"`
	Bad        []Bad  `json:"bad"`
	// Partial counts the sets of claims of which only what was issued is known, for
	// the policy of then is not kept.
	Partial uint64 `json:"partial"`
	// Forgotten counts the sets of claims that memory had no room for: they may
	// count more than once. Merged says that there were too many groups.
	Forgotten uint64 `json:"forgotten"`
	Merged    bool   `json:"merged"`
}

// Total sums the groups of one change.
type Total struct {
	Change       Change `json:"change"`
	Distinct     uint64 `json:"distinct"`
	Attestations uint64 `json:"attestations"`
	Instances    uint64 `json:"instances"`
}

// Bad is a record that could not be read.
type Bad struct {
	Record string `json:"record"`
	Error  string `json:"error"`

	position uint64
}

// Of is the total of one change.
func (r *Report) Of(c Change) Total {
	for _, t := range r.Totals {
		if t.Change == c {
			return t
		}
	}
	return Total{Change: c}
}

// batch is how many items are handed over at once.
const batch = 32

// Run replays a source. The error is the source's, or ctx's.
func Run(ctx context.Context, source Source, o Options) (*Report, error) {
	if o.Draft == nil {
		return nil, errors.New("replay: no draft")
	}
	def(&o.Workers, runtime.GOMAXPROCS(0))
	def(&o.MaxDistinct, 1<<18)
	def(&o.MaxGroups, 4096)
	def(&o.MaxInstances, 1<<18)
	def(&o.MaxBad, 100)
	r := &run{o: &o, memory: newMemory(&o)}
	batches := make(chan []numbered, o.Workers)
	var wg sync.WaitGroup
	for range o.Workers {
		wg.Go(func() {
			for b := range batches {
				for _, i := range b {
					r.item(i)
				}
			}
		})
	}
	err := r.read(ctx, source, batches)
	close(batches)
	wg.Wait()
	if err != nil {
		return nil, err
	}
	r.memory.finish()
	return r.report(), nil
}

func def[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

type numbered struct {
	Item
	position uint64
}

type run struct {
	o      *Options
	memory *memory

	mu          sync.Mutex
	n           uint64
	first, last time.Time
	unreadable  uint64
	bad         []Bad
}

// read hands the items of the source out to the workers.
func (r *run) read(ctx context.Context, source Source, to chan<- []numbered) error {
	var n uint64
	var next []numbered
	send := func() error {
		if len(next) == 0 {
			return nil
		}
		select {
		case to <- next:
		case <-ctx.Done():
			return ctx.Err()
		}
		next = nil
		if r.o.Progress != nil {
			r.o.Progress(n)
		}
		return nil
	}
	for item, err := range source {
		if err != nil {
			return err
		}
		if next == nil {
			next = make([]numbered, 0, batch)
		}
		next = append(next, numbered{item, n})
		n++
		if len(next) == batch {
			if err := send(); err != nil {
				return err
			}
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return send()
}

// item decodes and judges one item. Whatever a record holds, the next is read.
func (r *run) item(i numbered) {
	if err := r.one(i); err != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.unreadable++
		r.bad = append(r.bad, Bad{Record: i.Name, Error: err.Error(), position: i.position})
		if len(r.bad) > 2*r.o.MaxBad {
			r.trim()
		}
	}
}

// trim keeps the first of the bad records, in the order of the source.
func (r *run) trim() {
	slices.SortFunc(r.bad, func(a, b Bad) int { return cmp.Compare(a.position, b.position) })
	r.bad = r.bad[:min(len(r.bad), r.o.MaxBad)]
}

func (r *run) one(i numbered) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("judging it panicked, which is a fault of this software: %v", v)
		}
	}()
	rec, err := i.Decode()
	if err != nil {
		return err
	}
	if err := policy.CheckClaims(rec.Claims); err != nil {
		return err
	}
	rec.Instance = rec.Claims.Instance()
	if !r.o.Since.IsZero() && rec.Time.Before(r.o.Since) || !r.o.Until.IsZero() && !rec.Time.Before(r.o.Until) {
		return nil
	}
	r.memory.add(&rec)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.n++
	if r.first.IsZero() || rec.Time.Before(r.first) {
		r.first = rec.Time
	}
	if rec.Time.After(r.last) {
		r.last = rec.Time
	}
	return nil
}

func (r *run) report() *Report {
	o, m := r.o, r.memory
	digest := o.Draft.Digest()
	out := &Report{
		Draft: o.Draft.Version(), Digest: digest[:], Attestations: r.n, Unreadable: r.unreadable,
		Forgotten: m.forgotten, Merged: m.groups.merged, Bad: []Bad{},
	}
	if !o.AtRecorded {
		out.At = moment(o.At)
	}
	if o.Against != nil {
		out.Against = o.Against.Version()
		if !o.AtRecorded {
			out.AgainstAt = moment(o.AgainstAt)
		}
	}
	out.First, out.Last = moment(r.first), moment(r.last)
	r.trim()
	out.Bad = append(out.Bad, r.bad...)

	all, byChange := map[attest.Instance]struct{}{}, map[Change]map[attest.Instance]struct{}{}
	totals := map[Change]*Total{}
	for _, c := range AllChanges {
		totals[c], byChange[c] = &Total{Change: c}, map[attest.Instance]struct{}{}
	}
	for _, g := range m.groups.byKey {
		t := totals[g.Change]
		t.Distinct += g.Distinct
		t.Attestations += g.Attestations
		out.Distinct += g.Distinct
		out.AtLeast = out.AtLeast || g.AtLeast
		for i := range g.members {
			byChange[g.Change][i], all[i] = struct{}{}, struct{}{}
		}
	}
	for _, c := range AllChanges {
		totals[c].Instances = uint64(len(byChange[c]))
		out.Totals = append(out.Totals, *totals[c])
	}
	out.Instances, out.Partial = uint64(len(all)), m.groups.partial
	out.Groups = m.groups.sorted()
	return out
}

// moment is nil for no time.
func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}
