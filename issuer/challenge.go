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
	demand := &assayv1.Challenge{
		Nonce:          ch.Nonce[:],
		TimeUnixMs:     now.UnixMilli(),
		DeadlineUnixMs: deadline.UnixMilli(),
	}
	if h.platform == attest.TPM2 {
		ch.PCRBank = a.cfg.TPM.PCRBank
		demand.PcrBank, demand.Pcrs = ch.PCRBank, staticPCRs()
	}
	err = a.stream.Send(&assayv1.AttestResponse{Message: &assayv1.AttestResponse_Challenge{Challenge: demand}})
	return ch, deadline, err
}

// staticPCRs are the registers that only a reset of the machine clears (TCG PC
// Client Platform, section 4.6). Software can reset those above, so that they
// say nothing of the boot.
func staticPCRs() []uint32 {
	out := make([]uint32, 16)
	for i := range out {
		out[i] = uint32(i)
	}
	return out
}
