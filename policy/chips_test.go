package policy_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"testing"

	"github.com/assay-project/assay/policy"
)

func TestOnlyChipsOfEnforcedWorkloadsAreNamed(t *testing.T) {
	chip := func(b byte, n int) []byte { return append(bytes.Repeat([]byte{b}, n), make([]byte, 64-n)...) }
	src := fmt.Sprintf(`version: 1
bundle: chips
revision: 1
trust_domain: attested.example.org
references:
  ours:
    dedicated: true
    values: [{value: %q}, {value: %q}]
workloads:
  - name: enforced
    tee: amd-sev-snp
    mode: enforce
    match:
      measurement: {eq: %[4]q}
      chip_id: {in: ours}
      product: {in: [genoa, turin]}
    issue: [{spiffe_id: "spiffe://{td}/a"}]
  - name: audited
    tee: amd-sev-snp
    mode: audit
    match:
      measurement: {eq: %[4]q}
      chip_id: {in: [%[3]q]}
`, hex.EncodeToString(chip(1, 64)), hex.EncodeToString(chip(2, 8)[:8]), hex.EncodeToString(chip(3, 64)), hex.EncodeToString(bytes.Repeat([]byte{9}, 48)))
	b, err := policy.Parse("chips.yaml", []byte(src))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		what, product string
		chip          []byte
		want          bool
	}{
		{"an enforced chip", "genoa", chip(1, 64), true},
		{"an enforced chip of another line than the rule's", "milan", chip(1, 64), false},
		{"a Turin chip, written short", "turin", chip(2, 8), true},
		{"a chip that is only audited", "genoa", chip(3, 64), false},
		{"another chip", "genoa", chip(4, 64), false},
		{"a masked chip", "genoa", make([]byte, 64), false},
		{"no chip", "genoa", nil, false},
		{"no product", "", chip(1, 64), false},
	} {
		if got := b.NamesChip(tt.product, tt.chip); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.what, got, tt.want)
		}
	}
	var none policy.Bundle
	if none.NamesChip("genoa", chip(1, 64)) {
		t.Error("the zero bundle names a chip")
	}
}
