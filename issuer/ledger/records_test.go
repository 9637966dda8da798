package ledger_test

import (
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/attestedtest"
	"github.com/assay-project/assay/issuer/ledger"
)

// recorded is a ledger of n issuances, ten at once in ten minutes, and three
// denials.
func recorded(t *testing.T, n int) *fixture {
	t.Helper()
	f := newFixture(t)
	l := f.open(t, ledger.Options{})
	stop := run(t, l)
	for range n / 10 {
		var wg sync.WaitGroup
		for range 10 {
			g := f.Grant(t, attestedtest.Request{})
			wg.Go(func() {
				if _, err := l.Record(t.Context(), g, ledger.Origin{}); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		f.Advance(10 * time.Minute)
	}
	for range 3 {
		v, d := f.Denied(t, attestedtest.Request{Image: "intruder"})
		if kept, err := l.Deny(t.Context(), ledger.Denial{Verified: v, Decision: d.Decision}); !kept || err != nil {
			t.Fatal(kept, err)
		}
	}
	must(t, stop())
	return f
}

func records(t *testing.T, r *ledger.Reader, s ledger.Span) (out []uint64) {
	t.Helper()
	for i, err := range r.Records(t.Context(), s) {
		must(t, err)
		must(t, i.Check(td, ""))
		g, err := ledger.ParseGist(i.Payload)
		must(t, err)
		e, err := ledger.ParseEntry(i.Payload)
		must(t, err)
		if g.Outcome != s.Outcome || g.Reference != e.Reference || !g.Time.Equal(e.Time) || g.Decision.Reason != e.Decision.Reason || g.Instance != e.Instance {
			t.Fatalf("the gist is of another entry: %+v", g)
		}
		out = append(out, i.Sequence)
	}
	return out
}

func upTo(from, to uint64) (out []uint64) {
	for ; from <= to; from++ {
		out = append(out, from)
	}
	return out
}

func TestRecordsAreStreamedInPagesAndSpans(t *testing.T) {
	f := recorded(t, 300)
	r := ledger.NewReader(f.store, td, "")
	at := func(minute int) time.Time { return attestedtest.Noon.Add(time.Duration(minute) * time.Minute) }
	for name, c := range map[string]struct {
		span ledger.Span
		want []uint64
	}{
		"all":                  {ledger.Span{Outcome: ledger.Granted}, upTo(1, 300)},
		"a page":               {ledger.Span{Outcome: ledger.Granted, Limit: 7}, upTo(1, 7)},
		"a page over pages":    {ledger.Span{Outcome: ledger.Granted, Limit: 290}, upTo(1, 290)},
		"the next":             {ledger.Span{Outcome: ledger.Granted, After: 290, Limit: 7}, upTo(291, 297)},
		"the last":             {ledger.Span{Outcome: ledger.Granted, After: 297, Limit: 7}, upTo(298, 300)},
		"none":                 {ledger.Span{Outcome: ledger.Granted, After: 300, Limit: 7}, nil},
		"since, less an hour":  {ledger.Span{Outcome: ledger.Granted, Since: at(100)}, upTo(41, 300)},
		"until, and an hour":   {ledger.Span{Outcome: ledger.Granted, Until: at(100)}, upTo(1, 160)},
		"between":              {ledger.Span{Outcome: ledger.Granted, Since: at(200), Until: at(201)}, upTo(141, 270)},
		"before all":           {ledger.Span{Outcome: ledger.Granted, Until: at(-100)}, nil},
		"after all":            {ledger.Span{Outcome: ledger.Granted, Since: at(1000)}, nil},
		"denials":              {ledger.Span{Outcome: ledger.Denied}, upTo(1, 3)},
		"denials, by one":      {ledger.Span{Outcome: ledger.Denied, After: 1, Limit: 1}, upTo(2, 2)},
		"denials, whole pages": {ledger.Span{Outcome: ledger.Denied, Limit: 3}, upTo(1, 3)},
	} {
		if got := records(t, r, c.span); !slices.Equal(got, c.want) {
			t.Errorf("%s: got %v, want %v", name, got, c.want)
		}
	}
	for _, err := range r.Records(t.Context(), ledger.Span{Outcome: "maybe"}) {
		if err == nil {
			t.Error("an outcome that there is not")
		}
	}
}

func TestARecordThatWasAlteredIsToldFromTheOthers(t *testing.T) {
	f := recorded(t, 10)
	r := ledger.NewReader(f.store, td, "")
	items := []ledger.Item{}
	for i, err := range r.Records(t.Context(), ledger.Span{Outcome: ledger.Granted, Limit: 3}) {
		must(t, err)
		items = append(items, i)
	}
	for name, change := range map[string]func(i *ledger.Item){
		"another payload":  func(i *ledger.Item) { i.Payload = []byte(strings.Replace(string(i.Payload), "granted", "granteD", 1)) },
		"another place":    func(i *ledger.Item) { i.Sequence = 3 },
		"another previous": func(i *ledger.Item) { i.Previous = items[0].Previous },
		"another hash":     func(i *ledger.Item) { i.Hash = items[2].Hash },
	} {
		i := items[1]
		must(t, i.Check(td, ""))
		change(&i)
		wantCheck(t, i.Check(td, ""), attest.Untrusted, "chain_hash")
		if t.Failed() {
			t.Fatal(name)
		}
	}
	wantCheck(t, items[1].Check("other.example.org", ""), attest.Untrusted, "chain_hash")
	wantCheck(t, items[1].Check(td, "second"), attest.Untrusted, "chain_hash")
}

func TestAGistSaysTheSameThingTwice(t *testing.T) {
	f := recorded(t, 10)
	var payload []byte
	for i, err := range ledger.NewReader(f.store, td, "").Records(t.Context(), ledger.Span{Outcome: ledger.Granted, Limit: 1}) {
		must(t, err)
		payload = i.Payload
	}
	for want, change := range map[string]func(m map[string]any){
		"payload version 2":                      func(m map[string]any) { m["version"] = 2 },
		"outcome \"maybe\"":                      func(m map[string]any) { m["outcome"] = "maybe" },
		"outcome denied of a decision that says": func(m map[string]any) { m["outcome"] = ledger.Denied },
		"not of the entry's instance":            func(m map[string]any) { m["instance"] = "aws-nitro:another" },
		"the policy's digest has 2 bytes":        func(m map[string]any) { m["policy"] = map[string]any{"digest": "abcd"} },
		"is not an entry":                        func(m map[string]any) { m["claims"] = "none" },
	} {
		var m map[string]any
		must(t, json.Unmarshal(payload, &m))
		change(m)
		b, err := json.Marshal(m)
		must(t, err)
		if _, err := ledger.ParseGist(b); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}
