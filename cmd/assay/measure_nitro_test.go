package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
	simnitro "github.com/assay-project/assay/simulators/nitro"
)

// imageFixtures writes enclave images: app.eif, signed.eif, and damaged.eif.
func imageFixtures(t *testing.T, dir string) {
	t.Helper()
	f := simnitro.ImageFileFromSeed("app")
	plain, err := f.Encode()
	check(t, err)
	f.Key, f.Certificate, err = simnitro.OpenSigner(filepath.Join(t.TempDir(), "signer"), "releases", fixtureTime, fixtureTime.AddDate(1, 0, 0))
	check(t, err)
	signed, err := f.Encode()
	check(t, err)
	damaged := append([]byte{}, plain...)
	damaged[len(damaged)-1] ^= 1
	for name, b := range map[string][]byte{"app.eif": plain, "signed.eif": signed, "damaged.eif": damaged} {
		check(t, os.WriteFile(filepath.Join(dir, name), b, 0o600))
	}
}

// The simulated enclave is launched from the file that the command measures, and
// measures it by code of its own.
func TestAnEnclaveReportsWhatItsImageFileMeasures(t *testing.T) {
	dir := t.TempDir()
	imageFixtures(t, dir)
	for _, name := range []string{"app.eif", "signed.eif"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		check(t, err)
		f, err := simnitro.ReadImageFile(b)
		check(t, err)
		want := map[string]attest.Bytes{}
		for i, v := range (simnitro.Launch{Image: f.Image()}).PCRs() {
			if key := map[int]string{0: "pcr0", 1: "pcr1", 2: "pcr2", 8: "pcr8"}[i]; key != "" && (i != 8 || f.Certificate != nil) {
				want[key] = v
			}
		}
		got := assay(t, nil, "measure", "nitro", filepath.Join(dir, name), "--output", "json")
		var m nitroMeasured
		got.decode(t, &m)
		if got.code != cli.OK {
			t.Fatalf("%s: exit code %d: %s", name, got.code, got.stderr)
		}
		if diff := cmp.Diff(want, m.Measurements); diff != "" {
			t.Errorf("%s (-enclave +measured):\n%s", name, diff)
		}
	}
}
