package svid

import (
	"encoding/json"
	"testing"
)

func TestTiersAreOrderedByTrust(t *testing.T) {
	order := []Tier{Contraindicated, None, Warning, Affirming}
	for i, a := range order {
		for j, b := range order {
			if got := a.AtLeast(b); got != (i >= j) {
				t.Errorf("%s at least %s: %t", a, b, got)
			}
		}
	}
	for _, odd := range []Tier{1, 3, 97, 255} {
		if odd.AtLeast(Contraindicated) || Affirming.AtLeast(odd) {
			t.Errorf("%s is compared with a tier", odd)
		}
	}
}

func TestEveryClaimValueHasTheTierOfItsRange(t *testing.T) {
	for c := -128; c <= 127; c++ {
		want := None
		switch {
		case c >= 2 && c <= 31, c <= -2 && c >= -32:
			want = Affirming
		case c >= 32 && c <= 95, c <= -33 && c >= -96:
			want = Warning
		case c >= 96, c <= -97:
			want = Contraindicated
		}
		if got := Claim(c).Tier(); got != want {
			t.Errorf("%d: %s, want %s", c, got, want)
		}
	}
}

func TestNamesReadBack(t *testing.T) {
	for _, want := range []Tier{None, Affirming, Warning, Contraindicated} {
		b, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		var got Tier
		if err := json.Unmarshal(b, &got); err != nil || got != want {
			t.Errorf("%s: %s, %v", b, got, err)
		}
	}
	want := Vector{1, -1, 127, -128, 2, -2, 96, 32}
	b, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got Vector
	if err := json.Unmarshal(b, &got); err != nil || got != want {
		t.Errorf("%s: %v, %v", b, got, err)
	}
	for _, bad := range []string{`{"hardwear":2}`, `{"hardware":128}`, `[2]`} {
		if json.Unmarshal([]byte(bad), &got) == nil {
			t.Errorf("%s was read", bad)
		}
	}
	var tier Tier
	if json.Unmarshal([]byte(`"fine"`), &tier) == nil {
		t.Error("an unknown tier was read")
	}
	if Aspect(8).String() != "aspect(8)" || Aspect(-1).String() != "aspect(-1)" || Hardware.String() != "hardware" || Tier(7).String() != "tier(7)" {
		t.Error("names")
	}
}
