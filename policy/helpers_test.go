package policy_test

import (
	"context"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/strictyaml"
	"github.com/assay-project/assay/policy"
	simnitro "github.com/assay-project/assay/simulators/nitro"
	"github.com/assay-project/assay/verifiers"
	"github.com/assay-project/assay/verifiers/nitro"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// sum is a plausible measurement.
func sum(name string) attest.Bytes {
	h := sha512.Sum384([]byte(name))
	return h[:]
}

func hexOf(name string) string { return hex.EncodeToString(sum(name)) }

// sized is a plausible value of n bytes.
func sized(name string, n int) attest.Bytes {
	h := sha512.Sum512([]byte(name))
	return h[:n]
}

// expand replaces $name$ in a policy by the hex of sum(name), and $name/n$ by
// that of sized(name, n), so that policies in tests stay readable.
func expand(src string) string {
	parts := strings.Split(src, "$")
	for i := 1; i < len(parts); i += 2 {
		name, length, cut := strings.Cut(parts[i], "/")
		if !cut {
			parts[i] = hexOf(name)
			continue
		}
		n, err := strconv.Atoi(length)
		if err != nil {
			panic(err)
		}
		parts[i] = sized(name, n).String()
	}
	return strings.Join(parts, "")
}

// base is a small policy that grants; tests change one thing in it.
const base = `version: 1
bundle: prod
revision: 7
trust_domain: simulated.example.org
references:
  images:
    - {value: "$41$", not_after: 2027-01-31T00:00:00Z, note: "release 41"}
    - {value: "$42$", not_before: 2027-01-15T00:00:00Z, note: "release 42"}
workloads:
  - name: payments
    tee: aws-nitro
    mode: enforce
    match:
      pcr0: {in: images}
      pcr3: {eq: "$role$"}
    issue:
      - spiffe_id: "spiffe://{td}/payments/api"
        x509_ttl: 1h
`

// noon lies in the windows of both releases.
var noon = time.Date(2027, 1, 20, 12, 0, 0, 0, time.UTC)

func parse(t testing.TB, src string) *policy.Bundle {
	t.Helper()
	b, err := policy.Parse("p.yaml", []byte(expand(src)))
	if err != nil {
		t.Fatalf("the policy does not parse:\n%s", render(err))
	}
	return b
}

func render(err error) string {
	var errs strictyaml.Errors
	if errors.As(err, &errs) {
		return errs.Render()
	}
	return err.Error()
}

// change replaces text that must be there.
func change(t testing.TB, src string, pairs ...string) string {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(src, pairs[i]) {
			t.Fatalf("the text %q is not in the policy", pairs[i])
		}
		src = strings.Replace(src, pairs[i], pairs[i+1], 1)
	}
	return src
}

// nitroClaims are claims of an enclave whose PCRs are sum(name).
func nitroClaims(pcrs map[int]string) attest.Claims {
	c := attest.Claims{Platform: attest.AWSNitro, Simulated: true, Nitro: &attest.Nitro{
		ModuleID: "i-1-enc2", Timestamp: noon, PCRs: map[int]attest.Bytes{},
	}}
	for i, name := range pcrs {
		if name == "" {
			c.Nitro.PCRs[i] = make(attest.Bytes, 48)
		} else {
			c.Nitro.PCRs[i] = sum(name)
		}
	}
	return c
}

// golden compares with a file under testdata, or rewrites it.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("%s differs (-want +got):\n%s", name, d)
	}
}

// lab makes genuine Verified values: documents of a simulated authority,
// through the real verifier.
type lab struct {
	authority *simnitro.Authority
	set       verifiers.Set
}

func newLab(t testing.TB) *lab {
	t.Helper()
	a, err := simnitro.NewAuthority(simnitro.AuthorityOptions{Now: func() time.Time { return noon }})
	if err != nil {
		t.Fatal(err)
	}
	roots, err := nitro.SimulatedRoots(a.RootPEM())
	if err != nil {
		t.Fatal(err)
	}
	v, err := nitro.New(roots)
	if err != nil {
		t.Fatal(err)
	}
	set, err := verifiers.NewSet(v)
	if err != nil {
		t.Fatal(err)
	}
	return &lab{a, set}
}

// attestation is what one enclave presents.
type attestation struct {
	pcrs        map[int]string
	trustDomain string   // "" = simulated.example.org
	requested   []string // one key each; nil = one key that asks for nothing
	sameKeys    bool
	made        time.Time // zero = noon
	at          time.Time // of the verification; zero = noon
}

// good is an enclave that the base policy grants.
var good = map[int]string{0: "42", 3: "role", 8: "signer"}

func (l *lab) verify(t testing.TB, a attestation) *verifiers.Verified {
	t.Helper()
	if a.trustDomain == "" {
		a.trustDomain = "simulated.example.org"
	}
	if a.requested == nil {
		a.requested = []string{""}
	}
	if a.made.IsZero() {
		a.made = noon
	}
	if a.at.IsZero() {
		a.at = noon
	}
	ch := attest.Challenge{
		Platform: attest.AWSNitro, TrustDomain: a.trustDomain, ServerID: "spiffe://" + a.trustDomain + "/assay/server",
		Exporter: [32]byte{1}, Nonce: attest.Nonce{2}, Purpose: attest.Boot,
	}
	for i, id := range a.requested {
		spki := []byte{0x30, byte(i)}
		if a.sameKeys {
			spki[1] = 0
		}
		ch.Keys = append(ch.Keys, attest.BoundKey{SPKI: spki, RequestedID: id})
	}
	want, err := ch.Binding()
	if err != nil {
		t.Fatal(err)
	}
	pcrs := map[int][]byte{}
	for i, b := range nitroClaims(a.pcrs).Nitro.PCRs {
		pcrs[i] = b
	}
	doc, err := l.authority.Mint(simnitro.Document{
		Timestamp: a.made, PCRs: pcrs, PublicKey: ch.Keys[0].SPKI,
		UserData: append([]byte("assay/v1\x00"), want.B[:]...), Nonce: want.Nonce[:],
	})
	if err != nil {
		t.Fatal(err)
	}
	v, err := l.set.Verify(context.Background(), attest.Evidence{Platform: attest.AWSNitro, Body: doc}, ch, nil, a.at)
	if err != nil {
		t.Fatalf("the real verifier refuses the document: %v", err)
	}
	return v
}
