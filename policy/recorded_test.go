package policy_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/policy"
)

// Whatever a policy can tell apart has another fingerprint.
func TestAFingerprintCoversEveryClaimThatAPolicyCanName(t *testing.T) {
	for _, p := range policy.Platforms() {
		base, ok, known := policy.Assemble(p, nil, noon)
		if !ok || !known {
			t.Fatalf("%s: no claims", p)
		}
		for _, claim := range policy.ClaimsOf(p) {
			seen, varied := map[[32]byte]string{}, 0
			see := func(c attest.Claims) {
				what := "missing"
				if v, there := claim.Get(c); there {
					what = claim.Format(v)
				}
				sum := policy.Fingerprint(c)
				if before, twice := seen[sum]; twice && before != what {
					t.Errorf("%s: %s is %s as it is %s", p, claim.Name(), what, before)
				} else if !twice {
					varied++
				}
				seen[sum] = what
			}
			see(base)
			for _, v := range (&policy.Constraint{Claim: claim}).Candidates(noon) {
				only := policy.ModelTest{Claim: claim} // what depends on another claim is made with it
				if c, ok, _ := policy.Assemble(p, []policy.Constraint{{Claim: claim, Must: []policy.ModelTest{only}, Or: []policy.Value{v}}}, noon); ok {
					see(c)
				}
			}
			if claim.Name() == "chip_id_masked" { // follows from another claim's value
				for _, chip := range []byte{0, 1} {
					c := policy.CloneClaims(base)
					c.SNP.ChipID = append(attest.Bytes{chip}, make(attest.Bytes, 63)...)
					see(c)
				}
			}
			if c := policy.CloneClaims(base); claim.Drop(&c) {
				see(c)
			}
			if varied < 2 {
				t.Errorf("%s: %s could not be varied", p, claim.Name())
			}
		}
	}
}

func TestAFingerprintIsTheSameForEachAttestationOfAnEnclave(t *testing.T) {
	make := func(nonce int, module string) attest.Claims {
		c := nitroClaims(map[int]string{0: "image", 3: "role"})
		c.Nitro.ModuleID, c.Nitro.Timestamp = module, noon.Add(time.Duration(nonce)*time.Minute)
		c.Nitro.Nonce, c.Nitro.UserData, c.Nitro.PublicKey = fmt.Append(nil, nonce), fmt.Append(nil, "B", nonce), fmt.Append(nil, "key", nonce)
		return c
	}
	if policy.Fingerprint(make(1, "i-1-enc1")) != policy.Fingerprint(make(2, "i-1-enc1")) {
		t.Error("nonce, binding, key and time of the evidence make another environment of it")
	}
	if policy.Fingerprint(make(1, "i-1-enc1")) == policy.Fingerprint(make(1, "i-1-enc2")) {
		t.Error("two enclaves are one: a rollout tells them apart")
	}
}

func TestJudgeIsEvaluateAndEntitlement(t *testing.T) {
	b, err := policy.Parse("policy.yaml", []byte(fleet(3)))
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2027, 1, 2, 0, 0, 0, 0, time.UTC)
	for _, known := range []bool{true, false} {
		for _, c := range visitors(3, known)[:4] {
			d, e := b.Judge(c, at)
			if diff := cmp.Diff(b.Evaluate(c, at), d); diff != "" {
				t.Error(diff)
			}
			if !e.Equal(b.Entitlement(c, at)) || e.Denied() == known {
				t.Errorf("entitlement: %+v", e)
			}
			for _, w := range b.Explain(c, at).Workloads {
				one, ok := b.ExplainWorkload(c, at, w.Name)
				if diff := cmp.Diff(w, one); !ok || diff != "" {
					t.Errorf("%s: %v %s", w.Name, ok, diff)
				}
			}
		}
	}
	if _, ok := b.ExplainWorkload(visitors(3, true)[0], at, "nobody"); ok {
		t.Error("a workload that is not there was explained")
	}
	if _, ok := b.ExplainWorkload(attest.Claims{Platform: attest.TPM2}, at, "w000000"); ok {
		t.Error("a workload of another platform was explained")
	}
}

func TestClaimsThatNoVerifierMadeAreRefused(t *testing.T) {
	good := nitroClaims(map[int]string{0: "image"})
	if err := policy.CheckClaims(good); err != nil {
		t.Error(err)
	}
	for want, c := range map[string]attest.Claims{
		"no platform":          {},
		"that this version":    {Platform: "intel-tdx"},
		"hold none":            {Platform: attest.AMDSEVSNP},
		"hold some of":         {Platform: attest.AWSNitro, Nitro: good.Nitro, TPM: &attest.TPM{}},
		"hold none: of others": {Platform: attest.TPM2, Nitro: good.Nitro},
		"name no instance":     {Platform: attest.TPM2, TPM: &attest.TPM{}},
	} {
		err := policy.CheckClaims(c)
		if want, _, _ = strings.Cut(want, ":"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}
