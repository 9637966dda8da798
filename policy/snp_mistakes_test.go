package policy_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/assay-project/assay/internal/strictyaml"
	"github.com/assay-project/assay/policy"
)

// Each case makes one change to a good policy, and must get exactly one error.
func TestEachSNPMistakeHasItsOwnError(t *testing.T) {
	const measurement = `measurement: {eq: "$image$"}`
	tcb := func(s string) string { return measurement + "\n      current_tcb: {gte: " + s + "}" }
	for _, c := range []struct{ name, from, to, want string }{
		{"measurement of SHA-256", `"$image$"`, `"$image/32$"`, "12:25: want 48 bytes in hex (96 characters), got 32 bytes"},
		{"measurement all zero", `"$image$"`, `"` + strings.Repeat("0", 96) + `"`, "12:25: an all-zero reference value is refused"},
		{"host data too long", measurement, `host_data: {eq: "$a$"}`, "12:23: want 32 bytes in hex (64 characters), got 48 bytes"},
		{"host data all zero", measurement, `host_data: {eq: "` + strings.Repeat("0", 64) + `"}`, "12:23: an all-zero reference value is refused"},
		{"id key all zero", measurement, `id_key_digest: {eq: "` + strings.Repeat("0", 96) + `"}`, "12:27: an all-zero reference value is refused"},
		{"author key too short", measurement, `author_key_digest: {eq: "$a/47$"}`, "12:31: want 48 bytes in hex (96 characters), got 47 bytes"},
		{"family too long", measurement, `family_id: {eq: "$a/17$"}`, "12:23: want 16 bytes in hex (32 characters), got 17 bytes"},
		{"family all zero", measurement, `family_id: {eq: "` + strings.Repeat("0", 32) + `"}`, "12:23: an all-zero reference value is refused"},
		{"image id as text", measurement, `image_id: {eq: "payments"}`, `12:22: want 16 bytes in hex (32 characters), got "payments"`},

		{"unknown product", measurement, `product: {eq: rome}`, `12:21: want one of milan, genoa, turin, got "rome"`},
		{"product in capitals", measurement, `product: {in: [Genoa]}`, `12:22: want one of milan, genoa, turin, got "Genoa"`},
		{"product, ordered", measurement, `product: {gte: genoa}`, `12:17: product has no matcher "gte"`},
		{"unknown signing key", measurement, `signing_key: {eq: none}`, `12:25: want one of vcek, vlek, got "none"`},
		{"unknown revocation", measurement, `revocation: {in: [ok, good]}`, `12:29: want one of ok, grace, not_checked, got "good"`},
		{"provider empty", measurement, `csp_id: {eq: ""}`, "12:20: want 1 to 256 printable ASCII characters"},
		{"provider not ASCII", measurement, `csp_id: {eq: "ü"}`, "12:20: want 1 to 256 printable ASCII characters"},
		{"svn too large", measurement, `guest_svn: {gte: 4294967296}`, "12:24: want a number from 0 to 4294967295, got 4294967296"},
		{"svn negative", measurement, `guest_svn: {gte: -1}`, "12:24: the number -1 is out of range"},
		{"svn as text", measurement, `guest_svn: {gte: "4"}`, `12:24: want a whole number, got "4"`},
		{"svn of nothing", measurement, `guest_svn: {gt: 4}`, `12:19: guest_svn has no matcher "gt"`},
		{"svn from and to", measurement, `guest_svn: {gte: 4, lte: 6}`, "12:18: want exactly one matcher, got 2"},
		{"svn twice", measurement, `guest_svn: {in: [4, 4]}`, "12:27: the value is listed twice"},
		{"vmpl of nothing", measurement, `vmpl: {eq: 4}`, "12:18: want a number from 0 to 3, got 4"},
		{"version of tomorrow", measurement, `version: {gte: 6}`, "12:22: want a number from 2 to 5, got 6"},
		{"bit as number", measurement, `policy.smt: {eq: 1}`, "12:24: want true or false, got a number (1)"},
		{"bit in a list", measurement, `platform.smt: {in: [true]}`, `12:22: platform.smt has no matcher "in"`},
		{"unknown bit", measurement, `policy.dbug: {eq: true}`, `12:7: amd-sev-snp has no claim "policy.dbug"`},
		{"bits as a mapping", measurement, `policy: {debug: false}`, `12:7: amd-sev-snp has no claim "policy"`},
		{"debug as on Nitro", measurement, `debug: {eq: false}`, `12:7: the claim "debug" cannot be matched`},
		{"a register", measurement, `pcr0: {eq: "$a$"}`, `12:7: amd-sev-snp has no claim "pcr0"`},
		{"report data", measurement, `report_data: {eq: "$a/64$"}`, `12:7: the claim "report_data" cannot be matched`},
		{"report id", measurement, `report_id: {eq: "$a/32$"}`, `12:7: the claim "report_id" cannot be matched`},
		{"masked as text", measurement, `chip_id_masked: {eq: "yes"}`, `12:28: want true or false, got "yes"`},
		{"masked in a list", measurement, `chip_id_masked: {in: [true]}`, `12:24: chip_id_masked has no matcher "in"`},

		{"chip too short", `"$turin/8$"`, `"$turin/7$"`, "got 7 bytes"},
		{"chip of 32 bytes", `"$chip/64$"`, `"$chip/32$"`, "want a chip id of 64 bytes in hex (128 characters), or of 8 (16 characters) for Turin, got 32 bytes"},
		{"chip as no hex", `"$chip/64$"`, `"rack 4"`, `got "rack 4"`},
		{"chip all zero", `"$chip/64$"`, `"` + strings.Repeat("0", 128) + `"`, "an all-zero reference value is refused"},
		{"Turin chip all zero", `"$turin/8$"`, `"` + strings.Repeat("0", 16) + `"`, "an all-zero reference value is refused"},
		{"one chip in two lengths", `"$chip/64$"`, `"$turin/8$` + strings.Repeat("0", 112) + `"`, "the value is listed twice"},

		{"floor without a product", measurement, tcb("{bl: 9, tee: 0, snp: 23, ucode: 72}"), "13:26: a TCB floor without a product"},
		{"floor without a product, one component", measurement, tcb("{snp: 23}"), "13:26: a TCB floor without a product"},
		{"floor of no product", measurement, tcb("{}"), "13:26: current_tcb has no floor: no product line would match"},
		{"floor as a number", measurement, tcb("3"), "13:26: want a TCB floor for each product line, got a number (3)"},
		{"floor of an unknown product", measurement, tcb("{rome: {bl: 9, tee: 0, snp: 23, ucode: 72}}"), `13:27: unknown product "rome"`},
		{"floor as a list", measurement, tcb("{genoa: [9, 0, 23, 72]}"), "13:34: want a mapping, got a list"},
		{"floor lacks a component", measurement, tcb("{genoa: {bl: 9, tee: 0, ucode: 72}}"), "13:34: the floor of genoa lacks snp"},
		{"floor with an unknown component", measurement, tcb("{genoa: {bl: 9, tee: 0, snp: 1, ucode: 72, microcode: 3}}"), `unknown key "microcode"`},
		{"floor of Turin without fmc", measurement, tcb("{turin: {bl: 1, tee: 1, snp: 4, ucode: 81}}"), "13:34: the floor of turin lacks fmc"},
		{"floor of Milan with fmc", measurement, tcb("{milan: {fmc: 1, bl: 1, tee: 1, snp: 4, ucode: 81}}"), "13:35: the TCB of milan has no fmc"},
		{"floor too large", measurement, tcb("{genoa: {bl: 9, tee: 0, snp: 256, ucode: 72}}"), "the number 256 is out of range"},
		{"floor negative", measurement, tcb("{genoa: {bl: 9, tee: 0, snp: -1, ucode: 72}}"), "the number -1 is out of range"},
		{"floor all zero", measurement, tcb("{genoa: {bl: 0, tee: 0, snp: 0, ucode: 0}}"), "13:34: the floor of genoa is all zero"},
		{"floor all zero, Turin", measurement, tcb("{turin: {fmc: 0, bl: 0, tee: 0, snp: 0, ucode: 0}}"), "13:34: the floor of turin is all zero"},
		{"ceiling without a product", measurement, "current_tcb: {lte: {snp: 23}}", "12:26: a TCB ceiling without a product"},
		{"ceiling of no product", measurement, "current_tcb: {lte: {}}", "12:26: current_tcb has no ceiling: no product line would match"},
		{"ceiling lacks a component", measurement, "current_tcb: {lte: {genoa: {bl: 9, tee: 0, snp: 1}}}", "the ceiling of genoa lacks ucode"},
		{"ceiling all 255", measurement, "current_tcb: {lte: {genoa: {bl: 255, tee: 255, snp: 255, ucode: 255}}}", "the ceiling of genoa is all 255"},
		{"TCB that is equal", measurement, "current_tcb: {eq: {genoa: {bl: 9, tee: 0, snp: 23, ucode: 72}}}", `12:21: current_tcb has no matcher "eq"`},

		{"firmware of two parts", measurement, `current_firmware: {gte: "1.55"}`, `12:31: want a firmware version, got "1.55"`},
		{"firmware as a number", measurement, `current_firmware: {gte: 1.55}`, "12:31: want text, got a number (1.55)"},
		{"firmware out of range", measurement, `current_firmware: {gte: "1.55.256"}`, `want a firmware version, got "1.55.256"`},
		{"firmware with a zero before", measurement, `current_firmware: {gte: "1.055.29"}`, `want a firmware version, got "1.055.29"`},
		{"firmware with a sign", measurement, `current_firmware: {gte: "1.+55.29"}`, `want a firmware version, got "1.+55.29"`},
		{"firmware all zero", measurement, `current_firmware: {gte: "0.0.0"}`, "12:31: an all-zero reference value is refused"},
		{"firmware with bits", measurement, `current_firmware: {bits: {set: [1]}}`, `current_firmware has no matcher "bits"`},

		{"bits as a list", measurement, `launch_mitigations: {bits: [0]}`, "12:34: want a mapping, got a list"},
		{"bits of nothing", measurement, `launch_mitigations: {bits: {}}`, "12:34: launch_mitigations names no bit"},
		{"bits of empty lists", measurement, `launch_mitigations: {bits: {set: [], clear: []}}`, "12:34: launch_mitigations names no bit"},
		{"bit 64", measurement, `launch_mitigations: {bits: {set: [64]}}`, "12:41: there is no bit 64"},
		{"bit -1", measurement, `launch_mitigations: {bits: {set: [-1]}}`, "the number -1 is out of range"},
		{"bit twice", measurement, `launch_mitigations: {bits: {set: [3, 3]}}`, "12:44: bit 3 is listed twice"},
		{"bit set and clear", measurement, `launch_mitigations: {bits: {set: [0, 3], clear: [3]}}`, "12:34: bit 3 cannot be both set and clear"},
		{"bits with an unknown key", measurement, `launch_mitigations: {bits: {set: [0], unset: [3]}}`, `unknown key "unset"`},
		{"bits as a mask", measurement, `launch_mitigations: {bits: {set: 9}}`, "12:40: want a list, got a number (9)"},
		{"bits that are equal", measurement, `launch_mitigations: {eq: 9}`, `launch_mitigations has no matcher "eq"`},

		{"no ownership", "      chip_id: {in: chips}\n", "", `8:11: workload "ledger" has no ownership predicate`},
		{"a chip in place is no ownership", "{in: chips}", `{in: ["$chip/64$"]}`, `8:11: workload "ledger" has no ownership predicate`},
		{"one chip is no ownership", "{in: chips}", `{eq: "$chip/64$"}`, `8:11: workload "ledger" has no ownership predicate`},
		{"shared chips are no ownership", "dedicated: true", "dedicated: false", `8:11: workload "ledger" has no ownership predicate`},
		{"a dedicated set of images is no ownership", "      chip_id: {in: chips}\n", "      host_data: {in: data}\n", `8:11: workload "ledger" has no ownership predicate`},
		{"a waiver beside a dedicated set", "    match:", "    ownership: {none: a, owner: b, expires: 2027-06-30}\n    match:", "needs no ownership waiver: chip_id is an ownership predicate"},

		{"publish the chip", "    match:", "    publish: [chip_id]\n    match:", "11:15: chip_id is never published"},
		{"publish the report id", "    match:", "    publish: [report_id]\n    match:", "11:15: report_id is never published"},
		{"publish the host data", "    match:", "    publish: [measurement, host_data]\n    match:", "11:28: host_data is never published"},
		{"publish a TCB", "    match:", "    publish: [reported_tcb]\n    match:", `11:15: "reported_tcb" is not a measurement of amd-sev-snp`},
		{"publish a register", "    match:", "    publish: [pcr0]\n    match:", `11:15: "pcr0" is not a measurement of amd-sev-snp`},
		{"publish the family", "    match:", "    publish: [family_id]\n    match:", `11:15: "family_id" is not a measurement of amd-sev-snp`},
		{"template with a chip", "{td}/ledger", "{td}/{chip_id:16}", "chip_id must not be part of an identity"},
		{"template with the report id", "{td}/ledger", "{td}/{report_id:16}", "report_id must not be part of an identity"},
		{"template with host data", "{td}/ledger", "{td}/{host_data:16}", "host_data must not be part of an identity"},
		{"template with a TCB", "{td}/ledger", "{td}/{reported_tcb}", "reported_tcb cannot be expanded: only digests and ids of a fixed length can"},
		{"template with a number", "{td}/ledger", "{td}/{guest_svn}", "guest_svn cannot be expanded: only digests and ids of a fixed length can"},
		{"template with an unpinned digest", "{td}/ledger", "{td}/{id_key_digest:16}", "id_key_digest cannot be expanded: the workload does not pin it"},

		{"product without its floor", measurement, measurement + "\n      product: {eq: milan}", `workload "ledger" can never match: no report satisfies both its reported_tcb and its product`},
		{"floors without a common product", measurement, tcb("{milan: {bl: 1, tee: 0, snp: 1, ucode: 1}}"), `can never match: no report satisfies both its current_tcb and its reported_tcb`},
		{"a masked chip of ours", measurement, measurement + "\n      chip_id_masked: {eq: true}", "can never match: no report satisfies both its chip_id and its chip_id_masked"},
		{"a provider without its key", measurement, measurement + "\n      csp_id: {eq: a}\n      signing_key: {eq: vcek}", "can never match: no report satisfies both its csp_id and its signing_key"},
		{"mitigations before their version", measurement, measurement + "\n      current_mitigations: {bits: {set: [0]}}\n      version: {lte: 4}", "can never match: no report satisfies both its current_mitigations and its version"},
		{"mitigations of listed versions", measurement, measurement + "\n      current_mitigations: {bits: {set: [0]}}\n      version: {in: [2, 3]}", "can never match: no report satisfies both its current_mitigations and its version"},
	} {
		t.Run(c.name, func(t *testing.T) {
			src := expand(change(t, strings.Replace(snpBase, "workloads:", "  data: {dedicated: true, values: [\"$data/32$\"]}\nworkloads:", 1), c.from, c.to))
			if !strings.Contains(c.to, "in: data") {
				src = expand(change(t, snpBase, c.from, c.to))
			} else {
				c.want = strings.Replace(c.want, "8:11", "9:11", 1)
			}
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

func TestTheOwnershipErrorSaysWhatDoesNotCount(t *testing.T) {
	_, err := policy.Parse("p.yaml", []byte(expand(change(t, snpBase, "      chip_id: {in: chips}\n", ""))))
	for _, claim := range []string{"chip_id", "dedicated: true", "measurement", "id_key_digest", "author_key_digest", "host_data", "family_id", "image_id", "csp_id"} {
		if !strings.Contains(render(err), claim) {
			t.Errorf("the error does not name %s:\n%s", claim, render(err))
		}
	}
}

func TestSNPWarnings(t *testing.T) {
	for _, c := range []struct{ name, from, to, want string }{
		{"none", "revision: 7", "revision: 8", ""},
		{"debug admitted", "    match:\n", "    match:\n      policy.debug: {eq: true}\n", "workload ledger admits guests with policy.debug"},
		{"migration admitted", "    match:\n", "    match:\n      policy.migrate_ma: {eq: true}\n", "workload ledger admits guests with policy.migrate_ma"},
		{"debug refused by name", "    match:\n", "    match:\n      policy.debug: {eq: false}\n", ""},
		{"no image", "      measurement: {eq: \"$image$\"}\n", "", "workload ledger pins no image"},
		{"the signer is enough", "measurement:", "id_key_digest:", ""},
		{"the author is enough", "measurement:", "author_key_digest:", ""},
		{"a ceiling is no floor", "reported_tcb: {gte: {genoa: {bl: 9, tee: 0, snp: 23, ucode: 72}, turin: {fmc: 1, bl: 1, tee: 1, snp: 4, ucode: 81}}}", "reported_tcb: {lte: {genoa: {bl: 9, tee: 0, snp: 23, ucode: 72}}}", "workload ledger has no floor for reported_tcb"},
		{"another TCB", "reported_tcb:", "current_tcb:", "workload ledger has no floor for reported_tcb"},
		{"a bound that is none", "    match:\n", "    match:\n      guest_svn: {gte: 0}\n", "guest_svn: {gte: 0} holds always"},
		{"an upper bound that is none", "    match:\n", "    match:\n      version: {lte: 5}\n", "version: {lte: 5} holds always"},
		{"a bound that is one", "    match:\n", "    match:\n      vmpl: {gte: 3}\n", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := parse(t, change(t, snpBase, c.from, c.to)).Warnings()
			switch {
			case c.want == "" && len(w) > 0:
				t.Errorf("got %s, want none", w.Render())
			case c.want != "" && (len(w) != 1 || !strings.Contains(w[0].Error(), c.want)):
				t.Errorf("got:\n%s\nwant one: %s", w.Render(), c.want)
			}
		})
	}
}
