package issuer

import (
	"context"
	"iter"
	"time"

	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
	"github.com/assay-project/assay/issuer/ledger"
)

// page is how many entries are read from the store at once.
const page = 500

// ListLedger streams entries. Issuances and denials have sequences of their
// own; a list of both merges them by time, and its after is of the issuances.
func (a *admin) ListLedger(req *assayv1.ListLedgerRequest, stream assayv1.Admin_ListLedgerServer) error {
	items := a.oldestFirst(stream.Context(), req)
	if req.GetNewestFirst() {
		items = a.newestFirst(stream.Context(), req)
	}
	var sent uint32
	for item, err := range items {
		if err != nil {
			return adminError(err)
		}
		if err := stream.Send(entry(item)); err != nil {
			return err
		}
		if sent++; sent == req.GetLimit() {
			break
		}
	}
	return nil
}

type items = iter.Seq2[ledger.Item, error]

// newestFirst pages back by time. A page begins at the time of the last entry
// of the one before, so that no entry of the same instant is missed; those that
// were sent are left out.
func (a *admin) newestFirst(ctx context.Context, req *assayv1.ListLedgerRequest) items {
	return func(yield func(ledger.Item, error) bool) {
		f := ledger.Filter{Outcome: outcomeName(req.GetOutcome()), SPIFFEID: req.GetSpiffeId(), Instance: req.GetInstance(), Limit: page}
		sent := map[string]bool{}
		for {
			got, err := a.ledger.List(ctx, f)
			if err != nil {
				yield(ledger.Item{}, err)
				return
			}
			fresh := false
			for _, item := range got {
				if sent[item.Entry.Reference] {
					continue
				}
				sent[item.Entry.Reference], fresh = true, true
				if !isDenial(item) && item.Sequence <= req.GetAfter() {
					continue
				}
				if !yield(item, nil) {
					return
				}
			}
			if len(got) < page || !fresh {
				return
			}
			last := got[len(got)-1].Entry.Time
			f.Before = last.Add(time.Millisecond)
			clear(sent)
			for _, item := range got {
				if item.Entry.Time.Sub(last) <= time.Millisecond {
					sent[item.Entry.Reference] = true
				}
			}
		}
	}
}

// oldestFirst walks the chain, which is what a verification needs, and merges
// the denials into it by time.
func (a *admin) oldestFirst(ctx context.Context, req *assayv1.ListLedgerRequest) items {
	f := ledger.Filter{SPIFFEID: req.GetSpiffeId(), Instance: req.GetInstance(), Oldest: true, Limit: page}
	issuances, denials := f, f
	issuances.Outcome, denials.Outcome = ledger.Granted, ledger.Denied
	issuances.After = req.GetAfter()

	chain := a.pages(ctx, issuances)
	if f.SPIFFEID == "" && f.Instance == "" {
		chain = a.ledger.Entries(ctx, req.GetAfter()) // hands out damaged entries too
	}
	switch req.GetOutcome() {
	case assayv1.Outcome_OUTCOME_GRANTED:
		return chain
	case assayv1.Outcome_OUTCOME_DENIED:
		denials.After = req.GetAfter()
		return a.pages(ctx, denials)
	case assayv1.Outcome_OUTCOME_UNSPECIFIED:
	}
	return merge(chain, a.pages(ctx, denials))
}

// pages walks forward through one sequence.
func (a *admin) pages(ctx context.Context, f ledger.Filter) items {
	return func(yield func(ledger.Item, error) bool) {
		for {
			got, err := a.ledger.List(ctx, f)
			if err != nil {
				yield(ledger.Item{}, err)
				return
			}
			for _, item := range got {
				if !yield(item, nil) {
					return
				}
				f.After = item.Sequence
			}
			if len(got) < f.Limit {
				return
			}
		}
	}
}

// merge yields both by time; each is sorted already.
func merge(a, b items) items {
	return func(yield func(ledger.Item, error) bool) {
		next, stop := iter.Pull2(b)
		defer stop()
		y, yerr, more := next()
		for x, xerr := range a {
			for more && (yerr != nil || xerr == nil && y.Entry.Time.Before(x.Entry.Time)) {
				if !yield(y, yerr) {
					return
				}
				y, yerr, more = next()
			}
			if !yield(x, xerr) {
				return
			}
		}
		for ; more; y, yerr, more = next() {
			if !yield(y, yerr) {
				return
			}
		}
	}
}

func outcomeName(o assayv1.Outcome) string {
	switch o {
	case assayv1.Outcome_OUTCOME_GRANTED:
		return ledger.Granted
	case assayv1.Outcome_OUTCOME_DENIED:
		return ledger.Denied
	case assayv1.Outcome_OUTCOME_UNSPECIFIED:
	}
	return ""
}

// isDenial: only issuances are chained.
func isDenial(item ledger.Item) bool { return len(item.Hash) == 0 }

func entry(item ledger.Item) *assayv1.LedgerEntry {
	out := &assayv1.LedgerEntry{
		Outcome:      assayv1.Outcome_OUTCOME_GRANTED,
		Sequence:     item.Sequence,
		Reference:    item.Entry.Reference,
		Payload:      item.Payload,
		PreviousHash: item.Previous,
		Hash:         item.Hash,
	}
	if !item.Entry.Time.IsZero() {
		out.TimeUnixMs = item.Entry.Time.UnixMilli()
	}
	if isDenial(item) {
		out.Outcome = assayv1.Outcome_OUTCOME_DENIED
	}
	return out
}
