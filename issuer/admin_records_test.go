package issuer_test

import (
	"errors"
	"io"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
	"github.com/assay-project/assay/issuer/ledger"
)

func (o *office) records(req *assayv1.ListRecordsRequest) ([]*assayv1.LedgerEntry, error) {
	o.t.Helper()
	stream, err := o.admin().ListRecords(o.t.Context(), req)
	must(o.t, err)
	var out []*assayv1.LedgerEntry
	for {
		e, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
}

func TestRecordsAreHandedOutAPageAtATime(t *testing.T) {
	o := open(t)
	conn := o.connect()
	for range 5 {
		_, err := o.attempt(conn).run()
		must(t, err)
	}
	a := o.attempt(conn)
	a.launch.Debug = true
	if _, err := a.run(); status.Code(err) != codes.PermissionDenied {
		t.Fatal(err)
	}
	var after uint64
	var got []*assayv1.LedgerEntry
	for {
		page, err := o.records(&assayv1.ListRecordsRequest{Outcome: assayv1.Outcome_OUTCOME_GRANTED, After: after, Limit: 2})
		must(t, err)
		if len(page) == 0 {
			break
		}
		if len(page) > 2 {
			t.Fatalf("a page of %d", len(page))
		}
		got, after = append(got, page...), page[len(page)-1].GetSequence()
	}
	if len(got) != 5 {
		t.Fatalf("%d issuances, want 5", len(got))
	}
	for _, e := range got {
		i := ledger.Item{Sequence: e.GetSequence(), Previous: e.GetPreviousHash(), Hash: e.GetHash(), Payload: e.GetPayload()}
		must(t, i.Check(trustDomain, ""))
	}
	denials, err := o.records(&assayv1.ListRecordsRequest{Outcome: assayv1.Outcome_OUTCOME_DENIED, Limit: 1 << 31})
	must(t, err)
	if len(denials) != 1 || len(denials[0].GetHash()) != 0 {
		t.Fatalf("denials: %v", denials)
	}
	if _, err := o.records(&assayv1.ListRecordsRequest{}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("without an outcome: %v", err)
	}
	none, err := o.records(&assayv1.ListRecordsRequest{Outcome: assayv1.Outcome_OUTCOME_GRANTED, UntilUnixMs: 1})
	if err != nil || len(none) != 0 {
		t.Errorf("before there was any: %v, %v", none, err)
	}
}
