package eventlog_test

import (
	"bytes"
	"crypto"
	"crypto/sha1"
	"encoding/json"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-eventlog/tcg"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifiers/tpm/eventlog"
)

// hostile are logs that are none, by what is wrong with them.
func hostile() map[string][]byte {
	good, one := logOf(aBoot()...), entry(separator(1))
	patched := func(at int, b ...byte) []byte {
		out := slices.Clone(good)
		copy(out[at:], b)
		return out
	}
	locality := func(n byte) step {
		return step{kind: tcg.NoAction, data: append([]byte("StartupLocality\x00"), n)}
	}
	ff := []byte{0xff, 0xff, 0xff, 0xff}
	return map[string][]byte{
		"nothing":                         {},
		"a byte":                          {0},
		"a header's beginning":            good[:31],
		"a byte less":                     good[:len(good)-1],
		"a byte more":                     append(slices.Clone(good), 0),
		"padding":                         append(slices.Clone(good), bytes.Repeat([]byte{0xff}, 64)...),
		"the header of PCR 1":             patched(0, 1),
		"a header with a digest":          patched(8, 1),
		"version 1.2":                     patched(32+20, 2, 1),
		"version 2.1":                     patched(32+20, 1),
		"no algorithm":                    patched(32+24, 0),
		"many algorithms":                 patched(32+24, ff...),
		"SHA-256 of 20 bytes":             patched(32+30, 20),
		"an algorithm of no bytes":        append(header([2]int{0x0b, 32}, [2]int{0x99, 0}), one...),
		"an algorithm of 65 bytes":        append(header([2]int{0x0b, 32}, [2]int{0x99, 65}), one...),
		"an algorithm twice":              append(header([2]int{0x0b, 32}, [2]int{0x0b, 32}), one...),
		"vendor information that is less": patched(32+32, 9),
		"PCR 24":                          append(slices.Clone(good), entry(step{pcr: 24, kind: tcg.Separator})...),
		"no PCR, and an event":            append(slices.Clone(good), entry(step{pcr: 0xffffffff, kind: tcg.Separator})...),
		"more digests than algorithms":    slices.Concat(good, le32(1), le32(4), le32(2), one[12:]),
		"very many digests":               slices.Concat(good, le32(1), le32(4), ff, one[12:]),
		"a digest twice":                  slices.Concat(header([2]int{0x0b, 32}, [2]int{0x04, 20}), le32(1), le32(4), le32(2), le16(0x0b), make([]byte, 32), le16(0x0b), make([]byte, 32), le32(0)),
		"a digest of no known algorithm":  slices.Concat(good, le32(1), le32(4), le32(1), le16(0x04), make([]byte, 20), le32(0)),
		"very much data":                  slices.Concat(good, one[:len(one)-8], ff, []byte("1234")),
		"a second locality":               logOf(locality(3), locality(3)),
		"a late locality":                 logOf(separator(0), locality(3)),
		"locality 5":                      logOf(locality(5)),
		"a locality without its zero":     logOf(step{kind: tcg.NoAction, data: []byte("StartupLocality\x03\x03")}, separator(0)),
	}
}

func TestALogOutOfFormIsMalformed(t *testing.T) {
	pcrs := tpm(aBoot()...)
	for name, log := range hostile() {
		t.Run(name, func(t *testing.T) {
			_ = refused(t, log, crypto.SHA256, pcrs, eventlog.CheckStructure)
			if got, err := eventlog.Events(log, crypto.SHA256); got != nil || attest.CheckOf(err) != eventlog.CheckStructure {
				t.Errorf("Events: %v", err)
			}
		})
	}
}

func TestALargeLogIsNotLookedAt(t *testing.T) {
	steps := []step{separator(1)}
	largest := logOf(append(steps, step{pcr: 2, kind: tcg.Ipl, data: make([]byte, attest.MaxTPMEventLog-len(logOf(steps...))-50)})...)
	if len(largest) != attest.MaxTPMEventLog {
		t.Fatalf("%d bytes", len(largest))
	}
	if _, err := eventlog.Events(largest, crypto.SHA256); err != nil {
		t.Error(err)
	}
	_ = refused(t, append(largest, 0), crypto.SHA256, tpm(steps...), eventlog.CheckSize)
}

// Lengths that lie cost their sender's bytes and no more of our memory.
func TestHostileLengthsAllocateNothingMuch(t *testing.T) {
	logs := hostile()
	// Variables that claim to be long: go-eventlog would make room for a megabyte each.
	var long []step
	for range 2000 {
		long = append(long, step{pcr: 7, kind: tcg.EFIVariableDriverConfig, data: slices.Concat(global, le64(1024), le64(1<<20), []byte("x"))})
	}
	logs["variables"] = logOf(append(long, separator(7))...)
	pcrs := tpm(append(long, separator(7))...)
	for name, log := range logs {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, _ = eventlog.Replay(log, crypto.SHA256, pcrs)
		_, _ = eventlog.Events(log, crypto.SHA256)
		runtime.ReadMemStats(&after)
		if got, most := after.TotalAlloc-before.TotalAlloc, uint64(200<<10+50*len(log)); got > most {
			t.Errorf("%s: a log of %d bytes costs %d, want at most %d", name, len(log), got, most)
		}
	}
}

// Every bit of every digest of a quoted PCR counts, in a log of a real machine.
func TestNoBitOfADigestCanBeFlipped(t *testing.T) {
	m := machines(t)["ArchLinuxWorkstationEventLog"]
	pcrs := staticPCRs(m.banks[crypto.SHA256])
	l, err := eventlog.Events(m.log, crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	flipped, from := 0, 0
	for _, e := range l.Events {
		if pcrs[e.PCR] == nil || !e.Extends {
			continue
		}
		// Events come in order, so the next place where the digest stands is its own.
		at := bytes.Index(m.log[from:], e.Digest)
		if at < 0 {
			t.Fatalf("event %d: no digest", e.Number)
		}
		from += at
		for bit := range 8 * len(e.Digest) {
			log := slices.Clone(m.log)
			log[from+bit/8] ^= 1 << (bit % 8)
			flipped++
			if got, err := eventlog.Replay(log, crypto.SHA256, pcrs); got != nil || attest.CheckOf(err) != eventlog.CheckReplay {
				t.Fatalf("event %d, bit %d: %v", e.Number, bit, err)
			}
		}
		from += len(e.Digest)
	}
	if flipped < 20*256 {
		t.Errorf("only %d bits", flipped)
	}
}

// A log is not signed. Whatever is flipped in it, it is refused, or it claims what
// it did, or less.
func TestNoFlippedByteAddsAClaim(t *testing.T) {
	m := machines(t)["ArchLinuxWorkstationEventLog"]
	pcrs := staticPCRs(m.banks[crypto.SHA256])
	want, err := eventlog.Replay(m.log, crypto.SHA256, pcrs)
	if err != nil {
		t.Fatal(err)
	}
	accepted, unchanged := 0, 0
	for i := range m.log {
		log := slices.Clone(m.log)
		log[i] ^= 1 << (i % 8)
		got, err := eventlog.Replay(log, crypto.SHA256, pcrs)
		if err != nil {
			if k := attest.KindOf(err); k != attest.Malformed && k != attest.Untrusted {
				t.Fatalf("byte %d: %v", i, err)
			}
			continue
		}
		accepted++
		if cmp.Equal(want, got) {
			unchanged++
			continue
		}
		less(t, i, want, got)
	}
	t.Logf("of %d bytes, %d may be flipped, and %d change no claim", len(m.log), accepted, unchanged)
}

func less(t *testing.T, at int, want, got *attest.MeasuredBoot) {
	t.Helper()
	fields := func(b *attest.MeasuredBoot) map[string]json.RawMessage {
		out := make(map[string]json.RawMessage)
		raw, err := json.Marshal(b)
		if err == nil {
			err = json.Unmarshal(raw, &out)
		}
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	w := fields(want)
	for name, value := range fields(got) {
		if name == "keys" {
			continue // compared below
		}
		if string(value) != "null" && !bytes.Equal(value, w[name]) {
			t.Errorf("byte %d: %s is %s", at, name, value)
		}
	}
	for name, digest := range got.Keys {
		if !bytes.Equal(digest, want.Keys[name]) {
			t.Errorf("byte %d: %s is %s", at, name, digest)
		}
	}
}

func TestEventsAreSaidInWords(t *testing.T) {
	steps := append(aBoot(), step{pcr: 1, kind: tcg.Ipl, data: []byte("a\x1b[2J")},
		step{pcr: 9, kind: tcg.EventTag, data: slices.Concat(le32(0x1234), le32(4), []byte("tag\x00")), of: []byte("x")},
		step{pcr: 12, kind: tcg.Ipl, data: wide("quiet ro")}, step{pcr: 0, kind: tcg.EFIPlatformFirmwareBlob, data: bytes.Repeat([]byte{7}, 99), of: []byte("x")})
	steps = append([]step{{kind: tcg.NoAction, data: []byte("StartupLocality\x00\x03")}}, steps...)
	l, err := eventlog.Events(logOf(steps...), crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	if !l.Agile || !slices.Equal(l.Banks, []string{"sha256"}) || len(l.Events) != len(steps) {
		t.Errorf("%+v", l)
	}
	for i, v := range tpm(steps...) {
		if got := l.PCRs[i]; got != nil && !bytes.Equal(got, v) {
			t.Errorf("PCR %d: %s, want %s", i, got, v)
		}
	}
	var said []string
	for i, e := range l.Events {
		if e.Number != i+1 || e.PCR != int(steps[i].pcr) || (e.Value == nil) != (steps[i].kind == tcg.NoAction) {
			t.Errorf("%+v", e)
		}
		mark := "described"
		if e.Measured {
			mark = "measured"
		}
		said = append(said, strings.Join([]string{e.Type, mark, e.Text}, " "))
	}
	for _, want := range []string{
		"EV_NO_ACTION described TPM2_Startup from locality 3",
		"EV_S_CRTM_VERSION measured Firmware 1.0",
		"EV_EFI_VARIABLE_DRIVER_CONFIG measured variable SecureBoot = 01",
		"EV_EFI_VARIABLE_DRIVER_CONFIG measured variable PK, 18 bytes, SHA-256 " + attest.Bytes(hashOf([]byte("the platform's key"))).String(),
		"EV_SEPARATOR measured separator",
		"EV_EFI_BOOT_SERVICES_APPLICATION described where it lies",
		"EV_IPL measured linux " + commandLine,
		"EV_IPL described /vmlinuz",
		"EV_IPL measured a\x1b[2J",
		"EV_EVENT_TAG described tag 0x1234: tag",
		"EV_IPL measured quiet ro",
		"EV_EFI_PLATFORM_FIRMWARE_BLOB described 99 bytes",
	} {
		if !slices.Contains(said, want) {
			t.Errorf("nothing says %q:\n%s", want, strings.Join(said, "\n"))
		}
	}
}

// Small events cost many times their bytes in memory: a log has no more of them than
// machines have.
func TestALogOfCountlessEventsIsRefused(t *testing.T) {
	const limit = 8192
	for name, s := range map[string]step{
		"empty events":       {pcr: 3, kind: tcg.EFIAction},
		"information":        {pcr: 3, kind: tcg.NoAction},
		"events of no PCR":   {pcr: 0xffffffff, kind: tcg.NoAction},
		"events of PCR 16":   {pcr: 16, kind: tcg.EFIAction},
		"StartupLocality, …": {pcr: 1, kind: tcg.NoAction, data: []byte("StartupLocality\x00\x00")},
	} {
		steps := slices.Repeat([]step{s}, limit)
		if _, err := eventlog.Replay(logOf(steps...), crypto.SHA256, tpm(steps...)); err != nil {
			t.Errorf("%s, %d of them: %v", name, limit, err)
		}
		steps = append(steps, s)
		_ = refused(t, logOf(steps...), crypto.SHA256, tpm(steps...), eventlog.CheckStructure)
	}
	for name, log := range realLogs(t) {
		l, err := eventlog.Events(log, crypto.SHA1)
		if err == nil && len(l.Events) > limit/16 {
			t.Errorf("%s: %d events are near the limit", name, len(l.Events))
		}
	}
}

// go-eventlog takes whatever an old log begins with for the header of a newer one;
// the firmware of TPM 1.2 machines may say what it likes there.
func TestAnOldLogMayBeginWithAnyInformation(t *testing.T) {
	old := func(pcr int, kind tcg.EventType, digest, data []byte) []byte {
		return slices.Concat(le32(pcr), le32(int(kind)), digest, le32(len(data)), data)
	}
	measured := sha1.Sum([]byte("a loader"))
	nothing := make([]byte, sha1.Size)
	extended := sha1.Sum(slices.Concat(nothing, measured[:]))
	for name, information := range map[string]string{
		"a vendor's":        "information of a vendor, longer than a header would be",
		"nearly the header": "Spe\x00 ID Event03\x00 and what a header would hold",
		"short":             "nothing",
	} {
		t.Run(name, func(t *testing.T) {
			log := slices.Concat(
				old(0, tcg.NoAction, nothing, []byte(information)),
				old(0, tcg.NoAction, nothing, []byte(information)),
				old(4, tcg.Ipl, measured[:], []byte("a loader")),
			)
			if _, err := eventlog.Replay(log, crypto.SHA1, map[int]attest.Bytes{4: extended[:]}); err != nil {
				t.Error(err)
			}
			extended := slices.Clone(extended[:])
			extended[0] ^= 1
			_ = refused(t, log, crypto.SHA1, map[int]attest.Bytes{4: extended}, eventlog.CheckReplay)
		})
	}
}
