package config

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	agent "github.com/assay-project/assay/enclave-agent"
)

// Starter writes the commented configuration of a new agent, which starts as it
// is. Of c the required keys, tee, the socket and the simulators' sockets are used. Paths
// inside the file's own directory are written relative to it.
func Starter(file string, c Config) []byte {
	d := Default()
	path := func(p string) string { return strconv.Quote(beside(filepath.Dir(file), p)) }
	var b strings.Builder
	line := func(format string, a ...any) { fmt.Fprintf(&b, format+"\n", a...) }

	line("# The configuration of assay-agent. `assay-agent check` validates it; docs/reference/agent-config.md explains every key.")
	line("# Commented keys show their defaults. Relative paths are relative to this file's directory.")
	line("# Inside a TEE this file and the root it names belong to what is measured: they say whom the agent believes.")
	line("")
	line("trust_domain: %s", strconv.Quote(c.TrustDomain))
	line("")
	line("# The attestation service. A proxy on the way must leave TLS alone (layer 4).")
	line("server: %s", strconv.Quote(c.Server))
	line("")
	line("# What the server's TLS certificate must chain to: the current root, and the next while it is being replaced.")
	line("bootstrap_roots:")
	for _, r := range c.BootstrapRoots {
		line("  - %s", path(r))
	}
	line("")
	line("# This TEE can attest to further trust domains: trust_domains: [{trust_domain: NAME, server: ADDR, bootstrap_roots: [FILE]}].")
	line("")
	line("# The kind of TEE: %s. With auto the agent finds out where it runs.", teeHint)
	line("tee: %s", c.Tee)
	if c.Nitro.Socket != "" {
		line("# THE HARDWARE IS SIMULATED: the NSM of `teesim nitro run`. A server of real hardware refuses it.")
		line("nitro:")
		line("  socket: %s", path(c.Nitro.Socket))
	} else {
		line("# nitro: {device: %s}", d.Nitro.Device)
	}
	if c.SNP.Socket != "" {
		line("# THE HARDWARE IS SIMULATED: the guest of `teesim sevsnp run`. A server of real hardware refuses it.")
		line("snp:")
		line("  socket: %s", path(c.SNP.Socket))
	} else {
		line("# snp: {device: %s}", d.SNP.Device)
	}
	if c.TPM.Socket != "" {
		line("# THE HARDWARE IS SIMULATED: the machine of `teesim tpm run`. A server of real hardware refuses it.")
		line("tpm:")
		line("  socket: %s", path(c.TPM.Socket))
		if c.TPM.EventLog != d.TPM.EventLog {
			line("  event_log: %s", path(c.TPM.EventLog))
		}
	} else {
		line("# tpm: {device: %s, event_log: %s}", d.TPM.Device, d.TPM.EventLog)
	}
	line("# An SEV-SNP guest whose host gives it no certificate can fetch its own: below snp, fetch_vcek: {kds: %q}", agent.AMDKDS)
	line("")
	line("# The SPIFFE IDs to ask for. None asks for all that policy grants.")
	line("# identities: [%s]", strconv.Quote("spiffe://"+c.TrustDomain+"/payments/api"))
	line("# key_type: %s", d.KeyType)
	line("# Where their private keys live: software, or tpm. A key in the TPM cannot be handed to a workload; see the guide.")
	line("# key_residency: %s", d.KeyResidency)
	line("")
	line("# Where workloads find the SPIFFE Workload API. The mode lets every process in the TEE connect.")
	line("socket: %s", path(c.Socket))
	line("# socket_mode: %s", strconv.Quote(d.SocketMode))
	line("# To let one group in alone: socket_mode: \"0660\", and socket_group: NAME.")
	line("# Who tells of processes, for a policy with selectors of the kinds docker and k8s (unix and systemd need nobody):")
	line("# processes: {docker_socket: /var/run/docker.sock}, or processes: {kubelet: {ca: FILE, token: FILE}}")
	line("")
	line("# log: {level: %s, format: %s}", d.Log.Level, d.Log.Format)
	return []byte(b.String())
}

// beside returns a path as it is written into a file in the directory base:
// relative to it where it lies in there, so that the directory can be moved (into
// an image, say), else as it is. Two names of one directory are one.
func beside(base, path string) string {
	if rel, ok := below(base, path); ok {
		return rel
	}
	realBase, err := filepath.EvalSymlinks(base)
	if err != nil {
		return path
	}
	realDir, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil {
		return path
	}
	if rel, ok := below(realBase, filepath.Join(realDir, filepath.Base(path))); ok {
		return rel
	}
	return path
}

func below(base, path string) (string, bool) {
	rel, err := filepath.Rel(base, path)
	return rel, err == nil && filepath.IsLocal(rel)
}
