package issuer_test

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/issuer"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
)

// received is what a stream sends until it ends.
func received[T any](recv func() (T, error)) (out []T, err error) {
	for {
		m, err := recv()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return out, err
		}
		out = append(out, m)
	}
}

func (o *office) listAgents(r *assayv1.ListAgentsRequest) ([]*assayv1.Agent, error) {
	o.t.Helper()
	stream, err := o.agents().ListAgents(o.t.Context(), r)
	must(o.t, err)
	return received(stream.Recv)
}

func (o *office) listSVIDs(r *assayv1.ListSVIDsRequest) ([]*assayv1.SVIDRecord, error) {
	o.t.Helper()
	stream, err := o.agents().ListSVIDs(o.t.Context(), r)
	must(o.t, err)
	return received(stream.Recv)
}

func module(n int) string { return fmt.Sprintf("i-0%016x-enc0123456789abcdef", n) }

// Who reads a list in parts, while everybody attests again, gets each agent once; and
// each SVID that was there.
func TestAListGoesOnFromItsCursorWhoeverAttestsMeanwhile(t *testing.T) {
	o := open(t)
	const many = 5
	for n := range many {
		o.agentOf(payments(), module(n))
	}
	whole, err := o.listAgents(&assayv1.ListAgentsRequest{Live: true})
	must(t, err)
	svids, err := o.listSVIDs(&assayv1.ListSVIDsRequest{Live: true})
	must(t, err)
	if len(whole) != many || len(svids) != many {
		t.Fatalf("%d agents and %d SVIDs, want %d", len(whole), len(svids), many)
	}
	var agents, serials []string
	r, s := &assayv1.ListAgentsRequest{Live: true, Limit: 2}, &assayv1.ListSVIDsRequest{Live: true, Limit: 2}
	for part := 0; ; part++ {
		a, err := o.listAgents(r)
		must(t, err)
		v, err := o.listSVIDs(s)
		must(t, err)
		for _, x := range a {
			agents, r.Cursor = append(agents, x.GetInstance()), x.GetCursor()
		}
		for _, x := range v {
			serials, s.Cursor = append(serials, x.GetSerial()), x.GetCursor()
		}
		if len(a) < 2 && len(v) < 2 {
			break
		}
		o.agentOf(payments(), module(4-part)) // one that was not listed yet goes to the front
		o.agentOf(payments(), module(part))
	}
	var wantAgents, wantSerials []string
	for i := range whole {
		wantAgents, wantSerials = append(wantAgents, whole[i].GetInstance()), append(wantSerials, svids[i].GetSerial())
	}
	if !slices.Equal(agents, wantAgents) {
		t.Errorf("agents in parts: %v, want %v", agents, wantAgents)
	}
	if !slices.Equal(serials, wantSerials) {
		t.Errorf("SVIDs in parts: %v, want %v", serials, wantSerials)
	}
	// A cursor is of one list: with another selection it is refused.
	for name, r := range map[string]*assayv1.ListAgentsRequest{
		"not only live": {Cursor: whole[0].GetCursor()}, "another ID": {Live: true, SpiffeId: paymentsID, Cursor: whole[0].GetCursor()},
		"another platform": {Live: true, Tee: "aws-nitro", Cursor: whole[0].GetCursor()}, "an SVID's": {Live: true, Cursor: svids[0].GetCursor()},
		"text": {Live: true, Cursor: "17"}, "half of one": {Live: true, Cursor: whole[0].GetCursor()[:20]}, "one of zeros": {Live: true, Cursor: "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"},
	} {
		if got, err := o.listAgents(r); status.Code(err) != codes.InvalidArgument || len(got) != 0 {
			t.Errorf("%s: %d agents, %v", name, len(got), err)
		}
	}
	if got, err := o.listSVIDs(&assayv1.ListSVIDsRequest{Live: true, Cursor: whole[0].GetCursor()}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("an agent's cursor for SVIDs: %d, %v", len(got), err)
	}
}

// With a cursor nobody reads what is another trust domain's: that of its list is
// refused, and one that is made up tells only what the caller may read anyway.
func TestACursorOfOneTrustDomainIsNoneInAnother(t *testing.T) {
	a, b := pair(t)
	for n := range 3 {
		a.agentOf(payments(), module(n))
		b.agentOf(payments(), module(10+n))
	}
	ofA, err := a.listAgents(&assayv1.ListAgentsRequest{})
	must(t, err)
	ofB, err := b.listAgents(&assayv1.ListAgentsRequest{})
	must(t, err)
	svidsA, err := a.listSVIDs(&assayv1.ListSVIDsRequest{})
	must(t, err)
	svidsB, err := b.listSVIDs(&assayv1.ListSVIDsRequest{})
	must(t, err)
	if len(ofA) != 3 || len(ofB) != 3 || len(svidsA) != 3 || len(svidsB) != 3 {
		t.Fatalf("%d and %d agents, %d and %d SVIDs", len(ofA), len(ofB), len(svidsA), len(svidsB))
	}
	for i := range ofA {
		if got, err := b.listAgents(&assayv1.ListAgentsRequest{Cursor: ofA[i].GetCursor()}); status.Code(err) != codes.InvalidArgument || len(got) != 0 {
			t.Errorf("an agent's: %v, %v", got, err)
		}
		if got, err := b.listSVIDs(&assayv1.ListSVIDsRequest{Cursor: svidsA[i].GetCursor()}); status.Code(err) != codes.InvalidArgument || len(got) != 0 {
			t.Errorf("an SVID's: %v, %v", got, err)
		}
		// A forgery: the places of the one's list in a cursor of the other's.
		agents, err := b.listAgents(&assayv1.ListAgentsRequest{Cursor: issuer.MoveCursorForTest(ofA[i].GetCursor(), ofB[0].GetCursor())})
		must(t, err)
		for _, x := range agents {
			if !slices.ContainsFunc(ofB, func(o *assayv1.Agent) bool { return o.GetInstance() == x.GetInstance() }) {
				t.Errorf("a forged cursor shows %s", x.GetInstance())
			}
		}
		svids, err := b.listSVIDs(&assayv1.ListSVIDsRequest{Cursor: issuer.MoveCursorForTest(svidsA[i].GetCursor(), svidsB[0].GetCursor())})
		must(t, err)
		for _, x := range svids {
			if !slices.ContainsFunc(svidsB, func(o *assayv1.SVIDRecord) bool { return o.GetSerial() == x.GetSerial() }) {
				t.Errorf("a forged cursor shows %s", x.GetSerial())
			}
		}
	}
}

// A list of very many is sent whole, each once, and in parts from any place.
func TestALongListOfSVIDsIsSentOnceEach(t *testing.T) {
	const many = 10_000
	o := open(t)
	own := o.agentOf(payments(), moduleA)
	o.asIfIssued(own, many)
	all, err := o.listSVIDs(&assayv1.ListSVIDsRequest{})
	must(t, err)
	seen := map[string]bool{}
	for _, s := range all {
		seen[s.GetSerial()] = true
	}
	if len(all) != many+1 || len(seen) != many+1 {
		t.Fatalf("%d SVIDs were sent, %d different ones, want %d", len(all), len(seen), many+1)
	}
	from := 5_500
	part, err := o.listSVIDs(&assayv1.ListSVIDsRequest{Cursor: all[from].GetCursor(), Limit: 3_000})
	must(t, err)
	if len(part) != 3_000 || part[0].GetSerial() != all[from+1].GetSerial() || part[2_999].GetSerial() != all[from+3_000].GetSerial() {
		t.Errorf("from %d: %d SVIDs", from, len(part))
	}
}
