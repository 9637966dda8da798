package eventlog_test

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"slices"
	"testing"
	"unicode/utf16"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-eventlog/tcg"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifiers/tpm/eventlog"
)

// step is one event of a log in the making.
type step struct {
	pcr  uint32
	kind tcg.EventType
	data []byte
	// of is what is hashed, where that is not the data.
	of []byte
}

func hashOf(b []byte) []byte { h := sha256.Sum256(b); return h[:] }

func (s step) digest() []byte {
	switch {
	case s.kind == tcg.NoAction:
		return make([]byte, sha256.Size)
	case s.of != nil:
		return hashOf(s.of)
	}
	return hashOf(s.data)
}

func le16(v int) []byte { return binary.LittleEndian.AppendUint16(nil, uint16(v)) }
func le32(v int) []byte { return binary.LittleEndian.AppendUint32(nil, uint32(v)) }
func le64(v int) []byte { return binary.LittleEndian.AppendUint64(nil, uint64(v)) }

// header is the first event of a crypto-agile log with a SHA-256 bank.
func header(algorithms ...[2]int) []byte {
	if algorithms == nil {
		algorithms = [][2]int{{0x0b, 32}}
	}
	data := slices.Concat([]byte("Spec ID Event03\x00"), le32(0), []byte{0, 2, 0, 2}, le32(len(algorithms)))
	for _, a := range algorithms {
		data = slices.Concat(data, le16(a[0]), le16(a[1]))
	}
	return slices.Concat(le32(0), le32(3), make([]byte, 20), le32(len(data)+1), data, []byte{0})
}

func entry(s step) []byte {
	return slices.Concat(le32(int(s.pcr)), le32(int(s.kind)), le32(1), le16(0x0b), s.digest(), le32(len(s.data)), s.data)
}

func logOf(steps ...step) []byte {
	out := header()
	for _, s := range steps {
		out = append(out, entry(s)...)
	}
	return out
}

// tpm extends PCRs as the machine that took these steps did.
func tpm(steps ...step) map[int]attest.Bytes {
	out := make(map[int]attest.Bytes)
	for i := range 16 {
		out[i] = make([]byte, 32)
	}
	for _, s := range steps {
		switch {
		case s.kind == tcg.NoAction && bytes.HasPrefix(s.data, []byte("StartupLocality\x00")):
			out[0][31] = s.data[16]
		case s.kind == tcg.NoAction || s.pcr > 15:
		case s.kind == tcg.EFIHCRTMEvent:
			out[int(s.pcr)] = hashOf(slices.Concat(make([]byte, 31), []byte{4}, s.digest()))
		default:
			out[int(s.pcr)] = hashOf(slices.Concat(out[int(s.pcr)], s.digest()))
		}
	}
	return out
}

// replay sends a log over a TPM that took the same steps, unless others are given.
func replay(t *testing.T, steps []step) *attest.MeasuredBoot {
	t.Helper()
	return replayOver(t, steps, steps)
}

// replayOver sends a log over a TPM that was extended otherwise.
func replayOver(t *testing.T, log, machine []step) *attest.MeasuredBoot {
	t.Helper()
	got, err := eventlog.Replay(logOf(log...), crypto.SHA256, tpm(machine...))
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// refused fails unless the log is refused by that check, with the kind it has.
func refused(t *testing.T, log []byte, bank crypto.Hash, pcrs map[int]attest.Bytes, check string) error {
	t.Helper()
	got, err := eventlog.Replay(log, bank, pcrs)
	kind := attest.Malformed
	if check == eventlog.CheckReplay {
		kind = attest.Untrusted
	}
	if got != nil || attest.CheckOf(err) != check || attest.KindOf(err) != kind {
		t.Errorf("want %s (%s), got %v (%s), claims %v", check, kind, err, attest.KindOf(err), got != nil)
	}
	return err
}

func same(t *testing.T, want, got any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func wide(s string) []byte {
	var out []byte
	for _, u := range append(utf16.Encode([]rune(s)), 0) {
		out = append(out, le16(int(u))...)
	}
	return out
}

var (
	global   = []byte("\x61\xdf\xe4\x8b\xca\x93\xd2\x11\xaa\x0d\x00\xe0\x98\x03\x2b\x8c")
	security = []byte("\xcb\xb2\x19\xd7\x3a\x3d\x96\x45\xa3\xbc\xda\xd0\x0e\x67\x65\x6f")
)

func variable(vendor []byte, name string, value []byte) []byte {
	n := wide(name)
	n = n[:len(n)-2]
	return slices.Concat(vendor, le64(len(n)/2), le64(len(value)), n, value)
}

func config(vendor []byte, name string, value ...byte) step {
	return step{pcr: 7, kind: tcg.EFIVariableDriverConfig, data: variable(vendor, name, value)}
}

func separator(pcr uint32) step { return step{pcr: pcr, kind: tcg.Separator, data: make([]byte, 4)} }

func grub(text string) step {
	_, hashed, _ := bytes.Cut([]byte(text), []byte(": "))
	return step{pcr: 8, kind: tcg.Ipl, data: []byte(text + "\x00"), of: hashed}
}

func app(image string) step {
	return step{pcr: 4, kind: tcg.EFIBootServicesApplication, data: []byte("where it lies"), of: []byte(image)}
}

func file(name, content string) step {
	return step{pcr: 9, kind: tcg.Ipl, data: []byte(name + "\x00"), of: []byte(content)}
}

const commandLine = "/vmlinuz root=/dev/vda1 ro"

// aBoot is an ordinary boot by GRUB.
func aBoot() []step {
	out := []step{
		{pcr: 0, kind: tcg.SCRTMVersion, data: wide("Firmware 1.0")},
		{pcr: 0, kind: tcg.EFIPlatformFirmwareBlob, data: []byte("0123456789abcdef"), of: []byte("a firmware volume")},
		config(global, "SecureBoot", 1), config(global, "PK", []byte("the platform's key")...), config(global, "KEK", []byte("an exchange key")...),
		config(security, "db", []byte("allowed")...), config(security, "dbx"), separator(7),
		{pcr: 4, kind: tcg.EFIAction, data: []byte("Calling EFI Application from Boot Option")},
	}
	for pcr := range uint32(7) {
		out = append(out, separator(pcr))
	}
	return append(out,
		step{pcr: 7, kind: tcg.EFIVariableAuthority, data: variable(security, "db", []byte("one of them"))},
		app("shim"), app("grub"),
		file("/grub.cfg", "linux /vmlinuz"), grub("grub_cmd: set default=0"), grub("grub_cmd: linux "+commandLine), file("/vmlinuz", "a kernel"), grub("kernel_cmdline: "+commandLine),
		app("a kernel"), file("/initrd", "an initrd"),
	)
}

// with returns the steps with one replaced, in the log only.
func with(steps []step, match func(step) bool, change func(*step)) []step {
	out := slices.Clone(steps)
	for i := range out {
		if match(out[i]) {
			of := out[i].of
			if of == nil {
				of = out[i].data
			}
			change(&out[i])
			if out[i].of == nil {
				out[i].of = of // the digest stays
			}
			return out
		}
	}
	panic("no such step")
}

func named(name string) func(step) bool {
	return func(s step) bool { return bytes.Contains(s.data, wide(name)[:2*len(name)]) }
}

func texted(text string) func(step) bool {
	return func(s step) bool { return bytes.Contains(s.data, []byte(text)) }
}

func without(pcrs map[int]attest.Bytes, drop ...int) map[int]attest.Bytes {
	out := maps.Clone(pcrs)
	for _, d := range drop {
		delete(out, d)
	}
	return out
}
