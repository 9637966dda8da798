package issuer

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
	"github.com/assay-project/assay/issuer/ledger"
	"github.com/assay-project/assay/issuer/store"
	"github.com/assay-project/assay/policy"
)

// agents is the service of who holds identities, and who is to hold none.
type agents struct {
	assayv1.UnimplementedAgentsServer
	*Server
}

// Bounds of what administrators write, in bytes.
const (
	maxReason   = 512
	maxBanValue = 4096
	maxSerials  = 1000 // of one request
	maxBans     = 1000 // not lifted
	maxDenied   = 1000 // policies
)

// invalid is a request that cannot be understood.
func invalid(format string, args ...any) error {
	return status.Error(codes.InvalidArgument, clip(fmt.Sprintf(format, args...), 2048))
}

// reason checks why something is done.
func reason(s string) error {
	switch {
	case strings.TrimSpace(s) == "":
		return invalid("say why: a reason is required")
	case len(s) > maxReason:
		return invalid("a reason has at most %d bytes, not %d", maxReason, len(s))
	}
	return nil
}

// agent tells of one instance, with the newest record of it.
func (a *agents) agent(ctx context.Context, h store.Holder, watching map[attest.Instance]bool) (*assayv1.Agent, *ledger.Item, error) {
	out := &assayv1.Agent{
		Instance: h.Instance, FirstUnixMs: unixMilli(h.First), LastUnixMs: unixMilli(h.Last), NotAfterUnixMs: unixMilli(h.NotAfter),
		Attestations: h.Attestations, Watching: watching[attest.Instance(h.Instance)],
	}
	items, err := a.ledger.List(ctx, ledger.Filter{Outcome: ledger.Granted, Instance: h.Instance, Limit: 1})
	if err != nil {
		return nil, nil, err
	}
	if len(items) == 0 {
		return out, nil, nil
	}
	e := items[0].Entry
	out.Tee, out.Simulated, out.Reference = string(e.Platform), e.Simulated, e.Reference
	out.Policy = fmt.Sprintf("%s@%d", e.Policy.Name, e.Policy.Revision)
	for _, id := range e.Identities {
		out.SpiffeIds = append(out.SpiffeIds, id.SPIFFEID)
	}
	if set := a.bans.current.Load(); set != nil {
		if b := set.hit(a.now(), e.Claims, out.GetSpiffeIds()...); b != nil {
			out.Ban = b.ID
		}
	}
	return out, &items[0], nil
}

// GetAgent tells of one instance.
func (a *agents) GetAgent(ctx context.Context, req *assayv1.GetAgentRequest) (*assayv1.GetAgentResponse, error) {
	if req.GetInstance() == "" {
		return nil, invalid("name an instance")
	}
	holders, err := a.bans.st.Holders(ctx, a.td.Name(), store.FindHeld{Instance: req.GetInstance()})
	if err != nil {
		return nil, adminError(err)
	}
	if len(holders) == 0 {
		return nil, status.Errorf(codes.NotFound, "no instance %s holds or held an identity", clip(req.GetInstance(), 256))
	}
	agent, item, err := a.agent(ctx, holders[0], a.watchers.watching())
	if err != nil {
		return nil, adminError(err)
	}
	out := &assayv1.GetAgentResponse{Agent: agent}
	if item != nil {
		out.Entry = item.Payload
	}
	const newest = 100
	svids, err := a.bans.st.HeldIdentities(ctx, a.td.Name(), store.FindHeld{Instance: req.GetInstance(), Limit: newest})
	if err != nil {
		return nil, adminError(err)
	}
	for _, h := range svids {
		out.Svids = append(out.Svids, a.svid(h))
	}
	return out, nil
}

// svid is an SVID as it is told of.
func (a *agents) svid(h store.HeldIdentity) *assayv1.SVIDRecord {
	out := &assayv1.SVIDRecord{
		Serial: h.Serial, SpiffeId: h.SPIFFEID, Instance: h.Instance, Reference: h.Reference,
		IssuedUnixMs: unixMilli(h.At), NotAfterUnixMs: unixMilli(h.NotAfter),
	}
	if set := a.bans.current.Load(); set != nil {
		_, out.Revoked = set.revocation(a.now(), h.Serial)
	}
	return out
}

// banOf is what a request names.
func banOf(r *assayv1.BanRequest) (store.BanKind, string) {
	switch w := r.GetWho().(type) {
	case *assayv1.BanRequest_Instance:
		return store.BanInstance, w.Instance
	case *assayv1.BanRequest_Hardware:
		return store.BanHardware, w.Hardware
	case *assayv1.BanRequest_Expr:
		return store.BanExpr, w.Expr
	case *assayv1.BanRequest_SpiffeId:
		return store.BanSPIFFEID, w.SpiffeId
	}
	return "", ""
}

// newBan makes a ban of a request, ready to be asked.
func (a *agents) newBan(ctx context.Context, r *assayv1.BanRequest) (*banRule, error) {
	kind, value := banOf(r)
	now := a.now().Truncate(time.Microsecond).UTC() // as the store has it
	rule := &banRule{Ban: store.Ban{TrustDomain: a.td.Name(), ID: "ban-" + randomHex(8), Kind: kind, Value: value, Reason: r.GetReason(), Actor: actorOf(ctx), Since: now}}
	if err := reason(r.GetReason()); err != nil {
		return nil, err
	}
	if len(value) > maxBanValue {
		return nil, invalid("what is banned has at most %d bytes, not %d", maxBanValue, len(value))
	}
	switch kind {
	case store.BanInstance:
		platform, name, ok := strings.Cut(value, ":")
		if !ok || name == "" || (platform != string(attest.AWSNitro) && platform != string(attest.AMDSEVSNP) && platform != string(attest.TPM2)) {
			return nil, invalid("%.140q is no instance: want one as `assay agents list` names it, such as aws-nitro:i-…", value)
		}
	case store.BanHardware:
		id, err := hardwareID(value)
		if err != nil {
			return nil, invalid("%s", err)
		}
		rule.Value = id
	case store.BanExpr:
		var err error
		if rule.predicate, err = policy.CompilePredicate(value); err != nil {
			text := err.Error()
			if hint := cli.Hint(err); hint != "" {
				text += "\nhint: " + hint
			}
			return nil, invalid("%s", text)
		}
	case store.BanSPIFFEID:
		id, err := spiffeid.FromString(value)
		if err != nil || !id.MemberOf(a.td) || id.Path() == "" {
			return nil, invalid("%.140q is no workload's SPIFFE ID of %s", value, a.td.Name())
		}
	default:
		return nil, invalid("say whom: an instance, a hardware id, an expression over claims or a SPIFFE ID")
	}
	if ms := r.GetUntilUnixMs(); ms != 0 {
		if rule.Until = time.UnixMilli(ms).UTC(); !rule.Until.After(now) {
			return nil, invalid("the ban would end at %s, which is past", rule.Until.Format(time.RFC3339))
		}
	}
	return rule, nil
}

func randomHex(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // crypto/rand.Read never fails (Go 1.24)
	return hex.EncodeToString(b)
}

// Ban keeps whoever matches from identities, from now on. It returns when the ban
// is durable, and what they hold is in the deny-list.
func (a *agents) Ban(ctx context.Context, req *assayv1.BanRequest) (*assayv1.BanResponse, error) {
	rule, err := a.newBan(ctx, req)
	if err != nil {
		return nil, err
	}
	live := store.FindHeld{EndsAfter: a.now()}
	if req.GetDryRun() {
		found, err := a.holders(ctx, []*banRule{rule}, live)
		if err != nil {
			return nil, adminError(err)
		}
		out := rule.Ban
		out.ID = ""
		r := banResponse(out, found)
		r.Omitted = a.overflow(found.rows)
		return r, nil
	}
	if set := a.bans.current.Load(); set != nil {
		for i := range set.rules {
			if b := &set.rules[i]; b.Kind == rule.Kind && b.Value == rule.Value && b.Stands(a.now()) && b.Until.Equal(rule.Until) {
				return nil, status.Errorf(codes.AlreadyExists, "%s says the same since %s", b.ID, b.Since.Format(time.RFC3339))
			}
		}
		if len(set.rules) >= maxBans {
			return nil, status.Errorf(codes.FailedPrecondition, "%d bans were never lifted, which is as many as there may be: every call asks them all\nhint: lift those that have ended, or ban by an expression", len(set.rules))
		}
	}
	if !req.GetForce() {
		found, err := a.holders(ctx, []*banRule{rule}, live)
		if err != nil {
			return nil, adminError(err)
		}
		if omitted := a.overflow(found.rows); omitted > 0 {
			return nil, errOverflow(omitted, len(found.rows))
		}
	}
	if err := a.bans.st.AddBan(ctx, rule.Ban); err != nil {
		return nil, adminError(err)
	}
	a.log.WarnContext(ctx, "banned", "ban", rule.ID, "kind", string(rule.Kind), "value", clip(rule.Value, 256), "reason", rule.Reason, "actor", rule.Actor)
	// It stands. What comes now makes it heard of sooner, and who hangs up does
	// not stop it.
	ctx = context.WithoutCancel(ctx)
	if _, err := a.bans.read(ctx); err != nil {
		return nil, adminError(fmt.Errorf("%s stands, and this server cannot read it yet: %w", rule.ID, err))
	}
	found, err := a.denyHolders(ctx, []*banRule{rule}, live)
	if err != nil {
		return nil, adminError(fmt.Errorf("%s stands, and what it hits is not in the deny-list yet: %w", rule.ID, err))
	}
	a.settleBans(ctx)
	return banResponse(rule.Ban, found), nil
}

// settleBans has what was just written known here, told to those who watch, and in
// the deny-list. What fails is tried again by itself.
func (s *Server) settleBans(ctx context.Context) {
	if _, err := s.bans.read(ctx); err != nil {
		s.log.ErrorContext(ctx, "who is banned cannot be read", "error", err)
	}
	s.watchers.lookAgain(false)
	if err := s.renewDenyList(ctx); err != nil {
		s.denyListProblem.Store(&problem{err})
		s.log.ErrorContext(ctx, "the deny-list cannot be renewed", "error", err)
	}
	s.bans.changed()
}

func banResponse(b store.Ban, found holding) *assayv1.BanResponse {
	return &assayv1.BanResponse{Ban: banRecord(b), Instances: found.instances, Svids: uint32(len(found.rows))}
}

func banRecord(b store.Ban) *assayv1.BanRecord {
	return &assayv1.BanRecord{
		Id: clip(b.ID, 64), Kind: clip(string(b.Kind), 16), Value: clip(b.Value, maxBanValue), Reason: clip(b.Reason, maxReason), Actor: clip(b.Actor, 512),
		SinceUnixMs: unixMilli(b.Since), UntilUnixMs: unixMilli(b.Until),
	}
}

// Unban lifts a ban.
func (a *agents) Unban(ctx context.Context, req *assayv1.UnbanRequest) (*assayv1.UnbanResponse, error) {
	if err := reason(req.GetReason()); err != nil {
		return nil, err
	}
	if req.GetId() == "" {
		return nil, invalid("name a ban: `assay agents bans` lists them")
	}
	err := a.bans.st.LiftBan(ctx, a.td.Name(), req.GetId(), store.Lifted{LiftedAt: a.now(), LiftedBy: actorOf(ctx), LiftReason: req.GetReason()})
	if errors.Is(err, store.ErrNotFound) {
		return nil, status.Errorf(codes.NotFound, "no ban %s stands", clip(req.GetId(), 64))
	}
	if err != nil {
		return nil, adminError(err)
	}
	a.log.WarnContext(ctx, "a ban was lifted", "ban", req.GetId(), "reason", req.GetReason(), "actor", actorOf(ctx))
	a.settleBans(context.WithoutCancel(ctx))
	return &assayv1.UnbanResponse{}, nil
}

// ListBans tells which bans stand.
func (a *agents) ListBans(ctx context.Context, _ *assayv1.ListBansRequest) (*assayv1.ListBansResponse, error) {
	all, err := a.bans.st.Bans(ctx, a.td.Name(), false)
	if err != nil {
		return nil, adminError(err)
	}
	out := &assayv1.ListBansResponse{}
	for _, b := range all {
		if b.Stands(a.now()) {
			out.Bans = append(out.Bans, banRecord(b))
		}
	}
	return out, nil
}

// RevokeSVIDs takes SVIDs back, all or none.
func (a *agents) RevokeSVIDs(ctx context.Context, req *assayv1.RevokeSVIDsRequest) (*assayv1.RevokeSVIDsResponse, error) {
	if err := reason(req.GetReason()); err != nil {
		return nil, err
	}
	serials := req.GetSerials()
	switch {
	case len(serials) == 0 && req.GetSpiffeId() == "":
		return nil, invalid("name serial numbers or a SPIFFE ID: `assay svids list` shows them")
	case len(serials) > 0 && req.GetSpiffeId() != "":
		return nil, invalid("name serial numbers or a SPIFFE ID, not both")
	case len(serials) > maxSerials:
		return nil, invalid("more than %d serial numbers in one request: split it", maxSerials)
	}
	now := a.now()
	var held []store.HeldIdentity
	var missing []string
	if req.GetSpiffeId() != "" {
		for h, err := range store.EachHeld(ctx, a.bans.st, a.td.Name(), store.FindHeld{SPIFFEID: req.GetSpiffeId(), EndsAfter: now}) {
			if err != nil {
				return nil, adminError(err)
			}
			held = append(held, h)
		}
		if len(held) == 0 {
			return nil, status.Errorf(codes.NotFound, "nobody holds a live SVID of %s", clip(req.GetSpiffeId(), 256))
		}
	}
	for _, serial := range serials {
		serial = strings.ToLower(strings.ReplaceAll(strings.TrimSpace(serial), ":", ""))
		rows, err := a.bans.st.HeldIdentities(ctx, a.td.Name(), store.FindHeld{Serial: serial, Limit: 1})
		if err != nil {
			return nil, adminError(err)
		}
		if serial == "" || len(rows) == 0 {
			missing = append(missing, clip(serial, 40))
			continue
		}
		held = append(held, rows[0])
	}
	if len(missing) > 0 {
		return nil, status.Errorf(codes.NotFound, "not on record: %s; none was revoked", clip(strings.Join(missing, ", "), 1024))
	}
	var rows []store.Revocation
	for _, h := range held {
		rows = append(rows, store.Revocation{
			TrustDomain: a.td.Name(), Serial: h.Serial, KeyThumbprint: h.KeyThumbprint, NotAfter: h.NotAfter,
			Reason: req.GetReason(), Actor: actorOf(ctx), At: now,
		})
	}
	if omitted := a.overflow(rows); omitted > 0 && !req.GetForce() {
		return nil, errOverflow(omitted, len(rows))
	}
	added, err := a.bans.st.AddRevocations(ctx, rows)
	if err != nil {
		return nil, adminError(err)
	}
	a.log.WarnContext(ctx, "SVIDs were revoked", "svids", added, "reason", req.GetReason(), "actor", actorOf(ctx))
	a.settleBans(context.WithoutCancel(ctx))
	return &assayv1.RevokeSVIDsResponse{Revoked: uint32(added)}, nil
}
