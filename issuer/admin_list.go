package issuer

import (
	"context"
	"iter"

	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
	"github.com/assay-project/assay/issuer/ledger"
)

// ListLedger streams entries: of one chain, whole and in order, for who verifies
// it; or those of all servers that match, merged by time with the denials.
func (a *admin) ListLedger(req *assayv1.ListLedgerRequest, stream assayv1.Admin_ListLedgerServer) error {
	var sent uint32
	for item, err := range a.matching(stream.Context(), req) {
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

func (a *admin) matching(ctx context.Context, req *assayv1.ListLedgerRequest) iter.Seq2[ledger.Item, error] {
	f := ledger.Filter{
		Outcome: outcomeName(req.GetOutcome()), Chain: req.GetChain(), SPIFFEID: req.GetSpiffeId(), Instance: req.GetInstance(),
		After: req.GetAfter(), Oldest: !req.GetNewestFirst(),
	}
	if f.Chain != "" && f.Oldest && f.Outcome == "" && f.SPIFFEID == "" && f.Instance == "" {
		return a.ledger.In(f.Chain).Entries(ctx, f.After) // hands out damaged entries too
	}
	if f.After > 0 && f.Chain == "" && f.Outcome != ledger.Denied {
		f.Chain = a.ledger.Chain() // whose number it is
	}
	return a.ledger.Walk(ctx, f)
}

func outcomeName(o assayv1.Outcome) string {
	switch o {
	case assayv1.Outcome_OUTCOME_GRANTED:
		return ledger.Granted
	case assayv1.Outcome_OUTCOME_DENIED:
		return ledger.Denied
	case assayv1.Outcome_OUTCOME_TOKEN:
		return ledger.Minted
	case assayv1.Outcome_OUTCOME_ADMIN:
		return ledger.Admin
	case assayv1.Outcome_OUTCOME_UNSPECIFIED:
	}
	return ""
}

// isDenial: only issuances are chained.
func isDenial(item ledger.Item) bool { return len(item.Hash) == 0 }

func entry(item ledger.Item) *assayv1.LedgerEntry {
	out := &assayv1.LedgerEntry{
		Chain:        item.Chain,
		Outcome:      outcomeOf(item.Entry.Outcome),
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

// outcomeOf is of an entry that is chained, damaged or not.
func outcomeOf(name string) assayv1.Outcome {
	switch name {
	case ledger.Minted:
		return assayv1.Outcome_OUTCOME_TOKEN
	case ledger.Admin:
		return assayv1.Outcome_OUTCOME_ADMIN
	}
	return assayv1.Outcome_OUTCOME_GRANTED
}
