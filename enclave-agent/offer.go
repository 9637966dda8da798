package agent

import (
	"iter"
	"maps"
	"slices"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// part is what is served of one trust domain.
type part struct {
	*snapshot
	of *member
}

// offer is what is served of all trust domains at one moment: those that serve, in the
// order of the configuration. It never changes.
//
// Invariants: an SVID, a bundle and a token authority of a trust domain that the
// agent is in come from its own server alone; what another server says of it by
// federation counts for nothing, also while its own is away.
type offer struct {
	parts []part
	own   map[spiffeid.TrustDomain]bool // all that the agent is in, serving or not
	order []*member                     // likewise, as the configuration has them
	// reserved are the hints of trust domains of which nothing is served now, as they
	// were: nobody after them takes one meanwhile.
	reserved map[string]spiffeid.TrustDomain
}

// svids are the identities, in the order of the trust domains, and then of policy.
func (o *offer) svids() (out []*svid) {
	for _, p := range o.parts {
		out = append(out, p.svids...)
	}
	return out
}

// only is the offer with some of its identities.
func (o *offer) only(may []*svid) *offer {
	out := &offer{own: o.own, order: o.order, reserved: o.reserved, parts: make([]part, len(o.parts))}
	for i, p := range o.parts {
		s := &snapshot{version: p.version, bundle: p.bundle}
		for _, v := range p.svids {
			if slices.Contains(may, v) {
				s.svids = append(s.svids, v)
			}
		}
		out.parts[i] = part{s, p.of}
	}
	return out
}

// first is the trust domain of the first identity: what has one of each kind takes
// this one.
func (o *offer) first() part {
	for _, p := range o.parts {
		if len(p.svids) > 0 {
			return p
		}
	}
	return o.parts[0]
}

// bundles yields one bundle for each trust domain that is known here, with the part it
// is from: first those of the agent's own trust domains, then foreign ones. A foreign
// bundle comes along with the identities of a trust domain that federates with it;
// where two do, the one that the configuration names first says what is in it. They
// are never put together.
func (o *offer) bundles() iter.Seq2[*trustBundle, part] {
	return func(yield func(*trustBundle, part) bool) {
		for _, p := range o.parts {
			if !yield(p.bundle, p) {
				return
			}
		}
		seen := maps.Clone(o.own)
		for _, p := range o.parts {
			if len(p.svids) == 0 {
				continue
			}
			for _, f := range p.bundle.federated {
				if seen[f.td] {
					continue
				}
				seen[f.td] = true
				if !yield(f, p) {
					return
				}
			}
		}
	}
}

// hints gives each identity its hint, unless one before has the same: a hint is
// unique in its message (SPIFFE Workload API, section 5.2.1). Before it is whom the
// configuration has before it, also while nothing is served of that: who chooses by
// hint is not given another trust domain's identity because a server is away.
func (o *offer) hints() map[*svid]string {
	out, taken := map[*svid]string{}, map[string]bool{}
	for _, p := range o.parts {
		for _, v := range p.svids {
			if v.hint != "" && !taken[v.hint] && !o.reservedBefore(v.hint, p.of) {
				taken[v.hint] = true
				out[v] = v.hint
			}
		}
	}
	return out
}

// reservedBefore reports whether a hint is that of a trust domain before another.
func (o *offer) reservedBefore(hint string, of *member) bool {
	td, there := o.reserved[hint]
	if !there {
		return false
	}
	for _, m := range o.order {
		if m == of {
			return false
		}
		if m.of.TrustDomain == td {
			return true
		}
	}
	return false
}

// response is the offer as a full-state message of the Workload API.
func (o *offer) response() *workload.X509SVIDResponse {
	r := &workload.X509SVIDResponse{}
	hints, shown := o.hints(), map[spiffeid.TrustDomain]bool{}
	for _, p := range o.parts {
		for _, v := range p.svids {
			if isResident(v.key) {
				continue // its key cannot be handed out
			}
			shown[p.bundle.td] = true
			r.Svids = append(r.Svids, &workload.X509SVID{
				SpiffeId: v.id.String(), X509Svid: v.chainDER, X509SvidKey: v.keyDER, Bundle: p.bundle.der, Hint: hints[v],
			})
		}
	}
	for b := range o.bundles() {
		if shown[b.td] || len(b.authorities) == 0 { // an empty bundle is none: its trust domain has revoked everything
			continue
		}
		if r.FederatedBundles == nil {
			r.FederatedBundles = map[string][]byte{}
		}
		r.FederatedBundles[b.td.IDString()] = b.der
	}
	return r
}

// x509Bundles are the bundles as a message of the Workload API.
func (o *offer) x509Bundles() *workload.X509BundlesResponse {
	out := map[string][]byte{}
	for b := range o.bundles() {
		if len(b.authorities) > 0 {
			out[b.td.IDString()] = b.der
		}
	}
	return &workload.X509BundlesResponse{Bundles: out}
}

// jwtBundles are the JWT authorities of every trust domain that is known here.
func (o *offer) jwtBundles() *workload.JWTBundlesResponse {
	out := map[string][]byte{}
	for b := range o.bundles() {
		out[b.td.IDString()] = b.jwt.raw
	}
	return &workload.JWTBundlesResponse{Bundles: out}
}
