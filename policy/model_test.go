package policy_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/strictyaml"
	"github.com/assay-project/assay/policy"
)

// Every claim of every platform can be made: what is put reads back, whatever
// sort of value it is, and what can be missing can be taken away.
func TestEveryClaimCanBeMade(t *testing.T) {
	for _, p := range policy.Platforms() {
		for _, claim := range policy.ClaimsOf(p) {
			k := policy.Constraint{Claim: claim}
			vs := k.Candidates(noon)
			if len(vs) == 0 {
				t.Errorf("%s %s: no value is known", p, claim.Name())
			}
			made := 0
			for _, v := range vs {
				only := policy.ModelTest{Claim: claim}
				c, ok, known := policy.Assemble(p, []policy.Constraint{{Claim: claim, Must: []policy.ModelTest{only}, Or: []policy.Value{v}}}, noon)
				if !ok || !known {
					t.Errorf("%s %s: %s cannot be made", p, claim.Name(), claim.Format(v))
					continue
				}
				if got, there := claim.Get(c); there && got == v {
					made++
				}
				if c.Platform != p || !policy.Consistent(c) {
					t.Errorf("%s %s = %s: not what a verifier makes: %+v", p, claim.Name(), claim.Format(v), c)
				}
				if diff := cmp.Diff(c, policy.CloneClaims(c)); diff != "" {
					t.Errorf("%s %s: the copy differs:\n%s", p, claim.Name(), diff)
				}
			}
			if made == 0 {
				t.Errorf("%s %s: no value was made as it was wanted", p, claim.Name())
			}
			if claim.Always() {
				continue
			}
			c, ok, _ := policy.Assemble(p, []policy.Constraint{{Claim: claim, Not: []policy.ModelTest{{Claim: claim}}}}, noon)
			if _, there := claim.Get(c); !ok || there {
				t.Errorf("%s %s cannot be missing", p, claim.Name())
			}
		}
	}
}

func TestWhatDependsOnAnotherClaimIsMadeWithIt(t *testing.T) {
	claim := func(p attest.Platform, name string) policy.ModelTest {
		for _, c := range policy.ClaimsOf(p) {
			if c.Name() == name {
				return policy.ModelTest{Claim: c}
			}
		}
		t.Fatal(name)
		panic("not reached")
	}
	there := func(p attest.Platform, name string) policy.Constraint {
		x := claim(p, name)
		return policy.Constraint{Claim: x.Claim, Must: []policy.ModelTest{x}}
	}
	away := func(p attest.Platform, name string) policy.Constraint {
		x := claim(p, name)
		return policy.Constraint{Claim: x.Claim, Not: []policy.ModelTest{x}}
	}
	for name, c := range map[string]struct {
		p    attest.Platform
		of   []policy.Constraint
		want bool
	}{
		"a provider is named":              {attest.AMDSEVSNP, []policy.Constraint{there(attest.AMDSEVSNP, "csp_id")}, true},
		"mitigations":                      {attest.AMDSEVSNP, []policy.Constraint{there(attest.AMDSEVSNP, "current_mitigations")}, true},
		"a clock without a restart count":  {attest.TPM2, []policy.Constraint{there(attest.TPM2, "clock.firmware"), away(attest.TPM2, "clock.restart_count")}, false},
		"a clock":                          {attest.TPM2, []policy.Constraint{there(attest.TPM2, "clock.restart_count")}, true},
		"a maker and a register":           {attest.TPM2, []policy.Constraint{there(attest.TPM2, "model"), there(attest.TPM2, "pcr4"), there(attest.TPM2, "boot.loaders")}, true},
		"a report without its measurement": {attest.AMDSEVSNP, []policy.Constraint{away(attest.AMDSEVSNP, "measurement")}, false},
	} {
		got, ok, known := policy.Assemble(c.p, c.of, noon)
		if ok != c.want || !known || ok && !policy.Consistent(got) {
			t.Errorf("%s: %t, known %t", name, ok, known)
		}
	}
}

// Claims in tests of policies are written by their names.
func TestClaimsAreReadByTheirNames(t *testing.T) {
	src := expand(`product: turin
reported_tcb: {fmc: 1, bl: 2, tee: 3, snp: 4, ucode: 5}
measurement: "$image$"
host_data: zero
chip_id: "$chip/8$"
current_firmware: "1.55.29"
version: 5
current_mitigations: [0, 3]
policy.smt: true
signing_key: vcek
vmpl: 1
`)
	d := strictyaml.Open("claims.yaml", []byte(src))
	got, ok := policy.ReadClaims(d, attest.AMDSEVSNP, d.Root(), nil)
	if !ok || d.Err() != nil {
		t.Fatal(render(d.Err()))
	}
	fmc, bits := uint8(1), uint64(9)
	want := attest.SNP{
		Product: "turin", ReportedTCB: attest.TCB{FMC: &fmc, Bootloader: 2, TEE: 3, SNP: 4, Microcode: 5}, Measurement: sum("image"), HostData: make(attest.Bytes, 32),
		ChipID: append(sized("chip", 8), make([]byte, 56)...), CurrentFirmware: attest.Firmware{Major: 1, Minor: 55, Build: 29}, Version: 5,
		CurrentMitigations: &bits, SigningKey: "vcek", VMPL: 1, Policy: attest.SNPPolicy{SMT: true},
	}
	for _, x := range []*attest.TCB{&want.CurrentTCB, &want.CommittedTCB, &want.LaunchTCB} {
		*x = got.SNP.CurrentTCB
		x.FMC = got.SNP.CurrentTCB.FMC
	}
	if diff := cmp.Diff(&want, got.SNP); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	// Changed over others, and taken away.
	d = strictyaml.Open("claims.yaml", []byte("current_mitigations: \"\"\nvmpl: 2\n"))
	changed, ok := policy.ReadClaims(d, attest.AMDSEVSNP, d.Root(), &got)
	if !ok || changed.SNP.CurrentMitigations != nil || changed.SNP.VMPL != 2 || got.SNP.VMPL != 1 {
		t.Errorf("%+v, %v", changed.SNP, d.Err())
	}
}

func TestMistakesInClaimsHaveTheirPlaces(t *testing.T) {
	for _, c := range []struct {
		p         attest.Platform
		src, want string
	}{
		{attest.AWSNitro, "pcr33: zero", `c.yaml:1:1: aws-nitro has no claim "pcr33"`},
		{attest.AWSNitro, "pcr0: abc", `c.yaml:1:7: want 96 characters of hex, or zero, got "abc"`},
		{attest.AWSNitro, `debug: ""`, "c.yaml:1:8: debug is always there: it cannot be taken away"},
		{attest.AMDSEVSNP, "reported_tcb: {bl: 1, tee: 0, snp: 0, ucode: 0}", "c.yaml:1:15: a TCB needs a product"},
		{attest.AMDSEVSNP, "product: milan\nreported_tcb: {bl: 1, tee: 0, snp: 0}", "c.yaml:2:15: the TCB lacks ucode"},
		{attest.AMDSEVSNP, "chip_id_masked: true", "c.yaml:1:17: chip_id_masked follows from chip_id"},
		{attest.TPM2, "bank: sha256\npcr4: \"" + hexOf("x") + "\"", "c.yaml:2:7: pcr4 cannot be "},
		{attest.TPM2, "bank: sha256\nmodel: SLB", "c.yaml:2:8: model cannot be SLB beside the other claims"},
		{attest.TPM2, "boot.loaders: []", "c.yaml:1:15: want at least one digest"},
	} {
		d := strictyaml.Open("c.yaml", []byte(c.src))
		_, ok := policy.ReadClaims(d, c.p, d.Root(), nil)
		if err := d.Err(); ok || err == nil || len(err.Error()) < len(c.want) || err.Error()[:len(c.want)] != c.want {
			t.Errorf("%s: %v, want %s", c.src, err, c.want)
		}
	}
}

// A frozen test is the test at that moment.
func TestAFrozenTestIsTheTestAtItsMoment(t *testing.T) {
	b := parse(t, base)
	r := b.Model().Workloads[0].Rules[0]
	moments := append(r.Breaks(), noon)
	slices.SortFunc(moments, time.Time.Compare)
	for _, at := range moments {
		f, key := r.Frozen(at)
		for _, v := range append(r.Values(), policy.ModelEntry{Value: policy.Value(sum("other"))}) {
			if r.Holds(v.Value, at) != f.Holds(v.Value, noon) {
				t.Errorf("at %s the frozen test says otherwise", at)
			}
		}
		if _, again := f.Frozen(noon); again != key {
			t.Errorf("at %s the key of the frozen test is another", at)
		}
	}
}
