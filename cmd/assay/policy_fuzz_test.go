package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/policy"
)

// claimsSeeds are claims of each platform, as the commands print them.
func claimsSeeds() []attest.Claims {
	bytes := func(n int, b byte) attest.Bytes { return attest.Bytes(strings.Repeat(string(rune(b)), n)) }
	on, fmc := true, uint8(1)
	return []attest.Claims{
		{Platform: attest.AWSNitro, Nitro: &attest.Nitro{ModuleID: "i-1-enc1", PCRs: map[int]attest.Bytes{0: bytes(48, 1), 3: bytes(48, 2), 4: bytes(48, 3), 8: bytes(48, 4)}}},
		{Platform: attest.AMDSEVSNP, SNP: &attest.SNP{
			Version: 3, Product: "turin", SigningKey: "vcek", Measurement: bytes(48, 1), IDKeyDigest: bytes(48, 2), GuestSVN: 3, VMPL: 1,
			ReportedTCB: attest.TCB{FMC: &fmc, Bootloader: 1, SNP: 4, Microcode: 81}, ReportID: bytes(32, 5), ChipID: append(bytes(8, 6), make([]byte, 56)...),
		}},
		{Platform: attest.AMDSEVSNP, SNP: &attest.SNP{Version: 5, Product: "milan", SigningKey: "vlek", CSPID: "CN=cc-us-east-2.amazonaws.com", Measurement: bytes(48, 1), ReportedTCB: attest.TCB{SNP: 24}, ChipID: make([]byte, 64)}},
		{Platform: attest.TPM2, TPM: &attest.TPM{
			Bank: "sha256", PCRs: map[int]attest.Bytes{4: bytes(32, 1), 7: bytes(32, 2), 8: bytes(32, 3)}, EK: bytes(32, 4), AKTrust: attest.AKActivated,
			Boot: &attest.MeasuredBoot{SecureBoot: &on}, Cloud: &attest.CloudInstance{Provider: "gce", ProjectID: `a" }, {`},
		}},
		{Platform: attest.TPM2, TPM: &attest.TPM{Bank: "sha384", PCRs: map[int]attest.Bytes{11: bytes(48, 1)}, AKTrust: attest.AKCertificate, Cloud: &attest.CloudInstance{Provider: "azure", ProjectID: "p"}}},
	}
}

// A policy that is written from claims, which a stranger may have made up, is one
// workload of the name that was asked for, whatever the claims say; or none is
// written. What admits the claims says so.
func FuzzPolicyFromClaims(f *testing.F) {
	for _, c := range claimsSeeds() {
		raw, err := json.Marshal(c)
		check(f, err)
		f.Add(raw)
		f.Add([]byte(`{"entry":{"claims":` + string(raw) + `}}`))
	}
	f.Add([]byte(`{"platform":"amd-sev-snp","snp":{"product":"genoa}\n  - name: evil\n    tee: aws-nitro #","measurement":"01"}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		claims, err := readClaims(raw)
		if err != nil || claims == nil {
			return
		}
		platform, err := findTEE(string(claims.Platform))
		if err != nil {
			return
		}
		s := &starter{bundle: "prod", revision: 1, trustDomain: "example.org", id: "spiffe://{td}/{workload}", workload: "fuzzed"}
		if s.ofClaims(&subject{file: "claims\n.json", tee: platform, claims: *claims}) != nil || s.whole() != nil {
			return
		}
		src := s.text("policy.yaml")
		b, err := policy.Parse("policy.yaml", []byte(src))
		if err != nil {
			return // nothing is written then
		}
		ws := b.Workloads()
		if len(ws) != 1 || ws[0].Name != "fuzzed" || ws[0].Platform != claims.Platform || ws[0].Mode == policy.Enforce && !ws[0].Ownership {
			t.Fatalf("the claims wrote a policy of their own:\n%s", src)
		}
		d := b.Explain(*claims, fixtureTime)
		if d.Outcome == policy.Granted && ws[0].Mode != policy.Enforce {
			t.Fatalf("an audited workload grants: %+v", d)
		}
		_, _ = explain(&subject{file: "claims.json", tee: platform, claims: *claims}, b, "policy.yaml", fixtureTime)
	})
}

// From claims of every platform a policy is written that passes the check and
// admits just these claims, or is an audit of them.
func TestAStarterFromClaimsAdmitsTheseClaims(t *testing.T) {
	for i, c := range claimsSeeds() {
		platform, err := findTEE(string(c.Platform))
		check(t, err)
		s := &starter{bundle: "prod", revision: 1, trustDomain: "example.org", id: "spiffe://{td}/{workload}", workload: "w"}
		check(t, s.ofClaims(&subject{file: "claims.json", tee: platform, claims: c}))
		check(t, s.whole())
		src := s.text("policy.yaml")
		b, err := policy.Parse("policy.yaml", []byte(src))
		if err != nil {
			t.Errorf("%d: %v\n%s", i, err, src)
			continue
		}
		d := b.Explain(c, fixtureTime)
		if d.Outcome != policy.Granted && d.Reason != policy.ReasonAuditOnly {
			t.Errorf("%d: %s %s\n%s", i, d.Reason, d.Detail, src)
		}
	}
}
