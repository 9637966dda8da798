package issuer_test

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
	"github.com/assay-project/assay/issuer/store"
)

// What is refused is on record; the record of it must not be what the client
// likes to store.
func TestANoteThatIsTooLongIsRefusedBeforeAnythingIsRecorded(t *testing.T) {
	o := open(t)
	n := len(o.changes())
	for name, note := range map[string]string{"one byte too long": strings.Repeat("x", 513), "twenty megabytes": strings.Repeat("x", 20<<20)} {
		_, err := o.admin().PushPolicy(t.Context(), &assayv1.PushPolicyRequest{Document: []byte("x"), Note: note}, grpc.MaxCallSendMsgSize(32<<20))
		if status.Code(err) != codes.FailedPrecondition || !contains(status.Convert(err).Message(), "512 bytes") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := len(o.changes()); got != n {
		t.Errorf("%d changes are on record, %d were before", got, n)
	}
	if _, err := o.admin().PolicyStatus(t.Context(), &assayv1.PolicyStatusRequest{}); err != nil {
		t.Errorf("the status: %v", err)
	}
}

// A row may be older than the bound, or written by another hand.
func TestARowOfTheHistoryIsShownAtALengthThatAnOperatorCanRead(t *testing.T) {
	o := open(t)
	long := strings.Repeat("é", 3<<20)
	must(t, o.store.RefusePolicy(t.Context(), store.PolicyChange{
		Policy: store.Policy{TrustDomain: trustDomain, Name: long, At: time.Now()},
		Source: long, Actor: long, Note: long, Detail: long, Signers: []string{strings.Repeat("ab", 3<<20)},
	}))
	s, err := o.admin().PolicyStatus(t.Context(), &assayv1.PolicyStatusRequest{})
	must(t, err)
	c := s.GetLastRefused()
	for name, x := range map[string]struct {
		text string
		max  int
	}{"name": {c.GetName(), 128}, "source": {c.GetSource(), 16}, "actor": {c.GetActor(), 512}, "note": {c.GetNote(), 512}, "detail": {c.GetDetail(), 1024}} {
		if len(x.text) > x.max+len("…") || !utf8.ValidString(x.text) || x.text == "" {
			t.Errorf("the %s has %d bytes, want at most %d", name, len(x.text), x.max)
		}
	}
	if len(c.GetSigners()) != 0 || len(o.changes()) != 2 {
		t.Errorf("%d signers, %d changes", len(c.GetSigners()), len(o.changes()))
	}
}
