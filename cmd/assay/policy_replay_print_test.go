package main

import (
	"bytes"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/assay-project/assay/issuer/ledger"
	"github.com/assay-project/assay/policy/replay"
)

func TestAReplayShowsHowFarItIs(t *testing.T) {
	m := &meter{}
	m.add()
	if got := m.line(); got != "replayed 1 records" {
		t.Errorf("of a source of unknown length: %q", got)
	}
	m = &meter{}
	m.to(200)
	m.at(ledger.Granted, 101) // what comes before it is left out
	m.at(ledger.Granted, 150)
	if got := m.line(); got != "[############............]  50%  2 records" {
		t.Errorf("half way: %q", got)
	}
	m.at(ledger.Granted, 200)
	m.at(ledger.Denied, 7)
	if got := m.line(); got != "[########################] 100%  4 records" {
		t.Errorf("at the denials: %q", got)
	}
	m.at(ledger.Granted, 201) // the server has recorded more since
	if got := m.line(); got != "replayed 5 records" {
		t.Errorf("beyond the end: %q", got)
	}
}

func TestTheMeterIsShownNowAndThenAndWiped(t *testing.T) {
	slow := func(yield func(replay.Item, error) bool) {
		for range 10 {
			time.Sleep(100 * time.Millisecond)
			if !yield(replay.Item{}, nil) {
				return
			}
		}
	}
	synctest.Test(t, func(t *testing.T) {
		for _, show := range []bool{true, false} {
			var b bytes.Buffer
			m := &meter{w: &b, show: show}
			n := 0
			for range m.watch(slow) {
				n++
			}
			m.wipe()
			shown := strings.Count(b.String(), "replayed ")
			if n != 10 || show && (shown < 2 || shown > 5 || !strings.HasSuffix(b.String(), "\r"+strings.Repeat(" ", 60)+"\r")) || !show && b.Len() != 0 {
				t.Errorf("show %v: %d items, %q", show, n, b.String())
			}
		}
	})
}
