package policy_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/strictyaml"
	"github.com/assay-project/assay/policy"
)

// expressionErrors are the messages about an expression; none where it is accepted.
func expressionErrors(t *testing.T, src string) []string {
	t.Helper()
	_, err := policy.Parse("p.yaml", []byte(expand(src)))
	var errs strictyaml.Errors
	if err != nil && !errors.As(err, &errs) {
		t.Fatal(err)
	}
	var out []string
	for _, e := range errs {
		out = append(out, e.Msg)
	}
	return out
}

// A negated comparison with another spelling of a value always holds: a ban of a
// chip that bans nothing.
func TestTextInASpellingThatNoClaimHasIsRefusedWhereverItIsCompared(t *testing.T) {
	turin := sized("turin", 8).String()
	image, upper := hexOf("image"), strings.ToUpper(hexOf("image"))
	zeros := strings.Repeat("0", 112)
	for expr, want := range map[string]string{
		"snp.chip_id != '" + turin + zeros + "'":                                       "snp.chip_id is never",
		"!(snp.chip_id in ['" + turin + zeros + "'])":                                  "snp.chip_id is never",
		"snp.chip_id != '0000000000000000'":                                            "snp.chip_id is never",
		"!snp.chip_id.startsWith('" + turin + "00')":                                   "snp.chip_id never begins with",
		"!snp.chip_id.endsWith('0000')":                                                "snp.chip_id never ends with",
		"!snp.chip_id.contains('" + turin + zeros[:20] + "')":                          "snp.chip_id never contains",
		"!snp.chip_id.startsWith('AB12')":                                              "snp.chip_id never begins with \"AB12\"",
		"!snp.measurement.endsWith('AB')":                                              "snp.measurement never ends with \"AB\"",
		"!snp.measurement.contains('0xab')":                                            "snp.measurement never contains \"0xab\"",
		"!snp.measurement.startsWith('" + image + "0')":                                "snp.measurement never begins with",
		"['" + upper + "'].all(x, x != snp.measurement)":                               "snp.measurement is never",
		"!['" + image + "', '" + upper + "'].exists(x, snp.measurement.startsWith(x))": "snp.measurement never begins with",
		"snp.measurement != (snp.vmpl == 0 ? '" + image + "' : 'AB')":                  "snp.measurement is never \"AB\"",
		"(snp.vmpl == 0 ? snp.measurement : snp.id_key_digest) != 'AB'":                "snp.measurement is never \"AB\"",
		"[snp.measurement][0] != 'AB'":                                                 "snp.measurement is never \"AB\"",
		"[snp.measurement] != ['AB']":                                                  "snp.measurement is never \"AB\"",
		"[snp.measurement, snp.id_key_digest].all(m, m != '" + upper + "')":            "snp.measurement is never",
		"!'" + upper + "'.contains(snp.measurement)":                                   "contains looks for snp.measurement in text",
		"!snp.measurement.matches('^AB')":                                              "snp.measurement is hex, and has no pattern: another spelling would never match",
		"![snp.chip_id].exists(x, x.matches('^ab'))":                                   "snp.chip_id is hex, and has no pattern",
		"!snp.product.startsWith('Gen')":                                               "snp.product never begins with \"Gen\"",
		"snp.product != 'Genoa'":                                                       "snp.product is never \"Genoa\"",
	} {
		got := expressionErrors(t, withExpr(t, `"`+expr+`"`))
		if len(got) == 0 || !strings.Contains(got[0], want) {
			t.Errorf("%s: got %q, want %q", expr, got, want)
		}
	}
	loader := strings.ToUpper(sized("loader", 32).String())
	for _, expr := range []string{
		"!('" + loader + "' in tpm.boot.loaders)", "tpm.boot.loaders.all(x, x != '" + loader + "')", "tpm.boot.loaders[0] != '" + loader + "'", "tpm.boot.loaders != ['" + loader + "']",
		"!tpm.boot.loaders.exists(x, x.startsWith('AB'))", "tpm.pcr4 != '" + loader + "'", "tpm.boot.keys.db != '" + loader + "'",
	} {
		if got := expressionErrors(t, change(t, tpmBase, "    issue:", `    expr: "`+expr+`"`+"\n    issue:")); len(got) == 0 || !strings.Contains(got[0], " never ") {
			t.Errorf("%s: got %q", expr, got)
		}
	}
}

// The spelling in which claims are read is accepted everywhere, and bans what it
// names.
func TestTextInTheSpellingOfClaimsIsComparedWithThem(t *testing.T) {
	turin := sized("turin", 8)
	guest := func(s *attest.SNP) {
		s.Product, s.ChipID = "turin", append(append(attest.Bytes{}, turin...), make([]byte, 56)...)
		fmc := uint8(1)
		s.ReportedTCB = attest.TCB{FMC: &fmc, Bootloader: 1, TEE: 1, SNP: 4, Microcode: 81}
	}
	for expr, want := range map[string]string{
		"snp.guest_svn > 0":                                         policy.Granted,
		"snp.chip_id != '" + turin.String() + "'":                   policy.Refused,
		"!(snp.chip_id in ['" + turin.String() + "'])":              policy.Refused,
		"!snp.chip_id.startsWith('" + turin.String()[:6] + "')":     policy.Refused,
		"snp.chip_id != '" + sized("chip", 64).String() + "'":       policy.Granted,
		"!snp.chip_id.startsWith('" + turin.String() + "ab')":       policy.Granted,
		"[snp.chip_id].all(c, c != '" + turin.String() + "')":       policy.Refused,
		"snp.product.endsWith('in') && snp.product.matches('^t')":   policy.Granted,
		"snp.product == (snp.vmpl == 0 ? 'turin' : 'milan')":        policy.Granted,
		"['milan', 'turin'].exists_one(x, snp.product.contains(x))": policy.Granted,
	} {
		src := withExpr(t, `"`+expr+`"`)
		if got := expressionErrors(t, src); len(got) > 0 {
			t.Errorf("%s: %q", expr, got)
			continue
		}
		if d := parse(t, src).Evaluate(snpClaims(guest), noon); d.Outcome != want {
			t.Errorf("%s: %s %s", expr, d.Reason, d.Detail)
		}
	}
}

// Values of other types compare with everything, unchecked.
func TestExpressionsHoldNothingButTruthNumbersTextAndListsOfThese(t *testing.T) {
	for _, expr := range []string{
		"google.protobuf.Value{string_value: snp.product} != 5", "google.protobuf.Struct{fields: {'a': google.protobuf.Value{number_value: 1.0}}}.a != 5", "{snp.product: 1}.b == 1", "{'a': 1}['a'] == snp.vmpl", "'a' in {'a': 1}",
		"google.protobuf.Timestamp{seconds: 5} == google.protobuf.Timestamp{seconds: 5}", "google.protobuf.BoolValue{value: true}", "google.protobuf.Int64Value{value: 1} == 1", "1.5 == 1.5", "b'a' == b'a'", "int == int", "1u == 1u", "null == null",
		"type(snp.vmpl) == int", "[] == []", "[1.5].exists(x, x == 1.5)", "[[1.0]] == [[2.0]]",
	} {
		if got := expressionErrors(t, withExpr(t, `"`+expr+`"`)); len(got) == 0 {
			t.Errorf("%s is accepted", expr)
		}
	}
	for _, expr := range []string{"[[1], [2]].exists(l, snp.vmpl in l)", "snp.current_mitigations.exists_one(x, x == 3)", "[snp.product, 'x'][0] == 'genoa'", "(snp.vmpl == 0 ? true : false)"} {
		if got := expressionErrors(t, withExpr(t, `"`+expr+`"`)); len(got) > 0 {
			t.Errorf("%s: %q", expr, got)
		}
	}
}

// A regular expression of an expression takes as much memory as one of a matcher.
func TestRegularExpressionsInExpressionsCountForTheBundle(t *testing.T) {
	one := func(n int, class string) string {
		return many(n, "audit", "      pcr0: {eq: \"$N$\"}\n    expr: \"'x'.matches(r'"+class+"') || N == N || nitro.debug\"\n")
	}
	_, err := policy.Parse("p.yaml", []byte(expand(one(1, `\\pL{900}`))))
	if err == nil || !strings.Contains(err.Error(), "its character classes have") {
		t.Errorf("one that is too large: got %.300v", err)
	}
	_, err = policy.Parse("p.yaml", []byte(expand(one(100, `\\pL{14}`))))
	if err == nil || !strings.Contains(err.Error(), "the regular expressions of this bundle are too large together") {
		t.Errorf("many: got %.300v", err)
	}
	if _, err = policy.Parse("p.yaml", []byte(expand(one(20, `\\pL{14}`)))); err != nil {
		t.Errorf("some: got %.300v", err)
	}
}
