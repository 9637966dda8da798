package agent

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/attest"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
)

// forProcesses makes the server say of the i-th SVID which processes get it.
func forProcesses(i int, list ...*assayv1.Selector) func(*assayv1.AttestResponse) {
	return func(m *assayv1.AttestResponse) {
		if len(m.GetIssued().GetSvids()) > i {
			m.GetIssued().Svids[i].Selectors = list
		}
	}
}

func TestAnIdentityForSomeProcessesIsServedToNone(t *testing.T) {
	t.Parallel()
	s := newFaultyServer(t)
	s.ids = []string{"spiffe://simulated.example.org/a", "spiffe://simulated.example.org/b"}
	s.issue = forProcesses(0, &assayv1.Selector{Type: "unix:uid", Value: "1000"})
	s.start()
	a, _ := runAgent(t, s.config(t))
	served(t, a)
	_, c := callAgent(t, a)
	stream, err := c.FetchX509SVID(withHeader(context.Background(), "true"), &workload.X509SVIDRequest{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if len(got.GetSvids()) != 1 || got.GetSvids()[0].GetSpiffeId() != s.ids[1] {
		t.Errorf("served %v, want %s alone", got.GetSvids(), s.ids[1])
	}
	// The agent itself holds both, and renews both.
	if a.state.mu.Lock(); len(a.state.svids) != 2 {
		t.Errorf("the agent holds %d SVIDs, want 2", len(a.state.svids))
	}
	a.state.mu.Unlock()
}

func TestWithoutAnIdentityForEveryProcessX509IsDenied(t *testing.T) {
	t.Parallel()
	s := newFaultyServer(t)
	s.issue = forProcesses(0, &assayv1.Selector{Type: "unix:path", Value: "/usr/bin/orders"})
	s.start()
	a := must(New(s.config(t)))
	l := must(a.server.dial(s.address, nil, nil))
	defer func() { _ = l.Close() }()
	if err := a.attestAll(context.Background(), l); err != nil {
		t.Fatal(err)
	}
	if snap, _, err := a.state.view(); err == nil {
		t.Errorf("served %v", snap.svids)
	}
	if a.state.renewable() == nil {
		t.Error("the agent cannot renew with what it holds")
	}
	w := &workloadAPI{state: a.state}
	err := w.FetchX509SVID(nil, silent[workload.X509SVIDResponse]{ctx: context.Background()})
	if status.Code(err) != codes.PermissionDenied {
		t.Errorf("%v, want PermissionDenied", err)
	}
}

// silent is a stream on which nothing may be sent.
type silent[M any] struct {
	grpc.ServerStream
	ctx context.Context
}

func (s silent[M]) Context() context.Context { return s.ctx }
func (s silent[M]) Send(m *M) error          { return fmt.Errorf("something was sent: %v", m) }

func TestSelectorsThatSayNothingAreRefused(t *testing.T) {
	many := make([]*assayv1.Selector, maxSelectors+1)
	for i := range many {
		many[i] = &assayv1.Selector{Type: "unix:supplementary_gid", Value: fmt.Sprint(i)}
	}
	for name, list := range map[string][]*assayv1.Selector{
		"no type":    {{Value: "1000"}},
		"no value":   {{Type: "unix:uid"}},
		"long type":  {{Type: strings.Repeat("t", maxSelector+1), Value: "1"}},
		"long value": {{Type: "unix:path", Value: "/" + strings.Repeat("v", maxSelector)}},
		"too many":   many,
	} {
		t.Run(name, func(t *testing.T) {
			s := newFaultyServer(t)
			s.issue = forProcesses(0, list...)
			s.start()
			_, err := attestWith(t, s, nil)
			wantCheck(t, err, attest.Untrusted, "issued_selectors")
		})
	}
}
