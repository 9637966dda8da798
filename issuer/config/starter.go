package config

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
)

// Layout is where the files of an installation are.
type Layout struct {
	File        string // the configuration itself
	DataDir     string
	Policy      string
	AdminSocket string
	// Tenant is a trust domain that a process serves beside another: its file says
	// nothing of the process.
	Tenant bool
	// The roots of simulators; all are empty in a trust domain of hardware.
	SimulatedRoot, SimulatedSNPRoots, SimulatedTPMRoot string
}

// Simulated reports whether the hardware is simulated.
func (l Layout) Simulated() bool {
	return l.SimulatedRoot != "" || l.SimulatedSNPRoots != "" || l.SimulatedTPMRoot != ""
}

// SystemLayout is that of a server installed for the whole machine.
func SystemLayout() Layout {
	d := Default()
	return Layout{File: DefaultPath, DataDir: d.DataDir, Policy: d.Policy, AdminSocket: d.AdminSocket}
}

// LayoutIn keeps everything in one directory.
func LayoutIn(dir string) Layout {
	return Layout{
		File:        filepath.Join(dir, FileName),
		DataDir:     dir,
		Policy:      filepath.Join(dir, policyName),
		AdminSocket: filepath.Join(dir, socketName),
	}
}

// Starter writes the commented configuration of a new server, which starts as
// it is. Paths inside the file's own directory are written relative to it.
func Starter(trustDomain string, l Layout) []byte {
	d := Default()
	base := filepath.Dir(l.File)
	path := func(p string) string {
		if rel, err := filepath.Rel(base, p); err == nil && filepath.IsLocal(rel) {
			p = rel
		}
		return strconv.Quote(p)
	}
	var b strings.Builder
	line := func(format string, a ...any) { fmt.Fprintf(&b, format+"\n", a...) }

	line("# The configuration of assayd. `assayd check` validates it; docs/reference/config.md explains every key.")
	line("# Commented keys show their defaults. Relative paths are relative to this file's directory.")
	line("")
	line("# The SPIFFE trust domain. It is stored in the database: changing it here is an error.")
	line("trust_domain: %s", strconv.Quote(trustDomain))
	line("")
	line("# Database and keys (0700).")
	line("data_dir: %s", path(l.DataDir))
	line("")
	line("# Who may get which identity. Read again on SIGHUP and when it changes.")
	line("policy: %s", path(l.Policy))
	line("")
	line("# Who must sign a policy before this server takes it: `assay policy keygen`, `assay policy sign`.")
	line("# policy_signers:")
	line("#   threshold: 2")
	line("#   keys: [alice.pub, bob.pub, carol.pub]")
	line("")
	if !l.Tenant {
		line("# Attestation, gRPC over TLS 1.3.")
		line("listen: %s", strconv.Quote(d.Listen))
		line("")
	}
	line("# Administration, a unix socket with mode 0600.")
	line("admin_socket: %s", path(l.AdminSocket))
	line("")
	if !l.Tenant {
		line("# /metrics, /live and /ready. \"\" turns them off.")
		line("metrics_listen: %s", strconv.Quote(d.MetricsListen))
		line("")
	}
	if l.Simulated() {
		line("# THE HARDWARE OF THIS TRUST DOMAIN IS SIMULATED. Its identities say so.")
	} else {
		line("# AWS Nitro Enclaves, AMD SEV-SNP and TPM 2.0, under the vendors' roots that are built in.")
		line("# nitro: {}")
	}
	if l.SimulatedRoot != "" {
		line("nitro:")
		line("  simulated_root: %s", path(l.SimulatedRoot))
	}
	if l.SimulatedSNPRoots != "" {
		line("sevsnp:")
		line("  simulated_roots: %s", path(l.SimulatedSNPRoots))
	} else {
		line("# sevsnp:")
	}
	line("#   require_crl: %t         # reports need a current CRL of their chain", d.SEVSNP.RequireCRL)
	line("#   crl_grace: %s             # how long an expired one still counts", d.SEVSNP.CRLGrace)
	if l.SimulatedTPMRoot != "" {
		line("tpm:")
		line("  simulated_root: %s", path(l.SimulatedTPMRoot))
	} else {
		line("# tpm:")
	}
	line("#   pcr_bank: %s           # the registers that policies match, or sha384", d.TPM.PCRBank)
	line("")
	if !l.Tenant {
		line("# log: {level: %s, format: %s}", d.Log.Level, d.Log.Format)
		line("")
		line("# Further trust domains that this process serves: `assayd init --tenant`, docs/guides/tenants.md.")
		line("# tenants: []")
		line("")
	}
	line("# How long evidence is kept for replaying draft policies over it.")
	line("# retain_evidence: 720h")
	line("")
	line("# A file, best on another machine's disk, that gets every signed checkpoint of the ledger.")
	line("# checkpoint_sink: %s", strconv.Quote("/var/log/assay/checkpoints"))
	line("")
	line("# reattest_spread: 1m      # over which agents renew when the policy changes")
	if !l.Tenant {
		line("# shutdown_timeout: 10s")
		line("# reflection: false        # gRPC server reflection")
	}
	line("")
	line("# What strangers can make the server hold. There is no limit on attestations per address.")
	line("# limits:")
	if !l.Tenant {
		line("#   handshakes: %d", d.Limits.Handshakes)
		line("#   handshakes_per_address: %d", d.Limits.HandshakesPerAddress)
		line("#   handshake_timeout: %s", d.Limits.HandshakeTimeout)
		line("#   connections: %d", d.Limits.Connections)
		line("#   strangers_per_address: %d", d.Limits.StrangersPerAddress)
		line("#   streams_per_connection: %d", d.Limits.StreamsPerConnection)
	}
	line("#   unverified: %d", d.Limits.Unverified)
	line("#   unverified_per_address: %d", d.Limits.UnverifiedPerAddress)
	line("#   event_log_mib: %d          # boot event logs of TPMs", d.Limits.EventLogMiB)
	line("#   in_flight: %d", d.Limits.InFlight)
	line("#   attestations_per_instance: %d   # in a minute", d.Limits.AttestationsPerInstance)
	line("#   attestations_per_second: %d", d.Limits.AttestationsPerSecond)
	line("#   tokens_per_instance: %d        # in a minute", d.Limits.TokensPerInstance)
	line("#   admin_calls: %d               # of one administrator, in a minute", d.Limits.AdminCalls)
	line("")
	line("# What attesters can make the server store, beside the ledger's entries.")
	line("# quotas:")
	line("#   evidence_mib: %d", d.Quotas.EvidenceMiB)
	line("#   denied_evidence_mib: %d", d.Quotas.DeniedEvidenceMiB)
	line("#   evidence_per_instance: %d    # in an hour", d.Quotas.EvidencePerInstance)
	line("#   denials: %d", d.Quotas.Denials)
	line("#   denials_per_hour: %d", d.Quotas.DenialsPerHour)
	line("#   denials_per_instance: %d     # in an hour", d.Quotas.DenialsPerInstance)
	return []byte(b.String())
}

// StarterPolicy writes the policy of a new server: it loads, and grants
// nothing until a workload is added.
func StarterPolicy(trustDomain string, simulated bool) []byte {
	bundle := "first"
	measure := "the PCRs that `nitro-cli build-enclave` printed"
	if simulated {
		measure = "`teesim nitro measurements --image NAME --role ARN`"
	}
	return []byte(fmt.Sprintf(`# Who may get which identity. What is not granted here is denied.
# Validate with `+"`assay policy check`"+`; raise the revision with every change.
version: 1
bundle: %[1]s
revision: 1
trust_domain: %[2]s

# The measurements for a workload come from
# %[3]s.
# PCR3 is the instance role: nobody else can launch the same image under it.
#
# workloads:
#   - name: payments
#     tee: aws-nitro
#     mode: enforce
#     match:
#       pcr0: {eq: "<96 hex digits>"}   # the image
#       pcr3: {eq: "<96 hex digits>"}   # whose role launched it: ownership
#     issue:
#       - spiffe_id: "spiffe://{td}/payments/api"
#         x509_ttl: 1h
workloads: []
`, bundle, strconv.Quote(trustDomain), measure))
}
