package agent

import (
	"context"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// tokenPatience is how long tokens of one trust domain wait for those of another,
// whose server may be away.
const tokenPatience = time.Second

// named are the parts of an offer with the identities of a name; "" is every name.
func (o *offer) named(id string) (out []part) {
	for _, p := range o.parts {
		s := &snapshot{version: p.version, bundle: p.bundle}
		for _, v := range p.svids {
			if id == "" || v.id.String() == id {
				s.svids = append(s.svids, v)
			}
		}
		if len(s.svids) > 0 {
			out = append(out, part{s, p.of})
		}
	}
	return out
}

// without says why a caller that has identities does not have the one it names.
func (h *holdings) without(id string) error {
	if v, err := spiffeid.FromString(id); err == nil {
		if m := h.in(v.TrustDomain()); m != nil {
			if err := m.nothing(); err != nil {
				return err
			}
		}
	}
	return status.Error(codes.PermissionDenied, "no such identity issued")
}

// mintAll returns tokens of the identities, in their order. Each trust domain's server
// mints its own, all at once. One that is away, or grants nothing, takes no token of
// another's from the caller; where there is none at all, the error is that which passes.
func mintAll(ctx context.Context, parts []part, audiences []string, hints map[*svid]string) ([]*workload.JWTSVID, error) {
	if len(parts) == 1 {
		return parts[0].mint(ctx, audiences, hints)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type answer struct {
		part   int
		tokens []*workload.JWTSVID
		err    error
	}
	answers := make(chan answer, len(parts)) // room for all: nobody waits for who has left
	for i, p := range parts {
		go func() {
			tokens, err := guard(func() ([]*workload.JWTSVID, error) { return p.mint(ctx, audiences, hints) })
			answers <- answer{i, tokens, err}
		}()
	}
	var patience <-chan time.Time // of nobody, before there is something to hand out
	got := make([]answer, len(parts))
	for left, waiting := len(parts), true; left > 0 && waiting; left-- {
		select {
		case a := <-answers:
			got[a.part] = a
			if a.err == nil && patience == nil {
				patience = time.After(tokenPatience)
			}
		case <-patience:
			waiting = false
		}
	}
	var out []*workload.JWTSVID
	var why error
	for _, a := range got {
		out = append(out, a.tokens...)
		if why == nil || status.Code(why) == codes.PermissionDenied && a.err != nil {
			why = a.err
		}
	}
	if len(out) > 0 {
		return out, nil
	}
	return nil, why
}

// mint returns the tokens of one trust domain.
func (p part) mint(ctx context.Context, audiences []string, hints map[*svid]string) (out []*workload.JWTSVID, err error) {
	var denied error
	for _, own := range p.svids {
		text, err := p.of.tokens.get(ctx, own, p.bundle, audiences)
		switch {
		case status.Code(err) == codes.PermissionDenied:
			denied = err // another identity may be granted one
			continue
		case err != nil:
			return nil, err
		}
		out = append(out, &workload.JWTSVID{SpiffeId: own.id.String(), Svid: text, Hint: hints[own]})
	}
	if len(out) == 0 {
		return nil, denied
	}
	return out, nil
}
