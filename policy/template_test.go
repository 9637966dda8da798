package policy

import (
	"errors"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/strictyaml"
)

func testScope() scope {
	return scope{
		trustDomain: "example.org", workload: "payments", tee: nitro,
		attributes: map[string]string{"team": "core", "odd": "a b", "up": "../x", "empty-ish": ".", "brace": "{td}"},
		suggest:    strictyaml.Suggest,
		pinned:     func(claim string) bool { return claim == "pcr0" || claim == "pcr3" || claim == "debug" },
	}
}

func testClaims() *attest.Claims {
	pcr0 := make(attest.Bytes, 48)
	for i := range pcr0 {
		pcr0[i] = byte(i) + 0xa0
	}
	return &attest.Claims{Platform: attest.AWSNitro, Nitro: &attest.Nitro{PCRs: map[int]attest.Bytes{0: pcr0}}}
}

func TestTemplatesExpand(t *testing.T) {
	for in, want := range map[string]string{
		"spiffe://{td}/payments":                                "spiffe://example.org/payments",
		"spiffe://example.org/payments":                         "spiffe://example.org/payments",
		"spiffe://{td}/{workload}/{tee}":                        "spiffe://example.org/payments/aws-nitro",
		"spiffe://{td}/{attributes.team}":                       "spiffe://example.org/core",
		"spiffe://{td}/{pcr0:8}":                                "spiffe://example.org/a0a1a2a3",
		"spiffe://{td}/x/{pcr0:9}-{pcr0:10}":                    "spiffe://example.org/x/a0a1a2a3a-a0a1a2a3a4",
		"spiffe://{td}/{pcr0}":                                  "spiffe://example.org/" + testClaims().Nitro.PCRs[0].String(),
		"spiffe://{td}/{pcr0:96}":                               "spiffe://example.org/" + testClaims().Nitro.PCRs[0].String(),
		"spiffe://{td}/assayer":                                 "spiffe://example.org/assayer",
		"spiffe://{td}/x/assay/y":                               "spiffe://example.org/x/assay/y",
		"spiffe://{td}/" + strings.Repeat("a", 127-21):          "spiffe://example.org/" + strings.Repeat("a", 127-21),
		"spiffe://{td}/" + strings.Repeat("a", 98) + "{pcr0:8}": "spiffe://example.org/" + strings.Repeat("a", 98) + "a0a1a2a3",
	} {
		tm, err := parseTemplate(in, testScope())
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		got, err := tm.expand(testClaims())
		if err != nil || got != want {
			t.Errorf("%s: got %s, %v, want %s", in, got, err, want)
		}
	}
}

func TestTemplatesThatAreRefused(t *testing.T) {
	for in, want := range map[string]string{
		"":                                             "not a SPIFFE ID",
		"payments":                                     "not a SPIFFE ID",
		"https://{td}/payments":                        "not a SPIFFE ID",
		"spiffe://{td}":                                "has no path",
		"spiffe://{td}/":                               "not a SPIFFE ID",
		"spiffe://{td}//x":                             "not a SPIFFE ID",
		"spiffe://{td}/x/":                             "not a SPIFFE ID",
		"spiffe://{td}/../x":                           "not a SPIFFE ID",
		"spiffe://{td}/a b":                            "not a SPIFFE ID",
		"spiffe://{td}/a%20b":                          "not a SPIFFE ID",
		"spiffe://{td}/a?b":                            "not a SPIFFE ID",
		"spiffe://{td}/ü":                              "not a SPIFFE ID",
		"spiffe://{td}:443/a":                          "not a SPIFFE ID",
		"spiffe://u@{td}/a":                            "not a SPIFFE ID",
		"spiffe://{td}/{attributes.odd}":               "not a SPIFFE ID",
		"spiffe://{td}/{attributes.up}":                "not a SPIFFE ID",
		"spiffe://{td}/{attributes.empty-ish}":         "not a SPIFFE ID",
		"spiffe://{td}/{attributes.brace}":             "not a SPIFFE ID",
		"spiffe://{td}/{attributes.none}":              `no attribute "none"`,
		"spiffe://other.org/x":                         `in the trust domain "other.org"`,
		"spiffe://{td}.evil.org/x":                     `in the trust domain "example.org.evil.org"`,
		"spiffe://{workload}/x":                        `in the trust domain "payments"`,
		"spiffe://{td}/assay":                          "reserved for the service",
		"spiffe://{td}/assay/server":                   "reserved for the service",
		"spiffe://{td}/{pcr1}":                         "the workload does not pin it",
		"spiffe://{td}/{pcr3}":                         "pcr3 must not be part of an identity",
		"spiffe://{td}/{pcr3:8}":                       "pcr3 must not be part of an identity",
		"spiffe://{td}/{debug}":                        "only digests and ids of a fixed length can",
		"spiffe://{td}/{pcr0:7}":                       `bad length "7"`,
		"spiffe://{td}/{pcr0:97}":                      `bad length "97"`,
		"spiffe://{td}/{pcr0:}":                        `bad length ""`,
		"spiffe://{td}/{pcr0:-8}":                      `bad length "-8"`,
		"spiffe://{td}/{pcr0:08}":                      `bad length "08"`,
		"spiffe://{td}/{pcr0:+8}":                      `bad length "+8"`,
		"spiffe://{td}/{pcr0:8:8}":                     `bad length "8:8"`,
		"spiffe://{td}/{pcr99}":                        "unknown template variable",
		"spiffe://{td}/{}":                             "unknown template variable",
		"spiffe://{td}/{module_id}":                    "unknown template variable",
		"spiffe://{td}/{{td}}":                         "unknown template variable",
		"spiffe://{td}/{td":                            "unbalanced '{'",
		"spiffe://{td}/td}":                            "unbalanced '}'",
		"spiffe://{td}/" + strings.Repeat("a", 128-21): "128 bytes long, at most 127",
		"spiffe://{td}/{pcr0}/{pcr0}":                  "at most 127",
		strings.Repeat("{td}", 400):                    "longer than 1024 bytes",
	} {
		tm, err := parseTemplate(in, testScope())
		if err == nil || tm != nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", in, err, want)
		}
	}
}

// pinning is a workload that pins claims to values, by the names of claims.
func pinning(t *testing.T, pins map[string][]string) *workload {
	t.Helper()
	w := &workload{tee: nitro}
	for claim, values := range pins {
		var entries []entry
		for _, v := range values {
			b := make([]byte, 48)
			copy(b, v)
			entries = append(entries, entry{value: value(b)})
		}
		w.rules = append(w.rules, &rule{field: nitro.byName[claim], op: "in", test: newSet("", false, entries)})
	}
	return w
}

func TestTemplatesThatCanYieldOneIDAreFound(t *testing.T) {
	many := make([]string, 65)
	for i := range many {
		many[i] = string(rune('A' + i))
	}
	for _, c := range []struct {
		name, a, b string
		pins       map[string][]string
		want       bool
	}{
		{"the same", "spiffe://{td}/a", "spiffe://example.org/a", nil, true},
		{"other literals", "spiffe://{td}/a", "spiffe://{td}/b", nil, false},
		{"other lengths", "spiffe://{td}/{pcr0:8}", "spiffe://{td}/{pcr0:9}", map[string][]string{"pcr0": {"x"}}, false},
		{"the same digest", "spiffe://{td}/{pcr0:8}", "spiffe://{td}/{pcr0:8}", map[string][]string{"pcr0": {"x"}}, true},
		{"two digests with other values", "spiffe://{td}/{pcr0:8}", "spiffe://{td}/{pcr1:8}", map[string][]string{"pcr0": {"x"}, "pcr1": {"y"}}, false},
		{"two digests that begin alike", "spiffe://{td}/{pcr0:8}", "spiffe://{td}/{pcr1:8}", map[string][]string{"pcr0": {"x", "abcdX"}, "pcr1": {"y", "abcdY"}}, true},
		{"two digests that begin alike, and go on", "spiffe://{td}/{pcr0:10}", "spiffe://{td}/{pcr1:10}", map[string][]string{"pcr0": {"x", "abcdX"}, "pcr1": {"y", "abcdY"}}, false},
		{"a digest and a literal in hex", "spiffe://{td}/{pcr0:8}", "spiffe://{td}/61626364", map[string][]string{"pcr0": {"z", "abcdX"}}, true},
		{"a digest and another literal in hex", "spiffe://{td}/{pcr0:8}", "spiffe://{td}/61626365", map[string][]string{"pcr0": {"z", "abcdX"}}, false},
		{"a digest and a word", "spiffe://{td}/{pcr0:8}", "spiffe://{td}/payments", map[string][]string{"pcr0": {"x"}}, false},
		{"a digest and a literal in capitals", "spiffe://{td}/{pcr0:8}", "spiffe://{td}/ABCDEF01", map[string][]string{"pcr0": {"\xab\xcd\xef\x01"}}, false},
		{"one digest in two orders", "spiffe://{td}/{pcr0:8}/{pcr1:8}", "spiffe://{td}/{pcr1:8}/{pcr0:8}", map[string][]string{"pcr0": {"x"}, "pcr1": {"x"}}, true},
		{"two digests in two orders", "spiffe://{td}/{pcr0:8}/{pcr1:8}", "spiffe://{td}/{pcr1:8}/{pcr0:8}", map[string][]string{"pcr0": {"x"}, "pcr1": {"y"}}, false},
		{"digests that overlap", "spiffe://{td}/{pcr0:8}{pcr1:9}", "spiffe://{td}/{pcr1:9}{pcr0:8}", map[string][]string{"pcr0": {"\x11\x11\x11\x11"}, "pcr1": {"\x11\x11\x11\x11\x11"}}, true},
		{"too many values to look at", "spiffe://{td}/{pcr0:8}", "spiffe://{td}/{pcr1:8}", map[string][]string{"pcr0": many, "pcr1": many[:64]}, true},
	} {
		w := pinning(t, c.pins)
		sc := testScope()
		sc.pinned = func(claim string) bool { return w.find(claim) != nil }
		a, err := parseTemplate(c.a, sc)
		if err != nil {
			t.Fatal(err)
		}
		b, err := parseTemplate(c.b, sc)
		if err != nil {
			t.Fatal(err)
		}
		for _, got := range []string{a.collides(b, w), b.collides(a, w)} {
			if (got != "") != c.want {
				t.Errorf("%s: got %q, want a common ID %v", c.name, got, c.want)
			}
		}
	}
}

func TestAnIDIsNotFormedFromAMissingOrShortClaim(t *testing.T) {
	tm, err := parseTemplate("spiffe://{td}/{pcr0:16}", testScope())
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]*attest.Claims{
		"none":    {},
		"missing": {Nitro: &attest.Nitro{}},
		"short":   {Nitro: &attest.Nitro{PCRs: map[int]attest.Bytes{0: make(attest.Bytes, 7)}}},
	} {
		if got, err := tm.expand(c); err == nil {
			t.Errorf("%s: got %s", name, got)
		}
	}
}

// With one value for each claim, two templates collide exactly when they yield
// the same ID.
func FuzzTemplatesCollide(f *testing.F) {
	f.Add("spiffe://{td}/{pcr0:8}", "spiffe://{td}/{pcr1:8}", []byte("abcd"), []byte("abcdef"))
	f.Add("spiffe://{td}/{pcr0:8}", "spiffe://{td}/61626364", []byte("abcd"), []byte(""))
	f.Add("spiffe://{td}/{pcr0:8}{pcr1:9}", "spiffe://{td}/{pcr1:9}{pcr0:8}", []byte("aaaa"), []byte("aaaaaaa"))
	f.Fuzz(func(t *testing.T, a, b string, zero, one []byte) {
		w := pinning(t, map[string][]string{"pcr0": {string(zero)}, "pcr1": {string(one)}})
		sc := testScope()
		sc.pinned = func(claim string) bool { return w.find(claim) != nil }
		x, err := parseTemplate(a, sc)
		if err != nil {
			return
		}
		y, err := parseTemplate(b, sc)
		if err != nil {
			return
		}
		claims := &attest.Claims{Platform: attest.AWSNitro, Nitro: &attest.Nitro{PCRs: map[int]attest.Bytes{0: make(attest.Bytes, 48), 1: make(attest.Bytes, 48)}}}
		copy(claims.Nitro.PCRs[0], zero)
		copy(claims.Nitro.PCRs[1], one)
		first, err := x.expand(claims)
		if err != nil {
			t.Fatal(err)
		}
		second, err := y.expand(claims)
		if err != nil {
			t.Fatal(err)
		}
		if got := x.collides(y, w); (got != "") != (first == second) || got != "" && got != first {
			t.Errorf("%q and %q expand to %q and %q, and collide in %q", a, b, first, second, got)
		}
	})
}

// Whatever compiles expands to an ID of the trust domain that is short enough
// and not reserved.
func FuzzTemplate(f *testing.F) {
	for _, s := range []string{"spiffe://{td}/payments", "spiffe://{td}/{workload}/{tee}/{attributes.team}/{pcr0:16}", "spiffe://{td}/assay/server", "{", "}{"} {
		f.Add(s)
	}
	claims := testClaims()
	f.Fuzz(func(t *testing.T, src string) {
		tm, err := parseTemplate(src, testScope())
		if err != nil {
			var te *errTemplate
			if tm != nil || !errors.As(err, &te) {
				t.Fatalf("got %v, %v", tm, err)
			}
			return
		}
		got, err := tm.expand(claims)
		if err != nil {
			t.Fatalf("%q compiles and does not expand: %v", src, err)
		}
		id, err := spiffeid.FromString(got)
		if err != nil || id.TrustDomain().Name() != "example.org" || id.Path() == "" || len(got) > MaxIDLength || strings.HasPrefix(id.Path()+"/", "/assay/") {
			t.Errorf("%q expands to %q: %v", src, got, err)
		}
	})
}
