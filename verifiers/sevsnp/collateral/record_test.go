package collateral_test

import (
	"context"
	"testing"
	"time"

	"github.com/assay-project/assay/attest"
	simsnp "github.com/assay-project/assay/simulators/sevsnp"
	"github.com/assay-project/assay/verifiers"
	"github.com/assay-project/assay/verifiers/sevsnp"
)

// What is recorded of an attestation must be readable when the cache it rested
// on is long gone.
func TestEvidenceThatRestedOnCollateralVerifiesAgainFromItsRecordAlone(t *testing.T) {
	w := newWorld(t, simsnp.KDSOptions{Burst: -1})
	s := w.source(t, t.TempDir(), nil)
	check(t, s.Refresh(t.Context(), "genoa", "vcek"))
	required := sevsnp.WithRevocation(sevsnp.RevocationPolicy{Require: true})
	set, err := verifiers.NewSet(w.verifier(t, s, required))
	check(t, err)

	g, err := w.chips[simsnp.Genoa].Launch(simsnp.Launch{})
	check(t, err)
	ch := attest.Challenge{
		Platform: attest.AMDSEVSNP, TrustDomain: "simulated.example.org", ServerID: "spiffe://simulated.example.org/assay/server",
		Exporter: [32]byte{1}, Nonce: attest.Nonce{2}, Keys: []attest.BoundKey{{SPKI: []byte("key")}}, Purpose: attest.Boot,
	}
	b, err := ch.Binding()
	check(t, err)
	body, err := g.Report(sevsnp.ReportData(b))
	check(t, err)
	bare := attest.Evidence{Platform: attest.AMDSEVSNP, Body: body} // nothing came along
	v, err := set.Verify(t.Context(), bare, ch, nil, time.Now())
	check(t, err)

	record := v.Evidence()
	if len(record.Endorsements) == 0 || v.EvidenceDigest() != bare.Digest() {
		t.Fatalf("%d endorsements are recorded; the digest is that of the report: %t", len(record.Endorsements), v.EvidenceDigest() == bare.Digest())
	}
	alone := w.verifier(t, nil, required)
	if _, err := alone.Authenticate(context.Background(), bare, time.Now()); attest.CheckOf(err) != sevsnp.CheckEndorsementMissing {
		t.Errorf("without its record: %v", err)
	}
	c, err := alone.Authenticate(context.Background(), record, time.Now())
	if err != nil || c.SNP.Revocation != sevsnp.RevocationOK {
		t.Errorf("from its record alone: %v", err)
	}
}

func TestWhatCameAlongIsRecordedTooWhileThereIsRoom(t *testing.T) {
	w := newWorld(t, simsnp.KDSOptions{Burst: -1})
	g, err := w.chips[simsnp.Milan].Launch(simsnp.Launch{CRL: true})
	check(t, err)
	body, err := g.Report([64]byte{1})
	check(t, err)
	ev := attest.Evidence{Platform: attest.AMDSEVSNP, Body: body, Endorsements: g.Endorsements()}
	for len(ev.Endorsements) < 16 {
		ev.Endorsements = append(ev.Endorsements, []byte{0x30, byte(len(ev.Endorsements))}) // of no use
	}
	v := w.verifier(t, nil, sevsnp.WithRevocation(sevsnp.RevocationPolicy{Require: true}))
	_, whole, err := v.AuthenticateComplete(t.Context(), ev, time.Now())
	check(t, err)
	if n := len(whole.Endorsements); n != 16 {
		t.Errorf("%d endorsements are recorded, want as many as are read again", n)
	}
	if _, err := v.Authenticate(t.Context(), whole, time.Now()); err != nil {
		t.Errorf("the record does not verify: %v", err)
	}
}
