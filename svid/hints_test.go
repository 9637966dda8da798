package svid

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/assay-project/assay/attest"
)

// What a relying party meets first has something to do about it.
func TestTheChecksThatPeopleMeetHaveAHint(t *testing.T) {
	var spec []byte
	for _, name := range []string{"verify.go", "require.go", "jwtsvid.go", "jwtverify.go"} {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		spec = append(spec, b...)
	}
	for _, check := range []string{
		"bundle", "verifier_keys", "chain", "chain_validity", "result_expired", "id", "member_of", "tee", "policy", "tier",
		"instance-identity", "attribute", "token_bundle", "token_audience", "token_expired", "token_signature",
	} {
		for _, err := range []*attest.Error{fail(attest.Untrusted, check, "x"), mismatch(attest.Denied, check, "x", "a", "b")} {
			if len(err.Hint) < 20 || strings.Contains(err.Error(), err.Hint) {
				t.Errorf("%s: hint %q in %q", check, err.Hint, err)
			}
		}
		// A check that was renamed would lose its hint.
		if check != "instance-identity" && !strings.Contains(string(spec), check) {
			t.Errorf("no code or comment names the check %s", check)
		}
	}
	if err := fail(attest.Untrusted, "no_such_check", "x"); err.Hint != "" {
		t.Errorf("a hint for anything: %q", err.Hint)
	}
}

func TestATierThatIsNotGoodEnoughIsExplained(t *testing.T) {
	a := &Attested{Result: Result{Vector: Vector{Hardware: claimSimulated, RuntimeOpaque: claimSimulated, Configuration: claimNoVulns}}}
	a.Result.Status = a.Result.Vector.Status()
	err := MinTier(Affirming).check(a, time.Now())
	var ae *attest.Error
	if !errors.As(err, &ae) {
		t.Fatalf("got %v", err)
	}
	const want = "warning (hardware -34: the evidence came from a simulator, which is no hardware; runtime-opaque -34: the evidence came from a simulator, which protects nothing)"
	if ae.Check != "tier" || ae.Got != want || !strings.Contains(ae.Hint, "--min-tier") {
		t.Errorf("got %q, want %q; hint %q", ae.Got, want, ae.Hint)
	}
}
