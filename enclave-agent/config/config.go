// Package config is the agent's configuration file: strict YAML, a default for
// everything but the trust domain, the server and its root, and every mistake
// reported with file, line and what was expected.
//
//	s, err := config.Load("/etc/assay/assay-agent.yaml")   // an error lists every problem at once
//	a, err := agent.New(s.Agent(log))
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
	// Server is the address of the attestation service, `host:port`. Required. It is reached over TCP; a proxy on the way must leave TLS alone (layer 4), because evidence is bound to the TLS connection.
	Server string `yaml:"server"`
	// BootstrapRoots are PEM files with the roots that the server's TLS certificate may chain to: the current one, and the next while it is being replaced. Required. `assayd bootstrap export` prints them. The system's own roots play no part.
	BootstrapRoots []string `yaml:"bootstrap_roots"`

	// Tee is the kind of TEE: `aws-nitro`.
	Tee string `yaml:"tee"`
	// Nitro is the device of AWS Nitro Enclaves.
	Nitro Nitro `yaml:"nitro"`

	// Identities are the SPIFFE IDs to ask for. Policy must grant every one of them. None (the default) asks for all that policy grants, in its order.
	Identities []string `yaml:"identities"`
	// KeyType is the algorithm of the SVIDs' keys: `ecdsa-p256`, `ecdsa-p384`, `ed25519`, `rsa-2048`, `rsa-3072` or `rsa-4096`.
	KeyType string `yaml:"key_type"`

	// Socket is the absolute path of the unix socket on which workloads find the SPIFFE Workload API.
	Socket string `yaml:"socket"`
	// SocketMode is the mode of that socket, in octal and quoted. The default lets every process in the TEE connect: the TEE is the boundary, and what runs in it was measured with it. `"0660"` restricts it to a group.
	SocketMode string `yaml:"socket_mode"`

	// Log says how the agent logs, to standard error.
	Log Log `yaml:"log"`
}

// Nitro is the device of AWS Nitro Enclaves.
type Nitro struct {
	// The Nitro Security Module's device.
	Device string `yaml:"device"`
	// The unix socket of a simulated Nitro Security Module (`teesim nitro run`), used instead of the device. A server of real hardware refuses its evidence.
	Socket string `yaml:"socket"`
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

// Default returns the configuration with every default set. What is required
// is missing.
func Default() Config {
	return Config{
		Tee:        "aws-nitro",
		Nitro:      Nitro{Device: agent.NitroDevice},
		KeyType:    string(agent.P256),
		Socket:     agent.DefaultSocket,
		SocketMode: "0666",
		Log:        Log{Level: "info", Format: "text"},
	}
}
