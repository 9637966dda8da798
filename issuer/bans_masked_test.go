package issuer

import (
	"testing"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/issuer/store"
)

// The host decides, at any time, whether reports name the chip. A guest that runs on
// is the same all the same.
func TestAMaskedChipEscapesNoBan(t *testing.T) {
	now := time.Now()
	chip, rid := make(attest.Bytes, 64), make(attest.Bytes, 32)
	chip[0], rid[0] = 7, 9
	of := func(chip, hwid attest.Bytes, key string) attest.Claims {
		return attest.Claims{Platform: attest.AMDSEVSNP, SNP: &attest.SNP{SigningKey: key, ReportID: rid, ChipID: chip, VCEKHWID: hwid}}
	}
	seen := of(chip, nil, "vcek")
	masked := of(make(attest.Bytes, 64), chip, "vcek")
	cloud := of(make(attest.Bytes, 64), nil, "vlek")
	ban := func(kind store.BanKind, value string) *banSet {
		return &banSet{rules: []banRule{{Ban: store.Ban{ID: "b", Kind: kind, Value: value, Since: now}}}}
	}
	if masked.Instance() != seen.Instance() {
		t.Errorf("AMD's certificate names the chip, and the instance is %s, unmasked %s", masked.Instance(), seen.Instance())
	}
	for _, banned := range []attest.Claims{seen, masked, cloud} {
		set := ban(store.BanInstance, string(banned.Instance()))
		for _, c := range []attest.Claims{seen, masked, cloud} {
			if set.hit(now, c) == nil {
				t.Errorf("the ban of %s does not hit %s", banned.Instance(), c.Instance())
			}
		}
		other := of(chip, nil, "vcek")
		other.SNP.ReportID = make(attest.Bytes, 32)
		if set.hit(now, other) != nil {
			t.Errorf("the ban of %s hits another guest", banned.Instance())
		}
	}
	hardware := ban(store.BanHardware, hardwareIDs(seen)[0])
	if hardware.hit(now, seen) == nil || hardware.hit(now, masked) == nil {
		t.Error("the chip escapes its ban by being masked")
	}
}
