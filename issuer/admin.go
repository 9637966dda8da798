package issuer

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/issuer/ca"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
	"github.com/assay-project/assay/issuer/ledger"
	"github.com/assay-project/assay/issuer/store"
	"github.com/assay-project/assay/policy"
)

// admin is the operator's service, over the unix socket.
type admin struct {
	assayv1.UnimplementedAdminServer
	*Server
}

// registerAdmin registers every admin service. Who may call what is in roles.go.
func registerAdmin(g *grpc.Server, s *Server) {
	assayv1.RegisterAdminServer(g, &admin{Server: s})
	assayv1.RegisterAgentsServer(g, &agents{Server: s})
	assayv1.RegisterAuthoritiesServer(g, &authorities{Server: s})
	assayv1.RegisterFederationsServer(g, &federations{Server: s})
}

// adminServer serves the admin services on the unix socket, whose mode decides who
// may open it.
func (s *Server) adminServer() *grpc.Server {
	g := grpc.NewServer(append(s.adminOptions(), grpc.Creds(newSocketCredentials()))...)
	registerAdmin(g, s)
	return g
}

// adminError is the admin service's edge: operators see what happened.
func adminError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, store.ErrNotFound):
		return status.Error(codes.NotFound, "there is no such entry")
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, "canceled")
	}
	return status.Error(codes.Internal, clip(err.Error(), 1024))
}

// Status tells what the server is and does.
func (a *admin) Status(ctx context.Context, _ *assayv1.StatusRequest) (*assayv1.StatusResponse, error) {
	bundle, authority, stats := a.policy.Current(), a.ca.Status(), a.ledger.Stats()
	digest := bundle.Digest()
	kind := "hardware"
	if a.set.Simulated() {
		kind = "simulated"
	}
	out := &assayv1.StatusResponse{
		Version:                         a.version,
		TrustDomain:                     a.td.Name(),
		Kind:                            kind,
		Policy:                          policyName(bundle),
		PolicyDigest:                    digest[:],
		StartedUnixMs:                   a.started.UnixMilli(),
		LedgerSize:                      stats.Size,
		CheckpointSize:                  stats.CheckpointSize,
		AuthorityNotAfterUnixMs:         authority.AuthorityNotAfter.UnixMilli(),
		ServerCertificateNotAfterUnixMs: authority.ServerNotAfter.UnixMilli(),
		IssuedTotal:                     a.issuedTotal.Load(),
		DeniedTotal:                     a.deniedTotal.Load(),
		AttestationsInFlight:            uint32(max(a.inFlight.Load(), 0)),
		Watches:                         uint32(a.watchers.count()),
		Warnings:                        a.warnings(),
	}
	for _, p := range a.set.Platforms() {
		out.Platforms = append(out.Platforms, string(p))
	}
	out.Server, out.Database = a.cfg.Server, "sqlite"
	if a.cfg.Database.URL != "" {
		out.Database = "postgresql"
	}
	if err := a.ready(); err != nil {
		out.NotReady = clip(err.Error(), 512)
	}
	members, err := a.members(ctx)
	if err != nil { // the rest is worth telling all the more
		out.Warnings = append(out.Warnings, "the other servers cannot be told: "+clip(err.Error(), 256))
	}
	out.Members = members
	return out, nil
}

// members are the other servers of the trust domain, and how far their chains are.
func (a *admin) members(ctx context.Context) ([]*assayv1.ServerMember, error) {
	state, err := a.bans.st.AuthorityState(ctx, a.td.Name())
	if err != nil {
		return nil, err
	}
	var out []*assayv1.ServerMember
	for _, m := range state.Members {
		if m.Server == a.cfg.Server {
			continue
		}
		head, err := a.bans.st.Head(ctx, a.td.Name(), m.Server)
		if err != nil {
			return out, err
		}
		member := &assayv1.ServerMember{Name: clip(m.Server, 64), JoinedUnixMs: unixMilli(m.JoinedAt), LedgerSize: head.Sequence}
		if head.Sequence > 0 {
			last, err := a.bans.st.Entry(ctx, a.td.Name(), m.Server, head.Sequence)
			if err != nil {
				return out, err
			}
			member.LastEntryUnixMs = unixMilli(last.At)
		}
		out = append(out, member)
	}
	return out, nil
}

// warnings is what an operator should look at.
func (a *admin) warnings() []string {
	var out []string
	if a.set.Simulated() {
		out = append(out, "this trust domain is simulated: its identities stand for no hardware")
	}
	if why := a.policy.Refused(); why != "" {
		out = append(out, "the policy file is refused, an older one is in force: "+why)
	}
	if why := a.policy.Outrun(); why != "" {
		out = append(out, "the policy file is older than the policy in force: "+why)
	}
	authority := a.ca.Status()
	for _, w := range a.policy.Current().Lint(PolicyLint(authority, a.now())) {
		out = append(out, "policy: "+w.Error())
	}
	if n := a.set.Panics(); n > 0 {
		out = append(out, fmt.Sprintf("a library panicked on evidence %d times; each was refused", n))
	}
	if why := a.adminTLS.warning(); why != "" {
		out = append(out, why)
	}
	if err := a.bans.stale(); err != nil {
		out = append(out, "nobody is served: "+err.Error())
	} else {
		out = append(out, a.bans.current.Load().warnings(a.now())...)
	}
	if p := a.denyListProblem.Load(); p != nil && p.err != nil {
		out = append(out, "the deny-list is not renewed: "+clip(p.err.Error(), 256))
	}
	out = append(out, a.publicWarnings()...)
	if a.warn != nil {
		out = append(out, a.warn(a.now())...)
	}
	return append(out, authority.Warnings...)
}

// PolicyLint is how a server lints its policy: at this moment, against what is
// left of the authority that signs.
func PolicyLint(authority ca.Status, at time.Time) policy.LintOptions {
	left := authority.AuthorityNotAfter.Sub(at).Truncate(time.Minute)
	// An authority that has ended signs nothing: that is another warning.
	return policy.LintOptions{At: at, CALifetime: max(left, time.Minute)}
}

// GetBundle returns the trust domain's bundle and verifier keys.
func (a *admin) GetBundle(context.Context, *assayv1.GetBundleRequest) (*assayv1.GetBundleResponse, error) {
	b, err := a.trustBundle()
	if err != nil {
		return nil, adminError(err)
	}
	return &assayv1.GetBundleResponse{Bundle: b}, nil
}

// GetLedgerEntry finds one entry.
func (a *admin) GetLedgerEntry(ctx context.Context, req *assayv1.GetLedgerEntryRequest) (*assayv1.LedgerEntry, error) {
	key := ""
	switch k := req.GetKey().(type) {
	case *assayv1.GetLedgerEntryRequest_Reference:
		if _, err := strconv.ParseUint(k.Reference, 10, 64); err == nil {
			return nil, status.Error(codes.NotFound, "there is no such entry") // a number is no reference
		}
		key = k.Reference
	case *assayv1.GetLedgerEntryRequest_Sequence:
		key = strconv.FormatUint(k.Sequence, 10)
		if req.GetChain() != "" {
			key = req.GetChain() + "/" + key
		}
	}
	if key == "" {
		return nil, status.Error(codes.InvalidArgument, "name a reference or a sequence number")
	}
	item, err := a.ledger.Get(ctx, key)
	if err != nil {
		return nil, adminError(err)
	}
	return entry(item), nil
}

// GetEvidence returns recorded evidence as it was received.
func (a *admin) GetEvidence(ctx context.Context, req *assayv1.GetEvidenceRequest) (*assayv1.GetEvidenceResponse, error) {
	if len(req.GetDigest()) != 32 {
		return nil, status.Errorf(codes.InvalidArgument, "a digest has 32 bytes, not %d", len(req.GetDigest()))
	}
	ev, err := a.ledger.Evidence(ctx, [32]byte(req.GetDigest()))
	if err != nil {
		return nil, adminError(err)
	}
	return &assayv1.GetEvidenceResponse{
		Tee: string(ev.Platform), Body: ev.Body, Endorsements: ev.Endorsements, EventLog: ev.EventLog, TimeUnixMs: ev.At.UnixMilli(),
	}, nil
}

// ListCheckpoints streams the signed checkpoints of all chains, each chain's oldest
// first. A chain without any is named all the same.
func (a *admin) ListCheckpoints(req *assayv1.ListCheckpointsRequest, stream assayv1.Admin_ListCheckpointsServer) error {
	names, err := a.ledger.Chains(stream.Context())
	if err != nil {
		return adminError(err)
	}
	for _, name := range names {
		key, sent := a.checkpointKey(name), 0
		for note, err := range a.checkpoints(stream.Context(), name, req.GetNewest()) {
			if err != nil {
				return adminError(err)
			}
			if err := stream.Send(&assayv1.Checkpoint{Note: note, VerifierKey: key, Chain: name}); err != nil {
				return err
			}
			sent++
		}
		if sent == 0 {
			if err := stream.Send(&assayv1.Checkpoint{VerifierKey: key, Chain: name}); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkpoints are the notes of a chain: all, or the newest if there is one.
func (a *admin) checkpoints(ctx context.Context, chain string, newest bool) iter.Seq2[[]byte, error] {
	if !newest {
		return a.ledger.In(chain).EachCheckpoint(ctx)
	}
	return func(yield func([]byte, error) bool) {
		note, err := a.ledger.In(chain).NewestCheckpoint(ctx)
		if !errors.Is(err, store.ErrNotFound) {
			yield(note, err)
		}
	}
}

// checkpointKey is the text of a chain's key; empty where this server knows none.
func (a *admin) checkpointKey(chain string) string {
	name, owner := ledger.ChainName(a.td.Name(), chain), ledger.ChainOwner(chain)
	if owner == ledger.ChainOwner(a.ledger.Chain()) {
		if k, err := a.ledger.Key().For(name); err == nil {
			return k.String()
		}
		return ""
	}
	for _, m := range a.ca.Members() {
		if m.Name == owner {
			if k, err := ledger.NewVerifierKey(name, m.Key); err == nil {
				return k.String()
			}
		}
	}
	return ""
}
