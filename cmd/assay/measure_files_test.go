package main

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/virtee/sev-snp-measure-go/guest"
	"github.com/virtee/sev-snp-measure-go/ovmf"
	"github.com/virtee/sev-snp-measure-go/vmmtypes"

	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/policy"
)

// Where the library can measure an image at all, it says the same.
func TestTheMeasurementIsThatOfTheLibraryWhereItCanTell(t *testing.T) {
	for n := 1; n <= 2; n++ {
		file := ec2Image(t, n)
		image, err := ovmf.New(file)
		check(t, err)
		pages, err := guest.OVMFHash(image)
		check(t, err)
		b, err := os.ReadFile(file)
		check(t, err)
		f, err := parseFirmware(b)
		check(t, err)
		for vmm, kind := range map[string]vmmtypes.VMMType{vmmEC2: vmmtypes.EC2, vmmQEMULegacy: vmmtypes.QEMU} {
			for _, vcpus := range []int{1, 2, 7} {
				for _, features := range []uint64{1, 0x21} {
					want, err := guest.LaunchDigestFromOVMF(image, features, vcpus, slices.Clone(pages), kind, "EPYC-Milan")
					check(t, err)
					sig, err := vcpuSignature("EPYC-Milan")
					check(t, err)
					got, err := launchDigest(f, launchInputs{vcpus: vcpus, signature: sig, features: features, vmm: vmm})
					check(t, err)
					if !bytes.Equal(got, want) {
						t.Errorf("image %d, %s, %d vCPUs, features %#x: %x, the library says %x", n, vmm, vcpus, features, got, want)
					}
				}
			}
		}
	}
}

// buildImage makes the smallest image with f's layout.
func buildImage(t testing.TB, f *firmware) []byte {
	t.Helper()
	image := bytes.Repeat([]byte{0x90}, 2*ovmfPage)
	le := binary.LittleEndian
	meta := []byte(sevMetadataMagic)
	meta = le.AppendUint32(meta, uint32(sevMetadataHeader+len(f.sections)*sevSectionSize))
	meta = le.AppendUint32(meta, 1)
	meta = le.AppendUint32(meta, uint32(len(f.sections)))
	for _, s := range f.sections {
		meta = le.AppendUint32(le.AppendUint32(le.AppendUint32(meta, s.gpa), s.size), s.kind)
	}
	copy(image[ovmfPage:], meta)
	// An entry of the footer is its content and then its header.
	entry := func(guid string, content []byte) []byte {
		id, err := hex.DecodeString(guid)
		check(t, err)
		return append(le.AppendUint16(slices.Clone(content), uint16(len(content)+ovmfEntryHeader)), id...)
	}
	word := func(n uint32) []byte { return le.AppendUint32(nil, n) }
	table := slices.Concat(entry(guidHashTable, append(word(f.hashTable), word(0x400)...)), entry(guidResetBlock, word(f.resetEIP)), entry(guidSEVMetadata, word(ovmfPage)))
	footer := entry(guidOVMFFooter, nil)
	le.PutUint16(footer, uint16(len(table)+ovmfEntryHeader))
	table = append(table, footer...)
	copy(image[len(image)-ovmfTail-len(table):], table)
	return image
}

func TestAnImageReadsAsItWasBuilt(t *testing.T) {
	want := snpAmdSev()
	got, err := parseFirmware(buildImage(t, want))
	check(t, err)
	if got.resetEIP != want.resetEIP || got.hashTable != want.hashTable || !slices.Equal(got.sections, want.sections) || !got.checksHashes() {
		t.Errorf("%+v", got)
	}
}

// Each of these images is wrong in one way, and the error says which.
func TestAnImageThatIsNotRightIsRefusedAndSaysWhy(t *testing.T) {
	good := buildImage(t, snpAmdSev())
	end := len(good) - ovmfTail
	change := func(f func(b []byte) []byte) []byte { return f(slices.Clone(good)) }
	put := func(at int, n uint32) []byte {
		return change(func(b []byte) []byte { binary.LittleEndian.PutUint32(b[at:], n); return b })
	}
	sectionAt := func(i, field int) int { return ovmfPage + sevMetadataHeader + i*sevSectionSize + 4*field }
	without := func(guid string) []byte {
		return change(func(b []byte) []byte {
			id, err := hex.DecodeString(guid)
			check(t, err)
			i := bytes.LastIndex(b, id)
			b[i]++
			return b
		})
	}
	for name, c := range map[string]struct {
		image []byte
		says  string
	}{
		"empty":                    {nil, "not a multiple of 4096"},
		"cut":                      {good[1:], "not a multiple of 4096"},
		"no footer":                {without(guidOVMFFooter), "does not end in OVMF's table"},
		"table too long":           {change(func(b []byte) []byte { binary.LittleEndian.PutUint16(b[end-18:], 0xffff); return b }), "longer than itself"},
		"table too short":          {change(func(b []byte) []byte { binary.LittleEndian.PutUint16(b[end-18:], 3); return b }), "longer than itself"},
		"entry too short":          {change(func(b []byte) []byte { binary.LittleEndian.PutUint16(b[end-36:], 17); return b }), "impossible length"},
		"entry too long":           {change(func(b []byte) []byte { binary.LittleEndian.PutUint16(b[end-36:], 900); return b }), "impossible length"},
		"entry cut":                {change(func(b []byte) []byte { binary.LittleEndian.PutUint16(b[end-18:], 18+22+5); return b }), "cut short"},
		"no reset block":           {without(guidResetBlock), "no SEV-ES reset block"},
		"no metadata":              {without(guidSEVMetadata), "no SEV metadata"},
		"metadata before image":    {put(end-40, 1<<20), "outside the image"},
		"metadata behind image":    {put(end-40, 8), "outside the image"},
		"metadata magic":           {put(ovmfPage, 0), "does not begin with ASEV"},
		"metadata version":         {put(ovmfPage+8, 2), "version 2, want 1"},
		"no sections":              {put(ovmfPage+12, 0), "0 sections"},
		"too many sections":        {put(ovmfPage+12, 1<<31), "sections, want 1 to 64"},
		"sections without room":    {put(ovmfPage+4, 20), "do not hold"},
		"metadata larger than all": {put(ovmfPage+4, 1<<30), "do not hold"},
		"empty section":            {put(sectionAt(0, 1), 0), "whole pages"},
		"odd section":              {put(sectionAt(0, 1), 17), "whole pages"},
		"odd place":                {put(sectionAt(0, 0), 17), "whole pages"},
		"large CPUID":              {put(sectionAt(3, 1), 2*ovmfPage), "want one page"},
		"large hashes":             {put(sectionAt(4, 1), 2*ovmfPage), "have one page"},
		"two pages of hashes":      {put(sectionAt(3, 2), sectionKernelHashes), "have one page"},
		"unknown section":          {put(sectionAt(0, 2), 9), "type 9, which is not known"},
		"endless sections":         {put(sectionAt(0, 1), 0xfffff000), "larger than any firmware's"},
	} {
		_, err := parseFirmware(c.image)
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want an error that says %q", name, err, c.says)
		}
	}
}

func FuzzFirmware(f *testing.F) {
	f.Add(buildImage(f, snpAmdSev()))
	f.Fuzz(func(t *testing.T, b []byte) {
		image, err := parseFirmware(b)
		if err != nil {
			return
		}
		total := 0
		for _, s := range image.sections {
			total += int(s.size)
		}
		if total > 1<<18 {
			return // right, and slow
		}
		if d, err := launchDigest(image, launchInputs{vcpus: 1, features: 1, vmm: vmmQEMU}); err != nil || len(d) != 48 {
			t.Errorf("%x, %v", d, err)
		}
	})
}

func TestEachInputChangesTheMeasurement(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, b []byte) string {
		path := filepath.Join(dir, name)
		check(t, os.WriteFile(path, b, 0o600))
		return path
	}
	image := buildImage(t, snpAmdSev())
	other := slices.Clone(image)
	other[5] = 1
	fd, kernel, initrd := file("ovmf.fd", image), file("vmlinuz", []byte("kernel")), file("initrd", []byte("initrd"))
	seen := make(map[string]string)
	for _, args := range [][]string{
		{"--ovmf", fd, "--vcpus", "1", "--vcpu-type", "EPYC-v4"},
		{"--ovmf", file("other.fd", other), "--vcpus", "1", "--vcpu-type", "EPYC-v4"},
		{"--ovmf", fd, "--vcpus", "2", "--vcpu-type", "EPYC-v4"},
		{"--ovmf", fd, "--vcpus", "1", "--vcpu-type", "EPYC-Genoa"},
		{"--ovmf", fd, "--vcpus", "1", "--vcpu-type", "EPYC-Turin"},
		{"--ovmf", fd, "--vcpus", "1", "--vcpu-type", "EPYC-v4", "--guest-features", "21"},
		{"--ovmf", fd, "--vcpus", "1", "--vcpu-type", "EPYC-v4", "--vmm", "qemu-legacy"},
		{"--ovmf", fd, "--vcpus", "1", "--vmm", "ec2"},
		{"--ovmf", fd, "--vcpus", "1", "--vcpu-type", "EPYC-v4", "--kernel", kernel},
		{"--ovmf", fd, "--vcpus", "1", "--vcpu-type", "EPYC-v4", "--kernel", initrd},
		{"--ovmf", fd, "--vcpus", "1", "--vcpu-type", "EPYC-v4", "--kernel", kernel, "--initrd", initrd},
		{"--ovmf", fd, "--vcpus", "1", "--vcpu-type", "EPYC-v4", "--kernel", kernel, "--append", "quiet"},
	} {
		var m snpMeasured
		got := assay(t, nil, append([]string{"measure", "snp", "--output", "json"}, args...)...)
		got.decode(t, &m)
		text := strings.Join(args, " ")
		if got.code != cli.OK || len(m.Measurement) != 48 {
			t.Fatalf("%s: exit code %d\n%s", text, got.code, got.stderr)
		}
		if before, dup := seen[m.Measurement.String()]; dup {
			t.Errorf("the same measurement:\n%s\n%s", before, text)
		}
		seen[m.Measurement.String()] = text
	}
	// A version of a type has the type's signature; an empty command line is none.
	for _, args := range [][]string{
		{"--vcpu-type", "EPYC-v2"}, {"--vcpu-type", "EPYC"}, {"--vcpu-type", "EPYC-v4", "--guest-features", "0x1"},
	} {
		var m snpMeasured
		assay(t, image, append([]string{"measure", "snp", "--output", "json", "--ovmf", "-", "--vcpus", "1"}, args...)...).decode(t, &m)
		if _, ok := seen[m.Measurement.String()]; !ok {
			t.Errorf("%q is another measurement", args)
		}
	}
}

// What `--output policy` prints goes into a policy as it is.
func TestTheFragmentIsPolicy(t *testing.T) {
	fd := filepath.Join(t.TempDir(), `an "image".fd`)
	check(t, os.WriteFile(fd, buildImage(t, snpAmdSev()), 0o600))
	got := assay(t, nil, "measure", "snp", "--ovmf", fd, "--vcpus", "4", "--vcpu-type", "EPYC-Milan-v2", "--output", "policy", "--reference", "ledger-images")
	if got.code != cli.OK {
		t.Fatalf("exit code %d\n%s", got.code, got.stderr)
	}
	_, rule, ok := strings.Cut(got.stdout, "#     ")
	if !ok {
		t.Fatalf("no rule:\n%s", got.stdout)
	}
	b, err := policy.Parse("policy.yaml", []byte(`version: 1
bundle: prod
revision: 7
trust_domain: attested.example.org
`+got.stdout+`
workloads:
  - name: ledger
    tee: amd-sev-snp
    mode: audit
    match:
      `+rule+`
    issue:
      - spiffe_id: "spiffe://{td}/ledger"
`))
	if err != nil {
		t.Fatalf("%v\n%s", err, got.stdout)
	}
	if ws := b.Workloads(); len(ws) != 1 {
		t.Errorf("%+v", ws)
	}
}

// firmwareFixtures writes images that can be measured: ovmf.fd checks the hashes
// of a kernel, plain.fd does not.
func firmwareFixtures(t testing.TB, dir string) {
	t.Helper()
	f := snpAmdSev()
	check(t, os.WriteFile(filepath.Join(dir, "ovmf.fd"), buildImage(t, f), 0o600))
	f.sections[4].kind = sectionMemory
	check(t, os.WriteFile(filepath.Join(dir, "plain.fd"), buildImage(t, f), 0o600))
}
