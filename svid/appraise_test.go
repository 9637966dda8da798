package svid

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/attest"
)

// TestTheNitroTable holds the table of docs/spec/attested-svid.md, line by line.
func TestTheNitroTable(t *testing.T) {
	type change func(*Appraisal)
	pin := func(names ...string) change { return func(a *Appraisal) { a.Pinned = names } }
	for _, tc := range []struct {
		name   string
		base   func() Appraisal
		change change
		want   Vector
		status Tier
	}{
		{
			"an owned enclave with an approved image", nitroAppraisal, nil,
			Vector{InstanceIdentity: 2, Configuration: 3, Executables: 3, Hardware: 2, RuntimeOpaque: -2}, Affirming,
		}, {
			"nobody's enclave", nitroAppraisal, func(a *Appraisal) { a.Ownership = false },
			Vector{Configuration: 3, Executables: 3, Hardware: 2, RuntimeOpaque: -2}, Affirming,
		}, {
			"an image that the policy does not name", nitroAppraisal, pin("pcr3"),
			Vector{InstanceIdentity: 2, Configuration: 3, Hardware: 2, RuntimeOpaque: -2}, Affirming,
		}, {
			"kernel and application pinned", nitroAppraisal, pin("pcr1", "pcr2"),
			Vector{InstanceIdentity: 2, Configuration: 3, Executables: 3, Hardware: 2, RuntimeOpaque: -2}, Affirming,
		}, {
			"only the application pinned", nitroAppraisal, pin("pcr2"),
			Vector{InstanceIdentity: 2, Configuration: 3, Hardware: 2, RuntimeOpaque: -2}, Affirming,
		}, {
			"the signer pinned", nitroAppraisal, pin("pcr8"),
			Vector{InstanceIdentity: 2, Configuration: 3, Executables: 3, Hardware: 2, RuntimeOpaque: -2}, Affirming,
		}, {
			"debug mode", debugAppraisal, nil,
			Vector{InstanceIdentity: 2, Configuration: 96, Executables: 33, Hardware: 2, RuntimeOpaque: 96}, Contraindicated,
		}, {
			"within a grace", nitroAppraisal, func(a *Appraisal) { a.Grace = true },
			Vector{InstanceIdentity: 2, Configuration: 3, Executables: 3, Hardware: -33, RuntimeOpaque: -2}, Warning,
		}, {
			"simulated", simulatedAppraisal, nil,
			Vector{InstanceIdentity: 2, Configuration: 3, Executables: 3, Hardware: -34, RuntimeOpaque: -34}, Warning,
		}, {
			"simulated in debug mode", debugAppraisal, func(a *Appraisal) { a.Claims.Simulated = true },
			Vector{InstanceIdentity: 2, Configuration: 96, Executables: 33, Hardware: -34, RuntimeOpaque: 96}, Contraindicated,
		}, {
			"all of it", debugAppraisal, func(a *Appraisal) { a.Claims.Simulated, a.Grace, a.Ownership = true, true, false },
			Vector{Configuration: 96, Executables: 33, Hardware: -34, RuntimeOpaque: 96}, Contraindicated,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := tc.base()
			if tc.change != nil {
				tc.change(&a)
			}
			r := appraised(t, a)
			if diff := cmp.Diff(tc.want, r.Vector); diff != "" {
				t.Error(diff)
			}
			if r.Status != tc.status {
				t.Errorf("status %s, want %s", r.Status, tc.status)
			}
			if r.Simulated != a.Claims.Simulated {
				t.Error("simulated was not carried over")
			}
		})
	}
}

func TestDebugSimulatedAndGraceAreNeverAffirming(t *testing.T) {
	for bits := 1; bits < 8; bits++ {
		a := nitroAppraisal()
		if bits&1 != 0 {
			a = debugAppraisal()
		}
		a.Claims.Simulated, a.Grace = bits&2 != 0, bits&4 != 0
		if r := appraised(t, a); r.Status == Affirming {
			t.Errorf("debug %t, simulated %t, grace %t: affirming", bits&1 != 0, a.Claims.Simulated, a.Grace)
		}
	}
}

func TestTheStatusIsTheWorstEntry(t *testing.T) {
	for _, tc := range []struct {
		v    Vector
		want Tier
	}{
		{Vector{}, None},
		{Vector{1, -1}, None},
		{Vector{0, 2, -2, 31, -32}, Affirming},
		{Vector{2, 32}, Warning},
		{Vector{-33, 2}, Warning},
		{Vector{95, -96, 2}, Warning},
		{Vector{2, 32, 96}, Contraindicated},
		{Vector{-97, 2}, Contraindicated},
		{Vector{127, -128}, Contraindicated},
	} {
		if got := tc.v.Status(); got != tc.want {
			t.Errorf("%v: %s, want %s", tc.v, got, tc.want)
		}
	}
}

func TestOnlyWhatIsPublishedLeaves(t *testing.T) {
	a := nitroAppraisal()
	a.Publish = []string{"pcr0", "pcr5", "pcr8", "pcr9"} // 5 is zero, 9 is absent
	want := map[string]attest.Bytes{"pcr0": register("0"), "pcr8": register("8")}
	r := appraised(t, a)
	if diff := cmp.Diff(want, r.Measurements); diff != "" {
		t.Error(diff)
	}
	cwt, err := r.Sign(testKey(t, "verifier"))
	if err != nil {
		t.Fatal(err)
	}
	for what, secret := range map[string]string{
		"the module id": a.Claims.Nitro.ModuleID, "PCR3": string(register("3")), "PCR4": string(register("4")),
		"the evidence's digest": string(a.EvidenceDigest[:]),
	} {
		if strings.Contains(string(cwt), secret) {
			t.Errorf("the result holds %s", what)
		}
	}
}

func TestTheEvidenceDigestIsSalted(t *testing.T) {
	a := nitroAppraisal()
	id := spiffeid.RequireFromString("spiffe://example.org/a")
	var digests []string
	for range 2 {
		r, err := Appraise(a, id, testKey(t, "leaf").Public(), issued, expires, "example.org")
		if err != nil {
			t.Fatal(err)
		}
		if !r.IsOf(a.EvidenceDigest) {
			t.Error("the result does not know its evidence")
		}
		if r.IsOf(sha256.Sum256([]byte("other"))) {
			t.Error("the result claims other evidence")
		}
		digests = append(digests, r.EvidenceDigest.String())
	}
	if digests[0] == digests[1] {
		t.Error("two results of the same evidence can be linked")
	}
	if (&Result{}).IsOf(a.EvidenceDigest) {
		t.Error("an empty result claims the evidence")
	}
}

func TestEvidenceTime(t *testing.T) {
	a := nitroAppraisal()
	if got, want := appraised(t, a).EvidenceTime, issued.Add(-2*time.Second); !got.Equal(want) {
		t.Errorf("%s, want the evidence's own clock in seconds, %s", got, want)
	}
	a.Claims.Nitro.Timestamp = issued.Add(time.Minute)
	if got := appraised(t, a).EvidenceTime; !got.Equal(issued) {
		t.Errorf("%s: later than the result", got)
	}
	a.Claims.Nitro.Timestamp = time.Time{}
	if got := appraised(t, a).EvidenceTime; !got.Equal(issued) {
		t.Errorf("%s: want the time of issuance", got)
	}
}

func TestAnAppraisalThatCannotBeSaidIsRefused(t *testing.T) {
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	id := spiffeid.RequireFromString("spiffe://example.org/a")
	leaf := testKey(t, "leaf").Public()
	for _, tc := range []struct {
		name   string
		change func(*Appraisal)
		iss    string
		key    any
	}{
		{"PCR3", func(a *Appraisal) { a.Publish = []string{"pcr3"} }, "example.org", leaf},
		{"PCR4", func(a *Appraisal) { a.Publish = []string{"pcr4"} }, "example.org", leaf},
		{"another spelling of PCR3", func(a *Appraisal) { a.Publish = []string{"pcr03"} }, "example.org", leaf},
		{"the module id", func(a *Appraisal) { a.Publish = []string{"module_id"} }, "example.org", leaf},
		{"PCR32", func(a *Appraisal) { a.Publish = []string{"pcr32"} }, "example.org", leaf},
		{"no claims", func(a *Appraisal) { a.Claims.Nitro = nil }, "example.org", leaf},
		{"a platform without a table", func(a *Appraisal) { a.Claims.Platform = "toaster" }, "example.org", leaf},
		{"simulated claims for a hardware trust domain", func(a *Appraisal) { a.Claims.Simulated = true }, "example.org", leaf},
		{"hardware claims for a simulated trust domain", func(*Appraisal) {}, "simulated.example.org", leaf},
		{"no issuer", func(*Appraisal) {}, "", leaf},
		{"an odd key", func(*Appraisal) {}, "example.org", &p224.PublicKey},
		{"no key", func(*Appraisal) {}, "example.org", nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := nitroAppraisal()
			tc.change(&a)
			_, err := Appraise(a, id, tc.key, issued, expires, tc.iss)
			wantError(t, err, attest.Internal, "appraise")
		})
	}
}

func TestAResultThatWouldBeRefusedIsNotSigned(t *testing.T) {
	for name, change := range map[string]func(*Result){
		"no policy":             func(r *Result) { r.Policy = "" },
		"expired before it is":  func(r *Result) { r.Expiry = r.IssuedAt },
		"a better status":       func(r *Result) { r.Vector[Hardware] = 96 },
		"a foreign subject":     func(r *Result) { r.Subject = "spiffe://other.org/a" },
		"the trust domain's ID": func(r *Result) { r.Subject = r.Issuer },
		"an odd measurement":    func(r *Result) { r.Measurements["PCR0"] = register("0") },
		"an attribute too long": func(r *Result) { r.Attributes = map[string]string{"a": strings.Repeat("x", 257)} },
		"evidence of tomorrow":  func(r *Result) { r.EvidenceTime = r.IssuedAt.Add(time.Second) },
		"no evidence":           func(r *Result) { r.EvidenceDigest = nil },
		"no platform":           func(r *Result) { r.Platform = "" },
		"a year out of range":   func(r *Result) { r.Expiry = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) },
	} {
		t.Run(name, func(t *testing.T) {
			r := appraised(t, nitroAppraisal())
			change(r)
			_, err := r.Sign(testKey(t, "verifier"))
			wantError(t, err, attest.Internal, "result_encode")
		})
	}
	r := appraised(t, nitroAppraisal())
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, err = r.Sign(p384)
	wantError(t, err, attest.Internal, "result_sign")

	r.Attributes = make(map[string]string)
	for i := range maxAttributes {
		r.Attributes[strings.Repeat("k", i+1)] = strings.Repeat("x", maxAttributeValue)
	}
	_, err = r.Sign(testKey(t, "verifier"))
	wantError(t, err, attest.Internal, "result_size")
}
