package diff_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/policy"
	"github.com/assay-project/assay/policy/diff"
)

// dice make random policies over few values, and all claims over these.
type dice struct{ *rand.Rand }

func (d dice) pick(of ...string) string { return of[d.IntN(len(of))] }
func (d dice) chance(percent int) bool  { return d.IntN(100) < percent }

func (d dice) window() string {
	out := ""
	if d.chance(25) {
		out += ", not_before: 2027-01-" + d.pick("10", "22", "25") + "T12:00:00Z"
	}
	if d.chance(25) {
		out += ", not_after: 2027-01-" + d.pick("26", "28") + "T12:00:00Z"
	}
	return out
}

func (d dice) set(n string, values int) string {
	if d.chance(40) {
		return fmt.Sprintf(`{eq: "$%d%s$"}`, d.IntN(values), n)
	}
	var out []string
	for _, i := range d.Perm(values)[:1+d.IntN(2)] {
		out = append(out, fmt.Sprintf(`{value: "$%d%s$"%s}`, i, n, d.window()))
	}
	return "{in: [" + strings.Join(out, ", ") + "]}"
}

func (d dice) bundle() string {
	var b strings.Builder
	b.WriteString("version: 1\nbundle: random\nrevision: 1\ntrust_domain: example.org\nworkloads:\n")
	tee := d.IntN(3)
	for i := range 1 + d.IntN(3) {
		fmt.Fprintf(&b, "  - name: w%d\n    mode: %s\n    ownership: {none: a, owner: b, expires: 2027-01-%s}\n    silence: [both-match]\n", i, d.pick("enforce", "enforce", "enforce", "audit", "{rollout: 100%}", "{rollout: 0%}"), d.pick("24", "29", "31"))
		switch tee {
		case 0:
			fmt.Fprintf(&b, "    tee: aws-nitro\n    match:\n      pcr0: %s\n", d.set("", 3))
			if d.chance(50) {
				fmt.Fprintf(&b, "      pcr8: %s\n", d.set("", 3))
			}
			if d.chance(30) {
				fmt.Fprintf(&b, "    expr: %s\n", d.pick(`"nitro.pcr0 == nitro.pcr8"`, `"nitro.pcr8 != nitro.pcr9"`, `"nitro.pcr0.startsWith('4d')"`, `"nitro.pcr9.size() > 3 || nitro.debug"`))
			}
		case 1:
			fmt.Fprintf(&b, "    tee: amd-sev-snp\n    match:\n      measurement: %s\n", d.set("", 3))
			if d.chance(45) {
				fmt.Fprintf(&b, "      guest_svn: %s\n", d.pick("{gte: 1}", "{gte: 2}", "{lte: 1}", "{in: [1, 3]}", "{eq: 2}", "{in: [{value: 1, not_after: 2027-01-25T00:00:00Z}, 2]}"))
				if d.chance(40) {
					fmt.Fprintf(&b, "    waivers: [{rule: guest_svn, reason: a, owner: b, expires: 2027-01-%s%s}]\n", d.pick("23", "27"), d.pick("", ", when: {product: {eq: milan}}", ", when: {policy.smt: {eq: true}}"))
					b.WriteString("    max_evidence_age: 1h\n")
				}
			}
			// The rest belongs to match, which is written above the waivers.
			s := b.String()
			at := strings.LastIndex(s, "      measurement:")
			more := ""
			if d.chance(40) {
				more += "      reported_tcb: " + d.pick("{gte: {milan: {bl: 1, tee: 0, snp: 1, ucode: 0}}}", "{gte: {milan: {bl: 0, tee: 0, snp: 1, ucode: 0}, genoa: {bl: 1, tee: 0, snp: 0, ucode: 0}}}", "{lte: {milan: {bl: 1, tee: 255, snp: 255, ucode: 0}}}") + "\n"
			} else if d.chance(40) {
				more += "      product: " + d.pick("{eq: milan}", "{in: [milan, genoa]}") + "\n"
			}
			if d.chance(40) {
				more += "      current_mitigations: " + d.pick("{bits: {set: [0]}}", "{bits: {set: [0, 1]}}", "{bits: {clear: [1]}}") + "\n"
			}
			if d.chance(30) {
				more += "      vmpl: " + d.pick("{lte: 1}", "{in: [0, 1]}", "{gte: 1}") + "\n"
			}
			if d.chance(20) {
				more += "      csp_id: " + d.pick("{eq: one}", "{in: [one, two]}") + "\n"
			}
			if strings.Contains(more, "reported_tcb") && !strings.Contains(s[at:], "waivers:") && d.chance(50) {
				s += fmt.Sprintf("    waivers: [{rule: reported_tcb, reason: a, owner: b, expires: 2027-01-%s}]\n", d.pick("24", "28"))
			}
			b.Reset()
			b.WriteString(s[:at] + more + s[at:])
		default:
			fmt.Fprintf(&b, "    tee: tpm2\n    match:\n      pcr7: %s\n", d.set(d.pick("/32", "/32", "/48"), 2))
			if d.chance(50) {
				fmt.Fprintf(&b, "      boot.loaders: {every: [\"$a/32$\"%s]}\n", d.pick("", `, "$b/32$"`, `, {value: "$b/32$", not_after: 2027-01-25T12:00:00Z}`))
			}
			if d.chance(40) {
				fmt.Fprintf(&b, "      clock.reset_count: {gte: %d}\n", d.IntN(3))
			}
			if d.chance(30) {
				fmt.Fprintf(&b, "      secure_boot: {eq: %t}\n", d.chance(50))
			}
		}
		id := fmt.Sprintf("w%d", i)
		if tee == 0 && d.chance(30) {
			id = d.pick("{pcr0:16}", "w-{pcr0:8}", expand("$1$")[:16])
		}
		fmt.Fprintf(&b, "    issue: [{spiffe_id: \"spiffe://{td}/%s\"%s}]\n", id, d.pick("", "", ", x509_ttl: 30m"))
	}
	return b.String()
}

// edited is a policy with one or two things in it changed.
func (d dice) edited(src string) string {
	for range 1 + d.IntN(2) {
		edits := [][2]string{
			{"$0$", "$1$"}, {"$1$", "$2$"}, {"$0/32$", "$1/32$"}, {"01-25", "01-27"}, {"01-26", "01-28"}, {"01-10", "01-22"}, {"enforce", "audit"}, {"audit", "enforce"},
			{"{gte: 1}", "{gte: 2}"}, {"{gte: 2}", "{in: [2, 3]}"}, {"lte: 1", "lte: 2"}, {"in: [0, 1]", "lte: 1"}, {"snp: 1", "snp: 0"}, {"set: [0]", "set: [0, 1]"}, {", \"$b/32$\"", ""},
			{"$a/32$", "$c/32$"}, {"secure_boot: {eq: true}", "secure_boot: {eq: false}"}, {"{eq: milan}", "{in: [genoa, milan]}"}, {"2027-01-29", "2027-01-30"}, {"eq: one", "eq: two"},
		}
		e := edits[d.IntN(len(edits))]
		if n := strings.Count(src, e[0]); n > 0 { // one of its places
			parts := strings.SplitAfterN(src, e[0], 1+d.IntN(n)+1)
			last := len(parts) - 2
			parts[last] = strings.TrimSuffix(parts[last], e[0]) + e[1]
			src = strings.Join(parts, "")
		}
	}
	return src
}

// universe is every combination of a few values of each claim that dice name.
func universe(t *testing.T, p attest.Platform) []attest.Claims {
	axes := map[attest.Platform][][]string{
		attest.AWSNitro: {
			{`pcr0: "$0$"`, `pcr0: "$1$"`, `pcr0: "$2$"`, `pcr0: "$9$"`, ""},
			{`pcr8: "$0$"`, `pcr8: "$1$"`, `pcr8: "$2$"`, `pcr8: "$9$"`, ""},
			{`pcr9: "$0$"`, `pcr9: "$1$"`, `pcr9: "$2$"`, `pcr9: "$9$"`, ""},
		},
		attest.AMDSEVSNP: {
			{"product: milan\nreported_tcb: {bl: 1, tee: 0, snp: 1, ucode: 0}", "product: milan\nreported_tcb: {bl: 0, tee: 0, snp: 1, ucode: 0}", "product: milan\nreported_tcb: {bl: 2, tee: 0, snp: 0, ucode: 1}", "product: genoa\nreported_tcb: {bl: 1, tee: 0, snp: 0, ucode: 0}", "product: genoa\nreported_tcb: {bl: 0, tee: 0, snp: 0, ucode: 0}"},
			{"signing_key: vcek", "signing_key: vlek\ncsp_id: one", "signing_key: vlek\ncsp_id: two", "signing_key: vlek\ncsp_id: other"},
			{`measurement: "$0$"`, `measurement: "$1$"`, `measurement: "$2$"`},
			{"guest_svn: 0", "guest_svn: 1", "guest_svn: 2", "guest_svn: 3", "guest_svn: 4"},
			{"vmpl: 0", "vmpl: 1", "vmpl: 2"},
			{"version: 5\ncurrent_mitigations: [0]", "version: 5\ncurrent_mitigations: [0, 1]", "version: 5\ncurrent_mitigations: []", "version: 3"},
			{"policy.smt: true", "policy.smt: false"},
			{"chip_id: \"$chip/64$\"\nhost_data: zero\nid_key_digest: zero\nauthor_key_digest: zero\nfamily_id: zero\nimage_id: zero\nrevocation: ok\ncurrent_firmware: \"1.1.1\"\ncommitted_firmware: \"1.1.1\"\ncurrent_tcb: {bl: 1, tee: 0, snp: 1, ucode: 0}\ncommitted_tcb: {bl: 1, tee: 0, snp: 1, ucode: 0}\nlaunch_tcb: {bl: 1, tee: 0, snp: 1, ucode: 0}"},
		},
		attest.TPM2: {
			{"bank: sha256\npcr7: \"$0/32$\"", "bank: sha256\npcr7: \"$1/32$\"", "bank: sha384\npcr7: \"$0/48$\"", "bank: sha384\npcr7: \"$1/48$\"", "bank: sha256\npcr7: \"$9/32$\"", "bank: sha256"},
			{`boot.loaders: ["$a/32$"]`, `boot.loaders: ["$a/32$", "$b/32$"]`, `boot.loaders: ["$b/32$"]`, `boot.loaders: ["$c/32$"]`, ""},
			{"clock.firmware: \"0.0.0.1\"\nclock.restart_count: 0\nclock.reset_count: 0", "clock.firmware: \"0.0.0.1\"\nclock.restart_count: 0\nclock.reset_count: 1", "clock.firmware: \"0.0.0.1\"\nclock.restart_count: 0\nclock.reset_count: 2", ""},
			{"secure_boot: true", "secure_boot: false", ""},
			{"ak_trust: activated\nkey_residency: tpm"},
		},
	}[p]
	lines := []string{""}
	for _, axis := range axes {
		var next []string
		for _, head := range lines {
			for _, v := range axis {
				next = append(next, head+v+"\n")
			}
		}
		lines = next
	}
	var out []attest.Claims
	for _, l := range lines {
		if c, ok := read(t, p, l); ok && policy.Consistent(c) {
			out = append(out, c)
		}
	}
	return out
}

// Over random pairs of policies the comparison finds each widening, narrowing and
// change that asking both about all claims of a small universe finds; what it
// reports beyond was evaluated by both. Where expressions are about it may be
// undecided instead, and says so.
func TestTheComparisonFindsWhatAskingAboutAllClaimsFinds(t *testing.T) {
	d := dice{rand.New(rand.NewPCG(3, 8))} // reproducible on purpose
	all := map[attest.Platform][]attest.Claims{}
	for _, p := range policy.Platforms() {
		all[p] = universe(t, p)
		if len(all[p]) < 50 {
			t.Fatalf("%s: %d claims", p, len(all[p]))
		}
	}
	moments := []time.Time{noon}
	for _, day := range []int{22, 23, 24, 25, 26, 27, 28, 29, 30, 31} {
		moments = append(moments, time.Date(2027, 1, day, 6, 0, 0, 0, time.UTC), time.Date(2027, 1, day, 18, 0, 0, 0, time.UTC))
	}
	pairs, tries := 0, 50
	if testing.Short() {
		tries = 30
	}
	seen := map[string]int{}
	for pairs < tries {
		src, other := d.bundle(), d.bundle()
		if d.chance(45) {
			other = d.edited(src)
		}
		a, err := policy.Parse("a.yaml", []byte(expand(src)))
		if err != nil {
			continue
		}
		b, err := policy.Parse("b.yaml", []byte(expand(other)))
		if err != nil || a.Workloads()[0].Platform != b.Workloads()[0].Platform {
			continue
		}
		pairs++
		r := compared(t, a, b)
		secret := []byte(strings.Repeat("s", policy.SecretSize))
		a, _ = a.WithSecret(secret)
		b, _ = b.WithSecret(secret)
		claims := all[a.Workloads()[0].Platform]
		for range 1500 {
			c, at := claims[d.IntN(len(claims))], moments[d.IntN(len(moments))]
			c = policy.CloneClaims(c)
			policy.Vary(&c, d.IntN(1000), func(string) bool { return false })
			x, y := a.Evaluate(c, at), b.Evaluate(c, at)
			covers := func(ds []diff.Difference, w string) bool {
				return slices.ContainsFunc(ds, func(e diff.Difference) bool {
					return e.Workload == w && !at.Before(e.From) && (e.Until == nil || at.Before(*e.Until))
				})
			}
			undecided := slices.ContainsFunc(r.Undecided, func(u diff.Undecided) bool {
				return u.Workload == x.Workload && u.In == "A" || u.Workload == y.Workload && u.In == "B"
			})
			fail := func(what string) {
				t.Fatalf("%s is not found, at %s: A %s %s, B %s %s\n%+v\n%s\n%s\nwidenings %+v\nnarrowings %+v\nchanges %+v\nundecided %+v", what, at, x.Outcome, x.Workload, y.Outcome, y.Workload, c, src, other, r.Widenings, r.Narrowings, r.Changes, r.Undecided)
			}
			switch {
			case x.Outcome != policy.Granted && y.Outcome == policy.Granted:
				seen["widening"]++
				if !covers(r.Widenings, y.Workload) && !undecided {
					fail("a widening")
				}
			case x.Outcome == policy.Granted && y.Outcome != policy.Granted:
				seen["narrowing"]++
				if !covers(r.Narrowings, x.Workload) && !undecided {
					fail("a narrowing")
				}
			case x.Outcome == policy.Granted:
				seen["both"]++
				e, f := a.Entitlement(c, at), b.Entitlement(c, at)
				if len(e.Identities) == 0 || len(f.Identities) == 0 {
					continue // it ends at this moment
				}
				if i, j := e.Identities[0], f.Identities[0]; i.SPIFFEID == j.SPIFFEID && i.X509TTL == j.X509TTL {
					continue
				}
				seen["changed"]++
				if !undecided && !slices.ContainsFunc(r.Changes, func(g diff.Change) bool {
					return g.A == x.Workload && g.B == y.Workload && !at.Before(g.From) && (g.Until == nil || at.Before(*g.Until))
				}) {
					fail("a change")
				}
			}
		}
		if r.Same() {
			seen["same"]++
		}
		if len(r.Undecided) > 0 {
			seen["undecided"]++
		}
	}
	t.Log(seen)
	for _, what := range []string{"widening", "narrowing", "both", "changed"} {
		if seen[what] < 40 {
			t.Errorf("only %d cases of %s: the test shows little", seen[what], what)
		}
	}
	if seen["undecided"] > pairs/3 {
		t.Errorf("%d of %d pairs are undecided", seen["undecided"], pairs)
	}
}

func TestAComparisonEndsWhenItIsToldTo(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := diff.Compare(ctx, parse(t, nitroBase), parse(t, snpBase), diff.Options{From: noon}); err == nil {
		t.Error("it went on")
	}
}
