package agent

// maxServed bounds the messages that workloads get, in bytes: a client of gRPC takes 4
// MiB, unless it is told otherwise. Each trust domain has an equal share, so that
// none can make the message too long in which another's identities are.
const maxServed = 3 << 20

// fits checks that identities and a bundle stay within the share.
func (m *member) fits(svids []*svid, b *trustBundle) error {
	size := b.size() + len(b.verifierKeys) + len(b.denyList)
	for _, v := range svids {
		// The chain and the key, and the bundle once more for each; in assay.agent.v1 the
		// attestation result beside the chain that it is in.
		size += 2*len(v.chainDER) + len(v.keyDER) + len(b.der)
	}
	for _, f := range b.federated {
		size += f.size()
	}
	if size > m.room {
		return replyError("bundle_size", "%d bytes to hand to workloads, at most %d", size, m.room)
	}
	return nil
}

func (b *trustBundle) size() int { return len(b.der) + len(b.jwt.raw) + 2*len(b.td.Name()) }
