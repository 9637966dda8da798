package sevsnp_test

import (
	"testing"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifiers/sevsnp"
)

func TestACRLThatComesAlongCountsOnlyIfItIsNotOlderThanTheCollaterals(t *testing.T) {
	w := newWorld(t, fakeOrg, sharedKeys())
	until := epoch.Add(-time.Hour)
	held := crlOrder{number: 7, thisUpdate: epoch.AddDate(0, -1, 0), nextUpdate: until}
	for name, c := range map[string]struct {
		along crlOrder
		grace time.Duration
		want  string
	}{
		"a lower number, however late its dates": {crlOrder{number: 6, thisUpdate: epoch.Add(-time.Minute)}, 0, sevsnp.CheckCRLValidity},
		"the same number, but an earlier date":   {crlOrder{number: 7, thisUpdate: epoch.AddDate(0, -2, 0)}, 0, sevsnp.CheckCRLValidity},
		"a lower number, with grace":             {crlOrder{number: 6}, 2 * time.Hour, sevsnp.RevocationGrace},
		"a higher number":                        {crlOrder{number: 8}, 0, sevsnp.RevocationOK},
		"the same number, and a later date":      {crlOrder{number: 7}, 0, sevsnp.RevocationOK},
	} {
		for _, require := range []bool{true, false} {
			v := w.verifier(t, sevsnp.WithCollateral(&collateral{crl: w.crl(t, held)}), sevsnp.WithRevocation(sevsnp.RevocationPolicy{Require: require, Grace: c.grace}))
			got, err := v.Authenticate(t.Context(), w.mint(t, order{}).evidence(w.crl(t, c.along)), epoch)
			want := c.want
			if !require && want == sevsnp.CheckCRLValidity {
				want = sevsnp.RevocationNotChecked
			}
			switch {
			case err != nil && attest.CheckOf(err) != want, err == nil && got.SNP.Revocation != want:
				t.Errorf("%s, required %t: %v, %v; want %s", name, require, got, err, want)
			}
		}
	}
}
