package policy

import (
	"fmt"
	"unicode/utf8"
)

// MaxDecisionText bounds the texts of a decision of [Bundle.Evaluate], in bytes: it
// is kept for as long as the ledger is. Names, positions and numbers come on top.
const MaxDecisionText = 256 << 10

// shorten cuts texts, the same for all, until they are no more than MaxDecisionText
// together; where that is not enough, workloads are left out, those that do not
// match first, and never the one that grants. Most decisions are far smaller.
func (d *Decision) shorten() {
	size := 0
	for i := range d.Workloads {
		size += d.Workloads[i].text()
	}
	for _, most := range []int{1024, 256, 64} {
		if size <= MaxDecisionText {
			return
		}
		size = d.cut(most)
	}
	for _, matched := range []bool{false, true} {
		for i := len(d.Workloads) - 1; i >= 0 && size > MaxDecisionText; i-- {
			w := d.Workloads[i]
			if w.Matched != matched || w.Name == d.Workload && d.Workload != "" {
				continue
			}
			size -= w.text()
			d.Workloads = append(d.Workloads[:i], d.Workloads[i+1:]...)
			d.Omitted++
		}
	}
}

// cut leaves of each text so many bytes at most, and returns what all have now.
func (d *Decision) cut(most int) (size int) {
	for i := range d.Workloads {
		rules := d.Workloads[i].Rules
		for j := range rules {
			for _, s := range rules[j].texts() {
				if len(*s) > most+32 {
					*s = cutText(*s, most)
				}
				size += len(*s)
			}
		}
	}
	return size
}

func (w *WorkloadResult) text() (size int) {
	for i := range w.Rules {
		r := &w.Rules[i]
		size += len(r.Expected) + len(r.Got) + len(r.Hint)
	}
	return size
}

// texts are the parts of a result that the policy and the claims make long.
func (r *RuleResult) texts() [3]*string { return [3]*string{&r.Expected, &r.Got, &r.Hint} }

func cutText(s string, most int) string {
	for most > 0 && !utf8.RuneStart(s[most]) {
		most--
	}
	return fmt.Sprintf("%s… (%d bytes more)", s[:most], len(s)-most)
}
