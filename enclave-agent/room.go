package agent

// maxServed bounds the messages that workloads get, in bytes: a client of gRPC takes 4
// MiB, unless it is told otherwise. Each trust domain has an equal share, so that
// none can make the message too long in which another's identities are.
const maxServed = 15 << 18

// fits checks that identities and a bundle stay within the share, in the longest
// message there is of them.
func (m *member) fits(svids []*svid, b *trustBundle) error {
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
	if size := max(x509, own); size > m.room {
		return replyError("bundle_size", "%d bytes to hand to workloads, at most %d", size, m.room)
	}
	return nil
}
