package issuer_test

import (
	"fmt"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/issuer"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
)

// Those who may call nothing cannot fill the ledger by repeating themselves.
func TestCallersWithoutARoleDoNotFillTheLedger(t *testing.T) {
	h := openHeadquarters(t)
	var conns []*grpc.ClientConn
	for i := range 3 {
		conns = append(conns, h.administrator(t, fmt.Sprintf("nobody%d", i)))
	}
	size := func() uint64 {
		s, err := h.admin().Status(t.Context(), &assayv1.StatusRequest{})
		must(t, err)
		return s.GetLedgerSize()
	}
	methods := issuer.AdminMethodsForTest(h.server)
	before := size()
	for minute := range 4 {
		for _, c := range conns {
			for _, m := range methods {
				_ = call(t, c, m)
				_ = call(t, c, m)
			}
		}
		h.server.FlushAuditForTest()
		now := size()
		// At first there are 30 at once; after that, one that counts them all, one that
		// tells of our own look, and what little has become free meanwhile.
		if n, most := now-before, uint64(6); minute > 0 && n > most || n > 40 {
			t.Errorf("minute %d: %d methods, 3 callers without a role: %d entries", minute+1, len(methods), n)
		} else if n == 0 {
			t.Errorf("minute %d: nothing is on record", minute+1)
		}
		before = now
	}
}

// What cannot be recorded is not made, however often it is tried.
func TestALookThatCannotBeRecordedIsNotMadeTheSecondTimeEither(t *testing.T) {
	h := openHeadquarters(t)
	vera := assayv1.NewAdminClient(h.administrator(t, "vera"))
	_, err := vera.GetBundle(t.Context(), &assayv1.GetBundleRequest{})
	must(t, err)
	h.write(`CREATE TRIGGER full BEFORE INSERT ON entries BEGIN SELECT RAISE(ABORT, 'the disk is full'); END`)
	for range 3 {
		if _, err = vera.Status(t.Context(), &assayv1.StatusRequest{}); status.Code(err) != codes.Unavailable {
			t.Errorf("a call that cannot be recorded: %v", err)
		}
	}
	h.write(`DROP TRIGGER full`)
	if _, err = vera.Status(t.Context(), &assayv1.StatusRequest{}); err != nil {
		t.Errorf("when it can be: %v", err)
	}
}
