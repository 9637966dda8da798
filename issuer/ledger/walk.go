package ledger

import (
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/assay-project/assay/issuer/store"
)

// Filter selects records. Zero fields select everything.
type Filter struct {
	Outcome  string // "", Granted, Denied, Minted or Admin
	Chain    string // "" is all chains, and the denials
	SPIFFEID string // of issuances
	Instance string
	After    uint64    // sequence greater than: of the chain, or of the denials where these are asked for
	Before   time.Time // older than
	Oldest   bool      // oldest first; otherwise newest first
	Limit    int       // of List: 0 = 50, at most 1000
}

// walkPage is how many rows one query of a walk reads.
const walkPage = 256

// List returns the records that match, of all chains and the denials, by time.
func (r *Reader) List(ctx context.Context, f Filter) ([]Item, error) {
	def(&f.Limit, 50)
	f.Limit = min(max(f.Limit, 1), 1000)
	var out []Item
	for item, err := range r.walk(ctx, f, min(f.Limit, walkPage)) {
		if err != nil {
			return nil, err
		}
		if out = append(out, item); len(out) == f.Limit {
			break
		}
	}
	return out, nil
}

// Walk yields all records that match, of all chains and the denials, merged by
// time; Limit is for List. Each chain comes in its own order, whatever its server's
// clock did.
func (r *Reader) Walk(ctx context.Context, f Filter) iter.Seq2[Item, error] {
	return r.walk(ctx, f, walkPage)
}

func (r *Reader) walk(ctx context.Context, f Filter, page int) iter.Seq2[Item, error] {
	fail := func(err error) iter.Seq2[Item, error] {
		return func(yield func(Item, error) bool) { yield(Item{}, err) }
	}
	switch f.Outcome {
	case "", Granted, Denied, Minted, Admin:
	default:
		return fail(fmt.Errorf("ledger: outcome %.40q, want %q, %q, %q or %q", f.Outcome, Granted, Denied, Minted, Admin))
	}
	if f.After > 0 && f.Chain == "" && f.Outcome != Denied {
		return fail(fmt.Errorf("ledger: entry %d of which chain?", f.After))
	}
	var all []iter.Seq2[Item, error]
	switch {
	case f.Outcome == Denied:
	case f.Chain != "":
		all = append(all, r.chained(ctx, f.Chain, f, page))
	default:
		names, err := r.Chains(ctx)
		if err != nil {
			return fail(err)
		}
		for _, name := range names {
			all = append(all, r.chained(ctx, name, f, page))
		}
	}
	if f.Chain == "" && (f.Outcome == "" || f.Outcome == Denied) {
		all = append(all, r.refused(ctx, f, page))
	}
	if len(all) == 1 {
		return all[0]
	}
	return merged(all, f.Oldest)
}

func (f Filter) find(page int) store.Find {
	return store.Find{SPIFFEID: f.SPIFFEID, Instance: f.Instance, After: f.After, Before: f.Before, Oldest: f.Oldest, Limit: page}
}

// chained walks one chain.
func (r *Reader) chained(ctx context.Context, chain string, f Filter, page int) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		find := f.find(page)
		find.Outcome = f.Outcome
		for {
			rows, err := r.st.FindEntries(ctx, r.trustDomain, chain, find)
			if err != nil {
				yield(Item{}, unavailable(err))
				return
			}
			for _, e := range rows {
				item, err := r.item(ctx, e)
				if !yield(item, err) || err != nil {
					return
				}
				if f.Oldest {
					find.After = e.Sequence
				} else {
					find.Below = e.Sequence
				}
			}
			if len(rows) < page {
				return
			}
		}
	}
}

// refused walks the denials.
func (r *Reader) refused(ctx context.Context, f Filter, page int) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		find := f.find(page)
		for {
			rows, err := r.st.FindDenials(ctx, r.trustDomain, find)
			if err != nil {
				yield(Item{}, unavailable(err))
				return
			}
			for _, d := range rows {
				item, err := denialItem(d)
				if !yield(item, err) || err != nil {
					return
				}
				if f.Oldest {
					find.After = d.ID
				} else {
					find.Below = d.ID
				}
			}
			if len(rows) < page {
				return
			}
		}
	}
}

// merged yields what several walks do, by time; the first error ends it.
func merged(all []iter.Seq2[Item, error], oldest bool) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		type head struct {
			item Item
			next func() (Item, error, bool)
		}
		var heads []head
		for _, s := range all {
			next, stop := iter.Pull2(s)
			defer stop()
			item, err, ok := next()
			if err != nil {
				yield(Item{}, err)
				return
			}
			if ok {
				heads = append(heads, head{item, next})
			}
		}
		for len(heads) > 0 {
			first := 0
			for i := range heads[1:] {
				c := heads[i+1].item.Entry.Time.Compare(heads[first].item.Entry.Time)
				if oldest && c < 0 || !oldest && c > 0 {
					first = i + 1
				}
			}
			h := &heads[first]
			if !yield(h.item, nil) {
				return
			}
			item, err, ok := h.next()
			switch {
			case err != nil:
				yield(Item{}, err)
				return
			case ok:
				h.item = item
			default:
				heads = append(heads[:first], heads[first+1:]...)
			}
		}
	}
}
