package vsock

import (
	"strings"
	"testing"
)

func TestAnAddressNamesAMachineAndAPort(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Address{
		"vsock:3:9443":                {3, 9443},
		"vsock:parent:9443":           {Parent, 9443},
		"vsock:host:1":                {Host, 1},
		"vsock:1:8443":                {Local, 8443},
		"vsock:4294967294:4294967294": {4294967294, 4294967294},
	} {
		got, ok, err := Parse(text)
		if err != nil || !ok || got != want {
			t.Errorf("%s: %+v %v %v, want %+v", text, got, ok, err, want)
		}
		if again, ok, err := Parse(got.String()); err != nil || !ok || again != got {
			t.Errorf("%s is not read as what it was: %+v %v %v", got, again, ok, err)
		}
	}
}

func TestAnAddressOfAnotherKindIsTheCallers(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "assay.example.org:8443", "127.0.0.1:8443", "[::1]:8443", "vsock", "VSOCK:3:9443", " vsock:3:9443", "unix:/run/vsock:3:9443"} {
		if a, ok, err := Parse(text); ok || err != nil || a != (Address{}) {
			t.Errorf("%q: %+v %v %v", text, a, ok, err)
		}
	}
}

func TestWhatIsMeantAsAVsockAddressAndIsNoneIsAnError(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"vsock:", "vsock:9443", "vsock:3", "vsock:3:", "vsock::9443", "vsock://3:9443", "vsock:3:9443:1", "vsock:3:9443/",
		"vsock:0:9443", "vsock:3:0", "vsock:4294967295:9443", "vsock:3:4294967295", "vsock:4294967296:9443", "vsock:3:4294967296",
		"vsock:-1:9443", "vsock:+3:9443", "vsock:03:9443", "vsock:3:09443", "vsock:0x3:9443", "vsock:3:1_000", "vsock: 3:9443", "vsock:3:9443 ", "vsock:3:9443\n",
		"vsock:Parent:9443", "vsock:local:9443", "vsock:³:9443", "vsock:3:" + strings.Repeat("9", 1<<16),
	} {
		a, ok, err := Parse(text)
		if !ok || err == nil || a != (Address{}) {
			t.Errorf("%.40q: %+v %v %v", text, a, ok, err)
			continue
		}
		if msg := err.Error(); !strings.Contains(msg, "vsock:parent:9443") || len(msg) > 200 {
			t.Errorf("%.40q: the error does not say what would be right, or is too long: %s", text, msg)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"vsock:3:9443", "vsock:parent:9443", "vsock:host:1", "vsock:0:0", "vsock:4294967295:1", "vsock:3:9443:", "localhost:8443"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, ok, err := Parse(s)
		if ok != strings.HasPrefix(s, Scheme) {
			t.Fatalf("%q: a vsock address is what begins with %s", s, Scheme)
		}
		if err != nil || !ok {
			if a != (Address{}) {
				t.Fatalf("%q: an address and no address: %+v %v", s, a, err)
			}
			return
		}
		// One text an address, but for the two words.
		numbers := strings.Replace(strings.Replace(s, "vsock:parent:", "vsock:3:", 1), "vsock:host:", "vsock:2:", 1)
		if a.String() != numbers || a.CID == 0 || a.Port == 0 || a.CID == wildcard || a.Port == wildcard {
			t.Fatalf("%q is %s", s, a)
		}
	})
}
