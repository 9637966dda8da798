package diff_test

import (
	"context"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/strictyaml"
	"github.com/assay-project/assay/policy"
	"github.com/assay-project/assay/policy/diff"
)

var noon = time.Date(2027, 1, 20, 12, 0, 0, 0, time.UTC)

// expand replaces $name$ by 48 bytes of hex, and $name/n$ by n.
func expand(src string) string {
	parts := strings.Split(src, "$")
	for i := 1; i < len(parts); i += 2 {
		name, length, cut := strings.Cut(parts[i], "/")
		n := 48
		if cut {
			n, _ = strconv.Atoi(length)
		}
		h := sha512.Sum512([]byte(name))
		parts[i] = hex.EncodeToString(h[:n])
	}
	return strings.Join(parts, "")
}

func parse(t testing.TB, src string) *policy.Bundle {
	t.Helper()
	b, err := policy.Parse("p.yaml", []byte(expand(src)))
	var found strictyaml.Errors
	if errors.As(err, &found) {
		t.Fatalf("the policy does not parse:\n%s\n%s", found.Render(), src)
	}
	return b
}

func change(t testing.TB, src string, pairs ...string) string {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(src, pairs[i]) {
			t.Fatalf("%q is not in the policy", pairs[i])
		}
		src = strings.ReplaceAll(src, pairs[i], pairs[i+1])
	}
	return src
}

func compare(t testing.TB, a, b string) *diff.Report {
	t.Helper()
	return compared(t, parse(t, a), parse(t, b))
}

// compared checks of every report that its counterexamples are what they say, by
// policies without anything that the comparison did to them.
func compared(t testing.TB, a, b *policy.Bundle) *diff.Report {
	t.Helper()
	r, err := diff.Compare(context.Background(), a, b, diff.Options{From: noon})
	if err != nil {
		t.Fatal(err)
	}
	check := func(kind string, d diff.Difference, admits, refuses *policy.Bundle) {
		if admits.HasRollout() || refuses.HasRollout() {
			return // the comparison evaluated it with a secret of its own
		}
		if x := admits.Explain(d.Claims, d.At); x.Outcome != policy.Granted || x.Workload != d.Workload {
			t.Errorf("%s %v: the one that should admit says %s: %s", kind, d.What, x.Reason, x.Detail)
		}
		if x := refuses.Explain(d.Claims, d.At); x.Outcome == policy.Granted {
			t.Errorf("%s %v: the one that should refuse grants", kind, d.What)
		}
		if d.At.Before(d.From) || d.Until != nil && !d.At.Before(*d.Until) {
			t.Errorf("%s %v: the counterexample is of another time", kind, d.What)
		}
		if !policy.Consistent(d.Claims) {
			t.Errorf("%s %v: no verifier makes such claims: %+v", kind, d.What, d.Claims)
		}
	}
	for _, d := range r.Widenings {
		check("widening", d, b, a)
	}
	for _, d := range r.Narrowings {
		check("narrowing", d, a, b)
	}
	for _, c := range r.Changes {
		if a.Explain(c.Claims, c.At).Outcome != policy.Granted && !a.HasRollout() || b.Explain(c.Claims, c.At).Outcome != policy.Granted && !b.HasRollout() {
			t.Errorf("change %v: not both grant", c.What)
		}
	}
	return r
}

const nitroBase = `version: 1
bundle: prod
revision: 1
trust_domain: example.org
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
      pcr8: {eq: "$signer$"}
      pcr3: {eq: "$role$"}
    expr: "nitro.pcr1 != nitro.pcr2"
    issue:
      - spiffe_id: "spiffe://{td}/payments/api"
        x509_ttl: 1h
        jwt: {ttl: 5m, audiences: [a, b]}
        attributes: {tier: gold, team: pay}
      - spiffe_id: "spiffe://{td}/payments/{pcr0:16}"
  - name: batch
    tee: aws-nitro
    mode: enforce
    ownership: {none: a, owner: b, expires: 2027-06-30}
    match:
      pcr0: {eq: "$batch$"}
    issue: [{spiffe_id: "spiffe://{td}/batch"}]
  - name: canary
    tee: aws-nitro
    mode: {rollout: 10%}
    match:
      pcr0: {eq: "$canary$"}
      pcr3: {in: ["$role$", "$other role$"]}
    issue: [{spiffe_id: "spiffe://{td}/canary"}]
  - name: watched
    tee: aws-nitro
    mode: audit
    match:
      pcr0: {eq: "$watched$"}
      pcr3: {eq: "$role$"}
    issue: [{spiffe_id: "spiffe://{td}/watched"}]
`

const snpBase = `version: 1
bundle: prod
revision: 1
trust_domain: example.org
references:
  chips: {dedicated: true, values: ["$chip/64$", "$turin/8$"]}
workloads:
  - name: ledger
    tee: amd-sev-snp
    mode: enforce
    match:
      measurement: {in: ["$image$", "$image 2$"]}
      product: {in: [genoa, turin]}
      reported_tcb: {gte: {genoa: {bl: 9, tee: 0, snp: 23, ucode: 72}, turin: {fmc: 1, bl: 1, tee: 1, snp: 4, ucode: 81}}}
      chip_id: {in: chips}
      guest_svn: {gte: 3}
      vmpl: {in: [0, 1]}
      current_firmware: {gte: "1.55.0"}
      current_mitigations: {bits: {set: [0, 3], clear: [7]}}
      platform.smt: {eq: false}
      revocation: {eq: ok}
    waivers:
      - {rule: revocation, when: {product: {eq: genoa}}, reason: a, owner: b, expires: 2027-03-01}
    expr: "snp.guest_svn != 17"
    silence: [evidence-oracle]
    issue: [{spiffe_id: "spiffe://{td}/ledger"}]
`

const tpmBase = `version: 1
bundle: prod
revision: 1
trust_domain: example.org
workloads:
  - name: store
    tee: tpm2
    mode: enforce
    match:
      pcr4: {eq: "$loader/32$"}
      pcr7: {in: ["$keys/32$", "$keys/48$"]}
      ek_inventory: {in: [rack-4, rack-5]}
      boot.loaders: {every: ["$shim/32$", "$grub/32$"]}
      boot.command_line: {regex: "root=/dev/vd[ab] ro"}
      key_residency: {eq: tpm}
      clock.firmware: {gte: "7.85.0.0"}
    issue: [{spiffe_id: "spiffe://{td}/store"}]
`

// widening is one change by hand that lets more in, and only that.
type widening struct {
	name, base string
	change     []string
	what       string // of the difference
	narrows    bool   // and lets others in no more
}

var widenings = []widening{
	{"a value more in a set", nitroBase, []string{`    - {value: "$41$"`, "    - {value: \"$43$\"}\n    - {value: \"$41$\""}, "pcr0 is " + expand("$43$"), false},
	{"a value that lasts longer", nitroBase, []string{"not_after: 2027-01-31T00:00:00Z", "not_after: 2027-02-28T00:00:00Z"}, "pcr0 is " + expand("$41$"), false},
	{"a value without end", nitroBase, []string{", not_after: 2027-01-31T00:00:00Z", ""}, "pcr0 is " + expand("$41$"), false},
	{"a value before its time", nitroBase, []string{`"$42$", not_before: 2027-01-15T00:00:00Z`, `"$42$"`, `{value: "$41$"`, `{value: "$40$"}` + "\n    - {value: \"$41$\""}, "pcr0 is " + expand("$40$"), false},
	{"no signer", nitroBase, []string{"      pcr8: {eq: \"$signer$\"}\n", ""}, "pcr8 is anything but", false},
	{"another signer too", nitroBase, []string{`pcr8: {eq: "$signer$"}`, `pcr8: {in: ["$signer$", "$signer 2$"]}`}, "pcr8 is " + expand("$signer 2$"), false},
	{"another owner", nitroBase, []string{"pcr3: {eq: \"$role$\"}\n    expr", "pcr3: {eq: \"$other role$\"}\n    expr"}, "pcr3 is " + expand("$other role$"), true},
	{"no expression", nitroBase, []string{"    expr: \"nitro.pcr1 != nitro.pcr2\"\n", ""}, "the expression does not hold: nitro.pcr1 != nitro.pcr2", false},
	{"another expression", nitroBase, []string{"nitro.pcr1 != nitro.pcr2", "nitro.pcr1 == nitro.pcr2"}, "the expression does not hold: nitro.pcr1 != nitro.pcr2", true},
	{"a waiver that lasts longer", nitroBase, []string{"expires: 2027-06-30", "expires: 2027-12-31"}, "", false},
	{"a wider rollout", nitroBase, []string{"rollout: 10%", "rollout: 10.5%"}, "the rollout of canary draws from 10% up to 10.5%", false},
	{"a rollout that is over", nitroBase, []string{"mode: {rollout: 10%}", "mode: enforce"}, "the rollout of canary draws from 10% up to 100%", false},
	{"an audited workload enforced", nitroBase, []string{"mode: audit", "mode: enforce"}, "", false},
	{"a new workload", nitroBase, []string{"  - name: watched", "  - name: new\n    tee: aws-nitro\n    mode: enforce\n    match: {pcr0: {eq: \"$new$\"}, pcr4: {eq: \"$i$\"}}\n    issue: [{spiffe_id: \"spiffe://{td}/new\"}]\n  - name: watched"}, "", false},
	{"debug mode beside", nitroBase, []string{"  - name: watched", "  - name: new\n    tee: aws-nitro\n    mode: enforce\n    match: {debug: {eq: true}, pcr3: {eq: \"$role$\"}}\n    issue: [{spiffe_id: \"spiffe://{td}/new\"}]\n  - name: watched"}, "", false},
	{"a lower floor of one component", snpBase, []string{"snp: 23, ucode: 72", "snp: 22, ucode: 72"}, "reported_tcb is at least genoa", false},
	{"a product more", snpBase, []string{"product: {in: [genoa, turin]}", "product: {in: [genoa, turin, milan]}", "gte: {genoa", "gte: {milan: {bl: 3, tee: 0, snp: 10, ucode: 1}, genoa"}, "product is milan", false},
	{"no product rule but the floor's", snpBase, []string{"product: {in: [genoa, turin]}\n", "product: {in: [genoa, turin]}\n", "guest_svn: {gte: 3}", "guest_svn: {gte: 2}"}, "guest_svn is at least 2, but not at least 3", false},
	{"a floor turned into a value below", snpBase, []string{"guest_svn: {gte: 3}", "guest_svn: {in: [2, 3, 4]}"}, "guest_svn is 2", true},
	{"no rule over guest_svn", snpBase, []string{"      guest_svn: {gte: 3}\n", ""}, "guest_svn is anything but at least 3", false},
	{"another privilege level", snpBase, []string{"vmpl: {in: [0, 1]}", "vmpl: {lte: 2}"}, "vmpl is at most 2, but not one of 0, 1", false},
	{"older firmware", snpBase, []string{`"1.55.0"`, `"1.54.255"`}, "current_firmware is at least 1.54.255, but not at least 1.55.0", false},
	{"a bit less", snpBase, []string{"set: [0, 3]", "set: [0]"}, "current_mitigations is bit 0 set, bit 7 clear, but not bits 0, 3 set, bit 7 clear", false},
	{"a bit that may be set", snpBase, []string{", clear: [7]", ""}, "current_mitigations is bits 0, 3 set, but not bits 0, 3 set, bit 7 clear", false},
	{"simultaneous multithreading", snpBase, []string{"      platform.smt: {eq: false}\n", ""}, "platform.smt is anything but one of false", false},
	{"a waiver of more products", snpBase, []string{"when: {product: {eq: genoa}}", "when: {product: {in: [genoa, turin]}}"}, "product is turin", false},
	{"a waiver that lasts longer, of a rule", snpBase, []string{"expires: 2027-03-01", "expires: 2027-04-01"}, "revocation is anything, but not one of ok", false},
	{"a chip more", snpBase, []string{`"$turin/8$"`, `"$turin/8$", "$chip 2/64$"`}, "chip_id is " + expand("$chip 2/64$"), false},
	{"migration", snpBase, []string{"      revocation: {eq: ok}", "      revocation: {eq: ok}\n      policy.migrate_ma: {eq: true}"}, "policy.migrate_ma is true", true},
	{"a floor that is waived", snpBase, []string{"    waivers:\n", "    waivers:\n      - {rule: reported_tcb, reason: a, owner: b, expires: 2027-04-01}\n"}, "reported_tcb is at least genoa: bl 0", false},
	{"a weaker expression", snpBase, []string{"snp.guest_svn != 17", "snp.guest_svn != 17 || snp.vmpl == 1"}, "the expression does not hold: snp.guest_svn != 17", false},
	{"a loader more", tpmBase, []string{`"$grub/32$"]`, `"$grub/32$", "$evil/32$"]`}, "boot.loaders is each one of", false},
	{"any loader", tpmBase, []string{"      boot.loaders: {every: [\"$shim/32$\", \"$grub/32$\"]}\n", ""}, "boot.loaders is anything but each one of", false},
	{"a wider regular expression", tpmBase, []string{"vd[ab] ro", "vd[abc] ro"}, "boot.command_line is", false},
	{"another rack", tpmBase, []string{"rack-5]", "rack-5, rack-6]"}, "ek_inventory is rack-6", false},
	{"keys in software", tpmBase, []string{"key_residency: {eq: tpm}", "key_residency: {in: [tpm, software]}"}, "key_residency is software", false},
	{"older firmware of the TPM", tpmBase, []string{"7.85.0.0", "7.84.0.0"}, "clock.firmware is at least 7.84.0.0, but not at least 7.85.0.0", false},
	{"another bank's keys", tpmBase, []string{`pcr4: {eq: "$loader/32$"}`, `pcr4: {in: ["$loader/32$", "$loader/48$"]}`, `every: [`, `every: ["$shim/48$", `}, "pcr4 is " + expand("$loader/48$"), false},
}

func TestEachWideningByHandIsFoundWithACounterexample(t *testing.T) {
	if len(widenings) < 30 {
		t.Fatalf("%d widenings", len(widenings))
	}
	for _, w := range widenings {
		t.Run(w.name, func(t *testing.T) {
			wider := change(t, w.base, w.change...)
			r := compare(t, w.base, wider)
			has := func(ds []diff.Difference) bool {
				for _, d := range ds {
					if strings.Contains(strings.Join(d.What, "\n"), w.what) {
						return true
					}
				}
				return false
			}
			if !has(r.Widenings) {
				t.Errorf("no widening %q in %+v, undecided %+v", w.what, r.Widenings, r.Undecided)
			}
			// That one expression implies another, or a regular expression, is not seen.
			sampled := w.name == "a weaker expression" || w.name == "a wider regular expression"
			if (len(r.Undecided) > 0) != sampled {
				t.Errorf("undecided: %+v", r.Undecided)
			}
			if (len(r.Narrowings) > 0) != w.narrows {
				t.Errorf("narrowings: %+v", r.Narrowings)
			}
			// The other way round it is a narrowing.
			back := compare(t, wider, w.base)
			if !has(back.Narrowings) || (len(back.Widenings) > 0) != w.narrows {
				t.Errorf("the reverse: narrowings %+v, widenings %+v", back.Narrowings, back.Widenings)
			}
		})
	}
}

// rewrites say the same in other words.
var rewrites = []struct {
	name, base string
	change     []string
}{
	{"nothing", nitroBase, nil},
	{"a comment", nitroBase, []string{"workloads:\n", "# who gets what\nworkloads:\n"}},
	{"another revision", nitroBase, []string{"revision: 1", "revision: 2"}},
	{"another name of a set", nitroBase, []string{"images", "releases"}},
	{"another name of a workload", nitroBase, []string{"name: payments", "name: payments-api"}},
	{"rules in another order", nitroBase, []string{"      pcr8: {eq: \"$signer$\"}\n      pcr3: {eq: \"$role$\"}\n    expr", "      pcr3: {eq: \"$role$\"}\n      pcr8: {eq: \"$signer$\"}\n    expr"}},
	{"keys in another order", nitroBase, []string{"  - name: payments\n    tee: aws-nitro\n    mode: enforce\n", "  - tee: aws-nitro\n    mode: enforce\n    name: payments\n"}},
	{"values in another order", nitroBase, []string{`["$role$", "$other role$"]`, `["$other role$", "$role$"]`}},
	{"a list of one for a value", nitroBase, []string{`pcr8: {eq: "$signer$"}`, `pcr8: {in: ["$signer$"]}`}},
	{"a set written in place", nitroBase, []string{"pcr0: {in: images}", `pcr0: {in: [{value: "$41$", not_after: 2027-01-31T00:00:00Z}, {value: "$42$", not_before: 2027-01-15T00:00:00Z}]}`, "references:\n  images:\n    - {value: \"$41$\", not_after: 2027-01-31T00:00:00Z, note: \"release 41\"}\n    - {value: \"$42$\", not_before: 2027-01-15T00:00:00Z, note: \"release 42\"}\n", ""}},
	{"a value moved into a set", nitroBase, []string{`pcr8: {eq: "$signer$"}`, "pcr8: {in: signers}", "references:\n", "references:\n  signers: [\"$signer$\"]\n"}},
	{"implicit rules written down", nitroBase, []string{"      pcr8: {eq: \"$signer$\"}\n", "      pcr8: {eq: \"$signer$\"}\n      debug: {eq: false}\n"}},
	{"notes and sources", nitroBase, []string{`note: "release 42"`, `note: "the release after 41", source: "build 9"`}},
	{"a moment in another zone", nitroBase, []string{"2027-01-31T00:00:00Z", "2027-01-31T01:00:00+01:00"}},
	{"a window that has begun", nitroBase, []string{"not_before: 2027-01-15T00:00:00Z", "not_before: 2027-01-10T00:00:00Z"}},
	{"a value that has ended", nitroBase, []string{`    - {value: "$41$"`, "    - {value: \"$40$\", not_after: 2026-12-31T00:00:00Z}\n    - {value: \"$41$\""}},
	{"another reason of a waiver", nitroBase, []string{"none: a, owner: b", "none: c, owner: d"}},
	{"a day written as a moment", nitroBase, []string{"expires: 2027-06-30", "expires: 2027-06-30T00:00:00Z"}},
	{"a share written otherwise", nitroBase, []string{"10%", "10.0%"}},
	{"durations written otherwise", nitroBase, []string{"x509_ttl: 1h", "x509_ttl: 60m", "ttl: 5m", "ttl: 300s"}},
	{"defaults written down", nitroBase, []string{`- spiffe_id: "spiffe://{td}/payments/{pcr0:16}"`, "- spiffe_id: \"spiffe://{td}/payments/{pcr0:16}\"\n        x509_ttl: 1h\n    publish: [pcr8, pcr2, pcr1, pcr0]\n    max_evidence_age: 1h"}},
	{"templates expanded", nitroBase, []string{"spiffe://{td}/batch", "spiffe://example.org/{workload}"}},
	{"a digest expanded", nitroBase, []string{"spiffe://{td}/canary", "spiffe://{td}/canary-{pcr0:8}", "x", "x"}},
	{"audiences and attributes in another order", nitroBase, []string{"[a, b]", "[b, a]", "{tier: gold, team: pay}", "{team: pay, tier: gold}"}},
	{"no audited workload", nitroBase, []string{nitroBase[strings.Index(nitroBase, "  - name: watched"):], ""}},
	{"a workload split by its values", snpBase, []string{"SPLIT", ""}},
	{"an interval for its values", snpBase, []string{"vmpl: {in: [0, 1]}", "vmpl: {lte: 1}"}},
	{"a floor without its product rule", snpBase, []string{"      product: {in: [genoa, turin]}\n", ""}},
	{"a chip's id at full length", snpBase, []string{`"$turin/8$"`, `"$turin/8$` + strings.Repeat("00", 56) + `"`}},
	{"a value for the least", snpBase, []string{"guest_svn: {gte: 3}", "guest_svn: {gte: 3}", "platform.smt: {eq: false}", "platform.smt: {eq: false}\n      chip_id_masked: {eq: false}"}},
	{"bits in another order", snpBase, []string{"set: [0, 3]", "set: [3, 0]"}},
	{"a version that follows", snpBase, []string{"      revocation: {eq: ok}\n", "      revocation: {eq: ok}\n      version: {gte: 5}\n"}},
	{"another owner of a waiver", snpBase, []string{"reason: a, owner: b", "reason: c, owner: d"}},
	{"expression with the same source", snpBase, []string{`expr: "snp.guest_svn != 17"`, `expr: 'snp.guest_svn != 17'`}},
	{"the bank that follows", tpmBase, []string{"      pcr4:", "      bank: {eq: sha256}\n      pcr4:"}},
	{"keys of the other bank, which never match", tpmBase, []string{`, "$keys/48$"]`, "]"}},
	{"elements in another order", tpmBase, []string{`["$shim/32$", "$grub/32$"]`, `["$grub/32$", "$shim/32$"]`}},
	{"what vouches for the key, written down", tpmBase, []string{"      key_residency:", "      ak_trust: {in: [certificate, activated]}\n      key_residency:"}},
}

func TestEquivalentRewritesAreNoDifference(t *testing.T) {
	if len(rewrites) < 30 {
		t.Fatalf("%d rewrites", len(rewrites))
	}
	for _, w := range rewrites {
		t.Run(w.name, func(t *testing.T) {
			a, b := w.base, w.base
			switch w.name {
			case "a workload split by its values":
				at := strings.Index(b, "  - name: ledger")
				one := b[at:]
				b = b[:at] + change(t, one, `measurement: {in: ["$image$", "$image 2$"]}`, `measurement: {eq: "$image$"}`) +
					change(t, one, `measurement: {in: ["$image$", "$image 2$"]}`, `measurement: {eq: "$image 2$"}`, "name: ledger", "name: ledger-2")
			case "a digest expanded":
				b = change(t, a, "spiffe://{td}/canary", "spiffe://{td}/canary-{pcr0:8}")
				a = change(t, a, "spiffe://{td}/canary", "spiffe://{td}/canary-"+expand("$canary$")[:8])
			case "another name of a workload":
				b = change(t, a, w.change...)
			default:
				b = change(t, b, w.change...)
			}
			for _, r := range []*diff.Report{compare(t, a, b), compare(t, b, a)} {
				if !r.Same() {
					t.Errorf("widenings %+v\nnarrowings %+v\nchanges %+v\nundecided %+v", r.Widenings, r.Narrowings, r.Changes, r.Undecided)
				}
			}
		})
	}
}

// read makes claims by their names.
func read(t testing.TB, p attest.Platform, src string) (attest.Claims, bool) {
	t.Helper()
	d := strictyaml.Open("claims.yaml", []byte(expand(src)))
	c, ok := policy.ReadClaims(d, p, d.Root(), nil)
	if d.Err() != nil {
		t.Fatalf("%v in\n%s", d.Err(), src)
	}
	return c, ok
}
