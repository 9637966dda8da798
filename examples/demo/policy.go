package main

import (
	"context"
	"fmt"
	"os"
	"strings"
)

// writePolicy writes a revision of the demo's policy: for two enclaves an image
// (PCR0) and who may launch it (PCR3), for a guest its measurement, its machine
// and the least firmware, for a machine its boot and its TPM. The second revision also admits the next release of
// orders before it ships, and gives orders shorter SVIDs.
func (d *demo) writePolicy(ctx context.Context, revision int) error {
	images, ttl := []string{"orders"}, "1h"
	if revision > 1 {
		images, ttl = append(images, "orders-next"), "30m"
	}
	var references strings.Builder
	var pcr3 string
	for _, image := range images {
		m, err := d.measurements(ctx, image)
		if err != nil {
			return err
		}
		pcr3 = m["pcr3"]
		fmt.Fprintf(&references, "    - {value: %q, note: %q}\n", m["pcr0"], image)
	}
	inventory, err := d.measurements(ctx, "inventory")
	if err != nil {
		return err
	}
	vault, err := d.guest(ctx)
	if err != nil {
		return err
	}
	machine, err := d.machineWorkload(ctx)
	if err != nil {
		return err
	}
	text := fmt.Sprintf(`version: 1
bundle: shop
revision: %d
trust_domain: %s
references:
  orders-images:
%s  our-machines:
    dedicated: true # no other tenant runs on them
    values: [{value: %q, note: "rack 4"}]
workloads:
  - name: orders
    tee: aws-nitro
    mode: enforce
    match:
      pcr0: {in: orders-images}
      pcr3: {eq: %q} # whose instance role launched it: ownership
    issue:
      - spiffe_id: "spiffe://{td}/shop/orders"
        x509_ttl: %s
        jwt: {ttl: 5m, audiences: [sts.amazonaws.com]} # may sign in to AWS
  - name: inventory
    tee: aws-nitro
    mode: enforce
    match:
      pcr0: {eq: %q}
      pcr3: {eq: %q}
    issue:
      - spiffe_id: "spiffe://{td}/shop/inventory"
        x509_ttl: 1h
  - name: vault
    tee: amd-sev-snp
    mode: enforce
    match:
      measurement: {eq: %q}
      chip_id: {in: our-machines} # whose machine it runs on: ownership
      reported_tcb: %s # no firmware older than this
    issue:
      - spiffe_id: "spiffe://{td}/shop/vault"
        x509_ttl: 1h
%s`, revision, trustDomain, references.String(), vault.chipID, pcr3, ttl, inventory["pcr0"], pcr3,
		vault.measurement, vault.floor, machine)
	// Replaced in one step: the server must never read half a policy.
	tmp := d.path("assay/policy.yaml.new")
	if err := os.WriteFile(tmp, []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, d.path("assay/policy.yaml"))
}
