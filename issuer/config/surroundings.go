package config

import "time"

// JWT configures JWT-SVIDs.
type JWT struct {
	// The issuer URL: `iss` of every JWT-SVID, and the address under which OIDC relying parties find the discovery document, `https://oidc.example.org`. Clouds want https and no port. Empty: tokens carry no `iss`, and there is no discovery document.
	Issuer string `yaml:"issuer"`
	// The longest life of a token. It never outlives the X.509-SVID that asks for it.
	MaxTTL time.Duration `yaml:"max_ttl"`
}

// Web serves what the world may read.
type Web struct {
	// The address of the HTTPS server. Empty turns it off. It holds 1024 connections, 64 from one address (IPv4) or /64 (IPv6); beyond that the next one takes the place of the oldest at the address that holds most. What more should be able to read, a CDN or balancer in front can serve: every answer has an ETag.
	Listen string `yaml:"listen"`
	// A PEM file with the server's certificate chain of the web's PKI, for `jwt.issuer` and the bundle endpoint's https_web profile. Read again when it changes.
	Certificate string `yaml:"certificate"`
	// A PEM file (0600) with its private key.
	Key string `yaml:"key"`
	// Serve plain HTTP, behind a balancer that ends TLS. Only on a loopback or private address.
	PlainHTTP bool `yaml:"plain_http"`
}

// Federation configures what other trust domains read, and how theirs is read.
type Federation struct {
	// The address of the SPIFFE bundle endpoint with the https_spiffe profile, whose server shows an SVID of this trust domain. Empty turns it off. The https_web profile is served by `web`.
	SPIFFEListen string `yaml:"spiffe_listen"`
	// How often foreign bundles are fetched that have no refresh hint.
	Poll time.Duration `yaml:"poll"`
	// Networks of your own at which foreign endpoints may be, as `10.1.0.0/16` or `10.1.2.3/32`. Others that are not public are never connected to: who may name an endpoint is not to look around in the server's network.
	PrivateEndpoints []string `yaml:"private_endpoints"`
}

// Administration lets administrators in who are elsewhere. They show SVIDs of a
// trust domain of their own, which no policy of this server can issue.
type Administration struct {
	// The address of the admin service over mutual TLS. Empty turns it off; the unix socket stays.
	Listen string `yaml:"listen"`
	// The trust domain of the administrators. It is not the one that this server issues for.
	TrustDomain string `yaml:"trust_domain"`
	// A PEM file with that trust domain's X.509 authorities. Read again when it changes.
	Bundle string `yaml:"bundle"`
	// Who may do what.
	Roles Roles `yaml:"roles"`
}

// Roles binds SPIFFE IDs to what they may do. Each role includes the one before it.
type Roles struct {
	// SPIFFE IDs that may read: status, ledger, agents, policy.
	Viewer []string `yaml:"viewer"`
	// SPIFFE IDs that may also push policies and change the inventory of TPMs.
	PolicyAuthor []string `yaml:"policy_author"`
	// SPIFFE IDs that may do everything: ban, revoke, rotate, federate.
	Operator []string `yaml:"operator"`
}

// Tracing sends OpenTelemetry traces. They name trust domain, step and outcome,
// and never a claim, an identity or an address.
type Tracing struct {
	// The OTLP collector, `https://otel.example.org:4317` (gRPC); `http://` is without TLS. Empty is none.
	Endpoint string `yaml:"endpoint"`
	// How many of a hundred attestations are traced.
	SamplePercent int `yaml:"sample_percent"`
}
