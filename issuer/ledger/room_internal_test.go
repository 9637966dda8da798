package ledger

import (
	"testing"

	"github.com/assay-project/assay/attest"
)

func TestABootLogCountsWhenItIsStoredForTheFirstTime(t *testing.T) {
	l := &Ledger{}
	b := &budget{limit: 250}
	evidence := func(log byte) attest.Evidence {
		out := attest.Evidence{Body: make([]byte, 50)}
		if log != 0 {
			out.EventLog = make([]byte, 100)
			out.EventLog[0] = log
		}
		return out
	}
	step := func(what string, log byte, ok bool, used int64) {
		t.Helper()
		if got := l.room(b, evidence(log)); got != ok || b.used != used {
			t.Errorf("%s: %t with %d bytes used, want %t with %d", what, got, b.used, ok, used)
		}
	}
	step("a log", 1, true, 150)
	step("the same", 1, true, 200)
	step("another, too large", 2, false, 200)
	b.limit = 500
	step("which then was not stored", 2, true, 350)
	step("none", 0, true, 400)
	l.eventLogs.forget() // a prune
	step("the first once more", 1, false, 400)
	b.limit = 550
	step("with room", 1, true, 550)
}

func TestWhatIsKnownIsBounded(t *testing.T) {
	var k known
	for i := range maxKnown + 10 {
		k.add([32]byte{byte(i), byte(i >> 8), byte(i >> 16)})
		if len(k.seen) > maxKnown {
			t.Fatalf("%d digests are remembered", len(k.seen))
		}
	}
}
