package sevsnp

import (
	"bytes"
	"testing"
)

// Whatever the extension: no panic, and every name lies in it.
func FuzzDistributionPoint(f *testing.F) {
	f.Add([]byte{0x30, 9, 0xa0, 7, 0xa0, 5, 0x86, 3, 'u', 'r', 'i'})
	f.Add([]byte{0x30, 3, 0x81, 1, 0xff})
	f.Add([]byte{0x30, 0})
	f.Fuzz(func(t *testing.T, der []byte) {
		points, err := distributionPoint(der)
		if err != nil && points != nil || err == nil && len(points) == 0 {
			t.Errorf("%q, %v", points, err)
		}
		for _, p := range points {
			if !bytes.Contains(der, []byte(p)) {
				t.Errorf("%q is not in it", p)
			}
		}
		_ = isCRL(der)
		if id, ok := twice(der); ok && len(id) == 0 {
			t.Error("an extension without identifier occurs twice")
		}
	})
}
