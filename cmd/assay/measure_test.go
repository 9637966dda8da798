package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/internal/vectors"
)

// ec2Image is one of EC2's firmware images, which the library's module has as
// test data.
func ec2Image(t testing.TB, n int) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/virtee/sev-snp-measure-go").Output()
	check(t, err)
	return filepath.Join(strings.TrimSpace(string(out)), "guest", "testdata", fmt.Sprintf("ovmf_img_%d.bin", n))
}

// What the reference implementation (sev-snp-measure, in Python) gives for EC2's
// images with two virtual CPUs.
var ec2Measurements = map[int]string{
	1: "4c6e33087d08fa770259484dddbef367086a15c3e2cf10038dc97229d39c942671c2e22b300178f8de594a3f2fa59303",
	2: "c2c84b9364fc9f0f54b04534768c860c6e0e386ad98b96e8b98eca46ac8971d05c531ba48373f054c880cfd1f4a0a84e",
}

func TestTheMeasurementOfEC2sFirmwareIsThePublishedOne(t *testing.T) {
	for n, want := range ec2Measurements {
		got := assay(t, nil, "measure", "snp", "--vmm", "ec2", "--vcpus", "2", "--ovmf", ec2Image(t, n), "--output", "json")
		var m snpMeasured
		got.decode(t, &m)
		if got.code != cli.OK || m.Measurement.String() != want {
			t.Errorf("image %d: exit code %d, %s, want %s", n, got.code, m.Measurement, want)
		}
	}
}

// A report that an EC2 instance made carries the measurement of EC2's published
// firmware.
func TestTheMeasurementOfEC2sFirmwareIsInARecordedReport(t *testing.T) {
	for _, v := range vectors.Load(t, "sevsnp") {
		if v.Name != "sevsnp/constellation-vlek-altered-v2" {
			continue
		}
		var m snpManifest
		check(t, json.Unmarshal(v.Expect, &m))
		if m.Measurement.String() != ec2Measurements[2] {
			t.Errorf("%s, want %s", m.Measurement, ec2Measurements[2])
		}
		return
	}
	t.Fatal("the recording is gone")
}

// What the reference implementation gives for edk2's AmdSev build, from the
// digest of its pages on: its tests have these numbers, those for qemu since it
// follows Linux 6.11, with the layout of the build that snpAmdSev describes,
// EPYC-v4, and an empty kernel and initrd.
func TestKernelHashesAreMeasuredAsTheReferenceImplementationDoes(t *testing.T) {
	empty := sha256.Sum256(nil)
	page := func(line string) []byte {
		t.Helper()
		b, err := hashPage(snpAmdSev().hashTable, empty, empty, sha256.Sum256([]byte(line+"\x00")))
		check(t, err)
		return b
	}
	const (
		whole  = "cab7e085874b3acfdbe2d96dcaa3125111f00c35c6fc9708464c2ae74bfdb048a198cb9a9ccae0b3e5e1a33f5f249819"
		suffix = "edcf6d1c57ce868a167c990f58c8667c698269ef9e0803246419eea914186343054d557e1f17acd93b032c106bc70d25"
	)
	for _, c := range []struct {
		name, firmware string
		in             launchInputs
		want           string
	}{
		{"kernel", whole, launchInputs{hashes: page(""), vcpus: 1, features: 1, vmm: vmmQEMULegacy}, "db06fb267824b1ccb56edbe2a9c2ce88841bca5090dc6dac91d9cd30f3c2c0bf42daccb30d55d6625bfbf0dae5c50c6d"},
		{"command line", suffix, launchInputs{hashes: page("console=ttyS0 loglevel=7"), vcpus: 1, features: 1, vmm: vmmQEMULegacy}, "f07864303ad8243132029e8110b92805c78d1135a15da75f67abb9a711d78740347f24ee76f603e650ec4adf3611cc1e"},
		{"no kernel", suffix, launchInputs{vcpus: 1, features: 1, vmm: vmmQEMULegacy}, "e5e6be5a8fa6256f0245666bb237e2d028b7928148ce78d51b8a64dc9506c377709a5b5d7ab75554593bced304fcff93"},
		{"four virtual CPUs", suffix, launchInputs{hashes: page(""), vcpus: 4, features: 1, vmm: vmmQEMULegacy}, "1c784beb8c49aa604b7fd57fbc73b36ec53a3f5fb48a2b895ad6cc2ea15d18ee7cc15e3e57c792766b45f944c3e81cfe"},
		{"debug swap", suffix, launchInputs{hashes: page("console=ttyS0 loglevel=7"), vcpus: 1, features: 0x21, vmm: vmmQEMULegacy}, "314e4f0794187ffef05702a36546ea5fe02698041b7f7f17d9f418da2d5e4d5cff25256cef9d34888a0dd64dea438780"},
		{"Linux 6.11", whole, launchInputs{hashes: page(""), vcpus: 1, features: 1, vmm: vmmQEMU}, "3c018b826531c5f625f10004d51ee51ab5dbfaf1fdd79998ab649cff11b4afbdb2f50941d2a23b5d77fe00cf988242e7"},
		{"Linux 6.11, command line", suffix, launchInputs{hashes: page("console=ttyS0 loglevel=7"), vcpus: 1, features: 1, vmm: vmmQEMU}, "72b3f3c1ed0df9e5279eb2317a9861be3b878537e8513b318b49c1e184f6228e3ff367d133a8688f430e412ba66f558f"},
		{"Linux 6.11, debug swap", suffix, launchInputs{hashes: page("console=ttyS0 loglevel=7"), vcpus: 1, features: 0x21, vmm: vmmQEMU}, "2b9ca4d24c46845280fdca6f0ca0edf0f704bf179243e5c1b139acf3668ce7bc040e12d16b2ee8738aeaa39faddc8912"},
		{"EC2", suffix, launchInputs{hashes: page(""), vcpus: 1, features: 1, vmm: vmmEC2}, "760b6e51039d2d6c1fc6d38ca5c387967d158e0294883e4522c36f89bd61bfc9cdb975cd1ceedffbe1b23b1daf4e3f42"},
	} {
		seed, err := hex.DecodeString(c.firmware)
		check(t, err)
		sig, err := vcpuSignature("EPYC-v4")
		check(t, err)
		c.in.signature = sig
		got, err := launchRest(seed, snpAmdSev(), c.in)
		check(t, err)
		if hex.EncodeToString(got) != c.want {
			t.Errorf("%s: %x, want %s", c.name, got, c.want)
		}
	}
}

// snpAmdSev is the layout of edk2's AmdSev build.
func snpAmdSev() *firmware {
	return &firmware{resetEIP: 0x80b004, hashTable: 0x80fc00, sections: []section{
		{0x800000, 0x9000, sectionMemory}, {0x80a000, 0x3000, sectionMemory}, {0x80d000, 0x1000, sectionSecrets}, {0x80e000, 0x1000, sectionCPUID},
		{0x80f000, 0x1000, sectionKernelHashes}, {0x810000, 0x10000, sectionMemory},
	}}
}
