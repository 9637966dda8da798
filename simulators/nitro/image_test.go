package nitro

import (
	"bytes"
	"encoding/hex"
	"testing"
)

// Policies and scripts hold these values: they must never change.
func TestTheMeasurementsOfANameAreFixed(t *testing.T) {
	i := ImageFromSeed("orders")
	for name, c := range map[string]struct {
		got  []byte
		want string
	}{
		"PCR0": {i.PCR0, "a6605665e354fff6793a9191daac3cd6ed6c28bdb9b435eb700be7d17d43b9ecd385ee4e807656285c37f7f3c5581eac"},
		"PCR1": {i.PCR1, "a7abe9ab1fa1aeb4bf178c77e7bf2acdc6306f1eb436ec980127843a1294853b078ed544bf18accd777dbaf504b98ffa"},
		"PCR2": {i.PCR2, "79f4bf33e50b18253fd3c1feb96a1a12e8d5cde87ec80656dd82d8fb748e0de1caed1318aa2e3c2944d810f3e51a5917"},
		"PCR8": {i.PCR8, "736d81e67d9c25b9667a32c3c417a49ad42d1c5244f82cbcf3620fe73637900cb928fb808a2e47be38fd55f0728f6c01"},
		// (head -c 48 /dev/zero; printf arn:aws:iam::123456789012:role/orders) | sha384sum
		"PCR3": {RolePCR("arn:aws:iam::123456789012:role/orders"), "1abe9528ea89e025310c497f698de754557923cfa6c9df592e8c3ea0bd0bef1632578d5882eeca89ecfb259c24d7dd6a"},
	} {
		if got := hex.EncodeToString(c.got); got != c.want {
			t.Errorf("%s is %s, want %s", name, got, c.want)
		}
	}
}

func TestImagesOfDifferentNamesShareTheirKernelOnly(t *testing.T) {
	a, b := ImageFromSeed("orders"), ImageFromSeed("inventory")
	if bytes.Equal(a.PCR0, b.PCR0) || bytes.Equal(a.PCR2, b.PCR2) || bytes.Equal(a.PCR8, b.PCR8) || !bytes.Equal(a.PCR1, b.PCR1) {
		t.Error("PCR0, PCR2 and PCR8 should differ, PCR1 should not")
	}
}

func TestTheRegistersOfALaunchAreTheCallersOwn(t *testing.T) {
	l := Launch{Image: ImageFromSeed("orders")}
	l.PCRs()[0][0] ^= 1
	if !bytes.Equal(l.PCRs()[0], l.Image.PCR0) || !bytes.Equal(l.Image.PCR0, ImageFromSeed("orders").PCR0) {
		t.Error("changing the registers of one call changes those of the next, or the image")
	}
}
