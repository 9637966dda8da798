package guides

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"cel.dev/cel-go/cel"

	"github.com/assay-project/assay/issuer/config"
	"github.com/assay-project/assay/policy"
)

// The rules that the guide gives to clouds, on the claims of a token as it is
// minted: a rule that names what is not in a token would lock everybody out.
func TestTheRulesOfTheGuideToCloudsHoldOfARealToken(t *testing.T) {
	page, err := os.ReadFile("oidc.md")
	if err != nil {
		t.Fatal(err)
	}
	var vector struct {
		Claims map[string]any `json:"claims"`
	}
	body, err := os.ReadFile("../../svid/testdata/token-nitro.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(body, &vector); err != nil {
		t.Fatal(err)
	}

	t.Run("GCP", func(t *testing.T) {
		env, err := cel.NewEnv(cel.Variable("assertion", cel.MapType(cel.StringType, cel.DynType)))
		if err != nil {
			t.Fatal(err)
		}
		eval := func(expr string) any {
			t.Helper()
			ast, iss := env.Compile(expr)
			if iss.Err() != nil {
				t.Fatalf("%s: %v", expr, iss.Err())
			}
			prg, err := env.Program(ast)
			if err != nil {
				t.Fatal(err)
			}
			out, _, err := prg.Eval(map[string]any{"assertion": vector.Claims})
			if err != nil {
				t.Fatalf("%s: %v", expr, err)
			}
			return out.Value()
		}
		condition := one(t, page, `--attribute-condition="([^"]+)"`)
		if eval(condition) != true {
			t.Errorf("%s is false", condition)
		}
		for _, m := range strings.Split(one(t, page, `--attribute-mapping='([^']+)'`), ",") {
			name, expr, _ := strings.Cut(m, "=")
			if s, ok := eval(expr).(string); !ok || s == "" {
				t.Errorf("%s is mapped to %v", name, s)
			}
		}
		if eval(one(t, page, "`(assertion\\.assay\\.vector\\[[^`]+)`")) != true || eval(one(t, page, "`(has\\([^`]+\\))`")) != true {
			t.Error("the conditions in the text are false")
		}
		if s, ok := eval("assertion.assay.measurements.pcr0").(string); !ok || len(s) != 96 {
			t.Errorf("pcr0 is %v", s)
		}
	})
	t.Run("Vault", func(t *testing.T) {
		var role struct {
			BoundClaims   map[string]string `json:"bound_claims"`
			ClaimMappings map[string]string `json:"claim_mappings"`
			UserClaim     string            `json:"user_claim"`
			BoundSubject  string            `json:"bound_subject"`
		}
		if err := json.Unmarshal([]byte(one(t, page, `(?s)<<'ROLE'\n(.*?)\nROLE`)), &role); err != nil {
			t.Fatal(err)
		}
		for pointer, want := range role.BoundClaims {
			if got := at(vector.Claims, pointer); got != want {
				t.Errorf("%s is %v, want %s", pointer, got, want)
			}
		}
		for pointer := range role.ClaimMappings {
			if s, ok := at(vector.Claims, pointer).(string); !ok || s == "" {
				t.Errorf("%s is not there", pointer)
			}
		}
		if vector.Claims[role.UserClaim] != role.BoundSubject {
			t.Errorf("%s is %v", role.UserClaim, vector.Claims[role.UserClaim])
		}
		if _, ok := at(vector.Claims, "/assay/measurements/pcr0").(string); !ok {
			t.Error("/assay/measurements/pcr0 is not there")
		}
	})
	t.Run("AWS", func(t *testing.T) {
		var p struct {
			Statement []struct {
				Action    []string
				Condition struct{ StringEquals map[string]string }
			}
		}
		if err := json.Unmarshal([]byte(one(t, page, "(?s)```json\n(.*?)```")), &p); err != nil {
			t.Fatal(err)
		}
		c := p.Statement[0].Condition.StringEquals
		if c["oidc.example.org:sub"] != vector.Claims["sub"] || c["oidc.example.org:aud"] != "sts.amazonaws.com" || vector.Claims["iss"] != "https://oidc.example.org" {
			t.Errorf("the condition is %v", c)
		}
		tags, _ := at(vector.Claims, "/https:~1~1aws.amazon.com~1tags/principal_tags/team").([]any)
		if len(tags) != 1 || tags[0] != c["aws:RequestTag/team"] {
			t.Errorf("the tag is %v", tags)
		}
	})
	t.Run("policy", func(t *testing.T) {
		issue := one(t, page, "(?s)```yaml\n(    issue:.*?)```")
		src := "version: 1\nbundle: prod\nrevision: 1\ntrust_domain: attested.example.org\nworkloads:\n  - name: payments\n    tee: aws-nitro\n    mode: enforce\n    match:\n" +
			"      pcr0: {eq: \"" + strings.Repeat("ab", 48) + "\"}\n      pcr3: {eq: \"" + strings.Repeat("cd", 48) + "\"}\n" + issue
		if _, err := policy.Parse("oidc.md", []byte(src)); err != nil {
			t.Error(err)
		}
	})
	t.Run("configuration", func(t *testing.T) {
		dir := t.TempDir()
		path := filepath.Join(dir, "assayd.yaml")
		src := "trust_domain: attested.example.org\n" + one(t, page, "(?s)```yaml\n(jwt:.*?)```")
		if err := os.WriteFile(path, []byte(src), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := config.Load(path)
		if err != nil {
			t.Fatal(err)
		}
		if c.JWT.Issuer != vector.Claims["iss"] {
			t.Errorf("issuer %s", c.JWT.Issuer)
		}
	})
}

// one is the first part of the page that a pattern finds.
func one(t *testing.T, page []byte, pattern string) string {
	t.Helper()
	m := regexp.MustCompile(pattern).FindSubmatch(page)
	if m == nil {
		t.Fatalf("the page has no %s", pattern)
	}
	return string(m[1])
}

// at follows a JSON pointer (RFC 6901) through objects.
func at(v any, pointer string) any {
	for _, name := range strings.Split(strings.TrimPrefix(pointer, "/"), "/") {
		o, _ := v.(map[string]any)
		v = o[strings.NewReplacer("~1", "/", "~0", "~").Replace(name)]
	}
	return v
}
