package main

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/issuer/ledger"
	"github.com/assay-project/assay/policy"
	"github.com/assay-project/assay/policy/replay"
)

var replayNoon = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

func replayDigest(s string) attest.Bytes {
	sum := sha512.Sum384([]byte(s))
	return sum[:]
}

// replayFleet is a policy of a thousand workloads, each with its image.
func replayFleet(b *testing.B, revision int) *policy.Bundle {
	b.Helper()
	var s strings.Builder
	fmt.Fprintf(&s, "version: 1\nbundle: fleet\nrevision: %d\ntrust_domain: simulated.example.org\nworkloads:\n", revision)
	for i := range 1000 {
		image := fmt.Sprint("image ", i)
		if revision > 1 && i%10 == 0 {
			image += ", rebuilt" // a tenth of the draft is wrong
		}
		fmt.Fprintf(&s, "  - {name: w%04d, tee: aws-nitro, mode: enforce, match: {pcr0: {in: [{value: \"%s\", not_after: 2099-01-01T00:00:00Z}]}, pcr3: {eq: \"%s\"}}, issue: [{spiffe_id: \"spiffe://{td}/{workload}\", x509_ttl: 1h}]}\n",
			i, replayDigest(image), replayDigest("role"))
	}
	out, err := policy.Parse("fleet.yaml", []byte(s.String()))
	check(b, err)
	return out
}

func replayClaims(enclave int) attest.Claims {
	return attest.Claims{Platform: attest.AWSNitro, Nitro: &attest.Nitro{
		ModuleID: fmt.Sprintf("i-%017d-enc%016d", enclave, enclave), Timestamp: replayNoon,
		PublicKey: bytes.Repeat([]byte{1}, 91), UserData: bytes.Repeat([]byte{2}, 41), Nonce: bytes.Repeat([]byte{3}, 32),
		PCRs: map[int]attest.Bytes{0: replayDigest(fmt.Sprint("image ", enclave%1050)), // the last 50 are nobody's
			1: replayDigest("kernel"), 2: replayDigest("app"), 3: replayDigest("role"), 4: replayDigest(fmt.Sprint("instance ", enclave)), 8: replayDigest("signer")},
	}}
}

// replayPayload is what the ledger holds of an attestation.
func replayPayload(b *testing.B, p *policy.Bundle, enclave int) []byte {
	b.Helper()
	c := replayClaims(enclave)
	d, e := p.Judge(c, replayNoon)
	digest := p.Digest()
	entry := ledger.Entry{
		Version: 1, TrustDomain: "simulated.example.org", Chain: ledger.MainChain, Time: replayNoon, Reference: "as-aaaaaaaaaa",
		Outcome:  map[bool]string{true: ledger.Granted, false: ledger.Denied}[d.Outcome == policy.Granted],
		Platform: c.Platform, Purpose: attest.Renew, Instance: c.Instance(), Simulated: true, EvidenceDigest: digest[:], VerifiedAt: replayNoon,
		Policy: ledger.Policy{Name: p.Name(), Revision: p.Revision(), Digest: digest[:]}, Claims: c, Decision: d, Identities: []ledger.Identity{},
	}
	for _, id := range e.Identities {
		entry.Identities = append(entry.Identities, ledger.Identity{Serial: strings.Repeat("ab", 16), SPIFFEID: id.SPIFFEID, KeyThumbprint: digest[:], NotAfter: id.NotAfter})
	}
	out, err := json.Marshal(entry)
	check(b, err)
	return out
}

// BenchmarkReplay replays 100,000 recorded decisions under a policy of 1,000
// workloads, each payload hashed and decoded as it comes from the ledger, one in
// twenty a denial. Time is that of the cores, garbage collection and all; the ratio
// is to the draft's bare Evaluate of the same claims.
//
//	renewals  1,000 enclaves attest a hundred times each
//	distinct  100,000 enclaves, once each
func BenchmarkReplay(b *testing.B) {
	const n = 100_000
	then, draft := replayFleet(b, 1), replayFleet(b, 2)
	for name, enclaves := range map[string]int{"renewals": 1000, "distinct": n} {
		b.Run(name, func(b *testing.B) {
			payloads := make([][]byte, 1050) // of enclaves that the others are made of
			for i := range payloads {
				payloads[i] = replayPayload(b, then, i)
			}
			source := func(yield func(replay.Item, error) bool) {
				for i := range n {
					enclave := i % enclaves
					payload := slices.Clone(payloads[enclave%len(payloads)])
					payload = bytes.ReplaceAll(payload, fmt.Appendf(nil, "i-%017d-enc%016d", enclave%len(payloads), enclave%len(payloads)), fmt.Appendf(nil, "i-%017d-enc%016d", enclave, enclave))
					item := replay.Item{Decode: func() (replay.Record, error) {
						if sha256.Sum256(payload) == [32]byte{} {
							return replay.Record{}, fmt.Errorf("a hash that cannot be")
						}
						r, _, err := recordOfPayload(payload)
						r.Time = replayNoon.Add(time.Duration(i) * time.Second)
						return r, err
					}}
					if !yield(item, nil) {
						return
					}
				}
			}
			bare := replayEvaluate(b, draft)
			opt := replay.Options{Draft: draft, At: replayNoon, Policies: func(replay.Version) *policy.Bundle { return then }}
			before := cpuTime(b)
			for b.Loop() {
				r, err := replay.Run(b.Context(), source, opt)
				check(b, err)
				if r.Attestations != n || r.Distinct != uint64(enclaves) || r.Unreadable != 0 || r.Of(replay.Loses).Attestations == 0 || r.Of(replay.Gains).Attestations != 0 {
					b.Fatalf("%d attestations, %d distinct, %d unreadable, %+v", r.Attestations, r.Distinct, r.Unreadable, r.Totals)
				}
			}
			each := (cpuTime(b) - before) / time.Duration(b.N*n)
			b.ReportMetric(float64(time.Second)/float64(each), "decisions/s/core")
			b.ReportMetric(float64(each)/float64(bare), "x-evaluate")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// replayEvaluate is what one bare Evaluate costs.
func replayEvaluate(b *testing.B, draft *policy.Bundle) time.Duration {
	b.Helper()
	claims := make([]attest.Claims, 1050)
	for i := range claims {
		claims[i] = replayClaims(i)
	}
	const rounds = 20
	before := cpuTime(b)
	for range rounds {
		for _, c := range claims {
			draft.Evaluate(c, replayNoon)
		}
	}
	return (cpuTime(b) - before) / time.Duration(rounds*len(claims))
}

// cpuTime is what this process has used of all cores: unlike the clock, it does not
// count what others on the machine do.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	check(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
