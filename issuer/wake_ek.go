package issuer

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/assay-project/assay/attest"
	assayv1 "github.com/assay-project/assay/issuer/issuerpb/assay/v1"
	"github.com/assay-project/assay/issuer/tpms"
)

// wakeMachines asks the watching agents of these TPMs to attest again at once:
// what they hold was issued when the operator vouched for them otherwise. An
// agent whose entry cannot be read is asked too: an attestation too many does no
// harm. It returns how many it asked.
func (s *Server) wakeMachines(ctx context.Context, eks []tpms.EK) int {
	concerned := make(map[attest.Instance]bool, len(eks))
	for _, ek := range eks {
		concerned[attest.Claims{TPM: &attest.TPM{EK: ek[:]}}.Instance()] = true
	}
	event := reattest(assayv1.Reattest_REASON_OPERATOR, 0)
	asked := 0
	for _, w := range s.watchers.everybody() {
		item, err := s.ledger.BySerial(ctx, w.serial)
		if err == nil && !concerned[item.Entry.Instance] {
			continue
		}
		s.watchers.tellOne(w, event)
		asked++
	}
	if asked > 0 {
		s.log.InfoContext(ctx, "asked agents to attest again", "reason", event.GetReattest().GetReason().String(), "why", fmt.Sprintf("%d TPMs changed in the inventory", len(eks)), "agents", asked)
	}
	return asked
}

// everybody is who watches now.
func (w *watchers) everybody() []*watcher {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Collect(maps.Values(w.waiting))
}

// tellOne sends an event to one agent. Who has left meanwhile hears nothing.
func (w *watchers) tellOne(x *watcher, e *assayv1.WatchEvent) {
	w.mu.Lock()
	defer w.mu.Unlock()
	x.send(e)
}
