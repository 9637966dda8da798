package tpm_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifiers/tpm"
)

// A stranger with a TPM of his own knows our EK's public half and certificate, and
// may have counters that are below ours. What he cannot prove changes nothing.
func TestAStrangersAKVoidsNoBinding(t *testing.T) {
	w := newWorld(t)
	v := w.verifier(t, tpm.WithBindings(new(tpm.MemoryBindings)))
	ch, b := challenge(t, nil)
	ours := w.mint(t, order{extra: b.B[:], reset: 9})
	if _, err := enrol(t, v, ours, ch, ours.exchange(b)); err != nil {
		t.Fatal(err)
	}
	strangers := w.mint(t, order{extra: b.B[:], reset: 2, akKind: rsa2048})
	guess := func(context.Context, []byte) ([]byte, error) { return make([]byte, 32), nil }
	if _, err := enrol(t, v, strangers, ch, guess); attest.CheckOf(err) != tpm.CheckCredentialProof {
		t.Fatalf("a guess: %v", err)
	}
	if _, err := enrol(t, v, ours, ch, nil); err != nil {
		t.Errorf("ours, without a second round: %v", err)
	}
	// With a proof it is a TPM whose counters went back and whose AK is new.
	c, err := enrol(t, v, strangers, ch, strangers.exchange(b))
	if err != nil || !c.Cleared {
		t.Errorf("proved: %v, %+v", err, c)
	}
}

// heapOf is how much what f leaves behind keeps.
func heapOf(f func()) int64 {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	f()
	runtime.GC()
	runtime.GC() // what finalizers and weak pointers held
	runtime.ReadMemStats(&after)
	return int64(after.HeapAlloc) - int64(before.HeapAlloc)
}

// wordy is a log whose claims are large, and the registers that it leads to.
func wordy(t testing.TB) (log []byte, pcr8 []byte) {
	t.Helper()
	log = logHeader()
	pcr8 = make([]byte, 32)
	for i := range 1000 {
		text := fmt.Sprintf("echo %d %s", i, strings.Repeat("x", 50))
		sum := digestOf([]byte(text))
		log = append(log, logEvent(8, sum[:], []byte(text))...)
		next := digestOf(append(bytes.Clone(pcr8), sum[:]...))
		pcr8 = next[:]
	}
	return log, pcr8
}

// countless is a log of one event more than there may be.
func countless() []byte {
	out := logHeader()
	for range 8193 {
		out = append(out, logEvent(3, make([]byte, 32), nil)...)
	}
	return out
}

func logHeader() []byte {
	data := append([]byte("Spec ID Event03\x00"), 0, 0, 0, 0, 0, 2, 0, 2, 1, 0, 0, 0, 0x0b, 0, 32, 0, 0)
	out := append([]byte{0, 0, 0, 0, 3, 0, 0, 0}, make([]byte, 20)...)
	return append(append(out, byte(len(data)), 0, 0, 0), data...)
}

func logEvent(pcr byte, sum, data []byte) []byte {
	out := append([]byte{pcr, 0, 0, 0, 0x0d, 0, 0, 0, 1, 0, 0, 0, 0x0b, 0}, sum...)
	return append(append(out, byte(len(data)), byte(len(data)>>8), 0, 0), data...)
}

// quotedPCR8 gives PCR 8 a value.
func quotedPCR8(t testing.TB, value []byte) order {
	t.Helper()
	return order{selected: []int{8}, registers: map[int][]byte{8: value}}
}

// Claims that never get to the second round, because they answer another challenge,
// must leave nothing of weight behind: a real EK certificate, and a key in software
// beside it, are all that it takes to send them.
func TestStrangersClaimsLeaveNothingBehind(t *testing.T) {
	w := newWorld(t)
	log, value := wordy(t)
	v := w.verifier(t)
	ch, b := challenge(t, nil)
	other := b
	other.B[0] ^= 1
	const n = 64
	refused := func(i int) {
		o := quotedPCR8(t, value)
		o.extra, o.log = other.B[:], append(bytes.Clone(log), logEvent(9, make([]byte, 32), []byte{byte(i)})...)
		o.ekDER = func(der []byte) []byte { return append(der, make([]byte, 7<<10)...) }
		if _, err := enrol(t, v, w.mint(t, o), ch, nil); attest.CheckOf(err) != tpm.CheckBindingExtraData {
			t.Fatal(err)
		}
	}
	refused(0)
	kept := heapOf(func() {
		for i := range n {
			refused(i)
		}
	})
	if each := kept / n; each > 4<<10 {
		t.Errorf("each leaves %d bytes behind: %+v", each, v.CacheStats())
	}
	runtime.KeepAlive(v)
}

// One genuine TPM has as many AKs as it likes. What is remembered of one is the key,
// and not the evidence that it came in.
func TestAnAKThatIsRememberedKeepsNoBody(t *testing.T) {
	w := newWorld(t)
	v := w.verifier(t)
	ch, b := challenge(t, nil)
	const n = 100
	activated := func(i int) {
		m := w.mint(t, order{
			extra: b.B[:], ak: func(p *tpm2.TPMTPublic) { p.AuthPolicy.Buffer = bytes.Repeat([]byte{byte(i)}, 32) },
			ekDER: func(der []byte) []byte { return append(der, make([]byte, 7<<10)...) },
		})
		if _, err := enrol(t, v, m, ch, m.exchange(b)); err != nil {
			t.Fatal(err)
		}
	}
	activated(n)
	kept := heapOf(func() {
		for i := range n {
			activated(i)
		}
	})
	if s := v.CacheStats(); s.Keys < n {
		t.Fatalf("not remembered: %+v", s)
	}
	if each := kept / n; each > 4<<10 {
		t.Errorf("each keeps %d bytes", each)
	}
	runtime.KeepAlive(v)
}

// A boot log costs a hundred times what the rest does. Who has no TPM does not have
// one replayed.
func TestNobodysLogIsReplayedBeforeTheSecondRound(t *testing.T) {
	w := newWorld(t)
	v := w.verifier(t)
	ch, b := challenge(t, nil)
	wrong := w.mint(t, order{extra: b.B[:], log: []byte("this is not a log, though it has more than a few bytes in it")})
	guess := func(context.Context, []byte) ([]byte, error) { return make([]byte, 32), nil }
	if _, err := enrol(t, v, wrong, ch, guess); attest.CheckOf(err) != tpm.CheckCredentialProof {
		t.Errorf("a guess: %v", err)
	}
	if _, err := enrol(t, v, wrong, ch, nil); attest.CheckOf(err) != tpm.CheckAKUnactivated {
		t.Errorf("no second round: %v", err)
	}
	if _, err := enrol(t, v, wrong, ch, wrong.exchange(b)); attest.CheckOf(err) != tpm.CheckEventLogStructure {
		t.Errorf("a TPM: %v", err)
	}
	replayed := w.mint(t, order{extra: b.B[:], noEK: true, cloud: w.google, log: other(t)})
	elsewhere := b
	elsewhere.B[0] ^= 1
	replayed2 := w.mint(t, order{extra: elsewhere.B[:], noEK: true, cloud: w.google, log: other(t)})
	if _, err := enrol(t, v, replayed, ch, nil); attest.CheckOf(err) != tpm.CheckEventLogReplay {
		t.Errorf("a cloud's machine: %v", err)
	}
	if _, err := enrol(t, v, replayed2, ch, nil); attest.CheckOf(err) != tpm.CheckBindingExtraData {
		t.Errorf("another challenge's evidence of a cloud's machine: %v", err)
	}
}

// Replays wait for one another, and no longer than who asked for them.
func TestAReplayThatWaitsEndsWithItsRequest(t *testing.T) {
	w := newWorld(t)
	v := w.verifier(t)
	_, b := challenge(t, nil)
	log, value := wordy(t)
	o := quotedPCR8(t, value)
	o.extra, o.log, o.noEK, o.cloud = b.B[:], log, true, w.google
	m := w.mint(t, o)
	c, err := v.AuthenticatePending(t.Context(), m.evidence, epoch)
	if err != nil {
		t.Fatal(err)
	}
	release := tpm.OccupyReplays(v)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	err = v.Activate(ctx, m.evidence, c, b, nil, epoch)
	if attest.CheckOf(err) != tpm.CheckContext || !errors.Is(err, context.DeadlineExceeded) || c.TPM.Boot != nil {
		t.Errorf("while all are busy: %v", err)
	}
	release()
	if err := v.Activate(t.Context(), m.evidence, c, b, nil, epoch); err != nil || len(c.TPM.Boot.GRUBCommands) != 1000 {
		t.Errorf("afterwards: %v, %+v", err, c.TPM.Boot)
	}
	// Now it is known, and costs no replay.
	defer tpm.OccupyReplays(v)()
	c, err = v.AuthenticatePending(t.Context(), m.evidence, epoch)
	if err == nil {
		err = v.Activate(t.Context(), m.evidence, c, b, nil, epoch)
	}
	if err != nil || len(c.TPM.Boot.GRUBCommands) != 1000 {
		t.Errorf("a renewal: %v", err)
	}
}

// Logs are remembered up to a number of bytes, however large what they say is.
func TestWhatLogsSayIsRememberedWithinBounds(t *testing.T) {
	w := newWorld(t)
	v := w.verifier(t, tpm.WithCacheSize(16))
	ch, b := challenge(t, nil)
	log, value := wordy(t)
	for i := range 64 {
		o := quotedPCR8(t, value)
		o.extra, o.log, o.noEK, o.cloud = b.B[:], append(bytes.Clone(log), logEvent(9, make([]byte, 32), []byte{byte(i)})...), true, w.google
		if _, err := enrol(t, v, w.mint(t, o), ch, nil); err != nil {
			t.Fatal(err)
		}
	}
	// 16 times the share of a log is 256 KiB, and each says more than 60 KiB.
	if n := v.CacheStats().EventLogs; n < 1 || n > 4 {
		t.Errorf("%d logs are remembered", n)
	}
}
