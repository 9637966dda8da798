package config

import "time"

// Database says where ledger, authorities and policy history are kept.
type Database struct {
	// The PostgreSQL database that the servers of a trust domain share: `postgres://USER@HOST/NAME?sslmode=verify-full`, or libpq's `key=value` form. Empty is an SQLite database in the data directory, for one server. Both are read by the rules of libpq, its environment variables and `~/.pgpass` included.
	URL string `yaml:"url"`
	// A file (0600) with the password, so that it stands neither here nor in the environment.
	PasswordFile string `yaml:"password_file"`
}

// Keys says where the keys of the authorities live.
type Keys struct {
	// Where the keys are that sign SVIDs, tokens, results and deny-lists. Empty is the directory `keys` in the data directory; `signer:///run/assay-signer/signer.sock` is an `assay-signer`, which holds them in an HSM or a key service. The roots' keys, which can be taken offline, and the ledger's stay in the data directory.
	Location string `yaml:"location"`
}

// Authorities says how long authorities live, and who stands above them. The
// next one is prepared when half of the time of the one before it is over.
type Authorities struct {
	// How long an X.509 authority lives.
	X509TTL time.Duration `yaml:"x509_ttl"`
	// How long a JWT authority lives.
	JWTTTL time.Duration `yaml:"jwt_ttl"`
	// How long a verifier key lives, and the key of the deny-list.
	VerifierTTL time.Duration `yaml:"verifier_ttl"`
	// How long an authority is published before it signs: as old as a bundle may be that a relying party still uses. Only the first of a trust domain signs at once.
	Propagation time.Duration `yaml:"propagation"`
	// How often relying parties are asked to fetch the bundle.
	RefreshHint time.Duration `yaml:"refresh_hint"`
	// Whether X.509 authorities carry name constraints on URIs: then no library takes an SVID of theirs for another trust domain's. Some libraries reject such certificates altogether.
	NameConstraints bool `yaml:"name_constraints"`
	// The CA above the X.509 authorities. Without one they are self-signed.
	Upstream Upstream `yaml:"upstream"`
}

// Upstream is a CA above the X.509 authorities.
type Upstream struct {
	// A PEM file with the upstream CA's certificate, and those above it.
	Certificate string `yaml:"certificate"`
	// A PEM file (0600) with its private key: then intermediates are made by this server. Empty: `assay authority csr` and `assay authority import` carry the request to a CA elsewhere and the certificate back.
	Key string `yaml:"key"`
	// Whether that CA signs for this trust domain and nothing else. Then its root is what relying parties trust; otherwise our intermediate is, because every other certificate of that CA would be trusted with it.
	Dedicated bool `yaml:"dedicated"`
}

func defaultAuthorities() Authorities {
	return Authorities{X509TTL: 365 * day, JWTTTL: 30 * day, VerifierTTL: 365 * day, Propagation: day, RefreshHint: 5 * time.Minute}
}
