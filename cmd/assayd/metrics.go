package main

import (
	"github.com/assay-project/assay/issuer"
	"github.com/assay-project/assay/issuer/tpms"
	"github.com/assay-project/assay/verifiers/nitro"
	"github.com/assay-project/assay/verifiers/sevsnp"
	"github.com/assay-project/assay/verifiers/sevsnp/collateral"
	"github.com/assay-project/assay/verifiers/tpm"
)

// platformMetrics adds what only the platforms' verifiers know.
func platformMetrics(m *issuer.Metrics, p *platforms, c *collateral.Source, r *tpms.Registry) {
	if p.nitro != nil {
		nitroMetrics(m, p.nitro)
	}
	if p.sevsnp != nil {
		snpMetrics(m, p.sevsnp)
	}
	if c != nil {
		collateralMetrics(m, c)
	}
	if p.tpm != nil {
		tpmMetrics(m, p.tpm)
	}
	if r != nil {
		m.Gauge("assay_tpm_inventory", "TPMs in the operator's inventory.", func() float64 { return float64(r.Size()) })
	}
}

func tpmMetrics(m *issuer.Metrics, v *tpm.Verifier) {
	m.Gauge("assay_tpm_keys", "Attestation and endorsement keys in the cache.", func() float64 { return float64(v.CacheStats().Keys) })
	m.Gauge("assay_tpm_certificates", "Certificates of keys in the cache.", func() float64 { return float64(v.CacheStats().Certificates) })
	m.Gauge("assay_tpm_event_logs", "Replayed boot event logs in the cache.", func() float64 { return float64(v.CacheStats().EventLogs) })
	m.Counter("assay_tpm_chain_hits_total", "Quotes whose certificate had been verified before.", func() float64 { return float64(v.CacheStats().Hits) })
	m.Counter("assay_tpm_chain_signatures_total", "Verifications of certificates.", func() float64 { return float64(v.CacheStats().Signatures) })
	m.Counter("assay_tpm_cache_evictions_total", "Keys, certificates and logs that were forgotten because the cache was full.", func() float64 { return float64(v.CacheStats().Evictions) })
	m.Counter("assay_tpm_panics_total", "Quotes on which a TPM library panicked, each refused as malformed.", func() float64 { return float64(v.CacheStats().Panics) })
}

func nitroMetrics(m *issuer.Metrics, v *nitro.Verifier) {
	m.Gauge("assay_nitro_chains", "Certificate chains in the chain cache.", func() float64 { return float64(v.CacheStats().Leaves) })
	m.Counter("assay_nitro_chain_hits_total", "Documents whose whole chain had been verified before.", func() float64 { return float64(v.CacheStats().LeafHits) })
	m.Counter("assay_nitro_chain_signatures_total", "P-384 verifications of certificates.", func() float64 { return float64(v.CacheStats().Signatures) })
	m.Counter("assay_nitro_chain_evictions_total", "Chains that were forgotten because the cache was full.", func() float64 { return float64(v.CacheStats().Evictions) })
	m.Counter("assay_nitro_panics_total", "Documents on which the COSE library panicked, each refused as malformed.", func() float64 { return float64(v.CacheStats().Panics) })
}

func snpMetrics(m *issuer.Metrics, v *sevsnp.Verifier) {
	m.Gauge("assay_snp_endorsements", "VCEKs and VLEKs in the chain cache.", func() float64 { return float64(v.CacheStats().Endorsements) })
	m.Counter("assay_snp_chain_hits_total", "Reports whose chain had been verified before.", func() float64 { return float64(v.CacheStats().Hits) })
	m.Counter("assay_snp_chain_signatures_total", "RSA-4096 verifications of certificates and CRLs.", func() float64 { return float64(v.CacheStats().Signatures) })
	m.Counter("assay_snp_chain_evictions_total", "Chains that were forgotten because the cache was full.", func() float64 { return float64(v.CacheStats().Evictions) })
	m.Counter("assay_snp_panics_total", "Reports on which the SEV-SNP library panicked, each refused as malformed.", func() float64 { return float64(v.CacheStats().Panics) })
}

func collateralMetrics(m *issuer.Metrics, s *collateral.Source) {
	m.Gauge("assay_collateral_endorsements", "VCEKs and VLEKs in the collateral cache.", func() float64 { return float64(s.Stats().Endorsements) })
	m.Gauge("assay_collateral_memory_bytes", "Memory that cached endorsements take.", func() float64 { return float64(s.Stats().MemoryBytes) })
	m.Gauge("assay_collateral_kds_pause_seconds", "How long the KDS is left alone; 0 if it is not.", func() float64 { return s.Stats().Pause.Seconds() })
	m.Counter("assay_collateral_hits_total", "Endorsements found in the collateral cache.", func() float64 { return float64(s.Stats().Hits) })
	m.Counter("assay_collateral_not_allowed_total", "Endorsements of chips that nobody named, for which nothing was fetched.", func() float64 { return float64(s.Stats().NotAllowed) })
	m.Counter("assay_collateral_kds_requests_total", "Requests to the KDS.", func() float64 { return float64(s.Stats().Requests) })
	m.Counter("assay_collateral_kds_failures_total", "Requests to the KDS without a good answer.", func() float64 { return float64(s.Stats().Failures) })
	m.Counter("assay_collateral_refused_total", "Answers of the KDS that did not verify. Any is worth a look.", func() float64 { return float64(s.Stats().Refused) })
	m.Counter("assay_collateral_corrupt_total", "Files of the cache that did not verify. Any is worth a look.", func() float64 { return float64(s.Stats().Corrupt) })
}
