package sevsnp_test

import (
	"testing"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifiers/internal/checktest"
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
	return checktest.KindOf(t, sevsnp.Checks(), check)
}

// wantRefusal fails unless the verifier returned an error of exactly this check,
// of the kind that the table gives to it, and nothing beside it.
func wantRefusal(t testing.TB, got *attest.Claims, err error, check string) {
	t.Helper()
	checktest.Refused(t, sevsnp.Checks(), got, err, check)
}
