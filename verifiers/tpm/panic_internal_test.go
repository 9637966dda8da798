package tpm

import (
	"testing"

	"github.com/assay-project/assay/attest"
)

func TestAPanicOfALibraryIsAMalformedError(t *testing.T) {
	v, err := New(HardwareRoots())
	if err != nil {
		t.Fatal(err)
	}
	err = v.guard(func() error { panic("a library's") })
	if attest.KindOf(err) != attest.Malformed || attest.CheckOf(err) != CheckPanic {
		t.Errorf("%v", err)
	}
	if n := v.CacheStats().Panics; n != 1 {
		t.Errorf("%d panics counted", n)
	}
}
