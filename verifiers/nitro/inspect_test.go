package nitro_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
	simnitro "github.com/assay-project/assay/simulators/nitro"
	"github.com/assay-project/assay/verifiers/nitro"
)

func TestInspectShowsWhatADocumentSays(t *testing.T) {
	a, v := simulated(t)
	_, b := challenge(t)
	body := mint(t, a, answer(b))
	u, err := nitro.Inspect(body)
	if err != nil {
		t.Fatal(err)
	}
	c := accept(t, v, body, epoch).Nitro
	said := attest.Nitro{ModuleID: u.ModuleID, Timestamp: *u.Timestamp, PCRs: u.PCRs, PublicKey: u.PublicKey, UserData: u.UserData, Nonce: u.Nonce}
	if diff := cmp.Diff(*c, said); diff != "" {
		t.Errorf("(-claims +inspected):\n%s", diff)
	}
	if u.Malformed != nil || u.Digest != "SHA384" || u.Tagged || u.Protected.String() != "a1013822" {
		t.Errorf("%+v", u)
	}
	if len(u.Chain) != 5 || !u.Chain[0].CA || u.Chain[4].CA || u.Chain[4].Key != "ECDSA on P-384" || u.Chain[1].Issuer != u.Chain[0].Subject {
		t.Errorf("chain %+v", u.Chain)
	}
	for i, c := range u.Chain {
		if sum := sha256.Sum256(c.DER); !bytes.Equal(sum[:], c.SHA256) {
			t.Errorf("certificate %d: the DER has another digest", i)
		}
	}
	if _, err := json.Marshal(u); err != nil {
		t.Error(err)
	}
}

// People inspect what does not verify: it must show as much as it can, and the
// first thing that is wrong.
func TestInspectShowsMalformedDocumentsToo(t *testing.T) {
	a, _ := simulated(t)
	for _, f := range simnitro.Faults() {
		if f.Kind != attest.Malformed.String() {
			continue
		}
		u, err := nitro.Inspect(mint(t, a, simnitro.Document{}, f))
		if err != nil {
			if attest.CheckOf(err) != f.Check {
				t.Errorf("%s: %v, want %s", f.Name, err, f.Check)
			}
			continue
		}
		if f.Check == nitro.CheckChainParse { // found in the chain, not in the structure
			if u.Malformed != nil || !strings.Contains(problems(u), "x509") {
				t.Errorf("%s: %v, chain %+v", f.Name, u.Malformed, u.Chain)
			}
			continue
		}
		if attest.CheckOf(u.Malformed) != f.Check {
			t.Errorf("%s: %v, want %s", f.Name, u.Malformed, f.Check)
		}
		if len(u.Chain) == 0 {
			t.Errorf("%s: no chain", f.Name)
		}
	}
}

func problems(u *nitro.Unverified) string {
	var b strings.Builder
	for _, c := range u.Chain {
		b.WriteString(c.Problem)
	}
	return b.String()
}

func TestInspectTellsANitroTPMDocument(t *testing.T) {
	for _, r := range recordings(t) {
		u, err := nitro.Inspect(r.body)
		if err != nil {
			t.Fatalf("%s: %v", r.name, err)
		}
		if u.ModuleID != r.want.ModuleID {
			t.Errorf("%s: module id %q", r.name, u.ModuleID)
		}
		if r.want.Kind == "NitroTPM" && (len(u.NitroTPMPCRs) != 24 || attest.CheckOf(u.Malformed) != nitro.CheckDocPlatform) {
			t.Errorf("%s: %d registers, %v", r.name, len(u.NitroTPMPCRs), u.Malformed)
		}
	}
}
