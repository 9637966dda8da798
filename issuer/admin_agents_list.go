package issuer

import (
	"time"

	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
	"github.com/assay-project/assay/issuer/store"
	"github.com/assay-project/assay/policy"
)

// liveSince is since when an SVID that has not ended was allowed at the latest: none
// lives longer than policy lets it, and the clocks of servers differ by less than an
// hour. It keeps a list of live ones from looking through the whole past.
func liveSince(now time.Time) time.Time { return now.Add(-policy.MaxX509TTL - time.Hour) }

// ListAgents streams the instances that hold or held an identity. It reads them a
// page at a time, and says with each where to go on after it.
func (a *agents) ListAgents(req *assayv1.ListAgentsRequest, stream assayv1.Agents_ListAgentsServer) error {
	ctx := stream.Context()
	f := store.FindHeld{SPIFFEID: req.GetSpiffeId()}
	if req.GetTee() != "" {
		f.Prefix = req.GetTee() + ":"
	}
	if req.GetLive() {
		f.EndsAfter = a.now()
		f.MadeAfter = liveSince(f.EndsAfter)
	}
	if !req.GetBanned() { // which is found by asking each
		f.Limit = int(req.GetLimit())
	}
	list := newListing(assayv1.Agents_ListAgents_FullMethodName, a.td, req.GetSpiffeId(), req.GetTee(), flag(req.GetLive()), flag(req.GetBanned()))
	if req.GetCursor() != "" {
		var err error
		if f.MadeUntil, f.BeyondHolder, err = list.holderAt(req.GetCursor()); err != nil {
			return invalid("%s", err)
		}
	}
	watching := a.watchers.watching()
	var sent uint32
	for h, err := range store.EachHolder(ctx, a.bans.st, a.td.Name(), f) {
		if err != nil {
			return adminError(err)
		}
		if f.MadeUntil.IsZero() {
			f.MadeUntil = h.Last // of the first, as EachHolder has it
		}
		out, _, err := a.agent(ctx, h, watching)
		if err != nil {
			return adminError(err)
		}
		if req.GetBanned() && out.GetBan() == "" {
			continue
		}
		out.Cursor = list.afterHolder(f.MadeUntil, h.Place())
		if err := stream.Send(out); err != nil {
			return err
		}
		if sent++; sent == req.GetLimit() {
			break
		}
	}
	return nil
}

// ListSVIDs streams issued X.509-SVIDs, newest first, as ListAgents does.
func (a *agents) ListSVIDs(req *assayv1.ListSVIDsRequest, stream assayv1.Agents_ListSVIDsServer) error {
	f := store.FindHeld{SPIFFEID: req.GetSpiffeId(), Instance: req.GetInstance(), Limit: int(req.GetLimit())}
	if req.GetLive() {
		f.EndsAfter = a.now()
		f.MadeAfter = liveSince(f.EndsAfter)
	}
	list := newListing(assayv1.Agents_ListSVIDs_FullMethodName, a.td, req.GetSpiffeId(), req.GetInstance(), flag(req.GetLive()))
	if req.GetCursor() != "" {
		var err error
		if f.Beyond, err = list.heldAt(req.GetCursor()); err != nil {
			return invalid("%s", err)
		}
	}
	for h, err := range store.EachHeld(stream.Context(), a.bans.st, a.td.Name(), f) {
		if err != nil {
			return adminError(err)
		}
		out := a.svid(h)
		out.Cursor = list.afterHeld(h.Place())
		if err := stream.Send(out); err != nil {
			return err
		}
	}
	return nil
}
