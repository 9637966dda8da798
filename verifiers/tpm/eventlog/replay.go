package eventlog

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/go-eventlog/register"
	"github.com/google/go-eventlog/tcg"

	"github.com/assay-project/assay/attest"
)

// Replay checks that a log leads to quoted PCRs, and returns what the measured
// boot says. The values must come from a verified quote, each of the full length of
// the bank: SHA-256 or SHA-384 (SHA-1 as well, for tools). A PCR that the log has
// no events for is not an error and not among the replayed ones.
//
// The error is an *attest.Error: [CheckSize] and [CheckStructure] are Malformed;
// [CheckReplay] is Untrusted and names the PCRs that the log does not lead to, and
// where it leaves them.
func Replay(raw []byte, bank crypto.Hash, pcrs map[int]attest.Bytes) (*attest.MeasuredBoot, error) {
	if err := known(bank); err != nil {
		return nil, err
	}
	l, err := decode(raw)
	if err != nil {
		return nil, err
	}
	b := newBoot(bank)
	var failed []int
	var why []string
	for _, pcr := range slices.Sorted(maps.Keys(pcrs)) {
		got, err := l.replay(pcr, bank, pcrs[pcr])
		if err != nil {
			failed, why = append(failed, pcr), append(why, err.Error())
			continue
		}
		if got != nil {
			b.registers[pcr] = got
		}
	}
	if len(failed) > 0 {
		return nil, refused(failed, errors.New(strings.Join(why, "; ")))
	}
	if err := l.again(bank, b.registers); err != nil {
		return nil, err
	}
	return b.claims(), nil
}

func refused(pcrs []int, err error) error {
	return &attest.Error{
		Kind: attest.Untrusted, Check: CheckReplay, Err: fmt.Errorf("the log does not replay to the quoted value of %s: %w", names(pcrs), err),
		Hint: "the log is of another boot, was changed, or something extended these PCRs that no log holds; `assay measure tpm-eventlog` shows what the log yields",
	}
}

func names(pcrs []int) string {
	text := make([]string, 0, len(pcrs))
	for _, p := range pcrs {
		text = append(text, fmt.Sprint("PCR ", p))
	}
	return strings.Join(text, ", ")
}

// replayed is a PCR whose events lead to its quoted value.
type replayed struct {
	events []*event // those that extended it, in order
	logged []byte   // the value after the last of them
}

// replay replays one PCR; it returns nil when the log has no events for it.
func (l *log) replay(pcr int, bank crypto.Hash, want []byte) (*replayed, error) {
	if len(want) != bank.Size() {
		return nil, fmt.Errorf("PCR %d: its value has %d bytes, want %d", pcr, len(want), bank.Size())
	}
	out := &replayed{}
	reached := -1 // how many events lead to the quoted value
	err := l.walk(pcr, bank, func(e *event, value []byte) {
		if e != nil {
			out.events = append(out.events, e)
		}
		if bytes.Equal(value, want) {
			reached = len(out.events)
		}
		out.logged = value
	})
	switch {
	case err != nil:
		return nil, err
	case len(out.events) == 0:
		return nil, nil //nolint:nilnil // documented: no events, nothing replayed, no error
	case bytes.Equal(out.logged, want) || completed(pcr, bank, out.logged, want):
		return out, nil
	case reached == 0:
		return nil, fmt.Errorf("PCR %d was never extended, and the log has %d events for it, from event %d on", pcr, len(out.events), out.events[0].number)
	case reached > 0:
		return nil, fmt.Errorf("PCR %d has the value after event %d, and the log goes on with %d more, from event %d on",
			pcr, out.events[reached-1].number, len(out.events)-reached, out.events[reached].number)
	}
	return nil, fmt.Errorf("PCR %d is %x, and its %d events, the last of them event %d, lead to %x", pcr, want, len(out.events), out.events[len(out.events)-1].number, out.logged)
}

// walk extends a PCR with the log's events, and calls step with each and the value
// that it leaves; first with the value that the PCR begins with.
func (l *log) walk(pcr int, bank crypto.Hash, step func(e *event, value []byte)) error {
	value := make([]byte, bank.Size())
	first := true
	for i := range l.events {
		e := &l.events[i]
		if e.pcr != pcr {
			continue
		}
		if at, ok := e.locality(); ok {
			value[len(value)-1] = at
		}
		if !e.extends() {
			continue
		}
		d := e.digest(bank)
		if d == nil {
			return fmt.Errorf("PCR %d: event %d has no %s digest", pcr, e.number, bank)
		}
		// An H-CRTM event precedes TPM2_Startup: the TPM then begins the PCR with 4
		// (TPM 2.0 Library, Part 1, section 34.3).
		if e.kind == tcg.EFIHCRTMEvent {
			if !first {
				return fmt.Errorf("PCR %d: event %d is of the H-CRTM, and not the first", pcr, e.number)
			}
			clear(value)
			value[len(value)-1] = 4
		}
		if first {
			step(nil, value)
			first = false
		}
		value = sum(bank, value, d)
		step(e, value)
	}
	return nil
}

// completions are what is extended after the last moment at which it could have
// got into the log that a machine sends. Firmware measures how ExitBootServices went
// into PCR 5 after the boot loader fetched the log, and some kernels lose it (PFP,
// section 8.2.4); systemd measures the phases of the boot into PCR 11, beside its
// own log (systemd-pcrphase.service(8)). All of them are known words, so they prove
// nothing and hide nothing.
var completions = map[int][][]string{
	5: {
		{"Exit Boot Services Invocation", "Exit Boot Services Returned with Success"},
		{"Exit Boot Services Invocation", "Exit Boot Services Returned with Failure"},
		{"Exit Boot Services Invocation", "Exit Boot Services Returned with Failure", "Exit Boot Services Returned with Success"},
	},
	11: {
		{"enter-initrd", "leave-initrd", "sysinit", "ready", "shutdown", "final"},
		{"sysinit", "ready", "shutdown", "final"}, // without an initrd
	},
}

// completed reports whether known words lead on to the quoted value: any number of
// a sequence's first.
func completed(pcr int, bank crypto.Hash, value, want []byte) bool {
	for _, words := range completions[pcr] {
		v := value
		for _, w := range words {
			v = sum(bank, v, sum(bank, []byte(w)))
			if bytes.Equal(v, want) {
				return true
			}
		}
	}
	return false
}

// again has go-eventlog parse the log and replay the same PCRs. A log on which it
// disagrees with this package, in a value or in an event, is refused.
func (l *log) again(bank crypto.Hash, registers map[int]*replayed) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = malformed(CheckStructure, "go-eventlog fails on it: %v", p)
		}
	}()
	if len(registers) == 0 {
		return nil
	}
	var mrs []register.MR
	for _, pcr := range slices.Sorted(maps.Keys(registers)) {
		mrs = append(mrs, register.PCR{Index: pcr, Digest: registers[pcr].logged, DigestAlg: bank})
	}
	theirs, err := tcg.ParseEventLog(l.view(), tcg.ParseOpts{})
	if err != nil {
		return malformed(CheckStructure, "go-eventlog: %w", err)
	}
	events, err := theirs.Verify(mrs)
	if err != nil {
		return refused(slices.Sorted(maps.Keys(registers)), fmt.Errorf("go-eventlog: %w", err))
	}
	seen := make(map[int]int, len(registers))
	for i := range events {
		pcr, n := events[i].Index, seen[events[i].Index]
		ours := registers[pcr]
		if ours == nil || n >= len(ours.events) || !bytes.Equal(events[i].Digest, ours.events[n].digest(bank)) || !bytes.Equal(events[i].Data, ours.events[n].data) {
			return refused([]int{pcr}, errors.New("go-eventlog reads other events in it"))
		}
		seen[pcr]++
	}
	for pcr, ours := range registers {
		if seen[pcr] != len(ours.events) {
			return refused([]int{pcr}, fmt.Errorf("go-eventlog reads %d events in it, not %d", seen[pcr], len(ours.events)))
		}
	}
	return nil
}
