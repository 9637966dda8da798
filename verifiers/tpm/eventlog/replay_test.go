package eventlog_test

import (
	"crypto"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-eventlog/tcg"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifiers/tpm/eventlog"
)

func TestAnOrdinaryBootIsClaimed(t *testing.T) {
	yes := true
	sum := func(s string) attest.Bytes { return hashOf([]byte(s)) }
	want := &attest.MeasuredBoot{
		Replayed: []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, SecureBoot: &yes, Firmware: "Firmware 1.0",
		Loaders: []attest.Bytes{sum("shim"), sum("grub"), sum("a kernel")}, CommandLine: commandLine,
		GRUBFiles:    []attest.Bytes{sum("linux /vmlinuz"), sum("a kernel"), sum("an initrd")},
		GRUBCommands: []string{"set default=0", "linux " + commandLine, commandLine},
		Keys:         map[string]attest.Bytes{"PK": sum("the platform's key"), "KEK": sum("an exchange key"), "db": sum("allowed"), "dbx": sum("")},
	}
	same(t, want, replay(t, aBoot()))
}

func TestAPCRWithoutEventsIsNotReplayed(t *testing.T) {
	steps := aBoot()
	pcrs := tpm(steps...)
	pcrs[10] = hashOf([]byte("the IMA log's business"))
	got, err := eventlog.Replay(logOf(steps...), crypto.SHA256, pcrs)
	if err != nil {
		t.Fatal(err)
	}
	if slices.Contains(got.Replayed, 10) || slices.Contains(got.Replayed, 11) {
		t.Errorf("replayed: %v", got.Replayed)
	}
	// An event that extends nothing is none.
	got, err = eventlog.Replay(logOf(step{pcr: 3, kind: tcg.NoAction, data: []byte("information")}), crypto.SHA256, pcrs)
	if err != nil || len(got.Replayed) != 0 || got.Replayed == nil {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestAPCRThatIsNotQuotedYieldsNoClaim(t *testing.T) {
	steps := aBoot()
	got, err := eventlog.Replay(logOf(steps...), crypto.SHA256, without(tpm(steps...), 0, 4, 7, 8, 9))
	if err != nil {
		t.Fatal(err)
	}
	same(t, &attest.MeasuredBoot{Replayed: []int{1, 2, 3, 5, 6}}, got)
	// It may say anything of such a PCR, of resettable ones too.
	if _, err := eventlog.Replay(logOf(append(steps, separator(12), separator(23))...), crypto.SHA256, without(tpm(steps...), 12)); err != nil {
		t.Error(err)
	}
}

func TestALogThatLeadsElsewhereIsRefused(t *testing.T) {
	steps := aBoot()
	pcrs := tpm(steps...)
	at := func(pcr uint32) int { return slices.IndexFunc(steps, func(s step) bool { return s.pcr == pcr }) }
	swapped := slices.Clone(steps)
	a, b := slices.IndexFunc(steps, named("PK")), slices.IndexFunc(steps, named("KEK"))
	swapped[a], swapped[b] = swapped[b], swapped[a]
	moved := slices.Clone(steps)
	moved[at(4)].pcr = 5
	for name, c := range map[string]struct {
		log  []step
		says []string
	}{
		"one more event":                     {append(slices.Clone(steps), separator(7)), []string{"PCR 7", "has the value after event 17, and the log goes on with 1 more, from event 27 on"}},
		"one event less":                     {slices.Delete(slices.Clone(steps), 7, 8), []string{"PCR 7", "its 6 events, the last of them event 16, lead to"}},
		"two events of a PCR swapped":        {swapped, []string{"PCR 7"}},
		"an event moved to another PCR":      {moved, []string{"PCR 4", "PCR 5"}},
		"a digest exchanged":                 {with(steps, named("SecureBoot"), func(s *step) { s.of = []byte("x") }), []string{"PCR 7"}},
		"an event that is said to be no act": {with(steps, named("SecureBoot"), func(s *step) { s.kind = tcg.NoAction }), []string{"PCR 7"}},
		"events of a PCR that has none":      {append(slices.Clone(steps), separator(12)), []string{"PCR 12 was never extended, and the log has 1 events for it, from event 27 on"}},
		"a locality that was not":            {append([]step{{kind: tcg.NoAction, data: []byte("StartupLocality\x00\x03")}}, steps...), []string{"PCR 0"}},
		"an H-CRTM that was not":             {with(steps, named("Firmware"), func(s *step) { s.kind = tcg.EFIHCRTMEvent }), []string{"PCR 0"}},
		"an H-CRTM that is not the first":    {with(steps, texted("0123456789abcdef"), func(s *step) { s.kind = tcg.EFIHCRTMEvent }), []string{"PCR 0", "not the first"}},
	} {
		t.Run(name, func(t *testing.T) {
			err := refused(t, logOf(c.log...), crypto.SHA256, pcrs, eventlog.CheckReplay)
			for _, s := range c.says {
				if err == nil || !strings.Contains(err.Error(), s) {
					t.Errorf("want %q in: %v", s, err)
				}
			}
		})
	}
}

func TestAllPCRsThatDoNotReplayAreNamed(t *testing.T) {
	steps := aBoot()
	pcrs := tpm(steps...)
	pcrs[4], pcrs[9] = make([]byte, 32), hashOf(nil)
	err := refused(t, logOf(steps...), crypto.SHA256, pcrs, eventlog.CheckReplay)
	if err == nil || !strings.Contains(err.Error(), "quoted value of PCR 4, PCR 9: PCR 4 ") || !strings.Contains(err.Error(), "; PCR 9 is ") {
		t.Errorf("%v", err)
	}
}

func TestAValueThatIsNotOfTheBankIsRefused(t *testing.T) {
	steps := aBoot()
	for _, size := range []int{0, 20, 31, 33, 48, 64} {
		pcrs := tpm(steps...)
		pcrs[7] = make([]byte, size)
		_ = refused(t, logOf(steps...), crypto.SHA256, pcrs, eventlog.CheckReplay)
	}
}

func TestALogWithoutTheBanksDigestsIsRefused(t *testing.T) {
	steps := aBoot()
	pcrs := make(map[int]attest.Bytes)
	for i := range 16 {
		pcrs[i] = make([]byte, 48)
	}
	if err := refused(t, logOf(steps...), crypto.SHA384, pcrs, eventlog.CheckReplay); !strings.Contains(err.Error(), "event 1 has no SHA-384 digest") {
		t.Error(err)
	}
	// One event without, among others that have one.
	bare := slices.Concat(header([2]int{0x0b, 32}), entry(steps[0]), le32(0), le32(1), le32(0), le32(0))
	_ = refused(t, bare, crypto.SHA256, tpm(steps[0]), eventlog.CheckReplay)
}

func TestABankThatIsNotReplayedIsAFaultOfTheCaller(t *testing.T) {
	for _, bank := range []crypto.Hash{0, crypto.MD5, crypto.SHA512} {
		if got, err := eventlog.Replay(logOf(aBoot()...), bank, nil); got != nil || attest.KindOf(err) != attest.Internal {
			t.Errorf("%d: %v", bank, err)
		}
		if got, err := eventlog.Events(logOf(aBoot()...), bank); got != nil || attest.KindOf(err) != attest.Internal {
			t.Errorf("%d: %v", bank, err)
		}
	}
}

// Nothing is known of the order of events of different PCRs, so nothing depends on
// it.
func TestTheOrderAcrossPCRsDoesNotMatter(t *testing.T) {
	steps := aBoot()
	sorted := slices.Clone(steps)
	slices.SortStableFunc(sorted, func(a, b step) int { return int(b.pcr) - int(a.pcr) })
	same(t, replay(t, steps), replayOver(t, sorted, steps))
}

func TestPCR0BeginsWithTheLocality(t *testing.T) {
	for _, locality := range []byte{0, 3, 4} {
		steps := append([]step{{kind: tcg.NoAction, data: append([]byte("StartupLocality\x00"), locality)}}, aBoot()...)
		same(t, replay(t, aBoot()), replay(t, steps))
	}
	steps := append([]step{{kind: tcg.EFIHCRTMEvent, data: []byte("HCRTM")}}, aBoot()...)
	same(t, replay(t, aBoot()), replay(t, steps))
}

// What later software extends by known words, after the log was fetched.
func TestKnownWordsMayFollowTheLog(t *testing.T) {
	word := func(pcr uint32, w string) step { return step{pcr: pcr, kind: tcg.EFIAction, data: []byte(w)} }
	log := append(aBoot(), stub(".linux", "a kernel")...)
	want := replay(t, log)
	for _, more := range [][]step{
		{word(5, "Exit Boot Services Invocation")},
		{word(5, "Exit Boot Services Invocation"), word(5, "Exit Boot Services Returned with Success")},
		{word(5, "Exit Boot Services Invocation"), word(5, "Exit Boot Services Returned with Failure"), word(5, "Exit Boot Services Returned with Success")},
		{word(11, "enter-initrd")},
		{word(11, "enter-initrd"), word(11, "leave-initrd"), word(11, "sysinit"), word(11, "ready")},
		{word(11, "sysinit"), word(11, "ready")},
	} {
		same(t, want, replayOver(t, log, append(slices.Clone(log), more...)))
	}
	for name, more := range map[string][]step{
		"words in another order": {word(11, "leave-initrd"), word(11, "enter-initrd")}, "another word": {word(11, "enter-initrd2")},
		"words of another PCR": {word(5, "enter-initrd")}, "a PCR that has no words": {word(9, "enter-initrd")},
	} {
		t.Run(name, func(t *testing.T) {
			_ = refused(t, logOf(log...), crypto.SHA256, tpm(append(slices.Clone(log), more...)...), eventlog.CheckReplay)
		})
	}
}

func TestAnOldLogIsReplayed(t *testing.T) {
	legacy := func(pcr, kind int, data string) []byte {
		h := crypto.SHA1.New()
		_, _ = h.Write([]byte(data))
		return slices.Concat(le32(pcr), le32(kind), h.Sum(nil), le32(len(data)), []byte(data))
	}
	log := slices.Concat(legacy(4, 5, "Calling"), legacy(4, 4, "\x00\x00\x00\x00"))
	spec := slices.Concat(le32(0), le32(3), make([]byte, 20), le32(30), []byte("Spec ID Event02\x00"), make([]byte, 14))
	for name, l := range map[string][]byte{"without a header": log, "with the header of its time": append(spec, log...)} {
		events, err := eventlog.Events(l, crypto.SHA1)
		if err != nil || events.Agile {
			t.Fatalf("%s: %v", name, err)
		}
		got, err := eventlog.Replay(l, crypto.SHA1, events.PCRs)
		if err != nil || fmt.Sprint(got.Replayed) != "[4]" {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

// Newer firmware writes information that belongs to no PCR, which go-eventlog takes
// for the end of the log.
func TestInformationOfNoPCRExtendsNone(t *testing.T) {
	steps := aBoot()
	info := step{pcr: 0xffffffff, kind: tcg.NoAction, data: []byte("SP800-155 Event3 and more")}
	for _, at := range []int{0, 1, 10, len(steps)} {
		same(t, replay(t, steps), replayOver(t, slices.Insert(slices.Clone(steps), at, info), steps))
	}
	same(t, replay(t, steps), replayOver(t, append([]step{info, info}, steps...), steps))
}
