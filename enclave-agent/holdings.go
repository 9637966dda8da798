package agent

import (
	"errors"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// holdings are the agent's trust domains together: all that the services on the
// socket read.
type holdings struct {
	members []*member
	changed *signal
}

// offer is what is served now, perhaps nothing. The channel is closed at the next
// change.
func (h *holdings) offer() (*offer, <-chan struct{}) {
	changed := h.changed.next()
	o := &offer{own: map[spiffeid.TrustDomain]bool{}, reserved: map[string]spiffeid.TrustDomain{}}
	for _, m := range h.members {
		o.own[m.of.TrustDomain] = true
		if s, _, err := m.state.view(); err == nil {
			o.parts = append(o.parts, part{s, m})
			continue
		}
		for _, hint := range m.state.lastHints() {
			if _, there := o.reserved[hint]; !there {
				o.reserved[hint] = m.of.TrustDomain
			}
		}
	}
	o.order = h.members
	return o, changed
}

// leads is the trust domain of what has no name of its own: an Envoy's `default` and
// `ROOTCA`. It is the first of the configuration of which the caller may have an
// identity; and the first of which nothing is served, where that comes before, so that
// keeping a server away puts nobody else's authority, or identity, in its place.
func (h *holdings) leads(now *offer) *member {
	for _, m := range h.members {
		i := slices.IndexFunc(now.parts, func(p part) bool { return p.of == m })
		if i < 0 || len(now.parts[i].svids) > 0 {
			return m
		}
	}
	return h.members[0]
}

// in is the agent in a trust domain, or nil.
func (h *holdings) in(td spiffeid.TrustDomain) *member {
	for _, m := range h.members {
		if m.of.TrustDomain == td {
			return m
		}
	}
	return nil
}

// nothing says why a caller gets nothing at all: a status. Where nothing is served to
// anybody, a clock that cannot be right passes, and goes before a denial; a caller who
// shows what no identity selects, beside others who are served, is not told of it.
func (h *holdings) nothing(served bool) error {
	var denials []string
	for _, m := range h.members {
		err := m.nothing()
		if status.Code(err) == codes.Unavailable {
			if served {
				continue
			}
			return err
		}
		if denied := m.denied(); err != nil && denied != nil {
			denials = append(denials, status.Convert(denied).Message())
		}
	}
	if len(denials) > 0 {
		return status.Error(codes.PermissionDenied, strings.Join(denials, "; "))
	}
	return errNotIssued()
}

// nothing says why nothing is served of this trust domain: a status, or nil. Without
// an identity it is PermissionDenied (SPIFFE Workload API, section 5.2.1; Workload
// Endpoint, section 6); a clock that cannot be right is this machine's trouble.
func (m *member) nothing() error {
	switch _, _, err := m.state.view(); {
	case err == nil:
		return nil
	case !errors.Is(err, errNoIdentity):
		return status.Error(codes.Unavailable, m.saying(err.Error()))
	}
	if err := m.denied(); err != nil {
		return err
	}
	return errNotIssued()
}

// denied tells a caller that the server's last word was a denial (by policy, or by a
// ban), and under which reference its operators find why; nil where it was not.
func (m *member) denied() error {
	d := m.state.denial()
	if d == nil {
		return nil
	}
	return status.Error(codes.PermissionDenied, m.saying("the server denies this agent an identity: reference "+d.Reference))
}

// saying names the trust domain in a text, where there are several.
func (m *member) saying(text string) string {
	if m.alone {
		return text
	}
	return m.of.TrustDomain.Name() + ": " + text
}

func errNotIssued() error { return status.Error(codes.PermissionDenied, "no identity issued") }
