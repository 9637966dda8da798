package collateral_test

import (
	"encoding/json"
	"os"
	"path"
	"testing"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/vectors"
	"github.com/assay-project/assay/verifiers/sevsnp"
	"github.com/assay-project/assay/verifiers/sevsnp/collateral"
)

// Real VCEKs and VLEKs go into a cache under AMD's roots, and recorded reports of
// their chips then verify without a certificate of their own, as far as they
// verify at all.
func TestRealReportsVerifyWithTheirCertificateInTheCache(t *testing.T) {
	n := map[bool]int{}
	for _, v := range vectors.Load(t, "sevsnp") {
		if v.VerificationTime == nil {
			continue // the roots
		}
		var want struct {
			Verifies bool `json:"verifies"`
		}
		check(t, json.Unmarshal(v.Expect, &want))
		at := *v.VerificationTime
		c, err := collateral.OpenCache(collateral.CacheConfig{Dir: t.TempDir(), Roots: sevsnp.HardwareRoots(), Now: func() time.Time { return at }})
		check(t, err)
		stored := 0
		for _, f := range v.Files {
			if base := path.Base(f); base != "vcek.der" && base != "vlek.der" {
				continue
			}
			der, err := os.ReadFile(v.Path(f))
			check(t, err)
			if _, ok, err := c.PutCertificate(der); err != nil {
				t.Errorf("%s: %v", v.Name, err)
			} else if ok {
				stored++
			}
		}
		if stored == 0 {
			t.Logf("%s comes without a certificate in DER", v.Name)
			check(t, c.Close())
			continue
		}
		s, err := collateral.New(collateral.Config{Cache: c, Now: func() time.Time { return at }})
		check(t, err)
		verifier, err := sevsnp.New(sevsnp.HardwareRoots(), sevsnp.WithCollateral(s))
		check(t, err)
		_, err = verifier.Authenticate(t.Context(), attest.Evidence{Platform: attest.AMDSEVSNP, Body: v.Read(t, "report.bin")}, at)
		if (err == nil) != want.Verifies {
			t.Errorf("%s: %v, want verifies = %t", v.Name, err, want.Verifies)
		}
		n[want.Verifies]++
		check(t, c.Close())
	}
	t.Logf("%d verify, %d do not", n[true], n[false])
	if n[true] == 0 {
		t.Error("no recording was used")
	}
}
