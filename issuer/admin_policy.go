package issuer

import (
	"context"
	"encoding/hex"
	"errors"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/internal/strictyaml"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
	"github.com/assay-project/assay/issuer/store"
	"github.com/assay-project/assay/policy/signed"
)

// policyError is the edge of what operators do with policies: the code says who
// must act, as the exit codes of `assay` do.
func policyError(err error) error {
	var (
		yaml  strictyaml.Errors
		usage *cli.UsageError
		ae    *attest.Error
	)
	code := codes.Internal
	text := ""
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, "canceled")
	case errors.As(err, &yaml):
		code, text = codes.InvalidArgument, yaml.Render()
	case errors.As(err, &usage):
		code = codes.FailedPrecondition
	case errors.As(err, &ae):
		switch ae.Kind {
		case attest.Malformed:
			code = codes.InvalidArgument
		case attest.Untrusted:
			code = codes.Unauthenticated
		case attest.Stale:
			code = codes.Aborted
		case attest.Denied:
			code = codes.PermissionDenied
		case attest.Unavailable:
			code = codes.Unavailable
		case attest.Internal:
		}
	}
	if text == "" {
		text = err.Error()
		if hint := cli.Hint(err); hint != "" {
			text += "\nhint: " + hint
		}
	}
	return status.Error(code, clip(text, 4096))
}

// PushPolicy puts a policy into force.
func (a *admin) PushPolicy(ctx context.Context, req *assayv1.PushPolicyRequest) (*assayv1.PushPolicyResponse, error) {
	in := push{document: req.GetDocument(), reverts: req.GetRevertsTo(), actor: actorOf(ctx), note: req.GetNote(), dryRun: req.GetDryRun()}
	done, err := a.policy.push(ctx, in)
	if err != nil {
		return nil, policyError(err)
	}
	digest := done.policy.Digest()
	return &assayv1.PushPolicyResponse{
		Policy: policyName(done.policy), Digest: digest[:], Previous: done.previous, Unchanged: done.unchanged, Signers: keyIDs(done.signers),
	}, nil
}

// PolicyStatus tells which policy is in force, and how the next may come.
func (a *admin) PolicyStatus(ctx context.Context, _ *assayv1.PolicyStatusRequest) (*assayv1.PolicyStatusResponse, error) {
	out := a.policy.state()
	refused, err := a.policy.changes(ctx, store.FindPolicy{Outcome: store.PolicyRefused, Limit: 1})
	if err != nil && !errors.Is(err, errNoHistory) {
		return nil, policyError(err)
	}
	if len(refused) == 1 && refused[0].ID > out.GetInForce().GetId() {
		out.LastRefused = policyChange(refused[0])
	}
	return out, nil
}

// state is what there is to tell without the store.
func (p *PolicyFile) state() *assayv1.PolicyStatusResponse {
	file := p.file.Load()
	out := &assayv1.PolicyStatusResponse{
		InForce: policyChange(p.current.Load().PolicyChange),
		File:    p.path, FilePolicy: file.holds, FileRefused: file.refused, FileOutrun: file.outrun,
	}
	if p.signers != nil {
		out.Signers = &assayv1.PolicySigners{Threshold: uint32(p.signers.Threshold()), Bundle: p.pinned}
		for _, id := range p.signers.KeyIDs() {
			out.Signers.KeyIds = append(out.Signers.KeyIds, id[:])
		}
	}
	return out
}

// policyPage is how many changes are read from the store at once.
const policyPage = 200

// ListPolicyChanges streams the history, newest first.
func (a *admin) ListPolicyChanges(req *assayv1.ListPolicyChangesRequest, stream assayv1.Admin_ListPolicyChangesServer) error {
	f := store.FindPolicy{Limit: policyPage}
	if req.GetInForceOnly() {
		f.Outcome = store.PolicyInForce
	}
	var sent uint32
	for {
		rows, err := a.policy.changes(stream.Context(), f)
		if err != nil {
			return policyError(err)
		}
		for _, c := range rows {
			if err := stream.Send(policyChange(c)); err != nil {
				return err
			}
			if sent++; sent == req.GetLimit() {
				return nil
			}
			f.Before = c.ID
		}
		if len(rows) < policyPage {
			return nil
		}
	}
}

// GetPolicy returns a policy that was in force.
func (a *admin) GetPolicy(ctx context.Context, req *assayv1.GetPolicyRequest) (*assayv1.GetPolicyResponse, error) {
	var c store.PolicyChange
	var err error
	switch k := req.GetKey().(type) {
	case *assayv1.GetPolicyRequest_Revision:
		if k.Revision == 0 {
			return nil, status.Error(codes.InvalidArgument, "a revision is at least 1")
		}
		c, err = a.policy.byRevision(ctx, k.Revision)
	case *assayv1.GetPolicyRequest_Digest:
		if len(k.Digest) != 32 {
			return nil, status.Errorf(codes.InvalidArgument, "a digest has 32 bytes, not %d", len(k.Digest))
		}
		c, err = a.policy.kept(ctx, store.FindPolicy{Digest: (*[32]byte)(k.Digest)})
	default:
		return nil, status.Error(codes.InvalidArgument, "name a revision or a digest")
	}
	if errors.Is(err, errNeverInForce) || errors.Is(err, errNotKept) {
		return nil, status.Error(codes.NotFound, err.Error())
	}
	if err != nil {
		return nil, policyError(err)
	}
	return &assayv1.GetPolicyResponse{Change: policyChange(c), Document: c.Document}, nil
}

// Bounds of what is recorded and shown of a policy change, in bytes.
const (
	maxPolicyName    = 128
	maxPolicyActor   = 512
	maxPolicyDetail  = 1024
	maxPolicySource  = 16
	maxPolicySigners = 32 // rows; a signed policy has no more
)

// policyChange is a change as it is shown: a row of the database cannot make the
// answer longer than an operator can read.
func policyChange(c store.PolicyChange) *assayv1.PolicyChange {
	return &assayv1.PolicyChange{
		Id: c.ID, TimeUnixMs: unixMilli(c.At), Source: clip(c.Source, maxPolicySource), Actor: clip(c.Actor, maxPolicyActor), Note: clip(c.Note, maxPolicyNote),
		Name: clip(c.Name, maxPolicyName), Revision: c.Revision, Digest: c.Digest[:], Signers: keyIDs(c.Signers),
		Refused: c.Refused, Detail: clip(c.Detail, maxPolicyDetail), Kept: c.Kept, Size: c.Size,
	}
}

func unixMilli(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// keyIDs are key ids as bytes; what is not hex of one's length is none.
func keyIDs(hexes []string) [][]byte {
	var out [][]byte
	for _, s := range hexes {
		var id signed.KeyID
		if len(s) != hex.EncodedLen(len(id)) || len(out) == maxPolicySigners {
			continue
		}
		if b, err := hex.DecodeString(s); err == nil {
			out = append(out, b)
		}
	}
	return out
}
