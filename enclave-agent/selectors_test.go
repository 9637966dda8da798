package agent

import (
	"fmt"
	"strings"
	"testing"

	"github.com/assay-project/assay/attest"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
)

// forProcesses makes the server say of the i-th SVID which processes get it.
func forProcesses(i int, list ...*assayv1.Selector) func(*assayv1.AttestResponse) {
	return func(m *assayv1.AttestResponse) {
		if len(m.GetIssued().GetSvids()) > i {
			m.GetIssued().Svids[i].Selectors = list
		}
	}
}

func TestSelectorsThatSayNothingAreRefused(t *testing.T) {
	many := make([]*assayv1.Selector, maxSelectors+1)
	for i := range many {
		many[i] = &assayv1.Selector{Type: "unix:supplementary_gid", Value: fmt.Sprint(i)}
	}
	for name, list := range map[string][]*assayv1.Selector{
		"no type":    {{Value: "1000"}},
		"no value":   {{Type: "unix:uid"}},
		"long type":  {{Type: strings.Repeat("t", maxSelector+1), Value: "1"}},
		"long value": {{Type: "unix:path", Value: "/" + strings.Repeat("v", maxSelector)}},
		"too many":   many,
	} {
		t.Run(name, func(t *testing.T) {
			s := newFaultyServer(t)
			s.issue = forProcesses(0, list...)
			s.start()
			_, err := attestWith(t, s, nil)
			wantCheck(t, err, attest.Untrusted, "issued_selectors")
		})
	}
}
