package main

import (
	"bytes"
	"errors"
	"iter"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/assay-project/assay/issuer/ledger"
)

func TestProgressIsShownNowAndThenAndWipedAtTheEnd(t *testing.T) {
	boom := errors.New("boom")
	slow := func(n int, each time.Duration) iter.Seq2[ledger.Item, error] {
		return func(yield func(ledger.Item, error) bool) {
			for i := range n {
				time.Sleep(each)
				if !yield(ledger.Item{Sequence: uint64(i + 1)}, nil) {
					return
				}
			}
			yield(ledger.Item{}, boom)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		n := 0
		var last error
		for _, err := range progress(&b, slow(10, 100*time.Millisecond)) {
			n++
			last = err
		}
		if n != 11 || !errors.Is(last, boom) {
			t.Errorf("%d items, last error %v: they pass through unchanged", n, last)
		}
		if c := strings.Count(b.String(), "verified "); c < 2 || c > 5 {
			t.Errorf("shown %d times in a second: %q", c, b.String())
		}
		if !strings.HasSuffix(b.String(), "\r"+strings.Repeat(" ", 40)+"\r") {
			t.Errorf("not wiped: %q", b.String())
		}
	})
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		for range progress(&b, slow(10, time.Millisecond)) {
			continue
		}
		if b.Len() != 0 {
			t.Errorf("short work shows nothing, got %q", b.String())
		}
	})
}
