package attest_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
)

func TestClaimsSurviveJSON(t *testing.T) {
	want := attest.Claims{
		Platform: attest.AWSNitro, Simulated: true,
		Nitro: &attest.Nitro{
			ModuleID:  "i-0123-enc4567",
			Timestamp: time.UnixMilli(1736179625472).UTC(),
			PCRs:      map[int]attest.Bytes{0: {0xab}, 31: {0x01, 0x02}},
			UserData:  attest.Bytes{}, // present and empty
			Nonce:     nil,            // absent
		},
	}
	b, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	const text = `{"platform":"aws-nitro","simulated":true,"nitro":{"module_id":"i-0123-enc4567","timestamp":"2025-01-06T16:07:05.472Z",` +
		`"pcrs":{"0":"ab","31":"0102"},"debug":false,"public_key":null,"user_data":"","nonce":null}}`
	if diff := cmp.Diff(text, string(b)); diff != "" {
		t.Errorf("JSON (-want +got):\n%s", diff)
	}
	var got attest.Claims
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("claims (-want +got):\n%s", diff)
	}
	if got.Nitro.UserData == nil || got.Nitro.Nonce != nil {
		t.Error("absent and empty were confused")
	}
}

func TestBytesAreHexAndNothingElse(t *testing.T) {
	for _, in := range []string{`"0"`, `"zz"`, `12`, `{}`, `"`, ``, `"ab`, `[1]`} {
		var b attest.Bytes
		if err := b.UnmarshalJSON([]byte(in)); err == nil {
			t.Errorf("%s was read as %v", in, b)
		}
	}
}

func FuzzBytes(f *testing.F) {
	f.Add([]byte(`"00ff"`))
	f.Add([]byte(`null`))
	f.Add([]byte(`"`))
	f.Fuzz(func(t *testing.T, in []byte) {
		var b attest.Bytes
		if b.UnmarshalJSON(in) != nil {
			return
		}
		out, err := b.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		var again attest.Bytes
		if err := again.UnmarshalJSON(out); err != nil || !cmp.Equal(again, b) {
			t.Fatalf("%q became %q", in, out)
		}
	})
}

func TestAnErrorKeepsItsKindAndCheckThroughWrapping(t *testing.T) {
	cause := errors.New("cause")
	err := fmt.Errorf("server: %w", &attest.Error{Kind: attest.Stale, Check: "timestamp_window", Err: cause, Expected: "5m", Got: "6m"})
	if attest.KindOf(err) != attest.Stale || attest.CheckOf(err) != "timestamp_window" || !errors.Is(err, cause) {
		t.Errorf("lost in wrapping: %v", err)
	}
	if want := "server: timestamp_window: cause (expected 5m, got 6m)"; err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
	if attest.KindOf(cause) != attest.Internal {
		t.Error("an unclassified error was not internal")
	}
}

func TestKindsReadBackAsTheyAreWritten(t *testing.T) {
	for k := attest.Internal; k <= attest.Unavailable; k++ {
		b, err := k.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		var got attest.Kind
		if err := got.UnmarshalText(b); err != nil || got != k {
			t.Errorf("%s: got %v, %v", b, got, err)
		}
	}
	var k attest.Kind
	if err := k.UnmarshalText([]byte("fine")); err == nil {
		t.Error("an unknown kind was read")
	}
	if s := attest.Kind(99).String(); s != "kind(99)" {
		t.Errorf("an unknown kind is written as %q", s)
	}
}

func TestAnInstanceNamesItsPlatform(t *testing.T) {
	c := attest.Claims{Platform: attest.AWSNitro, Nitro: &attest.Nitro{ModuleID: "i-1-enc2"}}
	if got := c.Instance(); got != "aws-nitro:i-1-enc2" {
		t.Errorf("got %q", got)
	}
	if (attest.Claims{}).Instance() != "" {
		t.Error("claims that nobody made have an instance")
	}
}
