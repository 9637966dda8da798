package agent

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/assay-project/assay/attest"
	agentv1 "github.com/assay-project/assay/issuer/issuerpb/assay/agent/v1"
)

// history is how the last attestation in a trust domain ended.
type history struct {
	mu    sync.Mutex
	last  *agentv1.Attempt
	retry time.Time // when it is tried again, after a failure
}

func (h *history) succeeded(reference string, at time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last, h.retry = &agentv1.Attempt{AtUnixMs: at.UnixMilli(), Succeeded: true, Reference: reference}, time.Time{}
}

// failed takes an error as the log has it: in the agent's words or, of the server's,
// clipped to what the protocol has.
func (h *history) failed(err error, at time.Time, wait time.Duration) {
	out := &agentv1.Attempt{AtUnixMs: at.UnixMilli(), Kind: attest.KindOf(err).String(), Check: attest.CheckOf(err), Message: message(err)}
	var refused *Refusal
	if errors.As(err, &refused) {
		out.Reference = refused.Reference
	}
	var e *attest.Error
	if errors.As(err, &e) {
		out.Hint = e.Hint
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last, h.retry = out, at.Add(wait)
}

// maxStatus bounds a message in a status, in bytes.
const maxStatus = 1 << 10

// message is the text of an error, fit for a message of Protocol Buffers.
func message(err error) string {
	s := err.Error()
	return strings.ToValidUTF8(s[:min(len(s), maxStatus)], "")
}

func (h *history) get() (last *agentv1.Attempt, retry time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.last, h.retry
}

// GetStatus says how the agent stands.
func (s *agentAPI) GetStatus(ctx context.Context, _ *agentv1.GetStatusRequest) (*agentv1.Status, error) {
	var all []*svid
	for _, m := range s.agent.members {
		all = append(append(all, m.state.held()...), m.state.ended()...)
	}
	if !callerOf(ctx).owns() {
		var err error
		if all, err = s.workload.gate.judge(ctx, all); err != nil {
			return nil, err
		}
	}
	out := &agentv1.Status{Tee: string(s.tee)}
	for _, m := range s.agent.members {
		out.TrustDomains = append(out.TrustDomains, m.status(all))
	}
	return out, nil
}

// owns reports whether the caller is root or the agent's own user.
func (c *caller) owns() bool { return c.user() == 0 || c.user() == uint32(os.Geteuid()) }

// status is how the agent stands with one trust domain; shown are the identities, of
// all, that the answer may name.
func (m *member) status(shown []*svid) *agentv1.TrustDomainStatus {
	last, retry := m.past.get()
	wall := m.agent.cfg.Clock.Wall()
	ahead, _ := m.time.departure()
	out := &agentv1.TrustDomainStatus{
		TrustDomain: m.of.TrustDomain.Name(), Server: m.of.Server, Last: last, Denied: m.state.denial() != nil, WallClockAheadMs: ahead.Milliseconds(),
	}
	switch _, _, err := m.state.view(); {
	case err == nil:
		out.State = agentv1.State_STATE_SERVING
	case !errors.Is(err, errNoIdentity):
		out.State = agentv1.State_STATE_CLOCK
	case last == nil:
		out.State = agentv1.State_STATE_ATTESTING
	default:
		out.State = agentv1.State_STATE_NO_IDENTITY
	}
	// The plan is by the server's time; people read it by the clock that they have.
	next := wall.Add(m.plan.next().Sub(m.time.now()))
	if !retry.IsZero() {
		next = retry
	}
	if last != nil && next.After(wall) {
		out.NextUnixMs = next.UnixMilli()
	}
	for _, v := range shown {
		if !v.id.MemberOf(m.of.TrustDomain) {
			continue
		}
		out.Identities = append(out.Identities, &agentv1.IdentityStatus{SpiffeId: v.id.String(), NotAfterUnixMs: v.notAfter().UnixMilli(), Hint: v.hint})
	}
	return out
}
