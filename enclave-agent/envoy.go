package agent

import (
	"context"
	"crypto/x509"

	"github.com/assay-project/assay/enclave-agent/sds"
)

// secrets is what an Envoy may have now (package sds): a source of its secrets.
func (w *workloadAPI) secrets(ctx context.Context) (*sds.Secrets, <-chan struct{}, error) {
	now, changed, err := w.view(ctx)
	if err != nil {
		return nil, nil, err
	}
	out := &sds.Secrets{TrustDomain: w.held.leads(now).of.TrustDomain.Name(), Bundles: map[string][]*x509.Certificate{}}
	for b := range now.bundles() {
		out.Bundles[b.td.Name()] = b.authorities
	}
	for _, v := range now.svids() {
		if isResident(v.key) {
			continue // its key cannot be handed out
		}
		out.SVIDs = append(out.SVIDs, sds.SVID{ID: v.id.String(), Chain: v.chain, Key: v.keyDER})
	}
	return out, changed, nil
}
