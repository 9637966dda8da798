package policy_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/strictyaml"
	"github.com/assay-project/assay/policy"
)

func TestAllMistakesAreFoundInOneRun(t *testing.T) {
	src, err := os.ReadFile("testdata/mistakes.yaml")
	if err != nil {
		t.Fatal(err)
	}
	b, err := policy.Parse("mistakes.yaml", src)
	var errs strictyaml.Errors
	if !errors.As(err, &errs) || b != nil {
		t.Fatalf("got %v, %v", b, err)
	}
	golden(t, "mistakes.golden", errs.Render())
	// Each line says how many mistakes are on it, so that none is missed,
	// reported twice, or reported elsewhere.
	found := map[int]int{}
	messages := map[string]bool{}
	for _, e := range errs {
		found[e.Line]++
		messages[e.Msg] = true
		if e.Col == 0 || e.Source == "" {
			t.Errorf("no place in the line: %v", e)
		}
	}
	for i, line := range strings.Split(string(src), "\n") {
		want := 0
		if _, mark, ok := strings.Cut(line, "  # "); ok {
			if want, err = strconv.Atoi(mark); err != nil {
				t.Fatal(err)
			}
		}
		if found[i+1] != want {
			t.Errorf("line %d: %d mistakes found, want %d", i+1, found[i+1], want)
		}
	}
	if len(messages) < 20 {
		t.Errorf("%d different mistakes, want at least 20", len(messages))
	}
}

// The policy that the language was designed with: two platforms, overlapping
// releases, owners of both kinds, a floor for two product lines, an expression.
func TestThePolicyOfTheDesignIsAGoodOne(t *testing.T) {
	b := parse(t, `version: 1
bundle: prod
revision: 7
trust_domain: attested.example.org
references:
  payments-images:
    - {value: "$41$", not_after: 2027-01-31T00:00:00Z, note: "release 41"}
    - {value: "$42$", not_before: 2027-01-15T00:00:00Z, note: "release 42"}
  our-chips:
    dedicated: true
    values: [{value: "$chip/64$"}]
workloads:
  - name: payments
    tee: aws-nitro
    mode: enforce
    match:
      pcr0: {in: payments-images}
      pcr8: {eq: "$signer$"}            # who signed the image
      pcr3: {eq: "$role$"}            # whose instance role launched it: ownership
    issue:
      - spiffe_id: "spiffe://{td}/payments/api"
        x509_ttl: 1h
        jwt: {ttl: 5m, audiences: [sts.amazonaws.com]}
  - name: ledger
    tee: amd-sev-snp
    mode: enforce
    match:
      measurement: {in: ["$image$"]}
      product: {in: [genoa, turin]}
      policy.debug: {eq: false}
      vmpl: {eq: 0}
      reported_tcb: {gte: {genoa: {bl: 9, tee: 0, snp: 23, ucode: 72}, turin: {fmc: 1, bl: 1, tee: 1, snp: 4, ucode: 81}}}
      chip_id: {in: our-chips}       # ownership
    expr: "snp.guest_svn >= 3 && !snp.platform.smt"
    issue: [{spiffe_id: "spiffe://{td}/ledger", x509_ttl: 1h}]
`)
	if w := b.Warnings(); len(w) > 0 {
		t.Errorf("warnings:\n%s", w.Render())
	}
	if d := b.Evaluate(nitroClaims(good), noon); d.Workload != "payments" {
		t.Errorf("payments: %s %s", d.Reason, d.Detail)
	}
	for smt, want := range map[bool]string{false: "ledger", true: ""} {
		d := b.Evaluate(snpClaims(func(s *attest.SNP) { s.GuestSVN, s.Platform.SMT = 3, smt }), noon)
		if d.Workload != want {
			t.Errorf("ledger, smt %v: %s %s", smt, d.Reason, d.Detail)
		}
	}
}

func TestABundleTellsWhatItIs(t *testing.T) {
	src := []byte(expand(base))
	b, err := policy.Parse("p.yaml", src)
	if err != nil {
		t.Fatal(render(err))
	}
	if b.Name() != "prod" || b.Revision() != 7 || b.Version() != "prod@7" || b.TrustDomain() != "simulated.example.org" || b.Digest() != sha256.Sum256(src) {
		t.Errorf("%s %d %s %s %x", b.Name(), b.Revision(), b.Version(), b.TrustDomain(), b.Digest())
	}
	want := []policy.WorkloadInfo{{Name: "payments", Platform: "aws-nitro", Mode: "enforce", Ownership: true, SPIFFEIDs: []string{"spiffe://{td}/payments/api"}}}
	if d := cmp.Diff(want, b.Workloads()); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// Each case makes one change to a good policy, and must get exactly one error.
func TestEachMistakeHasItsOwnError(t *testing.T) {
	const pcr3 = `      pcr3: {eq: "$role$"}
`
	const second = `  - name: second
    tee: aws-nitro
    mode: enforce
    match:
      pcr0: {eq: "$second$"}
      pcr3: {eq: "$role$"}
    issue: [{spiffe_id: "spiffe://{td}/second"}]
`
	for _, c := range []struct {
		name, from, to, want string
	}{
		{"version", "version: 1", "version: 2", "1:10: version 2 of the policy language is not known"},
		{"no version", "version: 1\n", "", `1:1: the key "version" is missing`},
		{"no bundle", "bundle: prod\n", "", `1:1: the key "bundle" is missing`},
		{"bundle name", "bundle: prod", "bundle: a@b", `2:9: not a name: "a@b"`},
		{"bundle name too long", "bundle: prod", "bundle: " + strings.Repeat("a", 64), "2:9: not a name"},
		{"no revision", "revision: 7\n", "", `1:1: the key "revision" is missing`},
		{"revision zero", "revision: 7", "revision: 0", "3:11: the revision must be from 1 to 9007199254740991"},
		{"revision too large", "revision: 7", "revision: 9007199254740992", "3:11: the revision must be from 1 to 9007199254740991"},
		{"revision negative", "revision: 7", "revision: -1", "3:11: the number -1 is out of range"},
		{"revision text", "revision: 7", `revision: "7"`, `3:11: want a whole number, got "7"`},
		{"no trust domain", "trust_domain: simulated.example.org\n", "", `1:1: the key "trust_domain" is missing`},
		{"trust domain in capitals", "simulated.example.org", "Simulated.example.org", `4:15: not a trust domain name: "Simulated.example.org"`},
		{"trust domain as an ID", "trust_domain: simulated.example.org", "trust_domain: spiffe://simulated.example.org", `4:15: not a trust domain name: "spiffe://simulated.example.org"`},
		{"trust domain as an ID with a path", "trust_domain: simulated.example.org", "trust_domain: spiffe://simulated.example.org/x", "4:15: not a trust domain name"},
		{"trust domain too long", "simulated.example.org", strings.Repeat("a", 117), "4:15: the trust domain is too long: 117 bytes"},
		{"no workloads", base[strings.Index(base, "workloads:"):], "", `1:1: the key "workloads" is missing`},
		{"unknown key", "bundle: prod", "bundle: prod\nbundel: x", `3:1: unknown key "bundel"`},
		{"unknown workload key", "    mode: enforce", "    mode: enforce\n    mach: {}", `13:5: unknown key "mach"`},
		{"duplicate key", "    mode: enforce", "    mode: enforce\n    mode: enforce", `13:5: duplicate key "mode": it is first set on line 12`},
		{"anchor", "bundle: prod", "bundle: &a prod", "2:9: anchors are not accepted"},

		{"reference name", "references:\n", "references:\n  my images: [\"$x$\"]\n", `6:3: not a name: "my images"`},
		{"empty set", references, "references:\n  images: []\n", "6:11: the reference set images lists no value"},
		{"set without values", references, "references:\n  images: {dedicated: true}\n", `6:11: the key "values" is missing`},
		{"set of another shape", references, "references:\n  images: x\n", `6:11: want a list, got "x"`},
		{"unknown key of a set", references, "references:\n  images: {dedcated: true, values: [\"$41$\"]}\n", `6:12: unknown key "dedcated"`},
		{"unknown key of an entry", "note: \"release 41\"", "nota: \"release 41\"", `unknown key "nota"`},
		{"entry without value", `{value: "$41$", `, "{", `7:7: the key "value" is missing`},
		{"value listed twice", `"$42$"`, `"$41$"`, "8:15: the value is listed twice: it is on line 7 already"},
		{"value listed twice in place", "{in: images}", `{in: ["$a$", "$a$"]}`, "the value is listed twice: it is on line 14 already"},
		{"never valid", "not_before: 2027-01-15T00:00:00Z", "not_before: 2027-01-15T00:00:00Z, not_after: 2027-01-14T00:00:00Z", "not_after is before not_before"},
		{"a window that is no time", "not_before: 2027-01-15T00:00:00Z", "not_before: 2027-01-15", `want a moment (RFC 3339), got "2027-01-15"`},
		{"empty note", `note: "release 41"`, `note: ""`, "the text is empty"},
		{"note of two lines", `note: "release 41"`, `note: "release\n41"`, "the text has more than one line, or a tab"},
		{"note that colours the terminal", `note: "release 41"`, `note: "\e[31mrelease 41"`, "a control character (U+001B) is not accepted, nor an escape for it"},
		{"long note", `"release 41"`, `"` + strings.Repeat("n", 257) + `"`, "the text is too long: 257 bytes, at most 256"},
		{"value all zero", `"$41$"`, `"` + strings.Repeat("0", 96) + `"`, "7:15: an all-zero reference value is refused"},
		{"value of SHA-256", `"$41$"`, `"` + strings.Repeat("ab", 32) + `"`, "7:15: want 48 bytes in hex (96 characters), got 32 bytes"},
		{"value too long", `"$41$"`, `"` + strings.Repeat("ab", 49) + `"`, "7:15: want 48 bytes in hex (96 characters), got 49 bytes"},
		{"value is no hex", `"$41$"`, `"xyz"`, `7:15: want 48 bytes in hex (96 characters), got "xyz"`},
		{"value is empty", `"$41$"`, `""`, "7:15: want 48 bytes in hex (96 characters), got 0 bytes"},
		{"value is a number", `"$41$"`, strings.Repeat("12", 48), "7:15: want text, got a number"},

		{"workload is no mapping", "workloads:\n", "workloads:\n  - payments\n", `10:5: want a mapping, got "payments"`},
		{"workload without name", "  - name: payments\n    tee", "  - tee", `10:5: the key "name" is missing`},
		{"workload name", "name: payments", "name: ../payments", `10:11: not a name: "../payments"`},
		{"two of one name", "workloads:\n", "workloads:\n" + strings.Replace(second, "name: second", "name: payments", 1), `17:11: the name "payments" is taken by the workload on line 10`},
		{"no TEE", "    tee: aws-nitro\n", "", `10:5: the key "tee" is missing`},
		{"unknown TEE", "aws-nitro", "aws-nitor", `11:10: unknown TEE "aws-nitor"`},
		{"no mode", "    mode: enforce\n", "", `10:5: the key "mode" is missing`},
		{"unknown mode", "mode: enforce", "mode: enforced", `12:11: unknown mode "enforced"`},

		{"no match", "    match:\n      pcr0: {in: images}\n" + pcr3, "", `10:5: the key "match" is missing`},
		{"empty match", "    match:\n      pcr0: {in: images}\n" + pcr3, "    match: {}\n", "13:12: match is empty"},
		{"unknown claim", "pcr0:", "pcr32:", `14:7: aws-nitro has no claim "pcr32"`},
		{"claim of another TEE", "pcr0:", "measurement:", `14:7: aws-nitro has no claim "measurement"`},
		{"claim that is not stable", "pcr0:", "module_id:", `14:7: the claim "module_id" cannot be matched`},
		{"no matcher", "{in: images}", "images", `14:13: want a matcher, got "images"`},
		{"empty matcher", "{in: images}", "{}", "14:13: want exactly one matcher, got 0"},
		{"two matchers", "{in: images}", `{in: images, eq: "$x$"}`, "14:13: want exactly one matcher, got 2"},
		{"unknown matcher", "{in: images}", "{inn: images}", `14:14: pcr0 has no matcher "inn"`},
		{"matcher of another kind", "{in: images}", `{gte: "$x$"}`, `14:14: pcr0 has no matcher "gte"`},
		{"in for a boolean", "pcr0: {in: images}", "debug: {in: [false]}", `14:15: debug has no matcher "in"`},
		{"boolean as text", "pcr0: {in: images}", `debug: {eq: "false"}`, `14:19: want true or false, got "false"`},
		{"unknown set", "in: images", "in: imagse", `14:18: unknown reference set "imagse"`},
		{"eq with a set", "in: images", "eq: images", `14:18: want 48 bytes in hex (96 characters), got "images"`},
		{"eq with a list", "in: images", `eq: ["$x$"]`, "14:18: want text, got a list"},
		{"in without values", "in: images", "in: []", "14:18: in lists no value"},
		{"in with a mapping", "in: images", "in: {a: 1}", "14:18: want a list, got a mapping"},

		{"no ownership", pcr3, "", `10:11: workload "payments" has no ownership predicate`},
		{"PCR8 is no ownership", "pcr3:", "pcr8:", `10:11: workload "payments" has no ownership predicate`},
		{"a waiver beside a predicate", "    match:", "    ownership: {none: a, owner: b, expires: 2027-06-30}\n    match:", `13:16: workload "payments" needs no ownership waiver: pcr3 is an ownership predicate`},
		{"waiver without reason", "    match:\n      pcr0: {in: images}\n" + pcr3, "    ownership: {owner: b, expires: 2027-06-30}\n    match:\n      pcr0: {in: images}\n", `13:16: the key "none" is missing`},
		{"waiver without owner", "    match:\n      pcr0: {in: images}\n" + pcr3, "    ownership: {none: a, expires: 2027-06-30}\n    match:\n      pcr0: {in: images}\n", `13:16: the key "owner" is missing`},
		{"waiver without end", "    match:\n      pcr0: {in: images}\n" + pcr3, "    ownership: {none: a, owner: b}\n    match:\n      pcr0: {in: images}\n", `13:16: the key "expires" is missing`},
		{"waiver with an empty reason", "    match:\n      pcr0: {in: images}\n" + pcr3, "    ownership: {none: \"\", owner: b, expires: 2027-06-30}\n    match:\n      pcr0: {in: images}\n", "13:23: the text is empty"},
		{"waiver that ends at no time", "    match:\n      pcr0: {in: images}\n" + pcr3, "    ownership: {none: a, owner: b, expires: soon}\n    match:\n      pcr0: {in: images}\n", `want a moment (RFC 3339), got "soon"`},

		{"no issue", base[strings.Index(base, "    issue:"):], "", `10:5: the key "issue" is missing`},
		{"empty issue", base[strings.Index(base, "    issue:"):], "    issue: []\n", "16:12: issue has 0 identities, want 1 to 16"},
		{"issue is no list", base[strings.Index(base, "    issue:"):], "    issue: {spiffe_id: x}\n", "16:12: want a list, got a mapping"},
		{"identity is no mapping", "      - spiffe_id: \"spiffe://{td}/payments/api\"\n        x509_ttl: 1h\n", "      - x\n", `17:9: want a mapping, got "x"`},
		{"identity without ID", "      - spiffe_id: \"spiffe://{td}/payments/api\"\n        x509_ttl: 1h\n", "      - x509_ttl: 1h\n", `17:9: the key "spiffe_id" is missing`},
		{"one ID twice", "        x509_ttl: 1h\n", "      - spiffe_id: \"spiffe://simulated.example.org/{workload}/api\"\n", "18:9: the same SPIFFE ID is issued twice by this workload"},
		{"two IDs that can be one", "        x509_ttl: 1h\n", "      - spiffe_id: \"spiffe://{td}/{pcr0:8}\"\n      - spiffe_id: \"spiffe://{td}/{pcr3:8}\"\n", "19:20: pcr3 must not be part of an identity"},
		{"a digest that is another ID", "        x509_ttl: 1h\n", "      - spiffe_id: \"spiffe://{td}/{pcr0:8}\"\n      - spiffe_id: \"spiffe://{td}/" + hexOf("42")[:8] + "\"\n", "19:9: this SPIFFE ID and spiffe://{td}/{pcr0:8} can be the same, for example spiffe://simulated.example.org/" + hexOf("42")[:8]},
		{"TTL too short", "x509_ttl: 1h", "x509_ttl: 59s", "18:19: x509_ttl must be from 1m to 24h"},
		{"TTL too long", "x509_ttl: 1h", "x509_ttl: 24h1s", "18:19: x509_ttl must be from 1m to 24h"},
		{"TTL negative", "x509_ttl: 1h", "x509_ttl: -1h", "18:19: x509_ttl must be from 1m to 24h"},
		{"TTL without unit", "x509_ttl: 1h", "x509_ttl: 3600", "18:19: want a length of time, got a number (3600)"},
		{"TTL of half a second", "x509_ttl: 1h", "x509_ttl: 90.5s", "18:19: x509_ttl must be whole seconds"},
		{"evidence age too short", "    match:", "    max_evidence_age: 1s\n    match:", "13:23: max_evidence_age must be from 1m to 24h"},
		{"evidence age too long", "    match:", "    max_evidence_age: 2d\n    match:", "13:23: max_evidence_age must be from 1m to 24h"},
		{"JWT without audience", "x509_ttl: 1h", "jwt: {ttl: 5m}", `18:14: the key "audiences" is missing`},
		{"JWT with no audience", "x509_ttl: 1h", "jwt: {audiences: []}", "18:26: audiences has 0 entries, want 1 to 16"},
		{"JWT audience twice", "x509_ttl: 1h", "jwt: {audiences: [a, a]}", `18:30: the audience "a" is listed twice`},
		{"JWT audience with a space", "x509_ttl: 1h", `jwt: {audiences: ["a b"]}`, `18:27: not an audience: "a b"`},
		{"JWT audience empty", "x509_ttl: 1h", `jwt: {audiences: [""]}`, `18:27: not an audience: ""`},
		{"JWT TTL too short", "x509_ttl: 1h", "jwt: {ttl: 29s, audiences: [a]}", "18:20: jwt.ttl must be from 30s to 1h"},
		{"JWT TTL too long", "x509_ttl: 1h", "jwt: {ttl: 61m, audiences: [a]}", "18:20: jwt.ttl must be from 30s to 1h"},
		{"AWS tag of nothing", "x509_ttl: 1h", "attributes: {a: b}\n        jwt: {audiences: [x], aws_tags: [c]}", `19:42: no attribute of this identity: "c"`},
		{"AWS tags that are none", "x509_ttl: 1h", "attributes: {a: b}\n        jwt: {audiences: [x], aws_tags: []}", "19:41: aws_tags has 0 entries, want 1 to 16"},
		{"AWS tag twice", "x509_ttl: 1h", "attributes: {a: b}\n        jwt: {audiences: [x], aws_tags: [a, a]}", `19:45: the tag "a" is listed twice`},
		{"AWS tags that differ by case", "x509_ttl: 1h", "attributes: {a: b, A: c}\n        jwt: {audiences: [x], aws_tags: [a, A]}", `19:45: the tags "a" and "A" are the same to AWS`},
		{"AWS tag with a value that AWS refuses", "x509_ttl: 1h", "attributes: {a: \"b;c\"}\n        jwt: {audiences: [x], aws_tags: [a]}", `19:42: AWS does not take the value of the attribute "a" as a tag: "b;c"`},
		{"AWS tags that are a text", "x509_ttl: 1h", "attributes: {a: b}\n        jwt: {audiences: [x], aws_tags: a}", "19:41: want a list"},
		{"AWS tag that is a number", "x509_ttl: 1h", "attributes: {a: b}\n        jwt: {audiences: [x], aws_tags: [1]}", "19:42: want text, got a number (1)"},
		{"JWT unknown key", "x509_ttl: 1h", "jwt: {aud: [a], audiences: [a]}", `18:15: unknown key "aud"`},
		{"attribute name", "x509_ttl: 1h", `attributes: {"a b": c}`, `18:22: not a name: "a b"`},
		{"attribute empty", "x509_ttl: 1h", `attributes: {a: ""}`, "18:25: an attribute has 1 to 128 bytes, got 0"},
		{"attribute too long", "x509_ttl: 1h", "attributes: {a: " + strings.Repeat("b", 129) + "}", "18:25: an attribute has 1 to 128 bytes, got 129"},
		{"attribute of two lines", "x509_ttl: 1h", `attributes: {a: "b\nc"}`, "18:25: an attribute has no line breaks and no tabs"},
		{"attribute with an escape", "x509_ttl: 1h", `attributes: {a: "b\u202ec"}`, "18:25: an invisible character that reorders text (U+202E) is not accepted"},
		{"attribute that is a number", "x509_ttl: 1h", "attributes: {a: 1}", "18:25: want text, got a number (1)"},

		{"template of another trust domain", "spiffe://{td}/payments/api", "spiffe://other.org/payments/api", `17:20: the SPIFFE ID is in the trust domain "other.org", the bundle's is "simulated.example.org"`},
		{"template with an unpinned digest", "{td}/payments/api", "{td}/{pcr1:16}", "17:20: pcr1 cannot be expanded: the workload does not pin it"},
		{"template with an owner", "{td}/payments/api", "{td}/{pcr3:16}", "17:20: pcr3 must not be part of an identity"},
		{"template that is too long", "{td}/payments/api", "{td}/{pcr0}/payments/api", "17:20: the SPIFFE ID is 140 bytes long, at most 127 are allowed"},
		{"template of the service's", "{td}/payments/api", "{td}/assay/admin", "17:20: paths under /assay/ are reserved for the service"},
		{"template with an attribute of nobody", "{td}/payments/api", "{td}/{attributes.team}", `17:20: the identity has no attribute "team"`},
		{"template with an attribute of another identity", "        x509_ttl: 1h\n", "      - spiffe_id: \"spiffe://{td}/{attributes.team}\"\n      - spiffe_id: \"spiffe://{td}/c\"\n        attributes: {team: core}\n", `18:20: the identity has no attribute "team"`},
		{"template that is no text", `"spiffe://{td}/payments/api"`, "[x]", "17:20: want text, got a list"},
		{"too many identities", "        x509_ttl: 1h\n", manyIdentities(16), "17:7: issue has 17 identities, want 1 to 16"},
		{"too many attributes", "x509_ttl: 1h", "attributes: {a0: b, a1: b, a2: b, a3: b, a4: b, a5: b, a6: b, a7: b, a8: b, a9: b, a10: b, a11: b, a12: b, a13: b, a14: b, a15: b, a16: b}", "18:21: 17 attributes, at most 16 are allowed"},

		{"publish is no list", "    match:", "    publish: pcr0\n    match:", `13:14: want a list, got "pcr0"`},
		{"publish a private claim", "    match:", "    publish: [pcr0, pcr3]\n    match:", "13:21: pcr3 is never published"},
		{"publish the instance", "    match:", "    publish: [pcr4]\n    match:", "13:15: pcr4 is never published"},
		{"publish what is no measurement", "    match:", "    publish: [debug]\n    match:", `13:15: "debug" is not a measurement of aws-nitro`},
		{"publish the unknown", "    match:", "    publish: [pcr99]\n    match:", `13:15: "pcr99" is not a measurement of aws-nitro`},
		{"publish twice", "    match:", "    publish: [pcr0, pcr0]\n    match:", "13:21: pcr0 is listed twice"},

		{"debug and an image", "    match:\n", "    match:\n      debug: {eq: true}\n", "10:11: workload payments can never match: it wants debug mode and a value for pcr0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			src := expand(change(t, base, c.from, c.to))
			b, err := policy.Parse("p.yaml", []byte(src))
			var errs strictyaml.Errors
			if !errors.As(err, &errs) || b != nil {
				t.Fatalf("accepted, want %q", c.want)
			}
			if len(errs) != 1 || !strings.Contains(errs[0].Error(), c.want) {
				t.Errorf("want one error with %q, got:\n%s", c.want, errs.Render())
			}
		})
	}
}

func manyIdentities(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "      - spiffe_id: \"spiffe://{td}/%d\"\n", i)
	}
	return b.String()
}

const references = `references:
  images:
    - {value: "$41$", not_after: 2027-01-31T00:00:00Z, note: "release 41"}
    - {value: "$42$", not_before: 2027-01-15T00:00:00Z, note: "release 42"}
`

// limits are changes to the base policy that are accepted.
var limits = map[string][2]string{
	"shortest TTL":          {"x509_ttl: 1h", "x509_ttl: 1m"},
	"longest TTL":           {"x509_ttl: 1h", "x509_ttl: 24h"},
	"a day":                 {"x509_ttl: 1h", "x509_ttl: 1d"},
	"AWS tags":              {"x509_ttl: 1h", "attributes: {a: b, cost-center: \"A 1_.:/=+-@é\"}\n        jwt: {audiences: [a], aws_tags: [cost-center, a]}"},
	"JWT limits":            {"x509_ttl: 1h", "jwt: {ttl: 30s, audiences: [a, \"https://b.example/c?d\"]}"},
	"upper-case hex":        {`"$41$"`, strings.ToUpper(`"` + hexOf("41") + `"`)},
	"largest revision":      {"revision: 7", "revision: 9007199254740991"},
	"publish nothing":       {"    match:", "    publish: []\n    match:"},
	"publish any other PCR": {"    match:", "    publish: [pcr31, pcr5]\n    match:"},
	"no implicit debug":     {"    match:\n", "    match:\n      debug: {eq: false}\n"},
	"values in place":       {"{in: images}", `{in: ["$a$", {value: "$b$", not_after: 2027-01-31T00:00:00Z}]}`},
	"a set as a mapping":    {references, "references:\n  images:\n    dedicated: false\n    values:\n      - \"$41$\"\n      - {value: \"$42$\", source: \"build 12\"}\n"},
	"an instance owns":      {"pcr3:", "pcr4:"},
	"an audited workload needs no owner and issues nothing": {base[strings.Index(base, "    mode:"):], "    mode: audit\n    match:\n      pcr0: {in: images}\n"},
}

func TestLimitsAreAccepted(t *testing.T) {
	for name, pair := range limits {
		if _, err := policy.Parse("p.yaml", []byte(expand(change(t, base, pair[0], pair[1])))); err != nil {
			t.Errorf("%s:\n%s", name, render(err))
		}
	}
}

func TestUpperCaseHexIsTheSameValue(t *testing.T) {
	src := expand(change(t, base, `"$42$"`, `"`+strings.ToUpper(hexOf("42"))+`"`))
	b, err := policy.Parse("p.yaml", []byte(src))
	if err != nil {
		t.Fatal(render(err))
	}
	if d := b.Evaluate(nitroClaims(good), noon); d.Outcome != policy.Granted {
		t.Errorf("%+v", d)
	}
}

func TestPublishKeepsItsOrder(t *testing.T) {
	l := newLab(t)
	b := parse(t, change(t, base, "    match:", "    publish: [pcr8, pcr0]\n    match:"))
	g, err := b.Authorize(l.verify(t, attestation{pcrs: good}), noon)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(g.Publish(), []string{"pcr8", "pcr0"}) {
		t.Errorf("publish %v", g.Publish())
	}
}

func TestWarnings(t *testing.T) {
	for _, c := range []struct{ name, from, to, want string }{
		{"none", "revision: 7", "revision: 8", ""},
		{"unused set", "references:\n", "references:\n  unused: [\"$u$\"]\n", `p.yaml:6:3: the reference set "unused" is not used`},
		{"debug admitted", "      pcr0: {in: images}\n", "      debug: {eq: true}\n      pcr8: {in: images}\n", "p.yaml:10:11: workload payments admits enclaves in debug mode"},
		{"no image", "      pcr0: {in: images}\n", "      pcr5: {in: images}\n", "p.yaml:10:11: workload payments pins no image: any code of the same owner matches"},
		{"age without effect", "    match:", "    max_evidence_age: 2h\n    match:", "p.yaml:13:23: max_evidence_age is longer than x509_ttl: it has no effect on spiffe://{td}/payments/api"},
		{"JWT longer than its X.509-SVID", "x509_ttl: 1h", "x509_ttl: 10m\n        jwt: {ttl: 20m, audiences: [a]}", "p.yaml:19:20: jwt.ttl is longer than x509_ttl"},
		{"no workloads", base[strings.Index(base, "references:"):], "workloads: []\n", "p.yaml:5:12: the bundle has no workloads: it denies everything"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := parse(t, change(t, base, c.from, c.to)).Warnings()
			switch {
			case c.want == "" && len(w) > 0:
				t.Errorf("got %s, want none", w.Render())
			case c.want != "" && (len(w) != 1 || !strings.Contains(w[0].Error(), c.want)):
				t.Errorf("got:\n%s\nwant one: %s", w.Render(), c.want)
			}
		})
	}
}

func TestExpiredValuesAreListed(t *testing.T) {
	b := parse(t, change(t, base, "    match:", "    match:\n      pcr4: {in: [{value: \"$i$\", not_after: 2027-01-21T00:00:00Z}]}"))
	for _, c := range []struct {
		at   time.Time
		want int
	}{
		{noon, 0},
		{time.Date(2027, 1, 21, 0, 0, 0, 0, time.UTC), 0},
		{time.Date(2027, 1, 21, 0, 0, 0, 1, time.UTC), 1},
		{time.Date(2028, 1, 1, 0, 0, 0, 0, time.UTC), 2},
	} {
		got := b.Expired(c.at)
		if len(got) != c.want {
			t.Errorf("at %s: %d expired, want %d:\n%s", c.at, len(got), c.want, got.Render())
		}
	}
	if got := b.Expired(time.Date(2028, 1, 1, 0, 0, 0, 0, time.UTC))[0].Error(); got != "p.yaml:7:126: the reference value expired at 2027-01-31T00:00:00Z [expired-reference]" {
		t.Error(got)
	}
}

// Cost that grew with the square of the workloads would not end within the time
// that a test may take: how long it takes is for the benchmarks to say.
func TestALargeBundleCompiles(t *testing.T) {
	for name, line := range map[string]func(i int) string{
		"one image each": func(i int) string { return fmt.Sprintf(`pcr0: {eq: "$i%d$"}, pcr3: {eq: "$r$"}`, i) },
		"one owner each": func(i int) string { return fmt.Sprintf(`pcr0: {eq: "$i$"}, pcr3: {eq: "$r%d$"}`, i) },
	} {
		var lines []string
		for i := range 4000 {
			lines = append(lines, line(i))
		}
		src := []byte(expand(workloadsOf("enforce", lines...)))
		start := time.Now()
		b, err := policy.Parse("p.yaml", src)
		took := time.Since(start)
		if err != nil {
			t.Fatalf("%s: %.300s", name, render(err))
		}
		t.Logf("%s: %d workloads, %d bytes: %v", name, len(b.Workloads()), len(src), took)
	}
}

func TestABundleThatIsTooLargeIsRefused(t *testing.T) {
	src := expand(base) + strings.Repeat("#", policy.MaxSize)
	if _, err := policy.Parse("p.yaml", []byte(src)); err == nil || !strings.Contains(err.Error(), "the file is too large") {
		t.Errorf("got %v", err)
	}
}

func FuzzParse(f *testing.F) {
	for _, name := range []string{"testdata/good.yaml", "testdata/mistakes.yaml", "testdata/snp.yaml", "testdata/whole.yaml"} {
		src, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(src)
	}
	f.Add([]byte(expand(base)))
	f.Add([]byte(expand(snpBase)))
	f.Add([]byte(expand(snpAudit(`launch_mitigations: {bits: {set: [0, 63], clear: [1]}}, current_firmware: {gte: "1.55.29"}`, `csp_id: {in: [a]}, vmpl: {lte: 1}, chip_id_masked: {eq: true}, current_tcb: {gte: {turin: {fmc: 1, bl: 1, tee: 1, snp: 4, ucode: 81}}}`))))
	f.Add([]byte(expand(snpEnforce(`guest_svn: {gte: 4}, chip_id: {in: ["$a/8$"]}`, `guest_svn: {in: [1, 5]}, launch_tcb: {gte: {milan: {bl: 1, tee: 0, snp: 1, ucode: 1}}}`))))
	f.Add([]byte(expand(three)))
	f.Add([]byte(expand(workloadsOf("enforce", `pcr0: {eq: "$a$"}, pcr3: {eq: "$r$"}`, `pcr0: {in: ["$a$"]}, pcr3: {eq: "$r$"}`))))
	f.Add([]byte(expand(tpmBase)))
	f.Add([]byte(lateFirmware(f, "when: {product: {eq: milan}}, ")))
	claims := nitroClaims(good)
	v, schema := theSchema(f)
	f.Fuzz(func(t *testing.T, src []byte) {
		b, err := policy.Parse("p.yaml", src)
		if err != nil {
			var errs strictyaml.Errors
			if b != nil || !errors.As(err, &errs) || len(errs) == 0 {
				t.Fatalf("got %v and %v", b, err)
			}
			return
		}
		if bad := v.check(schema, asJSON(t, string(src)), "$"); len(bad) > 0 {
			t.Errorf("the schema refuses what the parser takes:\n%s", strings.Join(bad, "\n"))
		}
		if silent := b.Lint(policy.LintOptions{}); len(silent) < len(b.Warnings()) {
			t.Errorf("lint lists %d warnings, the bundle %d", len(silent), len(b.Warnings()))
		}
		if late := b.Lint(policy.LintOptions{At: noon.AddDate(100, 0, 0), CALifetime: 1}); len(late) < len(b.Warnings()) {
			t.Errorf("a century later lint lists %d warnings, the bundle %d", len(late), len(b.Warnings()))
		}
		for _, c := range []attest.Claims{claims, tpmClaims(), snpClaims(), snpClaims(turin), snpClaims(vlek), {Platform: attest.AMDSEVSNP, SNP: &attest.SNP{}}} {
			d := b.Evaluate(c, noon)
			if (d.Outcome == policy.Granted) != (d.Workload != "") {
				t.Errorf("%+v", d)
			}
		}
		for _, w := range b.Workloads() {
			if w.Mode != policy.Enforce && w.Mode != policy.Audit && w.Mode != policy.Rollout {
				t.Errorf("mode %q", w.Mode)
			}
		}
	})
}
