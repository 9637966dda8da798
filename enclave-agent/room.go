package agent

import (
	"fmt"
	"slices"
)

// maxServed bounds the messages that workloads get, in bytes: a client of gRPC takes 4
// MiB, unless it is told otherwise. Each trust domain has an equal share, so that
// none can make the message too long in which another's identities are.
const maxServed = 15 << 18

// fits checks that identities and a bundle stay within the share, in the longest
// message there is of them. Foreign bundles are left out for it, the largest first:
// their size is up to those with whom the trust domain federates, and no foreign
// bundle keeps an agent from its own identity.
func (m *member) fits(svids []*svid, b *trustBundle) error {
	for {
		size := room(svids, b)
		if size <= m.room {
			return nil
		}
		if len(b.federated) == 0 {
			return replyError("bundle_size", "%d bytes to hand to workloads, at most %d", size, m.room)
		}
		largest := 0
		for i, f := range b.federated {
			if f.size() > b.federated[largest].size() {
				largest = i
			}
		}
		f := b.federated[largest]
		b.dropped = append(b.dropped, fmt.Sprintf("%s: %d bytes, and there is room for %d in all", f.td, f.size(), m.room))
		b.federated = slices.Delete(slices.Clone(b.federated), largest, largest+1)
	}
}

// room is how long the longest message is.
func room(svids []*svid, b *trustBundle) int {
	// The Workload API has chain, key and bundle of each, and assay.agent.v1 the chain
	// with the attestation result once more, and all that is signed.
	var x509, jwt, own int
	for _, f := range append(b.federated[:len(b.federated):len(b.federated)], b) {
		x509 += len(f.der) + 2*len(f.td.Name())
		jwt += len(f.jwt.raw) + 2*len(f.td.Name())
	}
	own = x509 + jwt + len(b.verifierKeys) + len(b.denyList)
	for _, v := range svids {
		x509 += len(v.chainDER) + len(v.keyDER) + len(b.der)
		own += 2 * len(v.chainDER)
	}
	return max(x509, own)
}

func (b *trustBundle) size() int { return len(b.der) + len(b.jwt.raw) }
