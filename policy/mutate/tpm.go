package mutate

import (
	"maps"

	"github.com/assay-project/assay/attest"
)

// tpm makes mutants of a machine with a TPM.
func tpm(g granted) []ClaimMutant {
	with := func(name string, edit func(t *attest.TPM), why string, unless ...string) ClaimMutant {
		return ClaimMutant{Name: name, Claims: of(g.claims, func(c *attest.Claims) { edit(c.TPM) }), Unless: unless, Why: why}
	}
	n := 32
	if g.claims.TPM.Bank == "sha384" {
		n = 48
	}
	machine := func(t *attest.TPM) {
		if t.EK != nil {
			t.EK = other(32)
		}
		t.EKInventory = ""
		if t.Cloud != nil {
			t.Cloud.ProjectID, t.Cloud.ProjectNumber, t.Cloud.InstanceID, t.Cloud.InstanceName = "another-project", 4711, "4711", "another"
		}
	}
	out := exchanged(g, func(c *attest.Claims) map[int]attest.Bytes { return c.TPM.PCRs })
	out = append(out,
		with("somebody else's machine", machine, "", waived),
		with("secure boot off", func(t *attest.TPM) {
			off := false
			if t.Boot != nil {
				t.Boot.SecureBoot = &off
			}
			t.PCRs[7] = other(n)
		}, "what is booted is pinned itself", "pcr4", "pcr11", "boot.loaders"),
		with("another boot loader", func(t *attest.TPM) {
			if t.Boot != nil {
				t.Boot.Loaders = []attest.Bytes{other(n)}
			}
			t.PCRs[4] = other(n)
		}, "whose keys secure boot demands is pinned: any loader of theirs is meant", "pcr7", "secure_boot"),
		with("another boot loader, and secure boot off", func(t *attest.TPM) {
			off := false
			if t.Boot != nil {
				t.Boot.Loaders, t.Boot.SecureBoot = []attest.Bytes{other(n)}, &off
			}
			t.PCRs[4], t.PCRs[7] = other(n), other(n)
		}, ""),
		with("a loader more than ours", func(t *attest.TPM) {
			if t.Boot != nil {
				t.Boot.Loaders = append(t.Boot.Loaders, other(n))
			}
			t.PCRs[4] = other(n)
		}, "whose keys secure boot demands is pinned: any loader of theirs is meant", "pcr7", "secure_boot"),
		with("keys in software", func(t *attest.TPM) { t.KeyResidency = attest.ResidentSoftware }, ""),
		with("a TPM that was cleared", func(t *attest.TPM) { t.Cleared = true }, ""),
		with("an attestation key that nothing vouches for", func(t *attest.TPM) { t.AKTrust = "" }, ""),
		with("a TPM that no manufacturer vouches for", func(t *attest.TPM) { t.EKCertificate = nil }, "whose TPM it is is known otherwise", "ek", "ek_inventory", "cloud.project_id", "cloud.project_number"),
		with("the registers of another bank", func(t *attest.TPM) {
			bank, length := "sha384", 48
			if n == 48 {
				bank, length = "sha256", 32
			}
			t.Bank = bank
			for i := range maps.Clone(t.PCRs) {
				t.PCRs[i] = other(length)
			}
		}, ""),
	)
	if g.claims.TPM.Boot != nil && namesBoot(g) {
		out = append(out, with("no event log", func(t *attest.TPM) { t.Boot = nil }, ""))
	}
	return out
}

func namesBoot(g granted) bool {
	for _, r := range g.workload.Rules {
		if name := r.Claim.Name(); !r.Implicit && (name == "secure_boot" || len(name) > 5 && name[:5] == "boot.") {
			return true
		}
	}
	return false
}
