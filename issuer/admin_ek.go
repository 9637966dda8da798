package issuer

import (
	"context"
	"errors"
	"io"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/attest"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
	"github.com/assay-project/assay/issuer/store"
	"github.com/assay-project/assay/issuer/tpms"
)

// maxImport bounds the TPMs of one request: they are added in one transaction.
const maxImport = 100_000

// maxNamed bounds the TPMs of one request that the log names one by one.
const maxNamed = 1000

// inventory is the registry, where TPMs are served.
func (a *admin) inventory() (*tpms.Registry, error) {
	if a.tpms == nil {
		return nil, status.Error(codes.FailedPrecondition, "this server serves no TPMs: set tpm.simulated_root in its configuration")
	}
	return a.tpms, nil
}

// ekError is the answer to a change of the inventory that was refused.
func ekError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, store.ErrConflict):
		return status.Error(codes.AlreadyExists, clip(err.Error(), 4096))
	case errors.Is(err, store.ErrNotFound):
		return status.Error(codes.NotFound, clip(err.Error(), 4096))
	case attest.KindOf(err) == attest.Malformed:
		return status.Error(codes.InvalidArgument, clip(err.Error(), 1024))
	}
	return adminError(err)
}

// ListEndorsementKeys streams the inventory of TPMs, by group and key.
func (a *admin) ListEndorsementKeys(req *assayv1.ListEndorsementKeysRequest, stream assayv1.Admin_ListEndorsementKeysServer) error {
	r, err := a.inventory()
	if err != nil {
		return err
	}
	list, err := r.List(stream.Context(), req.GetGroup())
	if err != nil {
		return adminError(err)
	}
	for _, e := range list {
		if err := stream.Send(&assayv1.EndorsementKey{
			Ek: e.EK[:], Group: e.Group, Note: e.Note, AddedUnixMs: millis(e.AddedAt), ActivatedUnixMs: millis(e.ActivatedAt),
		}); err != nil {
			return err
		}
	}
	return nil
}

func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// AddEndorsementKeys adds all that the client streams, or none. Every change is
// in the log.
func (a *admin) AddEndorsementKeys(stream assayv1.Admin_AddEndorsementKeysServer) error {
	r, err := a.inventory()
	if err != nil {
		return err
	}
	var entries []tpms.Entry
	replace, first := false, true
	for {
		msg, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if first {
			replace, first = msg.GetReplace(), false
		}
		for _, k := range msg.GetKeys() {
			if len(k.GetEk()) != len(tpms.EK{}) {
				return status.Errorf(codes.InvalidArgument, "entry %d: an endorsement key's digest has 32 bytes, not %d", len(entries)+1, len(k.GetEk()))
			}
			entries = append(entries, tpms.Entry{EK: tpms.EK(k.GetEk()), Group: k.GetGroup(), Note: k.GetNote()})
		}
		if len(entries) > maxImport {
			return status.Errorf(codes.InvalidArgument, "more than %d TPMs in one request: split it", maxImport)
		}
	}
	if len(entries) == 0 {
		return status.Error(codes.InvalidArgument, "no TPM is named")
	}
	ctx := stream.Context()
	added, replaced, err := r.Add(ctx, entries, replace)
	if err != nil {
		return ekError(err)
	}
	if n := added + replaced; n > 0 {
		a.log.InfoContext(ctx, "TPM inventory changed", "added", added, "replaced", replaced)
		for _, e := range entries[:min(len(entries), maxNamed)] {
			a.log.InfoContext(ctx, "TPM in the inventory", "ek", e.EK.String(), "group", e.Group, "note", e.Note)
		}
	}
	if replaced > 0 {
		eks := make([]tpms.EK, len(entries))
		for i, e := range entries {
			eks[i] = e.EK
		}
		a.wakeMachines(ctx, eks)
	}
	return stream.SendAndClose(&assayv1.AddEndorsementKeysResponse{Added: uint32(added), Replaced: uint32(replaced)})
}

// RemoveEndorsementKeys takes TPMs out of the inventory, all or none. Those that
// are watching are asked to renew at once, which is decided without it.
func (a *admin) RemoveEndorsementKeys(ctx context.Context, req *assayv1.RemoveEndorsementKeysRequest) (*assayv1.RemoveEndorsementKeysResponse, error) {
	r, err := a.inventory()
	if err != nil {
		return nil, err
	}
	var eks []tpms.EK
	seen := map[tpms.EK]bool{}
	for i, b := range req.GetEk() {
		if len(b) != len(tpms.EK{}) {
			return nil, status.Errorf(codes.InvalidArgument, "entry %d: an endorsement key's digest has 32 bytes, not %d", i+1, len(b))
		}
		if ek := tpms.EK(b); !seen[ek] {
			seen[ek] = true
			eks = append(eks, ek)
		}
	}
	if len(eks) == 0 {
		return nil, status.Error(codes.InvalidArgument, "no TPM is named")
	}
	if err := r.Remove(ctx, eks); err != nil {
		return nil, ekError(err)
	}
	for _, ek := range eks {
		a.log.InfoContext(ctx, "TPM taken out of the inventory", "ek", ek.String())
	}
	a.wakeMachines(ctx, eks)
	return &assayv1.RemoveEndorsementKeysResponse{}, nil
}
