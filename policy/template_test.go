package policy

import (
	"errors"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/attest"
)

func testScope() scope {
	return scope{
		trustDomain: "example.org", workload: "payments", tee: nitro,
		attributes: map[string]string{"team": "core", "odd": "a b", "up": "../x", "empty-ish": ".", "brace": "{td}"},
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
