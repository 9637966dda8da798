package agent

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"log/slog"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/assay-project/assay/attest"
	agentv1 "github.com/assay-project/assay/issuer/issuerpb/assay/agent/v1"
)

// How much may be signed: a TPM signs some tens of digests a second, and renewals
// must have their turn.
const (
	signPerSecond = 50
	signBurst     = 50
	signWaiting   = 16 // requests at once, waiting for the TPM

	// A user's share: nobody keeps the others from signing.
	signPerSecondOfUser = signPerSecond / 2
	signWaitingOfUser   = 3 // root's, and the agent's own user's, is four times that
)

// agentAPI is assay.agent.v1, over the same state and on the same socket as the
// Workload API.
type agentAPI struct {
	agentv1.UnimplementedAgentServer
	workload *workloadAPI
	tee      attest.Platform
	log      *slog.Logger
	agent    *Agent
	limit    *rate.Limiter
	ofUser   *userRates
}

func newAgentAPI(w *workloadAPI, a *Agent) *agentAPI {
	return &agentAPI{workload: w, tee: a.cfg.Attester.Platform(), log: a.log, agent: a, limit: rate.NewLimiter(signPerSecond, signBurst), ofUser: newUserRates(signPerSecondOfUser, signPerSecondOfUser)}
}

// GetIdentities returns what is served now.
func (s *agentAPI) GetIdentities(ctx context.Context, _ *agentv1.GetIdentitiesRequest) (*agentv1.Identities, error) {
	now, _, err := s.workload.view(ctx)
	if err != nil {
		return nil, err
	}
	return now.identities(s.tee), nil
}

// WatchIdentities streams the full state, at once and after every change.
func (s *agentAPI) WatchIdentities(_ *agentv1.WatchIdentitiesRequest, stream grpc.ServerStreamingServer[agentv1.Identities]) error {
	var sent said
	return s.workload.follow(stream.Context(), func(now *offer) error {
		m := now.identities(s.tee)
		if !sent.changes(m) {
			return nil
		}
		return stream.Send(m)
	})
}

// Sign signs a digest with a key in hardware.
func (s *agentAPI) Sign(ctx context.Context, r *agentv1.SignRequest) (*agentv1.SignResponse, error) {
	hash, ok := hashes()[r.GetHashAlgorithm()]
	switch {
	case !ok:
		return nil, status.Error(codes.InvalidArgument, "unknown hash algorithm")
	case len(r.GetDigest()) != hash.Size():
		return nil, status.Errorf(codes.InvalidArgument, "a digest of %d bytes, want %d", len(r.GetDigest()), hash.Size())
	case len(r.GetSpkiSha256()) != 0 && len(r.GetSpkiSha256()) != sha256.Size:
		return nil, status.Errorf(codes.InvalidArgument, "spki_sha256 has %d bytes, want %d", len(r.GetSpkiSha256()), sha256.Size)
	}
	if _, _, err := s.workload.view(ctx); err != nil {
		return nil, err // to whom nothing is served there are no keys either
	}
	v, err := s.signer(ctx, r)
	if err != nil {
		return nil, err
	}
	key, ok := v.key.(*residentKey)
	if !ok {
		return nil, status.Error(codes.FailedPrecondition, "the key of this identity is in memory: fetch it through the SPIFFE Workload API")
	}
	crowd, user := s.workload.crowd, callerOf(ctx).user()
	leave, err := crowd.enter(&crowd.signing, user, signWaiting, signWaitingOfUser)
	if err != nil {
		return nil, status.Error(codes.ResourceExhausted, "too many signatures are being waited for")
	}
	defer leave()
	if ok, _ := s.ofUser.allow(user, time.Now()); !ok && !crowd.owns(user) {
		return nil, status.Errorf(codes.ResourceExhausted, "more than %d signatures a second of this user", signPerSecondOfUser)
	}
	if !s.limit.Allow() {
		return nil, status.Errorf(codes.ResourceExhausted, "more than %d signatures a second", signPerSecond)
	}
	sig, err := key.sign(ctx, r.GetDigest(), hash)
	if attest.CheckOf(err) == checkKeyGone {
		s.agent.keysGone(nil)
	}
	if err != nil && left(ctx) {
		return nil, status.Error(codes.Canceled, "nobody waits for the signature any more") // no failure of the TPM
	}
	if err != nil {
		s.log.Warn("a signature with a key in the TPM failed", "check", attest.CheckOf(err), "error", err.Error())
		return nil, status.Error(codes.Unavailable, "the TPM did not sign: "+clip(err.Error()))
	}
	return &agentv1.SignResponse{Signature: sig}, nil
}

// left reports whether the caller of ctx is gone, or its time is over: contexts that
// are made of one hear of its deadline in any order.
func left(ctx context.Context) bool {
	at, bounded := ctx.Deadline()
	return ctx.Err() != nil || bounded && time.Until(at) <= 0
}

// signer is the SVID whose key is to sign. What the caller may not have is not there
// for it.
func (s *agentAPI) signer(ctx context.Context, r *agentv1.SignRequest) (*svid, error) {
	none := status.Error(codes.NotFound, "this agent holds no such key now: look at GetIdentities")
	id, err := spiffeid.FromString(r.GetSpiffeId())
	if err != nil {
		return nil, none
	}
	m := s.agent.in(id.TrustDomain())
	if m == nil {
		return nil, none
	}
	v, err := m.state.signer(r.GetSpiffeId(), r.GetSpkiSha256())
	switch {
	case err != nil:
		if why := m.nothing(); why != nil {
			return nil, why
		}
		return nil, none // it serves again by now, and the caller is to look
	case v == nil:
		return nil, none
	}
	may, err := s.workload.gate.judge(ctx, []*svid{v})
	switch {
	case err != nil:
		return nil, err
	case len(may) == 0:
		return nil, none
	}
	return v, nil
}

func hashes() map[agentv1.HashAlgorithm]crypto.Hash {
	return map[agentv1.HashAlgorithm]crypto.Hash{
		agentv1.HashAlgorithm_HASH_ALGORITHM_SHA256: crypto.SHA256,
		agentv1.HashAlgorithm_HASH_ALGORITHM_SHA384: crypto.SHA384,
		agentv1.HashAlgorithm_HASH_ALGORITHM_SHA512: crypto.SHA512,
	}
}

// identities is the offer as a message of assay.agent.v1.
func (o *offer) identities(tee attest.Platform) *agentv1.Identities {
	out, first := &agentv1.Identities{Tee: string(tee)}, o.first().bundle
	for b := range o.bundles() {
		m := b.message()
		m.Member = o.own[b.td]
		if b == first {
			out.Bundle = m
		} else {
			out.Federated = append(out.Federated, m)
		}
	}
	hints := o.hints()
	for _, v := range o.svids() {
		id := &agentv1.Identity{
			SpiffeId: v.id.String(), NotAfterUnixMs: v.notAfter().UnixMilli(), KeyResidency: agentv1.KeyResidency_KEY_RESIDENCY_SOFTWARE,
			AttestationResult: attestationResult(v.chain[0]), KeysOnDisk: v.keysOnDisk, Hint: hints[v],
		}
		if isResident(v.key) {
			id.KeyResidency = agentv1.KeyResidency_KEY_RESIDENCY_TPM
		}
		for _, c := range v.chain {
			id.Chain = append(id.Chain, c.Raw)
		}
		out.Identities = append(out.Identities, id)
	}
	return out
}

// message is one trust domain's bundle as a message of assay.agent.v1.
func (b *trustBundle) message() *agentv1.Bundle {
	out := &agentv1.Bundle{
		TrustDomain: b.td.Name(), Sequence: b.sequence, Revision: b.revision,
		VerifierKeys: b.verifierKeys, DenyList: b.denyList, JwtAuthorities: b.jwt.raw,
	}
	for _, c := range b.authorities {
		out.X509Authorities = append(out.X509Authorities, c.Raw)
	}
	return out
}

// oidCMW is id-pe-cmw (docs/spec/attested-svid.md).
func oidCMW() asn1.ObjectIdentifier { return asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 35} }

// attestationResult takes the CMW record out of a certificate, unverified; nil is
// none.
func attestationResult(leaf *x509.Certificate) []byte {
	for _, e := range leaf.Extensions {
		var cmw []byte
		if rest, err := asn1.Unmarshal(e.Value, &cmw); e.Id.Equal(oidCMW()) && err == nil && len(rest) == 0 {
			return cmw
		}
	}
	return nil
}

// signer finds the SVID of a name, and of a key where one is named: among those
// that are served, and those whose key was renewed before their end. nil is none.
// The error is that of view.
func (s *state) signer(id string, spki []byte) (*svid, error) {
	now, _, err := s.view()
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	retired := s.retired
	s.mu.Unlock()
	for i, v := range append(now.svids[:len(now.svids):len(now.svids)], retired...) {
		switch sum := sha256.Sum256(v.chain[0].RawSubjectPublicKeyInfo); {
		case v.id.String() != id || !v.live(s.now()):
		case len(spki) == 0 && i < len(now.svids), bytes.Equal(spki, sum[:]):
			return v, nil
		}
	}
	return nil, nil //nolint:nilnil // none is no error
}
