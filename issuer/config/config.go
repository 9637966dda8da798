// Package config is assayd's configuration file: strict YAML, a default for
// everything but the trust domain, and every mistake reported with file, line
// and what was expected.
//
//	c, err := config.Load("/etc/assay/assayd.yaml")   // an error lists every problem at once
//
// Relative paths are relative to the directory of the configuration file, so
// that a whole installation can live in one directory and be moved.
package config

import "time"

//go:generate go run gen_config_doc.go

// Config is the file. Its comments become docs/reference/config.md.
type Config struct {
	// TrustDomain is the SPIFFE trust domain that this server issues for, without `spiffe://`. Required. It is fixed for the life of the data directory. A name that begins with `simulated.` makes it a trust domain of simulated hardware.
	TrustDomain string `yaml:"trust_domain"`
	// DataDir is the directory of the database and the keys (0700), made by `assayd init`.
	DataDir string `yaml:"data_dir"`
	// Policy is the policy file. A policy, or a signed one (`assay policy sign`). It is read at start, on SIGHUP and when it changes (write beside it and move it there: a file that is being written is left alone until it is settled); a file that is not valid, or whose revision does not grow, leaves the policy in force as it is. A newer policy that was pushed stays in force until the file holds a newer one still.
	Policy string `yaml:"policy"`
	// PolicySigners are who must sign a policy before this server takes it, from the file or pushed. Without any, signatures are not asked for.
	PolicySigners PolicySigners `yaml:"policy_signers"`
	// Listen is the address of the attestation service (gRPC over TLS 1.3). Put it behind a layer 4 balancer at most: evidence is bound to the TLS connection.
	Listen string `yaml:"listen"`
	// AdminSocket is the unix socket of the admin service. It is made with mode 0600: who may open it may use all of it.
	AdminSocket string `yaml:"admin_socket"`
	// Server is the name of this server among those of its trust domain: that of its ledger chain and of its authorities. 1 to 63 of `a-z`, `0-9` and `-`. It is fixed for the life of the data directory.
	Server string `yaml:"server"`
	// Tenants are further configuration files, one for each trust domain that this process serves beside this one. A tenant's file has the same form; what belongs to the process (`listen`, `metrics_listen`, `log`, `tracing`, `shutdown_timeout`, `reflection` and the limits on connections, handshakes and streams) stands in the first file only. docs/guides/tenants.md
	Tenants []string `yaml:"tenants"`
	// Database is where ledger and authorities are kept. Several servers share one.
	Database Database `yaml:"database"`
	// Keys says where the keys of the authorities live.
	Keys Keys `yaml:"keys"`
	// Authorities says how long they live, and who stands above them.
	Authorities Authorities `yaml:"authorities"`
	// JWT configures JWT-SVIDs.
	JWT JWT `yaml:"jwt"`
	// Web serves what the world may read: the OIDC discovery document, the JWKS, the SPIFFE bundle, the verifier keys and the deny-list.
	Web Web `yaml:"web"`
	// Federation configures what other trust domains read.
	Federation Federation `yaml:"federation"`
	// Administration lets administrators in who are elsewhere.
	Administration Administration `yaml:"administration"`
	// MetricsListen is the address of /metrics, /live and /ready (plain HTTP, keep it on the loopback). Empty turns it off.
	MetricsListen string `yaml:"metrics_listen"`

	// Log says how the server logs, to standard error.
	Log Log `yaml:"log"`

	// Nitro is the verifier of AWS Nitro Enclaves.
	Nitro Nitro `yaml:"nitro"`
	// SEVSNP is the verifier of AMD SEV-SNP guests.
	SEVSNP SEVSNP `yaml:"sevsnp"`
	// TPM is the verifier of machines with a TPM 2.0.
	TPM TPM `yaml:"tpm"`

	// RetainEvidence is how long evidence is kept after an attestation, so that a draft policy can be replayed over it. At least `1h`.
	RetainEvidence time.Duration `yaml:"retain_evidence"`
	// CheckpointSink is a file to which every signed checkpoint of the ledger is appended. Put it where the owner of the database cannot write: without an outside witness a truncated ledger cannot be told from a short one. Empty is none.
	CheckpointSink string `yaml:"checkpoint_sink"`

	// ReattestSpread is the window over which watching agents spread their renewals when the policy changes.
	ReattestSpread time.Duration `yaml:"reattest_spread"`
	// ShutdownTimeout is how long a stop waits for attestations in flight.
	ShutdownTimeout time.Duration `yaml:"shutdown_timeout"`
	// Reflection turns on gRPC server reflection on the attestation service.
	Reflection bool `yaml:"reflection"`

	// Tracing sends OpenTelemetry traces.
	Tracing Tracing `yaml:"tracing"`

	// Limits bound what strangers can make the server hold.
	Limits Limits `yaml:"limits"`
	// Quotas bound what attesters can make the server store.
	Quotas Quotas `yaml:"quotas"`
}

// Log is how the server logs.
type Log struct {
	// The least level that is logged: `debug`, `info`, `warn` or `error`.
	Level string `yaml:"level"`
	// The form of the lines: `text` or `json`.
	Format string `yaml:"format"`
}

// PolicySigners are the people who approve policies. They make their keys with
// `assay policy keygen`, or any tool that writes PEM.
type PolicySigners struct {
	// How many different signers a policy needs. From 1 to the number of keys; required when there are keys.
	Threshold int `yaml:"threshold"`
	// Files with the signers' public keys, PEM (`PUBLIC KEY`): ECDSA on P-256 or P-384, or Ed25519. Read at start.
	Keys []string `yaml:"keys"`
	// The one name that a policy may have, so that one that the same people signed for another server is not taken here. Empty is the name of the policy that was in force last.
	Bundle string `yaml:"bundle"`
}

// Nitro configures the verifier of AWS Nitro Enclaves.
type Nitro struct {
	// A PEM file with the root of a simulator (`teesim nitro root`). A trust domain whose name begins with `simulated.` needs one for each TEE that it serves; in every other it is refused, because there the AWS root is built in.
	SimulatedRoot string `yaml:"simulated_root"`
}

// SEVSNP configures the verifier of AMD SEV-SNP guests.
type SEVSNP struct {
	// A PEM file with the ARKs, ASKs and ASVKs of a simulator (`teesim sevsnp roots`), for a trust domain of simulated hardware; refused in every other: there AMD's are built in.
	SimulatedRoots string `yaml:"simulated_roots"`
	// The directory of the collateral cache: VCEKs, VLEKs and CRLs, kept over restarts. The default is `collateral` in the data directory. `assay collateral` fills and shows it.
	Collateral string `yaml:"collateral"`
	// The URL of AMD's Key Distribution Service or of a mirror. Empty is AMD's own for hardware and none for simulated hardware; `off` is none: then attesters bring their certificates along, or an operator imports them.
	KDS string `yaml:"kds"`
	// Chips whose VCEK may be fetched from the KDS, by product line (`milan`, `genoa`, `turin`): chip ids in hex, 128 digits as in reports or 16 for Turin. Chips that an enforced policy names may be fetched too; no other ever is.
	Inventory map[string][]string `yaml:"inventory"`
	// Whether a report needs a current CRL of its chain. Without one, claims say `revocation: not_checked`, and policy may demand more.
	RequireCRL bool `yaml:"require_crl"`
	// How long after its nextUpdate a CRL still counts. Every result that rests on such a CRL says `grace`, and is never affirming. At most `720h`.
	CRLGrace time.Duration `yaml:"crl_grace"`
}

// TPM configures the verifier of machines with a TPM 2.0.
type TPM struct {
	// The bank of registers that agents are asked to quote: `sha256` or `sha384`. A policy's register values are of this bank. Registers 0 to 15 are asked for; those above can be reset while the machine runs.
	PCRBank string `yaml:"pcr_bank"`
	// A directory with roots and intermediates beside those that are built in, in PEM or DER: `ek` for TPM manufacturers, `gce` and `azure` for clouds that certify attestation keys. Google's are built in. A TPM whose endorsement certificate chains to none of them is admitted by its key: `assay ek add`.
	Roots string `yaml:"roots"`
	// A PEM file with the root of a simulated manufacturer (`teesim tpm root`), for a trust domain of simulated hardware; refused in every other.
	SimulatedRoot string `yaml:"simulated_root"`
}

// Limits bound what strangers can make the server hold. There is none on
// attestations per address: a NAT is many agents.
type Limits struct {
	// TLS handshakes in flight, all together; where there are several trust domains, each has an equal share of those in which the client has named it. Beyond it the next one takes the place of the one that has kept the server waiting longest, at the address that holds most; where the server waits for none, it is closed.
	Handshakes int `yaml:"handshakes"`
	// TLS handshakes in flight from one address (IPv4) or /64 (IPv6). Beyond it the next one takes the place of the address's own that has kept the server waiting longest.
	HandshakesPerAddress int `yaml:"handshakes_per_address"`
	// How long a TLS handshake may take.
	HandshakeTimeout time.Duration `yaml:"handshake_timeout"`
	// Open connections, all together; where there are several trust domains, each has an equal share. Beyond it the next one takes the place of the oldest on which neither evidence nor an SVID has been verified, at the address that holds most of those; where there is none, it is closed. One instance keeps up to 48 in this way; its further ones make room like strangers'.
	Connections int `yaml:"connections"`
	// Open connections from one address (IPv4) or /64 (IPv6) on which neither evidence nor an SVID has been verified yet. Beyond it new ones are closed.
	StrangersPerAddress int `yaml:"strangers_per_address"`
	// Attestations that have not presented evidence that verifies, all together. Beyond it the next one takes the place of one that waits for its client, at the address that holds most.
	Unverified int `yaml:"unverified"`
	// Attestations that have not presented evidence that verifies, from one address (IPv4) or /64 (IPv6). Behind a balancer that hides addresses, raise it to the total.
	UnverifiedPerAddress int `yaml:"unverified_per_address"`
	// Boot event logs that are held for attestations whose evidence has not been verified, all together, in MiB. One log has at most 1. Beyond it the next one takes the place of an attestation that waits for its client, at the address that holds most.
	EventLogMiB int `yaml:"event_log_mib"`
	// Streams in flight on one connection.
	StreamsPerConnection int `yaml:"streams_per_connection"`
	// Attestations in flight in one trust domain whose evidence has come. Beyond it the next ones are told to come back later: what is served is served in time. So are those whose turn to be verified would not come before their deadline.
	InFlight int `yaml:"in_flight"`
	// Attestations of one instance whose evidence has verified, in a minute.
	AttestationsPerInstance int `yaml:"attestations_per_instance"`
	// Attestations in one trust domain whose evidence has verified, in a second.
	AttestationsPerSecond int `yaml:"attestations_per_second"`
	// JWT-SVIDs minted for one instance, over all its X.509-SVIDs, in a minute.
	TokensPerInstance int `yaml:"tokens_per_instance"`
	// Calls of one administrator, in a minute.
	AdminCalls int `yaml:"admin_calls"`
}

// Quotas bound what attesters can make the server store. Issuance itself has
// none: an entry of the ledger is always written.
type Quotas struct {
	// Evidence that is kept for issuances, in MiB.
	EvidenceMiB int `yaml:"evidence_mib"`
	// Evidence that is kept for policy denials, in MiB. It cannot displace the other.
	DeniedEvidenceMiB int `yaml:"denied_evidence_mib"`
	// Pieces of evidence of one instance that are kept in an hour.
	EvidencePerInstance int `yaml:"evidence_per_instance"`
	// Denials that are kept at all. Beyond it the oldest make room.
	Denials int `yaml:"denials"`
	// Denials of all instances that are kept in an hour.
	DenialsPerHour int `yaml:"denials_per_hour"`
	// Denials of one instance that are kept in an hour.
	DenialsPerInstance int `yaml:"denials_per_instance"`
}

// Names of the files in a directory of one's own (`--data-dir`).
const (
	FileName   = "assayd.yaml"
	policyName = "policy.yaml"
	socketName = "admin.sock"
)

// DefaultPath is the configuration file of a server that is installed for the
// whole machine.
const DefaultPath = "/etc/assay/" + FileName

// SimulatedPrefix begins the name of every trust domain of simulated hardware.
const SimulatedPrefix = "simulated."

// Default returns the configuration with every default set. Only the trust
// domain is missing.
func Default() Config {
	return Config{
		DataDir:         "/var/lib/assay",
		Policy:          "/etc/assay/policy.yaml",
		Listen:          ":8443",
		AdminSocket:     "/run/assay/admin.sock",
		MetricsListen:   "127.0.0.1:9464",
		Log:             Log{Level: "info", Format: "text"},
		Server:          "main",
		Authorities:     defaultAuthorities(),
		JWT:             JWT{MaxTTL: time.Hour},
		Federation:      Federation{Poll: 5 * time.Minute},
		Tracing:         Tracing{SamplePercent: 100},
		SEVSNP:          SEVSNP{RequireCRL: true},
		TPM:             TPM{PCRBank: "sha256"},
		RetainEvidence:  30 * 24 * time.Hour,
		ReattestSpread:  time.Minute,
		ShutdownTimeout: 10 * time.Second,
		Limits: Limits{
			Handshakes:           512,
			HandshakesPerAddress: 64,
			HandshakeTimeout:     10 * time.Second,
			Connections:          10_000,
			StrangersPerAddress:  1024,
			Unverified:           2048,
			UnverifiedPerAddress: 256,
			EventLogMiB:          64,
			StreamsPerConnection: 100,

			InFlight:                4096,
			AttestationsPerInstance: 60,
			AttestationsPerSecond:   2000,
			TokensPerInstance:       600,
			AdminCalls:              6000,
		},
		Quotas: Quotas{
			EvidenceMiB:         2048,
			DeniedEvidenceMiB:   256,
			EvidencePerInstance: 12,
			Denials:             100_000,
			DenialsPerHour:      600,
			DenialsPerInstance:  12,
		},
	}
}
