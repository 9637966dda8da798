package main

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/virtee/sev-snp-measure-go/cpuid"
	"github.com/virtee/sev-snp-measure-go/gctx"
	"github.com/virtee/sev-snp-measure-go/vmmtypes"
	"github.com/virtee/sev-snp-measure-go/vmsa"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
)

// The MEASUREMENT of a guest is a chain: for each page that the host gives to the
// guest before it starts, in the order in which it gives them, SHA-384 over the
// digest so far and a PAGE_INFO (AMD 56860, section 8.17.2). In that order come
//
//  1. the firmware's pages
//  2. the pages that the firmware's metadata names: zeros, secrets, CPUID, and,
//     where it has them, the hashes of kernel, initrd and command line
//  3. one page of registers (VMSA) for each virtual CPU
//
// Pages and registers are computed by github.com/virtee/sev-snp-measure-go. What
// the library leaves out is done here: it parses an image without looking at
// lengths (and panics), knows no kernel hashes and no SVSM calling area, takes an
// unknown type of CPU for 0 and prints a line about it, and leaves the FPU's
// control words zero, which Linux has put into the VMSA since 6.11.

// Who launches a guest, and with which registers.
const (
	vmmQEMU       = "qemu"        // QEMU with Linux 6.11 or newer
	vmmQEMULegacy = "qemu-legacy" // QEMU with an SNP kernel before that
	vmmEC2        = "ec2"
)

func vmms() []string { return []string{vmmQEMU, vmmQEMULegacy, vmmEC2} }

const (
	maxVCPUs   = 4096
	maxKernel  = 4 << 30
	maxAppend  = 64 << 10
	fpuControl = 0x37f  // x87 FCW after reset
	fpuMXCSR   = 0x1f80 // MXCSR after reset
)

// snpLaunch is what a guest is launched with.
type snpLaunch struct {
	ovmf, kernel, initrd string  // files; "" = none
	append               *string // nil = not given
	vcpus                int
	vcpuType             string
	features             uint64
	vmm                  string
}

// measure reads the files and computes. Mistakes in flags and files of the
// user's are usage errors.
func (l snpLaunch) measure(c *cobra.Command) (*snpMeasured, error) {
	if err := l.validate(); err != nil {
		return nil, err
	}
	m := &snpMeasured{
		TEE: attest.AMDSEVSNP, VMM: l.vmm, VCPUs: l.vcpus, GuestFeatures: fmt.Sprintf("%#x", l.features), Append: l.append,
	}
	var signature uint64
	if l.vcpuType != "" {
		sig, err := vcpuSignature(l.vcpuType)
		if err != nil {
			return nil, err
		}
		text := fmt.Sprintf("%#x", sig)
		signature, m.VCPUType, m.VCPUSignature = sig, &l.vcpuType, &text
	}
	image, err := readFirmware(c, l.ovmf)
	if err != nil {
		return nil, err
	}
	m.OVMF = measured(l.ovmf, image.data)
	if l.kernel != "" && !image.checksHashes() {
		return nil, cli.Usagef("leave --kernel, --initrd and --append out: with this firmware they are not measured. OVMF's AmdSev build checks them",
			"--ovmf %s: this firmware does not check the hashes of a kernel", l.ovmf)
	}
	if l.vcpus > 1 && image.resetEIP == 0 {
		return nil, cli.Usagef("", "--ovmf %s: its reset block does not say where a second virtual CPU begins", l.ovmf)
	}
	var page []byte
	if l.kernel != "" {
		k, err := hashFile(l.kernel)
		if err != nil {
			return nil, err
		}
		m.Kernel = k
		initrd := sha256.Sum256(nil)
		if l.initrd != "" {
			if m.Initrd, err = hashFile(l.initrd); err != nil {
				return nil, err
			}
			initrd = [sha256.Size]byte(m.Initrd.SHA256)
		}
		line := ""
		if l.append != nil {
			line = *l.append
		}
		if page, err = hashPage(image.hashTable, [sha256.Size]byte(k.SHA256), initrd, sha256.Sum256([]byte(line+"\x00"))); err != nil {
			return nil, cli.Usagef("", "--ovmf %s: %w", l.ovmf, err)
		}
	}
	if m.Measurement, err = launchDigest(image, launchInputs{page, l.vcpus, signature, l.features, l.vmm}); err != nil {
		return nil, err
	}
	return m, nil
}

func (l snpLaunch) validate() error {
	switch {
	case l.vcpus < 1 || l.vcpus > maxVCPUs:
		return cli.Usagef("", "--vcpus %d: want 1 to %d", l.vcpus, maxVCPUs)
	case !slices.Contains(vmms(), l.vmm):
		return cli.Usagef("want one of "+strings.Join(vmms(), ", "), "--vmm %q is not known", l.vmm)
	case l.vcpuType == "" && l.vmm != vmmEC2:
		return cli.Usagef("QEMU's name, as in -cpu EPYC-Genoa; one of "+strings.Join(vcpuTypes(), ", "), "--vcpu-type is needed: it is measured")
	case l.vcpuType != "" && l.vmm == vmmEC2:
		return cli.Usagef("leave --vcpu-type out", "--vcpu-type: on EC2 the type of the virtual CPU is not measured")
	case l.kernel == "" && (l.initrd != "" || l.append != nil):
		return cli.Usagef("the firmware checks all three or none", "--initrd and --append need --kernel")
	case l.kernel != "" && l.vmm == vmmEC2:
		return cli.Usagef("leave --kernel, --initrd and --append out", "--kernel: EC2 boots from a disk and measures no kernel")
	case l.append != nil && (strings.ContainsRune(*l.append, 0) || len(*l.append) > maxAppend):
		return cli.Usagef("", "--append: want at most %d bytes, none of them zero", maxAppend)
	}
	return nil
}

// launchDigest computes the MEASUREMENT.
func launchDigest(f *firmware, in launchInputs) (digest []byte, err error) {
	defer func() {
		if r := recover(); r != nil {
			digest, err = nil, fmt.Errorf("the measuring library failed: %v", r)
		}
	}()
	g := gctx.New(nil)
	if err := g.UpdateNormalPages(f.gpa(), f.data); err != nil {
		return nil, err
	}
	return launchRest(g.LD(), f, in)
}

// launchInputs are what is measured beside the firmware.
type launchInputs struct {
	hashes    []byte // the page with the hashes of kernel, initrd and command line, or nil
	vcpus     int
	signature uint64 // of the virtual CPU
	features  uint64
	vmm       string
}

// launchRest goes on from the digest of the firmware's pages.
func launchRest(soFar []byte, f *firmware, in launchInputs) ([]byte, error) {
	g := gctx.New(soFar)
	// EC2 gives the CPUID page after all others.
	late := func(s section) bool { return in.vmm == vmmEC2 && s.kind == sectionCPUID }
	for _, pass := range []bool{false, true} {
		for _, s := range f.sections {
			if late(s) != pass {
				continue
			}
			if err := addSection(g, s, in.hashes); err != nil {
				return nil, err
			}
		}
	}
	kind := vmmtypes.QEMU
	if in.vmm == vmmEC2 {
		kind = vmmtypes.EC2
	}
	registers, err := vmsa.New(f.resetEIP, in.features, in.signature, kind)
	if err != nil {
		return nil, err
	}
	if in.vmm == vmmQEMU {
		for _, area := range []*vmsa.SevEsSaveArea{&registers.BspSaveArea, &registers.ApSaveArea} {
			area.Mxcsr, area.X87Fcw = fpuMXCSR, fpuControl
		}
	}
	pages, err := registers.Pages(in.vcpus)
	if err != nil {
		return nil, err
	}
	for _, p := range pages {
		if err := g.UpdateVmsaPage(p); err != nil {
			return nil, err
		}
	}
	return g.LD(), nil
}

func addSection(g *gctx.GCTX, s section, hashes []byte) error {
	gpa := uint64(s.gpa)
	switch s.kind {
	case sectionSecrets:
		return g.UpdateSecretsPage(gpa)
	case sectionCPUID:
		return g.UpdateCpuidPage(gpa)
	case sectionKernelHashes:
		if hashes != nil {
			return g.UpdateNormalPages(gpa, hashes)
		}
	case sectionMemory, sectionCallingArea:
	default:
		return fmt.Errorf("section type %d", s.kind) // parseFirmware knows them all
	}
	return g.UpdateZeroPages(gpa, int(s.size))
}

// GUIDs of QEMU's table of hashes (target/i386/sev.c), in the order of their
// bytes.
const (
	guidHashes     = "06d63894224fc94cb479a793d411fd21"
	guidHashAppend = "d82dd09720bd944caa78e7714d36ab2a"
	guidHashInitrd = "31f7ba442f3ad74b9af141e29169781d"
	guidHashKernel = "3794e74dd2ab7f42b835d5b172d2045b"
)

// hashPage is the page in which QEMU hands the hashes to the firmware: zeros but
// for a table at the offset that the firmware asks for. The table is a GUID, its
// length (uint16, little-endian), and three entries of GUID, length and SHA-256;
// zeros make it a multiple of 16.
func hashPage(at uint32, kernel, initrd, line [sha256.Size]byte) (page []byte, err error) {
	var entries []byte
	for _, e := range []struct {
		guid string
		sum  [sha256.Size]byte
	}{{guidHashAppend, line}, {guidHashInitrd, initrd}, {guidHashKernel, kernel}} {
		if entries, err = appendEntry(entries, e.guid, e.sum[:]); err != nil {
			return nil, err
		}
	}
	table, err := appendEntry(nil, guidHashes, entries)
	if err != nil {
		return nil, err
	}
	for len(table)%16 != 0 {
		table = append(table, 0)
	}
	offset := int(at % ovmfPage)
	if offset+len(table) > ovmfPage {
		return nil, errors.New("the table of hashes does not fit into its page")
	}
	page = make([]byte, ovmfPage)
	copy(page[offset:], table)
	return page, nil
}

// appendEntry appends a GUID, the entry's length and its content.
func appendEntry(b []byte, guid string, content []byte) ([]byte, error) {
	id, err := hex.DecodeString(guid)
	if err != nil {
		return nil, err
	}
	b = append(b, id...)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(id)+2+len(content)))
	return append(b, content...), nil
}

// vcpuTypes lists QEMU's types of virtual CPU, without versions.
func vcpuTypes() []string {
	var out []string
	for name := range maps.Keys(cpuid.CpuSigs) {
		if !vcpuVersion.MatchString(name) {
			out = append(out, name)
		}
	}
	out = append(out, vcpuTurin)
	slices.Sort(out)
	return slices.Compact(out)
}

// vcpuVersion is what QEMU puts behind a type's name; a version changes which
// features a guest sees, and never family, model or stepping.
var vcpuVersion = regexp.MustCompile(`-v[1-9][0-9]?$`)

// EPYC-Turin is family 26, model 0, stepping 0; the library does not know it.
const (
	vcpuTurin          = "EPYC-Turin"
	vcpuTurinSignature = 0xb00f00
)

// vcpuSignature is CPUID leaf 1 EAX of a type of virtual CPU.
func vcpuSignature(name string) (uint64, error) {
	base := vcpuVersion.ReplaceAllString(name, "")
	if base == vcpuTurin {
		return vcpuTurinSignature, nil
	}
	sig, ok := cpuid.CpuSigs[base]
	if !ok || sig <= 0 {
		return 0, cli.Usagef("QEMU's name, as in -cpu EPYC-Genoa; one of "+strings.Join(vcpuTypes(), ", "), "--vcpu-type %q is not known", name)
	}
	return uint64(sig), nil
}

func readFirmware(c *cobra.Command, name string) (*firmware, error) {
	var r io.Reader
	if name == "-" {
		r = c.InOrStdin()
	} else {
		f, err := os.Open(name)
		if err != nil {
			return nil, cli.Usagef(fileHint(err), "--ovmf %s", clean(err))
		}
		defer func() { _ = f.Close() }() // only read
		r = f
	}
	b, err := io.ReadAll(io.LimitReader(r, ovmfMaxSize+1))
	if err != nil {
		return nil, cli.Usagef("", "--ovmf %s", clean(err))
	}
	f, err := parseFirmware(b)
	if err != nil {
		return nil, cli.Usagef("give the firmware that the guest is launched with: an OVMF image for SEV-SNP", "--ovmf %s: %w", name, err)
	}
	return f, nil
}

func measured(name string, content []byte) measuredFile {
	sum := sha256.Sum256(content)
	return measuredFile{Name: filepath.Base(name), Size: int64(len(content)), SHA256: sum[:]}
}

// hashFile hashes a file that may be too large to hold.
func hashFile(name string) (*measuredFile, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, cli.Usagef(fileHint(err), "%s", clean(err))
	}
	defer func() { _ = f.Close() }() // only read
	h := sha256.New()
	n, err := io.Copy(h, io.LimitReader(f, maxKernel+1))
	switch {
	case err != nil:
		return nil, cli.Usagef("", "%s", clean(err))
	case n > maxKernel:
		return nil, cli.Usagef("", "%s: more than %d GiB", name, maxKernel>>30)
	}
	return &measuredFile{Name: filepath.Base(name), Size: n, SHA256: h.Sum(nil)}, nil
}
