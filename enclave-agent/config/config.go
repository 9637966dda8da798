// Package config is the agent's configuration file: strict YAML, a default for
// everything but the trust domain, the server and its root, and every mistake
// reported with file, line and what was expected.
//
//	s, err := config.Load("/etc/assay/assay-agent.yaml")   // an error lists every problem at once
//	device, err := s.Attester(log)                         // the TEE's, found or named
//	a, err := agent.New(s.Agent(device, log))
//
// Inside a TEE the file belongs to what is measured: it says which server the
// agent believes. Relative paths are relative to the directory of the file.
package config

//go:generate go run gen_config_doc.go

import (
	agent "github.com/assay-project/assay/enclave-agent"
)

// Config is the file. Its comments become docs/reference/agent-config.md.
type Config struct {
	// TrustDomain is the SPIFFE trust domain that the agent attests to, without `spiffe://`. Required.
	TrustDomain string `yaml:"trust_domain"`
	// Server is the address of the attestation service, `host:port`, or `vsock:CID:PORT` where a TEE has no other network (`vsock:parent:9443` in a Nitro Enclave; who listens there passes the connection on). Required. A proxy on the way must leave TLS alone (layer 4), because evidence is bound to the TLS connection.
	Server string `yaml:"server"`
	// BootstrapRoots are PEM files with the roots that the server's TLS certificate may chain to: the current one, and the next while it is being replaced. Required. `assayd bootstrap export` prints them. The system's own roots play no part.
	BootstrapRoots []string `yaml:"bootstrap_roots"`

	// TrustDomains are further trust domains that the agent attests to as well, at most 7, each with `trust_domain`, `server`, `bootstrap_roots` and, if wanted, `identities`, as above. Workloads get the SVIDs and bundles of all: first those of the trust domain above, then those of this list, in its order.
	TrustDomains []TrustDomain `yaml:"trust_domains"`
	// Tee is the kind of TEE: `aws-nitro`, `amd-sev-snp` or `tpm2`. With `auto` the agent finds out when it starts: by the socket of a simulator where one is named below, else by the devices that it finds; a TPM counts where there is no other TEE. The flag `--tee` goes before.
	Tee string `yaml:"tee"`
	// Nitro is the device of AWS Nitro Enclaves.
	Nitro Nitro `yaml:"nitro"`
	// SNP is the device of AMD SEV-SNP guests.
	SNP SNP `yaml:"snp"`
	// TPM is the TPM 2.0 of a machine.
	TPM TPM `yaml:"tpm"`

	// Identities are the SPIFFE IDs to ask for. Policy must grant every one of them. None (the default) asks for all that policy grants, in its order.
	Identities []string `yaml:"identities"`
	// KeyType is the algorithm of the SVIDs' keys: `ecdsa-p256`, `ecdsa-p384`, `ed25519`, `rsa-2048`, `rsa-3072` or `rsa-4096`.
	KeyType string `yaml:"key_type"`
	// KeyResidency says where the SVIDs' private keys live: `software`, in the memory of the agent, which hands them to workloads through the Workload API; or `tpm`, in the TPM until its next reset. A key in the TPM is certified by it, is of type `ecdsa-p256`, and cannot be handed out: the agent's own connections use it, and workloads ask the agent to sign (`assay.agent.v1`). Policy sees which it is.
	KeyResidency string `yaml:"key_residency"`

	// Socket is the absolute path of the unix socket on which workloads find the SPIFFE Workload API.
	Socket string `yaml:"socket"`
	// SocketMode is the mode of that socket, in octal and quoted. The default lets every process in the TEE connect: the TEE is the boundary, and what runs in it was measured with it. `"0660"` restricts it to a group.
	SocketMode string `yaml:"socket_mode"`
	// SocketGroup is the group of that socket, by name or number, for a `socket_mode` of `"0660"`. The agent's user must be in it, or be root. Let it be a group of the workloads alone, that may write to no directory on the socket's path. Empty: the agent's own group.
	SocketGroup string `yaml:"socket_group"`

	// NotBefore is a moment before which it cannot be, as `2026-11-22` or `2026-11-22T13:00:00Z`: when the image was made. The host owns a TEE's clock; no server is believed at boot whose certificate ended before, or that says it is earlier. So is the newest bootstrap root, and the commit of a build that tells it, whichever is latest. Not in the future: nothing would be believed until then.
	NotBefore string `yaml:"not_before"`

	// Processes says who tells callers apart beside the kernel, for identities with selectors.
	Processes Processes `yaml:"processes"`

	// Log says how the agent logs, to standard error.
	Log Log `yaml:"log"`
}

// TrustDomain is one that the agent attests to.
type TrustDomain struct {
	// The SPIFFE trust domain.
	TrustDomain string `yaml:"trust_domain"`
	// The address of its attestation service.
	Server string `yaml:"server"`
	// PEM files with the roots of that service.
	BootstrapRoots []string `yaml:"bootstrap_roots"`
	// The SPIFFE IDs to ask for there.
	Identities []string `yaml:"identities"`
}

// Processes says who tells callers apart beside the kernel. Name only what was
// measured with the TEE's image, or what it starts: it is believed.
type Processes struct {
	// The socket of the Docker engine, for selectors of the kind `docker`: `/var/run/docker.sock`. Empty: no process matches them.
	DockerSocket string `yaml:"docker_socket"`
	// Kubelet is the node's kubelet, for selectors of the kind `k8s`. Absent: no process matches them.
	Kubelet *Kubelet `yaml:"kubelet"`
}

// Kubelet is the node's kubelet.
type Kubelet struct {
	// The address of the API of the node's kubelet, for selectors of the kind `k8s`. Without `processes.kubelet` no process matches them.
	URL string `yaml:"url"`
	// A PEM file with the authorities of its serving certificate, or that certificate itself. Required: what answers there is believed, and is sent the token.
	CA string `yaml:"ca"`
	// A file with the bearer token of a service account that may read `nodes/proxy`, in a pod `/var/run/secrets/kubernetes.io/serviceaccount/token`. It is read for each question. Empty: no token is sent, and kubelets refuse that unless they are told not to.
	Token string `yaml:"token"`
}

// Nitro is the device of AWS Nitro Enclaves.
type Nitro struct {
	// The Nitro Security Module's device.
	Device string `yaml:"device"`
	// The unix socket of a simulated Nitro Security Module (`teesim nitro run`), used instead of the device. A server of real hardware refuses its evidence.
	Socket string `yaml:"socket"`
}

// SNP is the device of AMD SEV-SNP guests.
type SNP struct {
	// How reports are had: `configfs-tsm`, or the path of the sev-guest driver's device, `/dev/sev-guest`. With `auto` it is configfs-tsm, and the device where that cannot be used.
	Device string `yaml:"device"`
	// The unix socket of a simulated guest (`teesim sevsnp run`), used instead of the device. A server of real hardware refuses its evidence.
	Socket string `yaml:"socket"`
	// FetchVCEK lets the agent fetch the certificate of its own chip's key (VCEK) and send it along, when the host gives it none. It is off unless this key is present; `fetch_vcek: {}` has the defaults. The guest then needs a way to the service.
	FetchVCEK *FetchVCEK `yaml:"fetch_vcek"`
}

// FetchVCEK is the service that has the certificates of AMD's chips.
type FetchVCEK struct {
	// The address of the key distribution service (KDS), a URL. With `https` the host name is checked by the authorities of the image (`/etc/ssl/certs`). The certificate is checked to fit the guest's report, kept in memory, and verified by the server: nobody trusts it for where it came from. Present, it turns the fetching on.
	KDS string `yaml:"kds"`
}

// TPM is the TPM 2.0 of a machine.
type TPM struct {
	// The TPM's device: a path, or `unix:` and the path of a socket. With `auto` it is `/dev/tpmrm0`, which programs can share, and `/dev/tpm0` where the kernel has no resource manager.
	Device string `yaml:"device"`
	// The unix socket of a simulated machine (`teesim tpm run`) or of swtpm, used instead of the device. A server of real hardware refuses its evidence.
	Socket string `yaml:"socket"`
	// The endorsement key, which names the machine: `ecc-p256`, `ecc-p384` or `rsa-2048`. With `auto` it is the first of them that the TPM holds a certificate for, and where it holds none the first that it can make: then the server must have the key in its inventory. An RSA key can take a TPM a minute.
	EK string `yaml:"ek"`
	// The attestation key: `ecc-p256`, `rsa-2048`, or `gce` for the one that Google certifies in a Shielded VM. With `auto` it is `ecc-p256`, and `rsa-2048` in a TPM without that curve.
	AK string `yaml:"ak"`
	// The boot event log: `none`, or the path of a file. With `auto` it is `/sys/kernel/security/tpm0/binary_bios_measurements` where that can be read, and none for a socket. Policies about measured boot need it.
	EventLog string `yaml:"event_log"`
}

// Log is how the agent logs.
type Log struct {
	// The least level that is logged: `debug`, `info`, `warn` or `error`.
	Level string `yaml:"level"`
	// The form of the lines: `text` or `json`.
	Format string `yaml:"format"`
}

// FileName is the file's name in a directory of one's own (`--data-dir`).
const FileName = "assay-agent.yaml"

// DefaultPath is the file of an agent that is installed for the whole machine.
const DefaultPath = "/etc/assay/" + FileName

// SocketName is the socket's name in a directory of one's own.
const SocketName = "agent.sock"

// TeeAuto has the agent find out in which TEE it runs.
const TeeAuto = "auto"

// DeviceAuto has it take what the kernel and the hardware offer; DeviceConfigFS is
// configfs-tsm alone. Anything else is the path of a device.
const (
	DeviceAuto     = "auto"
	DeviceConfigFS = "configfs-tsm"
)

// Default returns the configuration with every default set. What is required
// is missing.
func Default() Config {
	return Config{
		Tee:     TeeAuto,
		Nitro:   Nitro{Device: agent.NitroDevice},
		SNP:     SNP{Device: DeviceAuto},
		TPM:     TPM{Device: DeviceAuto, EK: DeviceAuto, AK: DeviceAuto, EventLog: DeviceAuto},
		KeyType: string(agent.P256),

		KeyResidency: string(agent.SoftwareKeys),
		Socket:       agent.DefaultSocket,
		SocketMode:   "0666",
		Log:          Log{Level: "info", Format: "text"},
	}
}
