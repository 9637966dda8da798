package svid

import (
	"crypto/x509"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/attest"
)

// TestTheSNPTable holds the table of docs/spec/attested-svid.md, line by line.
func TestTheSNPTable(t *testing.T) {
	good := Vector{InstanceIdentity: 2, Configuration: 3, Executables: 3, Hardware: 2, RuntimeOpaque: 2}
	with := func(changes map[Aspect]Claim) Vector {
		v := good
		for a, c := range changes {
			v[a] = c
		}
		return v
	}
	pin := func(names ...string) func(*Appraisal) { return func(a *Appraisal) { a.Pinned = names } }
	snp := func(change func(*attest.SNP)) func(*Appraisal) { return func(a *Appraisal) { change(a.Claims.SNP) } }
	for _, tc := range []struct {
		name   string
		change func(*Appraisal)
		want   Vector
		status Tier
	}{
		{"an owned guest with approved image and firmware", nil, good, Affirming},
		{"nobody's guest", func(a *Appraisal) { a.Ownership = false }, with(map[Aspect]Claim{InstanceIdentity: 0}), Affirming},
		{"a listed chip is no ownership by itself", func(a *Appraisal) { a.Ownership = false; a.Pinned = []string{"measurement", "reported_tcb", "chip_id"} },
			with(map[Aspect]Claim{InstanceIdentity: 0}), Affirming},

		{"debugging", snp(func(s *attest.SNP) { s.Policy.Debug = true }), with(map[Aspect]Claim{Configuration: 96, Executables: 33, RuntimeOpaque: 96}), Contraindicated},
		{"debugging and migration", snp(func(s *attest.SNP) { s.Policy.Debug, s.Policy.MigrateMA = true, true }), with(map[Aspect]Claim{Configuration: 96, Executables: 33, RuntimeOpaque: 96}), Contraindicated},
		{"a migration agent", snp(func(s *attest.SNP) { s.Policy.MigrateMA = true }), with(map[Aspect]Claim{Configuration: 32, RuntimeOpaque: 32}), Warning},
		{"a migration agent and shared cores", snp(func(s *attest.SNP) { s.Policy.MigrateMA, s.Platform.SMT = true, true }), with(map[Aspect]Claim{Configuration: 32, RuntimeOpaque: 32}), Warning},
		{"shared cores", snp(func(s *attest.SNP) { s.Policy.SMT, s.Platform.SMT = true, true }), with(map[Aspect]Claim{Configuration: -3}), Affirming},
		{"cores that might be shared", snp(func(s *attest.SNP) { s.Policy.SMT = true }), good, Affirming},
		{"a level below the most privileged", snp(func(s *attest.SNP) { s.VMPL = 1 }), good, Affirming},

		{"an image that the policy does not name", pin("reported_tcb", "product"), with(map[Aspect]Claim{Executables: 0}), Affirming},
		{"the signer pinned", pin("reported_tcb", "id_key_digest"), good, Affirming},
		{"the author pinned", pin("reported_tcb", "author_key_digest"), good, Affirming},
		{"host data is no image", pin("reported_tcb", "host_data", "family_id", "image_id"), with(map[Aspect]Claim{Executables: 0}), Affirming},

		{"no floor", pin("measurement"), with(map[Aspect]Claim{Hardware: -36}), Warning},
		{"a floor for other TCBs", pin("measurement", "current_tcb", "committed_tcb", "launch_tcb"), with(map[Aspect]Claim{Hardware: -36}), Warning},
		{"a floor for the firmware's version", pin("measurement", "current_firmware"), with(map[Aspect]Claim{Hardware: -36}), Warning},
		{"provisional firmware", snp(func(s *attest.SNP) { s.Provisional = true }), with(map[Aspect]Claim{Hardware: -37}), Warning},
		{"provisional firmware, and a committed floor", func(a *Appraisal) {
			a.Claims.SNP.Provisional, a.Pinned = true, append(a.Pinned, "committed_tcb")
		}, good, Affirming},
		{"provisional firmware, and only a committed floor", func(a *Appraisal) {
			a.Claims.SNP.Provisional, a.Pinned = true, []string{"measurement", "committed_tcb"}
		}, with(map[Aspect]Claim{Hardware: -36}), Warning},
		{"revocation not checked", snp(func(s *attest.SNP) { s.Revocation = "not_checked" }), with(map[Aspect]Claim{Hardware: -35}), Warning},
		{"a grace", snp(func(s *attest.SNP) { s.Revocation = "grace" }), with(map[Aspect]Claim{Hardware: -33}), Warning},
		{"a grace, provisional, no floor", func(a *Appraisal) {
			a.Claims.SNP.Provisional, a.Claims.SNP.Revocation, a.Pinned = true, "grace", nil
		}, with(map[Aspect]Claim{Executables: 0, Hardware: -33}), Warning},
		{"the issuer's grace", func(a *Appraisal) { a.Grace = true }, with(map[Aspect]Claim{Hardware: -33}), Warning},
		{"simulated", func(a *Appraisal) { a.Claims.Simulated = true }, with(map[Aspect]Claim{Hardware: -34, RuntimeOpaque: -34}), Warning},
		{"simulated with a migration agent", func(a *Appraisal) { a.Claims.Simulated, a.Claims.SNP.Policy.MigrateMA = true, true },
			with(map[Aspect]Claim{Configuration: 32, Hardware: -34, RuntimeOpaque: -34}), Warning},
		{"simulated and debugging", func(a *Appraisal) { a.Claims.Simulated, a.Claims.SNP.Policy.Debug = true, true },
			with(map[Aspect]Claim{Configuration: 96, Executables: 33, Hardware: -34, RuntimeOpaque: 96}), Contraindicated},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := snpAppraisal()
			if tc.change != nil {
				tc.change(&a)
			}
			r := appraised(t, a)
			if diff := cmp.Diff(tc.want, r.Vector); diff != "" {
				t.Error(diff)
			}
			if r.Status != tc.status || r.Simulated != a.Claims.Simulated {
				t.Errorf("status %s, simulated %t; want %s, %t", r.Status, r.Simulated, tc.status, a.Claims.Simulated)
			}
		})
	}
}

func TestSNPDebugSimulatedAndGraceAreNeverAffirming(t *testing.T) {
	for bits := 1; bits < 16; bits++ {
		a := snpAppraisal()
		s := a.Claims.SNP
		s.Policy.Debug, a.Claims.Simulated, a.Grace = bits&1 != 0, bits&2 != 0, bits&4 != 0
		if bits&8 != 0 {
			s.Revocation = "grace"
		}
		if r := appraised(t, a); r.Status == Affirming {
			t.Errorf("debug %t, simulated %t, grace %t, revocation %s: affirming", s.Policy.Debug, a.Claims.Simulated, a.Grace, s.Revocation)
		}
	}
}

func TestOfAnSNPGuestOnlyTheMeasurementLeaves(t *testing.T) {
	a := snpAppraisal()
	s := a.Claims.SNP
	r := appraised(t, a)
	if diff := cmp.Diff(map[string]attest.Bytes{"measurement": s.Measurement}, r.Measurements); diff != "" {
		t.Error(diff)
	}
	cwt, err := r.Sign(testKey(t, "verifier"))
	if err != nil {
		t.Fatal(err)
	}
	for what, secret := range map[string]attest.Bytes{
		"the chip id": s.ChipID[:8], "the report id": s.ReportID, "the agent's report id": s.ReportIDMA, "HOST_DATA": s.HostData,
		"REPORT_DATA": s.ReportData, "the id key": s.IDKeyDigest, "the family": s.FamilyID, "the image id": s.ImageID, "the evidence's digest": a.EvidenceDigest[:],
	} {
		if strings.Contains(string(cwt), string(secret)) {
			t.Errorf("the result holds %s", what)
		}
	}
	if got := r.EvidenceTime; !got.Equal(issued) {
		t.Errorf("evidence of %s: a report has no clock, want the time of issuance", got)
	}

	a.Publish = []string{"measurement", "id_key_digest", "author_key_digest"} // the last is zero
	want := map[string]attest.Bytes{"measurement": s.Measurement, "id_key_digest": s.IDKeyDigest}
	if diff := cmp.Diff(want, appraised(t, a).Measurements); diff != "" {
		t.Error(diff)
	}
	a.Publish = nil
	if got := appraised(t, a).Measurements; got != nil {
		t.Errorf("nothing is to be published, got %v", got)
	}
}

func TestAnSNPAppraisalThatCannotBeSaidIsRefused(t *testing.T) {
	publish := func(name string) func(*Appraisal) { return func(a *Appraisal) { a.Publish = []string{name} } }
	for name, change := range map[string]func(*Appraisal){
		"the chip id":                 publish("chip_id"),
		"the report id":               publish("report_id"),
		"the agent's report id":       publish("report_id_ma"),
		"HOST_DATA":                   publish("host_data"),
		"REPORT_DATA":                 publish("report_data"),
		"a raw TCB":                   publish("reported_tcb"),
		"the family":                  publish("family_id"),
		"a register":                  publish("pcr0"),
		"another spelling":            publish("Measurement"),
		"a short measurement":         func(a *Appraisal) { a.Claims.SNP.Measurement = a.Claims.SNP.Measurement[:47] },
		"no measurement":              func(a *Appraisal) { a.Claims.SNP.Measurement = nil },
		"no word on revocation":       func(a *Appraisal) { a.Claims.SNP.Revocation = "" },
		"an unknown word on it":       func(a *Appraisal) { a.Claims.SNP.Revocation = "good" },
		"no claims":                   func(a *Appraisal) { a.Claims.SNP = nil },
		"the claims of another":       func(a *Appraisal) { a.Claims.Platform = attest.AWSNitro },
		"simulated claims of nothing": func(a *Appraisal) { a.Claims.Simulated = true },
	} {
		t.Run(name, func(t *testing.T) {
			a := snpAppraisal()
			change(&a)
			_, err := Appraise(a, spiffeid.RequireFromString("spiffe://example.org/a"), testKey(t, "leaf").Public(), issued, expires, "example.org")
			wantError(t, err, attest.Internal, "appraise")
		})
	}
}

// A relying party names the measurement as policies do.
func TestARelyingPartyRequiresTheMeasurement(t *testing.T) {
	leaf, _ := mintVector(t, vectorCase{name: "snp", appraisal: snpAppraisal})
	bundle := x509bundle.FromX509Authorities(td, []*x509.Certificate{repeatCA(t, td)})
	k := verifierKeys(t)
	k.TrustDomain = td
	src := NewSource(bundle, k)
	verify := func(require ...Requirement) error {
		_, err := Verify([]*x509.Certificate{leaf}, src, issued.Add(time.Minute), require...)
		return err
	}
	if err := verify(Measurement("measurement", register("other"), register("measurement")), Tee(attest.AMDSEVSNP), MinTier(Affirming), Owned()); err != nil {
		t.Error(err)
	}
	for name, values := range map[string][]attest.Bytes{
		"another": {register("other")}, "a prefix": {register("measurement")[:32]}, "zero": {make(attest.Bytes, 48)}, "none": nil,
	} {
		t.Run(name, func(t *testing.T) {
			wantError(t, verify(Measurement("measurement", values...)), attest.Denied, "measurement")
		})
	}
	wantError(t, verify(Measurement("id_key_digest", register("id key"))), attest.Denied, "id_key_digest")
	wantError(t, verify(PCR(0, register("measurement"))), attest.Denied, "pcr0")
	wantError(t, verify(Tee(attest.AWSNitro)), attest.Denied, "tee")
}
