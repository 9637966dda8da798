package svid

import (
	"encoding/hex"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"
)

func TestOnlyDeterministicCBORIsRead(t *testing.T) {
	for _, s := range []string{
		"00", "17", "1818", "190100", "1a00010000", "1b0000000100000000", "20", "3818",
		"40", "4161", "60", "6161", "80", "8101", "a0", "a101a1613100", "a1616100", "a10102", "a2010203f5", "a2010220f4", "f4", "f5",
	} {
		if err := deterministic(unhex(t, s)); err != nil {
			t.Errorf("%s: %v", s, err)
		}
	}
	for s, why := range map[string]string{
		"":                   "empty",
		"0000":               "trailing byte",
		"1817":               "23 in two bytes",
		"1900ff":             "255 in three bytes",
		"1a0000ffff":         "65535 in five bytes",
		"1b00000000ffffffff": "2^32-1 in nine bytes",
		"18":                 "cut short",
		"1c":                 "reserved head",
		"4261":               "string cut short",
		"5b7fffffffffffffff": "a string longer than memory",
		"9bffffffffffffffff": "an array longer than memory",
		"bbffffffffffffffff": "a map longer than memory",
		"61ff":               "not UTF-8",
		"5f4161ff":           "indefinite bytes",
		"7f6161ff":           "indefinite text",
		"9f01ff":             "indefinite array",
		"bf0102ff":           "indefinite map",
		"a201020102":         "a key twice",
		"a202020102":         "keys out of order",
		"a1613100":           "the label 1 in text",
		"a20100613200":       "the label 2 in text, beside a label",
		"a101a20100613200":   "the same, further in",
		"a201006231300a":     "cut short",
		"a220020102":         "keys out of order, negative first",
		"a101":               "no value",
		"c000":               "a tag",
		"f6":                 "null",
		"f7":                 "undefined",
		"f0":                 "an unassigned simple value",
		"f820":               "a simple value in two bytes",
		"f93c00":             "a float",
		"fb3ff0000000000000": "a double",
		"ff":                 "a break",
	} {
		if err := deterministic(unhex(t, s)); err == nil {
			t.Errorf("%s, %s: accepted", s, why)
		}
	}
	deep := strings.Repeat("81", maxDepth)
	if err := deterministic(unhex(t, deep+"01")); err != nil {
		t.Error(err)
	}
	if err := deterministic(unhex(t, deep+"8101")); err == nil {
		t.Error("nested too deep, and accepted")
	}
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// FuzzDeterministic holds our check against the library: whatever passes is
// what the library's deterministic encoder makes of the value.
func FuzzDeterministic(f *testing.F) {
	for _, s := range []string{"a10102", "8101", "6161", "1b0000000100000000", "a2010220f4", "f5"} {
		b, err := hex.DecodeString(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	dec, err := cbor.DecOptions{MaxNestedLevels: 16, IntDec: cbor.IntDecConvertNone, DefaultByteStringType: nil}.DecMode()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if deterministic(b) != nil {
			return
		}
		var v any
		if err := dec.Unmarshal(b, &v); err != nil {
			return // a key of a type that Go has no map for
		}
		again, err := encMode.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if string(again) != string(b) {
			t.Fatalf("%x passes, and is encoded as %x", b, again)
		}
	})
}
