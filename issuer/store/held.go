package store

import (
	"context"
	"iter"
	"time"
)

// HeldPage is how many rows HeldIdentities and Holders return at most, whatever the
// limit: who wants more asks again from where the page ended. So what a list costs
// in memory does not depend on how many there are.
const HeldPage = 2000

// FindHeld selects SVIDs, or the instances that were allowed them. Zero fields
// select everything.
type FindHeld struct {
	SPIFFEID  string
	Instance  string
	Prefix    string // of the instance: its platform and a colon
	Serial    string
	EndsAfter time.Time // not after this: later than
	MadeAfter time.Time // the entry's time: not before
	MadeUntil time.Time // the entry's time: not after
	Limit     int       // 0 is a page

	Beyond       HeldPlace   // HeldIdentities: only what comes after this place
	BeyondHolder HolderPlace // Holders: likewise
}

// Page is how many rows are read: at least one and at most [HeldPage].
func (f FindHeld) Page() int {
	if f.Limit <= 0 || f.Limit > HeldPage {
		return HeldPage
	}
	return f.Limit
}

// HeldIdentity is an SVID that an entry of the ledger allows.
type HeldIdentity struct {
	Identity
	Chain     string
	Sequence  uint64
	Position  int // among the identities of the entry, from 0
	Reference string
	Instance  string
	At        time.Time
}

// HeldPlace is a place in the list of SVIDs, which is ordered by time, chain,
// sequence and position. It says nothing of the trust domain: that of the question
// counts. Zero is before the first.
type HeldPlace struct {
	At       time.Time
	Chain    string
	Sequence uint64
	Position int
}

// Place is where it stands in the list.
func (h HeldIdentity) Place() HeldPlace {
	return HeldPlace{At: h.At, Chain: h.Chain, Sequence: h.Sequence, Position: h.Position}
}

// Holder is an instance that was allowed SVIDs.
type Holder struct {
	Instance     string
	First, Last  time.Time
	NotAfter     time.Time // the latest end
	Attestations uint64
}

// HolderPlace is a place in the list of instances, which is ordered by the last
// attestation and the name. Who attests while a list is read would move to its
// front and be missed: MadeUntil holds the list still.
type HolderPlace struct {
	Last     time.Time
	Instance string
}

// Place is where it stands in the list.
func (h Holder) Place() HolderPlace { return HolderPlace{Last: h.Last, Instance: h.Instance} }

// EachHeld yields what HeldIdentities lists, however many there are, and has no more
// than a page in memory. Limit bounds them all; 0 is no limit. What is issued
// meanwhile comes before the first, and is not among them. The first error ends it.
func EachHeld(ctx context.Context, st BanStore, trustDomain string, f FindHeld) iter.Seq2[HeldIdentity, error] {
	return func(yield func(HeldIdentity, error) bool) {
		for left := f.Limit; ; {
			f.Limit = left
			rows, err := st.HeldIdentities(ctx, trustDomain, f)
			if err != nil {
				yield(HeldIdentity{}, err)
				return
			}
			for _, h := range rows {
				if !yield(h, nil) {
					return
				}
				f.Beyond = h.Place()
			}
			if left -= len(rows); len(rows) < f.Page() || f.Limit > 0 && left <= 0 {
				return
			}
		}
	}
}

// EachHolder yields what Holders lists, as EachHeld does. Without MadeUntil the list
// is as it is at the first page.
func EachHolder(ctx context.Context, st BanStore, trustDomain string, f FindHeld) iter.Seq2[Holder, error] {
	return func(yield func(Holder, error) bool) {
		for left := f.Limit; ; {
			f.Limit = left
			rows, err := st.Holders(ctx, trustDomain, f)
			if err != nil {
				yield(Holder{}, err)
				return
			}
			if len(rows) > 0 && f.MadeUntil.IsZero() {
				f.MadeUntil = rows[0].Last
			}
			for _, h := range rows {
				if !yield(h, nil) {
					return
				}
				f.BeyondHolder = h.Place()
			}
			if left -= len(rows); len(rows) < f.Page() || f.Limit > 0 && left <= 0 {
				return
			}
		}
	}
}
