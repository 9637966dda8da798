//go:build !race

package tpm_test

import (
	"bytes"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-tpm/tpm2"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifiers"
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
			flipEveryBit(t, m, unusedBits(t, m), func(body []byte) (*attest.Claims, error) {
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
	body, err := attest.DecodeTPMEvidence(ev.Body)
	if err != nil {
		t.Fatal(err)
	}
	flipEveryBit(t, minted{evidence: ev, body: *body}, nil, func(flipped []byte) (*attest.Claims, error) {
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

func flipEveryBit(t *testing.T, m minted, unused []int, verify func(body []byte) (*attest.Claims, error)) {
	t.Helper()
	want, err := verify(m.evidence.Body)
	if err != nil {
		t.Fatal(err)
	}
	var next atomic.Int64
	var mu sync.Mutex
	refused := make(map[string]int)
	var admitted []int
	var wg sync.WaitGroup
	start := time.Now()
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			flip := slices.Clone(m.evidence.Body)
			mine := make(map[string]int)
			for {
				bit := int(next.Add(1) - 1)
				if bit >= 8*len(flip) {
					break
				}
				flip[bit/8] ^= 1 << (bit % 8)
				got, err := verify(flip)
				if err == nil {
					mu.Lock()
					admitted = append(admitted, bit)
					mu.Unlock()
					if diff := cmp.Diff(want, got); diff != "" {
						t.Errorf("bit %d flipped: it verifies with other claims:\n%s", bit, diff)
					}
				} else if mine[attest.CheckOf(err)]++; got != nil {
					t.Errorf("bit %d flipped: claims beside an error", bit)
				}
				flip[bit/8] ^= 1 << (bit % 8)
			}
			mu.Lock()
			defer mu.Unlock()
			for k, n := range mine {
				refused[k] += n
			}
		})
	}
	wg.Wait()
	slices.Sort(admitted)
	if diff := cmp.Diff(append([]int{}, unused...), append([]int{}, admitted...)); diff != "" {
		t.Errorf("flipped bits that verify (-listed +found): %s\nthe EK's area begins at bit %d\n%s", fmt.Sprint(admitted), 8*bytes.Index(m.evidence.Body, append([]byte{}, m.body.EKPublic...)), diff)
	}
	t.Logf("%d bits flipped in %s: %d verify, refused by %s", 8*len(m.evidence.Body), time.Since(start).Round(time.Second), len(admitted), tally(refused))
}
