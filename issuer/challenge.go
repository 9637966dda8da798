package issuer

import (
	"crypto/rand"
	"crypto/tls"
	"time"

	"github.com/assay-project/assay/attest"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
)

// challenge is step 3. The nonce is in this stream's memory and nowhere else:
// no other stream, connection or server can accept its answer, and this one
// accepts one answer.
func (a *attestation) challenge(h *hello, state tls.ConnectionState) (attest.Challenge, time.Time, error) {
	ekm, err := exporter(state, a.td.Name())
	if err != nil {
		return attest.Challenge{}, time.Time{}, internal("exporter", err)
	}
	ch := attest.Challenge{
		Platform:    h.platform,
		TrustDomain: a.td.Name(),
		ServerID:    a.id.String(),
		Exporter:    ekm,
		Keys:        h.keys,
		Purpose:     h.purpose,
	}
	if _, err := rand.Read(ch.Nonce[:]); err != nil {
		return attest.Challenge{}, time.Time{}, internal("nonce", err)
	}
	now := a.now()
	deadline := now.Add(a.challengeTTL)
	err = a.stream.Send(&assayv1.AttestResponse{Message: &assayv1.AttestResponse_Challenge{Challenge: &assayv1.Challenge{
		Nonce:          ch.Nonce[:],
		TimeUnixMs:     now.UnixMilli(),
		DeadlineUnixMs: deadline.UnixMilli(),
	}}})
	return ch, deadline, err
}
