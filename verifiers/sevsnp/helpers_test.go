package sevsnp_test

import (
	"testing"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifiers/sevsnp"
)

// hardware returns a verifier under AMD's roots with an empty cache.
func hardware(t testing.TB, opts ...sevsnp.Option) *sevsnp.Verifier {
	t.Helper()
	v, err := sevsnp.New(sevsnp.HardwareRoots(), opts...)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func evidence(body []byte, endorsements ...[]byte) attest.Evidence {
	return attest.Evidence{Platform: attest.AMDSEVSNP, Body: body, Endorsements: endorsements}
}

// kindOf is the kind that the table gives to a check.
func kindOf(t testing.TB, check string) attest.Kind {
	t.Helper()
	for _, c := range sevsnp.Checks() {
		if c.Name == check {
			return c.Kind
		}
	}
	t.Fatalf("no check is named %q", check)
	return 0
}

// wantRefusal fails unless the verifier returned an error of exactly this check,
// of the kind that the table gives to it, and nothing beside it.
func wantRefusal(t testing.TB, got *attest.Claims, err error, check string) {
	t.Helper()
	if err == nil {
		t.Fatalf("verified, want a refusal by %s", check)
	}
	if got != nil {
		t.Error("claims beside an error")
	}
	if c := attest.CheckOf(err); c != check {
		t.Fatalf("refused by %q, want %q: %v", c, check, err)
	}
	if k, want := attest.KindOf(err), kindOf(t, check); k != want {
		t.Errorf("kind %s, want %s", k, want)
	}
}
