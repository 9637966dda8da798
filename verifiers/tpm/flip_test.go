//go:build !race

package tpm_test

import (
	"bytes"
	"slices"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifiers"
	"github.com/assay-project/assay/verifiers/internal/checktest"
	"github.com/assay-project/assay/verifiers/tpm"
)

// Each bit of a good body is flipped, one at a time, and all of an attestation is
// run: the EK's AK is remembered, and there is no second round, so that an AK of
// another name is refused. It takes seconds of CPU and runs on every core; it is
// left out with -short and with the race detector.
func TestEveryBitOfAnAttestationCounts(t *testing.T) {
	if testing.Short() {
		t.Skip("many seconds of CPU: not with -short")
	}
	w := newWorld(t)
	for name, o := range map[string]order{
		"ECC, with a resident key":     {resident: 1},
		"RSA":                          {ekKind: rsa2048, akKind: rsa2048},
		"a cloud's certificate, no EK": {noEK: true, cloud: w.google},
	} {
		t.Run(name, func(t *testing.T) {
			keys := [][]byte{spkiOf(t, keyOf(t, p256, "resident a").Public())}
			ch, b := challenge(t, keys)
			o.extra = b.B[:]
			m := w.mint(t, o)
			v := w.verifier(t, tpm.WithBindings(new(tpm.MemoryBindings)))
			if _, err := enrol(t, v, m, ch, m.exchange(b)); err != nil {
				t.Fatal(err)
			}
			s, err := verifiers.NewSet(v)
			if err != nil {
				t.Fatal(err)
			}
			checktest.EveryBitCounts(t, m.evidence.Body, unusedBits(t, m), func(body []byte) (*attest.Claims, error) {
				ev := m.evidence
				ev.Body = body
				got, err := s.Verify(t.Context(), ev, ch, nil, epoch)
				if err != nil {
					return nil, err
				}
				c := got.Claims()
				return &c, nil
			})
		})
	}
}

// The attestation of a real machine, with its certificate and its event log.
func TestEveryBitOfARealAttestationCounts(t *testing.T) {
	if testing.Short() {
		t.Skip("many seconds of CPU: not with -short")
	}
	ev := attestationEvidence(t, moduleAttestation(t, "gce-cos-85-nonce9009"), tpm2.TPMAlgSHA256)
	v := hardware(t)
	accept(t, v, ev, cosTime)
	checktest.EveryBitCounts(t, ev.Body, nil, func(flipped []byte) (*attest.Claims, error) {
		e := ev
		e.Body = flipped
		return v.Authenticate(t.Context(), e, cosTime)
	})
}

// unusedBits are the bits of a body that change nothing: in the EK's public area,
// attributes that do not matter, and the authPolicy.
func unusedBits(t *testing.T, m minted) []int {
	t.Helper()
	if len(m.body.EKPublic) == 0 {
		return nil
	}
	start := 8 * bytes.Index(m.evidence.Body, m.body.EKPublic)
	var out []int
	bit := func(offset, n int) { out = append(out, start+8*offset+n) }
	// objectAttributes are bytes 4 to 7, most significant first.
	for _, n := range []int{2, 6, 7, 8, 9, 10, 11, 19} { // stClear, userWithAuth, adminWithPolicy, firmwareLimited, svnLimited, noDA, encryptedDuplication, x509sign
		bit(7-n/8, n%8)
	}
	for i := range 32 { // authPolicy, behind its size
		for n := range 8 {
			bit(10+i, n)
		}
	}
	slices.Sort(out)
	return out
}
