package svid

import (
	"crypto/sha256"
	"crypto/x509"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/attest"
)

// tpmRegister is a register of the bank sha256.
func tpmRegister(name string) attest.Bytes {
	sum := sha256.Sum256([]byte("assay test register: " + name))
	return sum[:]
}

// tpmAppraisal is of a machine of the owner's with a certified TPM.
func tpmAppraisal() Appraisal {
	on := true
	a := nitroAppraisal()
	t := &attest.TPM{
		Bank: "sha256", PCRs: map[int]attest.Bytes{}, ExtraData: tpmRegister("binding"),
		EK: tpmRegister("ek"), EKInventory: "rack-4", EKCertificate: &attest.EKCertificate{Manufacturer: "id:49465800", Model: "SLB9670", Version: "id:0755", Issuer: "a root"},
		AK: append([]byte{0, 11}, tpmRegister("ak")...), AKTrust: attest.AKActivated, Safe: true, KeyResidency: attest.ResidentSoftware,
		Clock: &attest.TPMClock{ResetCount: 12, RestartCount: 3, Firmware: 7<<48 | 85<<32},
		Boot:  &attest.MeasuredBoot{Replayed: []int{4, 7}, SecureBoot: &on, Loaders: []attest.Bytes{tpmRegister("shim")}},
	}
	for i := range 16 {
		t.PCRs[i] = tpmRegister("pcr" + strconv.Itoa(i))
	}
	t.PCRs[13] = make(attest.Bytes, 32)
	a.Claims = attest.Claims{Platform: attest.TPM2, TPM: t}
	a.Pinned = []string{"pcr4", "pcr7", "pcr9", "clock.firmware", "ek_inventory"}
	a.Publish = []string{"pcr4", "pcr7", "pcr9"}
	return a
}

// tpmChanged is the same machine with one fact changed.
func tpmChanged(change func(*attest.TPM)) Appraisal {
	a := tpmAppraisal()
	change(a.Claims.TPM)
	return a
}

func tpmSHA384(t *attest.TPM) {
	t.Bank = "sha384"
	for i := range t.PCRs {
		t.PCRs[i] = register("pcr" + strconv.Itoa(i))
	}
}

// TestTheTPMTable holds the table of docs/spec/attested-svid.md, line by line.
func TestTheTPMTable(t *testing.T) {
	good := Vector{InstanceIdentity: 2, Configuration: 2, Executables: 3, Hardware: 2}
	with := func(changes map[Aspect]Claim) Vector {
		v := good
		for a, c := range changes {
			v[a] = c
		}
		return v
	}
	pin := func(names ...string) func(*Appraisal) {
		return func(a *Appraisal) { a.Pinned = append(names, "clock.firmware") }
	}
	tpm := func(change func(*attest.TPM)) func(*Appraisal) { return func(a *Appraisal) { change(a.Claims.TPM) } }
	inCloud := tpm(func(t *attest.TPM) {
		t.Cloud, t.EKCertificate = &attest.CloudInstance{Provider: "gce", ProjectID: "p"}, nil
	})
	for _, tc := range []struct {
		name   string
		change func(*Appraisal)
		want   Vector
		status Tier
	}{
		{"an owned machine with approved boot and firmware", nil, good, Affirming},
		{"nobody's machine", func(a *Appraisal) { a.Ownership = false }, with(map[Aspect]Claim{InstanceIdentity: 0}), Affirming},

		{"secure boot demanded, and on", pin("pcr4", "pcr9", "secure_boot"), with(map[Aspect]Claim{Configuration: 3}), Affirming},
		{"secure boot demanded, and off", func(a *Appraisal) {
			pin("pcr4", "pcr9", "secure_boot")(a)
			*a.Claims.TPM.Boot.SecureBoot = false
		}, with(map[Aspect]Claim{Configuration: 0}), Affirming},
		{"secure boot demanded, and not known", func(a *Appraisal) {
			pin("pcr4", "pcr9", "secure_boot")(a)
			a.Claims.TPM.Boot = nil
		}, with(map[Aspect]Claim{Configuration: 0}), Affirming},
		{"secure boot on, and not demanded", pin("pcr4", "pcr9"), with(map[Aspect]Claim{Configuration: 0}), Affirming},
		{"PCR7 without a log", tpm(func(t *attest.TPM) { t.Boot = nil }), good, Affirming},

		{"what was started", pin("pcr7", "pcr4"), with(map[Aspect]Claim{Executables: -5}), Affirming},
		{"the loaders", pin("pcr7", "boot.loaders"), with(map[Aspect]Claim{Executables: -5}), Affirming},
		{"what was started and GRUB's files", pin("pcr7", "pcr4", "boot.grub_files"), good, Affirming},
		{"the loaders in any order, and GRUB's files", pin("pcr7", "boot.loaders", "boot.grub_files"), with(map[Aspect]Claim{Executables: -5}), Affirming},
		{"what was started and a unified image", pin("pcr7", "pcr4", "pcr11"), good, Affirming},
		{"the loaders in any order, and the unified kernel", pin("pcr7", "boot.loaders", "boot.unified.linux"), with(map[Aspect]Claim{Executables: -5}), Affirming},
		{"what was started and the unified kernel", pin("pcr7", "pcr4", "boot.unified.linux"), good, Affirming},
		{"what a loader says that nobody approved", pin("pcr7", "pcr9", "pcr11", "boot.grub_files"), with(map[Aspect]Claim{Executables: 0}), Affirming},
		{"the keys of secure boot alone", pin("pcr7"), with(map[Aspect]Claim{Executables: 0}), Affirming},
		{"firmware alone", pin("pcr0", "boot.firmware"), with(map[Aspect]Claim{Configuration: 0, Executables: 0}), Affirming},
		{"a command line alone", pin("boot.command_line"), with(map[Aspect]Claim{Configuration: 0, Executables: 0}), Affirming},

		{"no floor", func(a *Appraisal) { a.Pinned = []string{"pcr4", "pcr7", "pcr9"} }, with(map[Aspect]Claim{Hardware: -36}), Warning},
		{"a make is no floor", func(a *Appraisal) { a.Pinned = []string{"pcr4", "pcr7", "pcr9", "manufacturer", "version"} }, with(map[Aspect]Claim{Hardware: -36}), Warning},
		{"the inventory alone", tpm(func(t *attest.TPM) { t.EKCertificate = nil }), with(map[Aspect]Claim{Hardware: -38}), Warning},
		{"a cloud's TPM", inCloud, with(map[Aspect]Claim{Hardware: -4}), Affirming},
		{"a cloud's TPM without a floor", func(a *Appraisal) { inCloud(a); a.Pinned = []string{"pcr4", "pcr7", "pcr9"} }, with(map[Aspect]Claim{Hardware: -4}), Affirming},
		{"a key that a cloud certified", func(a *Appraisal) {
			inCloud(a)
			a.Claims.TPM.AKTrust, a.Claims.TPM.EK = attest.AKCertificate, nil
		}, with(map[Aspect]Claim{Hardware: -4}), Affirming},
		{"the issuer's grace", func(a *Appraisal) { a.Grace = true }, with(map[Aspect]Claim{Hardware: -33}), Warning},
		{"keys in the TPM", tpm(func(t *attest.TPM) { t.KeyResidency = attest.ResidentTPM }), good, Affirming},
		{"a TPM that was cleared", tpm(func(t *attest.TPM) { t.Cleared, t.Safe = true, false }), good, Affirming},
		{"simulated", func(a *Appraisal) { a.Claims.Simulated = true }, with(map[Aspect]Claim{Hardware: -34, RuntimeOpaque: -34}), Warning},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := tpmAppraisal()
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

func TestOfAMachineOnlyItsRegistersLeave(t *testing.T) {
	a := tpmAppraisal()
	x := a.Claims.TPM
	x.Cloud = &attest.CloudInstance{Provider: "gce", ProjectID: "the-project", InstanceID: "instance-4711", InstanceName: "the-name"}
	r := appraised(t, a)
	want := map[string]attest.Bytes{"pcr4": x.PCRs[4], "pcr7": x.PCRs[7], "pcr9": x.PCRs[9]}
	if diff := cmp.Diff(want, r.Measurements); diff != "" {
		t.Error(diff)
	}
	cwt, err := r.Sign(testKey(t, "verifier"))
	if err != nil {
		t.Fatal(err)
	}
	for what, secret := range map[string]string{
		"the EK": string(x.EK), "the AK": string(x.AK), "the binding": string(x.ExtraData), "the group": "rack-4", "the make": "SLB9670",
		"the project": "the-project", "the instance": "instance-4711", "its name": "the-name", "the evidence's digest": string(a.EvidenceDigest[:]), "another register": string(x.PCRs[0]),
	} {
		if strings.Contains(string(cwt), secret) {
			t.Errorf("the result holds %s", what)
		}
	}
	if got := r.EvidenceTime; !got.Equal(issued) {
		t.Errorf("evidence of %s: a quote has no clock, want the time of issuance", got)
	}
	a.Publish = []string{"pcr13", "pcr0"} // the first is zero
	if diff := cmp.Diff(map[string]attest.Bytes{"pcr0": x.PCRs[0]}, appraised(t, a).Measurements); diff != "" {
		t.Error(diff)
	}
	a.Publish = nil
	if got := appraised(t, a).Measurements; got != nil {
		t.Errorf("nothing is to be published, got %v", got)
	}
}

func TestATPMAppraisalThatCannotBeSaidIsRefused(t *testing.T) {
	publish := func(name string) func(*Appraisal) { return func(a *Appraisal) { a.Publish = []string{name} } }
	for name, change := range map[string]func(*Appraisal){
		"the EK":                               publish("ek"),
		"the AK":                               publish("ak"),
		"a register that software can reset":   publish("pcr16"),
		"a register that a locality can reset": publish("pcr17"),
		"a register that there is not":         publish("pcr24"),
		"a loader":                             publish("boot.loaders"),
		"another platform's":                   publish("measurement"),
		"another spelling":                     publish("PCR4"),
		"a number with a zero before":          publish("pcr04"),
		"a register of another bank":           func(a *Appraisal) { a.Claims.TPM.PCRs[4] = register("pcr4") },
		"a short register":                     func(a *Appraisal) { a.Claims.TPM.PCRs[4] = a.Claims.TPM.PCRs[4][:31] },
		"no bank":                              func(a *Appraisal) { a.Claims.TPM.Bank = "" },
		"SHA-1":                                func(a *Appraisal) { a.Claims.TPM.Bank = "sha1" },
		"a key nobody vouches for":             func(a *Appraisal) { a.Claims.TPM.AKTrust = "" },
		"a key that an operator named":         func(a *Appraisal) { a.Claims.TPM.AKTrust = attest.AKOperator },
		"no claims":                            func(a *Appraisal) { a.Claims.TPM = nil },
		"the claims of another":                func(a *Appraisal) { a.Claims.Platform = attest.AWSNitro },
		"simulated claims of nothing":          func(a *Appraisal) { a.Claims.Simulated = true },
	} {
		t.Run(name, func(t *testing.T) {
			a := tpmAppraisal()
			change(&a)
			_, err := Appraise(a, spiffeid.RequireFromString("spiffe://example.org/a"), testKey(t, "leaf").Public(), issued, expires, "example.org")
			wantError(t, err, attest.Internal, "appraise")
		})
	}
}

// A relying party requires registers of either bank, at their full length.
func TestARelyingPartyRequiresRegistersOfATPM(t *testing.T) {
	k := verifierKeys(t)
	k.TrustDomain = td
	src := NewSource(x509bundle.FromX509Authorities(td, []*x509.Certificate{repeatCA(t, td)}), k)
	verify := func(a Appraisal, require ...Requirement) error {
		leaf, _ := mintVector(t, vectorCase{name: "tpm", appraisal: func() Appraisal { return a }})
		_, err := Verify([]*x509.Certificate{leaf}, src, issued.Add(time.Minute), require...)
		return err
	}
	small, large := tpmAppraisal(), tpmChanged(tpmSHA384)
	if err := verify(small, PCR(4, tpmRegister("other"), tpmRegister("pcr4")), PCR(7, tpmRegister("pcr7")), Tee(attest.TPM2), Owned()); err != nil {
		t.Error(err)
	}
	if err := verify(large, PCR(4, register("pcr4")), MinAspect(Configuration, Affirming)); err != nil {
		t.Error(err)
	}
	wantError(t, verify(small, PCR(4, register("pcr4"))), attest.Denied, "pcr4")
	wantError(t, verify(large, PCR(4, tpmRegister("pcr4"))), attest.Denied, "pcr4")
	wantError(t, verify(large, PCR(4, register("pcr4")[:32])), attest.Denied, "pcr4")
	wantError(t, verify(small, PCR(0, tpmRegister("pcr0"))), attest.Denied, "pcr0") // not published
	wantError(t, verify(small, PCR(4, make(attest.Bytes, 32))), attest.Denied, "pcr4")
	wantError(t, verify(small, Tee(attest.AWSNitro)), attest.Denied, "tee")
	wantError(t, verify(small, MinAspect(RuntimeOpaque, Affirming)), attest.Denied, "runtime-opaque")
}
