package agent

import (
	"context"
	"crypto"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/assay-project/assay/attest"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
)

// protocolVersion is what this agent speaks.
const protocolVersion = 1

// attestTimeout bounds one attestation, from Hello to Issued.
const attestTimeout = 90 * time.Second

// challengeTimeout bounds the wait for a challenge, connecting included. It
// also bounds how wrong the time in it can be (see [timekeeper.anchor]).
const challengeTimeout = 20 * time.Second

// attestation is one attestation: the keys and names asked for, and what
// vouches for them.
type attestation struct {
	td       spiffeid.TrustDomain
	serverID string
	attester Attester
	time     *timekeeper
	keyType  KeyType
	holder   KeyHolder // makes the keys where they are to stay in the hardware; nil else
	ids      []string  // one for each key; "" is the next identity that policy grants
	previous *svid     // nil at boot; else the SVID whose key proves the renewal
}

// run speaks the protocol once:
//
//  1. make keys, say Hello
//  2. take the challenge, and the server's time from it
//  3. bind: the TLS exporter, the nonce and the keys, hashed by this side
//  4. have the hardware vouch for the binding, and prove the previous key
//  5. answer a second round, where the server asks for one
//  6. check what comes back
func (a *attestation) run(ctx context.Context, l *link) (*issuance, error) {
	// 1. Keys, and Hello.
	keys, err := a.keys(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, attestTimeout)
	defer cancel()
	patience := time.AfterFunc(challengeTimeout, cancel)
	defer patience.Stop()
	stream, err := assayv1.NewAttestationClient(l).Attest(ctx)
	if err != nil {
		return nil, rpcError(l, err)
	}
	sent := a.time.clock.Boot()
	if err := send(stream, &assayv1.AttestRequest{Message: &assayv1.AttestRequest_Hello{Hello: a.hello(keys)}}); err != nil {
		return nil, rpcError(l, err)
	}

	// 2. The challenge.
	reply, err := stream.Recv()
	if err != nil {
		return nil, rpcError(l, endedEarly(err))
	}
	received := a.time.clock.Boot()
	if !patience.Stop() {
		return nil, &attest.Error{Kind: attest.Unavailable, Check: "server", Err: fmt.Errorf("no challenge within %s", challengeTimeout)}
	}
	conn, err := connectionState(stream.Context())
	if err != nil {
		return nil, err
	}
	d, err := checkChallenge(reply, conn.PeerCertificates[0])
	if err != nil {
		return nil, err
	}
	if err := a.time.plausible(d.time); err != nil {
		return nil, err
	}
	a.time.anchor(d.time, sent, received)
	if _, ok := a.attester.(Quoter); ok {
		if d.over, err = checkPCRs(reply.GetChallenge()); err != nil {
			return nil, err
		}
	}

	// 3. The binding.
	binding, err := a.bind(conn, d.nonce, keys)
	if err != nil {
		return nil, err
	}

	// 4. Evidence, within the challenge's life.
	inTime, cancel := context.WithTimeout(ctx, d.lifetime)
	defer cancel()
	answer, log, err := a.answer(inTime, binding, d.over, keys)
	if err != nil {
		return nil, err
	}
	if err := send(stream, &assayv1.AttestRequest{Message: &assayv1.AttestRequest_Evidence{Evidence: answer}}); err != nil {
		return nil, rpcError(l, err)
	}
	if err := sendEventLog(stream, log); err != nil {
		return nil, rpcError(l, err)
	}

	// 5. The second round.
	if reply, err = a.secondRound(inTime, stream, binding); err != nil {
		return nil, rpcError(l, err)
	}

	// 6. SVIDs.
	issued, err := checkIssued(reply, a.td, keys, a.time.now())
	if err != nil {
		return nil, err
	}
	switch _, err = stream.Recv(); {
	case err == nil:
		return nil, replyError("reply_order", "the server went on after its SVIDs")
	case !errors.Is(err, io.EOF):
		return nil, rpcError(l, err)
	}
	return issued, nil
}

func (a *attestation) hello(keys []keyRequest) *assayv1.Hello {
	h := &assayv1.Hello{
		Version: protocolVersion, TrustDomain: a.td.Name(), Tee: string(a.attester.Platform()), Purpose: assayv1.Purpose_PURPOSE_BOOT,
	}
	if a.previous != nil {
		h.Purpose = assayv1.Purpose_PURPOSE_RENEW
	}
	for _, k := range keys {
		h.Keys = append(h.Keys, &assayv1.KeyRequest{Csr: k.csr, RequestedId: k.bound.RequestedID})
	}
	return h
}

// bind computes the binding from what this side knows itself; only the nonce
// came over the wire.
func (a *attestation) bind(conn tls.ConnectionState, nonce attest.Nonce, keys []keyRequest) (attest.Binding, error) {
	ekm, err := conn.ExportKeyingMaterial(attest.ExporterLabel, []byte(a.td.Name()), attest.ExporterSize)
	if err != nil {
		return attest.Binding{}, &attest.Error{Kind: attest.Internal, Check: "exporter", Err: err}
	}
	ch := attest.Challenge{
		Platform: a.attester.Platform(), TrustDomain: a.td.Name(), ServerID: a.serverID,
		Exporter: [attest.ExporterSize]byte(ekm), Nonce: nonce, Purpose: attest.Boot,
	}
	if a.previous != nil {
		ch.Purpose = attest.Renew
	}
	for _, k := range keys {
		ch.Keys = append(ch.Keys, k.bound)
	}
	return ch.Binding()
}

// keys makes the keys, in memory or in the hardware. What is slow in there comes
// before the challenge.
func (a *attestation) keys(ctx context.Context) ([]keyRequest, error) {
	if p, ok := a.attester.(Preparer); ok {
		if err := p.Prepare(ctx); err != nil {
			return nil, err
		}
	}
	keys := make([]keyRequest, len(a.ids))
	for i, id := range a.ids {
		k, err := a.key(ctx, id)
		var known *attest.Error
		switch {
		case errors.As(err, &known):
			return nil, err
		case err != nil:
			return nil, &attest.Error{Kind: attest.Internal, Check: "key", Err: err}
		}
		keys[i] = k
	}
	return keys, nil
}

func (a *attestation) key(ctx context.Context, id string) (keyRequest, error) {
	if a.holder == nil {
		return newKeyRequest(a.keyType, id)
	}
	key, err := a.holder.NewKey(ctx)
	if err != nil {
		return keyRequest{}, err
	}
	return requestFor(key, id)
}

// answer collects the evidence, with the event log that travels behind it, and the
// proof of the previous key.
func (a *attestation) answer(ctx context.Context, b attest.Binding, over PCRSelection, keys []keyRequest) (m *assayv1.Evidence, log []byte, err error) {
	ev, err := a.evidence(ctx, b, over, keys)
	if err != nil {
		return nil, nil, err
	}
	if m, err = evidenceMessage(ev); err != nil {
		return nil, nil, err
	}
	if a.previous != nil {
		if m.Renewal, err = proveRenewal(a.previous, b.B); err != nil {
			return nil, nil, err
		}
	}
	return m, ev.EventLog, nil
}

func (a *attestation) evidence(ctx context.Context, b attest.Binding, over PCRSelection, keys []keyRequest) (attest.Evidence, error) {
	q, ok := a.attester.(Quoter)
	if !ok {
		return a.attester.Evidence(ctx, b)
	}
	signers := make([]crypto.Signer, len(keys))
	for i, k := range keys {
		signers[i] = k.signer
	}
	return q.Quote(ctx, b, over, signers)
}

// connectionState is the TLS connection of a stream. The version is asserted
// once more before anything is exported: RFC 8446 exporters alone bind to the
// whole handshake.
func connectionState(ctx context.Context) (tls.ConnectionState, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return tls.ConnectionState{}, &attest.Error{Kind: attest.Internal, Check: "exporter", Err: errors.New("the stream has no peer")}
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || !info.State.HandshakeComplete || info.State.Version != tls.VersionTLS13 || len(info.State.PeerCertificates) == 0 {
		return tls.ConnectionState{}, &attest.Error{Kind: attest.Untrusted, Check: "server_tls_version", Err: errors.New("the stream is not on an authenticated TLS 1.3 connection")}
	}
	return info.State, nil
}

// send sends a message. After io.EOF the reason is in the status.
func send(s grpc.BidiStreamingClient[assayv1.AttestRequest, assayv1.AttestResponse], m *assayv1.AttestRequest) error {
	err := s.Send(m)
	if !errors.Is(err, io.EOF) {
		return err
	}
	if _, err = s.Recv(); err != nil {
		return endedEarly(err)
	}
	return replyError("reply_order", "the server closed the stream to messages and went on")
}

// endedEarly makes the end of a stream that should go on an error of its own.
func endedEarly(err error) error {
	if errors.Is(err, io.EOF) {
		return replyError("reply_order", "the server ended the attestation before it was over")
	}
	return err
}
