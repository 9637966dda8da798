package policy_test

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/policy"
)

func TestTheTPMDecisionAsJSON(t *testing.T) {
	src, err := os.ReadFile("testdata/tpm.yaml")
	if err != nil {
		t.Fatal(err)
	}
	b, err := policy.Parse("tpm.yaml", src)
	if err != nil {
		t.Fatal(render(err))
	}
	if w := b.Warnings(); len(w) > 0 {
		t.Errorf("the example has warnings:\n%s", w.Render())
	}
	raw := func(s string) attest.Bytes {
		out, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	ours := func(x *attest.TPM) {
		x.Cloud = nil
		x.PCRs[7] = raw("a4e624d686e03ed2767c0abd85c14426b0b1157d2ce81d27bb4fe4f6f01d688a")
		x.PCRs[4] = raw("2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae")
		x.Boot.CommandLine = "root=/dev/mapper/root ro lockdown=integrity"
		x.Boot.Loaders = []attest.Bytes{
			raw("9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"), raw("60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752"),
			raw("fd61a03af4f77d870fc21e05e7e80678095c92d808cfb3b5c279ee04c74aca13"),
		}
	}
	cloud := func(x *attest.TPM) {
		x.AKTrust, x.EK, x.EKInventory, x.EKCertificate, x.Clock, x.Boot = attest.AKCertificate, nil, "", nil, nil, nil
		x.PCRs[4] = raw("ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb")
		x.PCRs[7] = raw("3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d")
	}
	for name, c := range map[string]attest.Claims{
		"granted": tpmClaims(ours),
		"cloud":   tpmClaims(cloud),
		"no-log":  tpmClaims(ours, func(x *attest.TPM) { x.Boot = nil }),
		"evil-boot": tpmClaims(ours, func(x *attest.TPM) {
			x.Boot.Loaders = append([]attest.Bytes{sized("evil", 32)}, x.Boot.Loaders...)
			x.PCRs[4] = sized("another boot", 32)
		}),
		"sha384":    tpmClaims(ours, sha384),
		"elsewhere": tpmClaims(ours, func(x *attest.TPM) { x.EKInventory = "" }),
	} {
		t.Run(name, func(t *testing.T) {
			out, err := json.MarshalIndent(b.Evaluate(c, noon), "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			golden(t, "decision-tpm-"+name+".json", string(out)+"\n")
		})
	}
}
