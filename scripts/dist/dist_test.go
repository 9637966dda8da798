package main

import (
	"bytes"
	"debug/buildinfo"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

func newRelease(t *testing.T) *release {
	t.Helper()
	r := &release{source: "../..", out: t.TempDir(), work: t.TempDir(), version: "1.2.0", at: time.Unix(1_795_333_987, 0).UTC()}
	for _, b := range binaries {
		// Any Go binary will do: the test's own.
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		body, err := os.ReadFile(self)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(r.work, b), body, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// What is written knows nothing of when, where and by whom.
func TestTarballBillAndSumsAreTheSameTwice(t *testing.T) {
	var before map[string][]byte
	for range 2 {
		r := newRelease(t)
		if err := r.tarball("amd64", r.work); err != nil {
			t.Fatal(err)
		}
		if err := r.billOfMaterials("amd64", r.work); err != nil {
			t.Fatal(err)
		}
		if err := r.sums(); err != nil {
			t.Fatal(err)
		}
		all := map[string][]byte{}
		for _, name := range []string{"assay-1.2.0-linux-amd64.tar.gz", "assay-1.2.0-linux-amd64.cdx.json", "SHA256SUMS"} {
			b, err := os.ReadFile(filepath.Join(r.out, name))
			if err != nil {
				t.Fatal(err)
			}
			if before != nil && !bytes.Equal(b, before[name]) {
				t.Errorf("%s is another one the second time", name)
			}
			all[name] = b
		}
		before = all
	}
	home, err := os.UserHomeDir()
	if err != nil {
		t.Fatal(err)
	}
	for _, leak := range []string{os.TempDir() + "/", home + "/"} {
		if bytes.Contains(before["assay-1.2.0-linux-amd64.cdx.json"], []byte(leak)) {
			t.Errorf("the bill of materials names a path below %s", leak)
		}
	}
}

func TestTheBillOfMaterialsListsWhatTheLinkerPutIn(t *testing.T) {
	r := newRelease(t)
	if err := r.billOfMaterials("amd64", r.work); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(filepath.Join(r.out, "assay-1.2.0-linux-amd64.cdx.json"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	var b cdx.BOM
	if err := cdx.NewBOMDecoder(f, cdx.BOMFileFormatJSON).Decode(&b); err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	for _, c := range *b.Components {
		listed[c.BOMRef] = true
	}
	info, err := buildinfo.ReadFile(filepath.Join(r.work, "assayd"))
	if err != nil {
		t.Fatal(err)
	}
	if len(info.Deps) == 0 {
		t.Fatal("the test links no module")
	}
	for _, m := range info.Deps {
		if !listed["pkg:golang/"+m.Path+"@"+m.Version] {
			t.Errorf("%s %s is not listed", m.Path, m.Version)
		}
	}
	for _, d := range *b.Dependencies {
		for _, on := range *d.Dependencies {
			if !listed[on] {
				t.Errorf("%s depends on %s, which is not listed", d.Ref, on)
			}
		}
	}
	if !strings.HasPrefix(b.SerialNumber, "urn:uuid:") || b.Metadata.Timestamp != "2026-11-22T07:53:07Z" {
		t.Errorf("serial %s, time %s", b.SerialNumber, b.Metadata.Timestamp)
	}
}

func TestAPackageIsTheSameUnderAnyUmaskAndBelongsToRoot(t *testing.T) {
	if _, err := exec.LookPath("dpkg-deb"); err != nil {
		t.Skip("dpkg-deb is not here: packages are not made on this machine")
	}
	r := newRelease(t)
	d := debian{name: "assay-test", summary: "a test", description: "Nothing.", depends: "assay-common (= 1.2.0)", units: []string{"assayd.service"}, files: []file{
		{name: "usr/bin/tool", body: []byte("#!/bin/sh\n"), mode: 0o755}, {name: "usr/share/doc/tool/README", body: []byte("read"), mode: 0o644},
	}}
	var first []byte
	for range 2 {
		if err := r.deb(d, "arm64"); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(r.out, "assay-test_1.2.0_arm64.deb")
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if first != nil && !bytes.Equal(first, b) {
			t.Error("the package is another one the second time")
		}
		first = b
		out, err := exec.Command("dpkg-deb", "--contents", path).CombinedOutput()
		if err != nil || !strings.Contains(string(out), "-rwxr-xr-x root/root") || strings.Contains(string(out), "rw-rw") {
			t.Errorf("contents: %v\n%s", err, out)
		}
		fields, err := exec.Command("dpkg-deb", "--field", path, "Package", "Version", "Architecture", "Depends").CombinedOutput()
		if err != nil || !strings.Contains(string(fields), "Architecture: arm64") || !strings.Contains(string(fields), "assay-common (= 1.2.0)") {
			t.Errorf("fields: %v\n%s", err, fields)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

func TestOnlyVersionsThatDpkgUnderstandsAreTaken(t *testing.T) {
	for v, want := range map[string]bool{"1.2.0": true, "0~20261122080000.abcdef123456": true, "v1": false, "": false, "1/2": false, "1 2": false, "1_2": false} {
		if versions.MatchString(v) != want {
			t.Errorf("%q is a version: %t", v, !want)
		}
	}
}
