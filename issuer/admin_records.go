package issuer

import (
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
	"github.com/assay-project/assay/issuer/ledger"
)

// maxRecords is how many records one request yields. A replay asks again and
// again, so that no stream outlives a restart by much, and none is cut short
// unseen.
const maxRecords = 5000

// ListRecords streams records as they are stored. Whoever asked checks and decodes
// them: a server has attesters to serve.
func (a *admin) ListRecords(req *assayv1.ListRecordsRequest, stream assayv1.Admin_ListRecordsServer) error {
	s := ledger.Span{Outcome: outcomeName(req.GetOutcome()), After: req.GetAfter(), Limit: maxRecords, Since: instant(req.GetSinceUnixMs()), Until: instant(req.GetUntilUnixMs())}
	if s.Outcome != ledger.Granted && s.Outcome != ledger.Denied {
		return status.Error(codes.InvalidArgument, "name an outcome, granted or denied: each has a sequence of its own")
	}
	r := a.ledger.Reader
	if req.GetChain() != "" {
		r = r.In(req.GetChain())
	}
	if n := req.GetLimit(); n > 0 {
		s.Limit = int(min(n, maxRecords))
	}
	for item, err := range r.Records(stream.Context(), s) {
		if err != nil {
			return adminError(err)
		}
		out := &assayv1.LedgerEntry{
			Outcome: req.GetOutcome(), Chain: item.Chain, Sequence: item.Sequence, Payload: item.Payload, PreviousHash: item.Previous, Hash: item.Hash,
		}
		if err := stream.Send(out); err != nil {
			return err
		}
	}
	return nil
}

// instant is the zero time for 0.
func instant(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}
