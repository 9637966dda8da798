package issuer_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/issuer"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
)

func (o *office) admin() assayv1.AdminClient {
	o.t.Helper()
	conn, err := grpc.NewClient("unix://"+o.cfg.AdminSocket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(o.t, err)
	o.t.Cleanup(func() { _ = conn.Close() })
	return assayv1.NewAdminClient(conn)
}

func (o *office) list(req *assayv1.ListLedgerRequest) []*assayv1.LedgerEntry {
	o.t.Helper()
	stream, err := o.admin().ListLedger(o.t.Context(), req)
	must(o.t, err)
	var out []*assayv1.LedgerEntry
	for {
		e, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return out
		}
		must(o.t, err)
		out = append(out, e)
	}
}

func TestStatusSaysWhatTheServerIsAndDoes(t *testing.T) {
	o := open(t)
	conn := o.connect()
	_, err := o.attempt(conn).run()
	must(t, err)
	a := o.attempt(conn)
	a.launch.Debug = true
	_, err = a.run()
	if status.Code(err) != codes.PermissionDenied {
		t.Fatal(err)
	}
	o.replacePolicy("nonsense")
	s, err := o.admin().Status(t.Context(), &assayv1.StatusRequest{})
	must(t, err)
	if s.GetTrustDomain() != trustDomain || s.GetKind() != "simulated" || s.GetPolicy() != "test@1" || !slices.Equal(s.GetPlatforms(), []string{"aws-nitro"}) {
		t.Errorf("got %v", s)
	}
	if s.GetIssuedTotal() != 1 || s.GetDeniedTotal() != 1 || s.GetLedgerSize() != 2 { // the call itself is an entry
		t.Errorf("counts: %v", s)
	}
	if s.GetAuthorityNotAfterUnixMs() == 0 || s.GetServerCertificateNotAfterUnixMs() == 0 || len(s.GetPolicyDigest()) != 32 || s.GetVersion() != "test" {
		t.Errorf("got %v", s)
	}
	warnings := strings.Join(s.GetWarnings(), "\n")
	for _, want := range []string{"simulated", "the policy file is refused"} {
		if !strings.Contains(warnings, want) {
			t.Errorf("no warning of %q in:\n%s", want, warnings)
		}
	}
}

func TestTheLedgerIsListedInBothDirections(t *testing.T) {
	o := open(t)
	conn := o.connect()
	var want []string // references, oldest first
	for i := range 7 {
		a := o.attempt(conn)
		if i%3 == 2 {
			a.launch.Debug = true
			_, err := a.run()
			want = append(want, denied(t, err).GetReference())
			continue
		}
		issued, err := a.run()
		must(t, err)
		want = append(want, issued.GetReference())
	}
	refs := func(req *assayv1.ListLedgerRequest) []string {
		var out []string
		for _, e := range o.list(req) {
			out = append(out, e.GetReference())
		}
		return out
	}
	// The first look is an entry itself; those that follow in the same minute are
	// taken together with it.
	looks := refs(&assayv1.ListLedgerRequest{Outcome: assayv1.Outcome_OUTCOME_ADMIN})
	if len(looks) != 1 {
		t.Fatalf("%d entries of administrators' calls, want 1", len(looks))
	}
	want = append(want, looks...)
	granted := []string{want[0], want[1], want[3], want[4], want[6]}
	deniedRefs := []string{want[2], want[5]}
	reversed := slices.Clone(want)
	slices.Reverse(reversed)
	for _, c := range []struct {
		name string
		req  *assayv1.ListLedgerRequest
		want []string
	}{
		{"all", &assayv1.ListLedgerRequest{}, want},
		{"newest first", &assayv1.ListLedgerRequest{NewestFirst: true}, reversed},
		{"limit", &assayv1.ListLedgerRequest{NewestFirst: true, Limit: 3}, reversed[:3]},
		{"granted", &assayv1.ListLedgerRequest{Outcome: assayv1.Outcome_OUTCOME_GRANTED}, granted},
		{"granted after 2", &assayv1.ListLedgerRequest{Outcome: assayv1.Outcome_OUTCOME_GRANTED, After: 2}, granted[2:]},
		{"denied", &assayv1.ListLedgerRequest{Outcome: assayv1.Outcome_OUTCOME_DENIED}, deniedRefs},
		{"by ID", &assayv1.ListLedgerRequest{SpiffeId: paymentsID, Outcome: assayv1.Outcome_OUTCOME_GRANTED}, granted},
		{"by an ID that nobody has", &assayv1.ListLedgerRequest{SpiffeId: paymentsID + "x"}, nil},
	} {
		if got := refs(c.req); !slices.Equal(got, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
	// The chain can be checked from what is streamed.
	var previous []byte
	for i, e := range o.list(&assayv1.ListLedgerRequest{Outcome: assayv1.Outcome_OUTCOME_GRANTED}) {
		if e.GetSequence() != uint64(i+1) || len(e.GetHash()) != 32 || len(e.GetPreviousHash()) != 32 {
			t.Errorf("entry %d: %v", i, e)
		}
		if previous != nil && string(previous) != string(e.GetPreviousHash()) {
			t.Errorf("entry %d does not follow the one before", i)
		}
		previous = e.GetHash()
	}
}

func TestAnEntryIsFoundByReferenceOrSequenceAndItsEvidenceByDigest(t *testing.T) {
	o := open(t)
	a := o.attempt(o.connect())
	issued, err := a.run()
	must(t, err)
	client := o.admin()
	byRef, err := client.GetLedgerEntry(t.Context(), &assayv1.GetLedgerEntryRequest{Key: &assayv1.GetLedgerEntryRequest_Reference{Reference: issued.GetReference()}})
	must(t, err)
	bySeq, err := client.GetLedgerEntry(t.Context(), &assayv1.GetLedgerEntryRequest{Key: &assayv1.GetLedgerEntryRequest_Sequence{Sequence: 1}})
	must(t, err)
	if byRef.GetReference() != issued.GetReference() || string(byRef.GetPayload()) != string(bySeq.GetPayload()) {
		t.Errorf("by reference %v, by sequence %v", byRef, bySeq)
	}
	item, err := o.ledger.Get(t.Context(), issued.GetReference())
	must(t, err)
	ev, err := client.GetEvidence(t.Context(), &assayv1.GetEvidenceRequest{Digest: item.Entry.EvidenceDigest})
	must(t, err)
	if string(ev.GetBody()) != string(a.evidence.GetNitro().GetDocument()) || ev.GetTee() != "aws-nitro" {
		t.Error("not the evidence that was sent")
	}

	for name, req := range map[string]*assayv1.GetLedgerEntryRequest{
		"no such reference": {Key: &assayv1.GetLedgerEntryRequest_Reference{Reference: "as-aaaaaaaaaa"}},
		"a number":          {Key: &assayv1.GetLedgerEntryRequest_Reference{Reference: "1"}},
		"no such sequence":  {Key: &assayv1.GetLedgerEntryRequest_Sequence{Sequence: 99}},
	} {
		if _, err := client.GetLedgerEntry(t.Context(), req); status.Code(err) != codes.NotFound {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, err := client.GetEvidence(t.Context(), &assayv1.GetEvidenceRequest{Digest: make([]byte, 32)}); status.Code(err) != codes.NotFound {
		t.Errorf("unknown evidence: %v", err)
	}
	if _, err := client.GetEvidence(t.Context(), &assayv1.GetEvidenceRequest{Digest: []byte{1}}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a short digest: %v", err)
	}
	if _, err := client.GetLedgerEntry(t.Context(), &assayv1.GetLedgerEntryRequest{}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("no key: %v", err)
	}
}

func TestTheBundleAndTheCheckpointsAreHandedOut(t *testing.T) {
	o := open(t)
	_, err := o.attempt(o.connect()).run()
	must(t, err)
	_, err = o.ledger.Checkpoint(t.Context())
	must(t, err)
	b, err := o.admin().GetBundle(t.Context(), &assayv1.GetBundleRequest{})
	must(t, err)
	if len(b.GetBundle().GetX509Authorities()) != 1 || len(b.GetBundle().GetVerifierKeys()) == 0 {
		t.Errorf("got %v", b)
	}
	stream, err := o.admin().ListCheckpoints(t.Context(), &assayv1.ListCheckpointsRequest{})
	must(t, err)
	c, err := stream.Recv()
	must(t, err)
	if len(c.GetNote()) == 0 || c.GetVerifierKey() != o.ledger.Key().String() {
		t.Errorf("got %v", c)
	}
}

func TestTheAdminSocketIsTheOperatorsAlone(t *testing.T) {
	o := open(t)
	info, err := os.Stat(o.cfg.AdminSocket)
	must(t, err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %04o", info.Mode().Perm())
	}
}

func TestAnAdminSocketIsTakenOnlyFromNobody(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "admin.sock")

	t.Run("somebody listens", func(t *testing.T) {
		l, err := issuer.ListenAdmin(path)
		must(t, err)
		defer l.Close()
		_, err = issuer.ListenAdmin(path)
		if cli.ExitCode(err) != cli.Usage || !contains(fmt.Sprint(err), "somebody listens") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("left from before", func(t *testing.T) {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		must(t, err)
		l.SetUnlinkOnClose(false)
		must(t, l.Close())
		again, err := issuer.ListenAdmin(path)
		must(t, err)
		must(t, again.Close())
	})
	t.Run("no socket", func(t *testing.T) {
		must(t, os.WriteFile(path, []byte("precious"), 0o600))
		if _, err := issuer.ListenAdmin(path); cli.ExitCode(err) != cli.Usage {
			t.Errorf("got %v", err)
		}
		if b, _ := os.ReadFile(path); string(b) != "precious" {
			t.Error("the file was changed")
		}
	})
	t.Run("a directory that others can write to", func(t *testing.T) {
		open := filepath.Join(dir, "open")
		must(t, os.Mkdir(open, 0o700))
		must(t, os.Chmod(open, 0o777))
		if _, err := issuer.ListenAdmin(filepath.Join(open, "a.sock")); cli.ExitCode(err) != cli.Usage || !contains(fmt.Sprint(err), "others can write") {
			t.Errorf("got %v", err)
		}
	})
}
