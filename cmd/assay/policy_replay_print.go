package main

import (
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"time"

	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/issuer/ledger"
	"github.com/assay-project/assay/policy/replay"
)

// printReplayed writes the report: the numbers, then each group that needs a
// look, with the rules that decide it, and the others in one table.
func printReplayed(p *cli.Page, out replayed) error {
	r := &out.Report
	p.Linef("%s, against %s", asOf(r.Draft, r.At), against(r))
	instances := cli.Count(r.Instances, "instance")
	if r.AtLeast {
		instances = "at least " + instances
	}
	facts := []cli.Fact{
		{Name: "source", Value: sourceText(out.Source)},
		{Name: "replayed", Value: fmt.Sprintf("%s of %s, %d of them distinct", cli.Count(r.Attestations, "attestation"), instances, r.Distinct)},
	}
	if r.First != nil {
		facts = append(facts, cli.Fact{Name: "recorded", Value: stamp(*r.First) + " to " + stamp(*r.Last)})
	}
	if r.Unreadable > 0 {
		facts = append(facts, cli.Fact{Name: "unreadable", Value: cli.Count(r.Unreadable, "record")})
	}
	p.Facts(facts...)
	p.Title("Summary")
	var rows [][]string
	for _, t := range r.Totals {
		if t.Distinct > 0 || t.Change == replay.Loses || t.Change == replay.Gains {
			rows = append(rows, []string{changeText[t.Change], fmt.Sprint(t.Instances), fmt.Sprint(t.Distinct), fmt.Sprint(t.Attestations)})
		}
	}
	p.Table([]string{"", "instances", "distinct", "attestations"}, rows)

	var calm [][]string
	for i := range r.Groups {
		g := &r.Groups[i]
		if g.Change == replay.Keeps || g.Change == replay.Denied || g.Change == replay.Admitted {
			calm = append(calm, []string{changeText[g.Change], fromTo(g), fmt.Sprint(g.Instances), fmt.Sprint(g.Attestations), stamp(g.Newest), g.Example})
			continue
		}
		printGroup(p, g)
	}
	if len(calm) > 0 {
		p.Title("Unchanged")
		p.Table([]string{"", "workload or reason", "instances", "attestations", "newest", "for example"}, calm)
	}
	return p.Err()
}

// changeText says what a change is.
var changeText = map[replay.Change]string{
	replay.Loses: "lose", replay.Exchanges: "lose and gain", replay.Gains: "gain", replay.Changes: "change", replay.Undecides: "undecided",
	replay.Keeps: "keep", replay.Denied: "stay denied", replay.Admitted: "admitted", replay.Refused: "refused",
}

func asOf(policy string, at *time.Time) string {
	if at == nil {
		return policy + " at the time of each record"
	}
	return policy + " as of " + stamp(*at)
}

func against(r *replay.Report) string {
	if r.Against == "" {
		return "what was decided then"
	}
	return asOf(r.Against, r.AgainstAt)
}

func sourceText(s string) string {
	if s == "server" {
		return "the server's ledger"
	}
	return s
}

func fromTo(g *replay.Group) string {
	switch g.Before {
	case "", g.After:
		return g.After
	}
	return g.Before + " → " + g.After
}

func printGroup(p *cli.Page, g *replay.Group) {
	p.Title("%s: %s", strings.ToUpper(changeText[g.Change]), fromTo(g))
	more := ""
	if g.AtLeast {
		more = "at least "
	}
	p.Linef("  %s%s, %s; newest %s, for example %s", more, cli.Count(g.Instances, "instance"), cli.Count(g.Attestations, "attestation"), stamp(g.Newest), g.Example)
	printTransition(p, &g.Transition)
	if len(g.Members) > 0 {
		var rows [][]string
		for _, m := range g.Members {
			rows = append(rows, []string{"", shortInstance(string(m.Instance)), cli.Count(m.Attestations, "attestation"), m.Reference})
		}
		if n := g.Instances - uint64(len(g.Members)); n > 0 {
			rows = append(rows, []string{"", fmt.Sprintf("and %d more", n), "", ""})
		}
		p.Table(nil, rows)
	}
}

// printTransition says what becomes of one environment, and why.
func printTransition(p *cli.Page, t *replay.Transition) {
	for _, id := range t.Lost {
		p.Linef("  - %s", id)
	}
	for _, id := range t.Gained {
		p.Linef("  + %s", id)
	}
	for _, d := range t.Differences {
		p.Linef("  ~ %s: %s → %s%s", d.Property, d.Before, d.After, ofID(d.SPIFFEID))
	}
	for _, w := range t.Why {
		switch {
		case w.Workload != "" && w.Note != "":
			p.Linef("  %s: %s; the nearest workload is %s:", w.Policy, w.Note, w.Workload)
		case w.Workload != "":
			p.Linef("  %s, workload %s:", w.Policy, w.Workload)
		default:
			p.Linef("  %s: %s", w.Policy, w.Note)
		}
		for _, r := range w.Rules {
			printRule(p, r)
		}
	}
}

func ofID(id string) string {
	if id == "" {
		return ""
	}
	return " (" + id + ")"
}

// printExplainedRecord prints the draft's whole decision about one record.
func printExplainedRecord(p *cli.Page, e explainedRecord) error {
	t := &e.Transition
	p.Linef("%s: %s", e.Reference, changeText[t.Change])
	facts := []cli.Fact{{Name: "instance", Value: string(e.Instance)}, {Name: "recorded", Value: stamp(e.Time)}}
	if b := t.Before; b != nil {
		facts = append(facts, cli.Fact{Name: "before", Value: standing(b)})
	}
	p.Facts(append(facts, cli.Fact{Name: "after", Value: standing(&t.After)})...)
	printTransition(p, t)
	printDecision(p, e.Decision)
	return p.Err()
}

func standing(s *replay.Standing) string {
	out := fmt.Sprintf("%s at %s: %s", s.Policy, stamp(s.At), s.Outcome)
	switch {
	case s.Workload != "":
		out += " as " + s.Workload
		if len(s.SPIFFEIDs) > 0 {
			out += ": " + strings.Join(s.SPIFFEIDs, ", ")
		}
	case s.Reason != "":
		out += " (" + s.Reason + ")"
	}
	return out
}

// meter shows on a terminal how far a replay is, on one line that is wiped at the
// end. The zero meter counts, and shows nothing.
type meter struct {
	w    io.Writer
	show bool

	read, first, reached, total atomic.Uint64
	next                        time.Time
	shown                       bool
}

// to says how long the chain of issuances is. What lies beside it is not counted:
// denials are few, since their store has quotas.
func (m *meter) to(total uint64) { m.total.Store(total) }

// at says where in a sequence the source is.
func (m *meter) at(outcome string, sequence uint64) {
	m.add()
	if outcome != ledger.Granted {
		return
	}
	m.first.CompareAndSwap(0, sequence)
	m.reached.Store(sequence)
}

func (m *meter) add() { m.read.Add(1) }

// meterEvery is how often the line changes.
const meterEvery = 200 * time.Millisecond

// watch shows the meter while a source is read. One goroutine reads it.
func (m *meter) watch(s replay.Source) replay.Source {
	if !m.show {
		return s
	}
	return func(yield func(replay.Item, error) bool) {
		m.next = time.Now().Add(meterEvery)
		for i, err := range s {
			if now := time.Now(); now.After(m.next) {
				m.next, m.shown = now.Add(meterEvery), true
				_, _ = fmt.Fprintf(m.w, "\r%-60s", m.line()) // a terminal that is gone stops nothing
			}
			if !yield(i, err) {
				return
			}
		}
	}
}

// line is a bar where it is known how much there is.
func (m *meter) line() string {
	const width = 24
	first, reached, total := m.first.Load(), m.reached.Load(), m.total.Load()
	if first == 0 || total < reached || total < first {
		return fmt.Sprintf("replayed %d records", m.read.Load())
	}
	done, all := reached-first+1, total-first+1
	full := int(done * width / all)
	return fmt.Sprintf("[%s%s] %3d%%  %d records", strings.Repeat("#", full), strings.Repeat(".", width-full), done*100/all, m.read.Load())
}

func (m *meter) wipe() {
	if m.shown {
		_, _ = fmt.Fprintf(m.w, "\r%60s\r", "")
	}
}
