// Package config is assay-signer's configuration file: strict YAML, in which
// every mistake is reported with file, line and what was expected.
//
//	c, err := config.Load("/etc/assay/assay-signer.yaml")
//
// It says where keys are ("stores"), which keys there are and what each may sign
// ("keys"), and who may ask ("clients"). It holds no secret: PINs and tokens are
// in files of mode 0600 or in the environment. Relative paths are relative to
// the file's directory.
package config

import (
	"time"

	"github.com/assay-project/assay/issuer/keys/signerwire"
)

// Where the file and the socket are, where nothing else is said.
const (
	DefaultPath   = "/etc/assay/assay-signer.yaml"
	DefaultSocket = "/run/assay-signer/signer.sock"
)

// Config is the file.
type Config struct {
	// Socket is the unix socket that signatures are asked for on.
	Socket string `yaml:"socket"`
	// SocketGroup is a group whose members may open the socket; it is then made
	// with mode 0660. Empty: 0600, for the signer's own user and root alone.
	// Who opens it must be one of Clients besides.
	SocketGroup string `yaml:"socket_group"`
	// Clients are the users that may ask. At least one.
	Clients []Client `yaml:"clients"`
	// Stores are the places that hold keys, by a name of your choice.
	Stores map[string]Store `yaml:"stores"`
	// Keys are the keys that may be used. Others in the stores are not touched.
	Keys []Key `yaml:"keys"`
	// RequestTimeout is how long one signature may take. From 100ms to 1m.
	RequestTimeout time.Duration `yaml:"request_timeout"`
	// Log says how the signer logs, to standard error.
	Log Log `yaml:"log"`
}

// Client is a user that may ask for signatures.
type Client struct {
	// User is the name of a user of this machine, or UID its number: one of them.
	User string `yaml:"user"`
	// UID is the number of a user.
	UID *uint32 `yaml:"uid"`
	// Purposes are what this user may have signed. Required.
	Purposes []signerwire.Purpose `yaml:"purposes"`
}

// Store is one place that holds keys: exactly one of its fields is set.
type Store struct {
	// PKCS11 is a token of an HSM.
	PKCS11 *PKCS11 `yaml:"pkcs11"`
	// AWSKMS is AWS KMS in one region.
	AWSKMS *AWSKMS `yaml:"awskms"`
	// Vault is the transit engine of a Vault (or OpenBao) server.
	Vault *Vault `yaml:"vault"`
	// CloudKMS is Google Cloud KMS.
	CloudKMS *CloudKMS `yaml:"cloudkms"`
	// AzureKMS is Azure Key Vault.
	AzureKMS *AzureKMS `yaml:"azurekms"`
}

// PKCS11 is a token of an HSM.
type PKCS11 struct {
	// Module is the library of the HSM's maker, an absolute path.
	Module string `yaml:"module"`
	// Token is the label of the token, or Serial its serial number: one of them.
	Token string `yaml:"token"`
	// Serial is the serial number of the token.
	Serial string `yaml:"serial"`
	// PINFile is a file (0600) with the user's PIN, or PINEnv the name of an
	// environment variable that holds it: one of them.
	PINFile string `yaml:"pin_file"`
	// PINEnv is the name of an environment variable with the PIN.
	PINEnv string `yaml:"pin_env"`
	// Sessions is how many signatures may be under way at once. From 1 to 64.
	Sessions int `yaml:"sessions"`
	// AllowImported takes keys that the token did not make itself, or that can be
	// taken out of it.
	AllowImported bool `yaml:"allow_imported"`
}

// AWSKMS is AWS KMS in one region. Credentials come from where AWS's own tools
// take them; AWS_ENDPOINT_URL_KMS names another endpoint.
type AWSKMS struct {
	// Region is the AWS region. Required.
	Region string `yaml:"region"`
	// Profile is a profile of the shared configuration.
	Profile string `yaml:"profile"`
}

// Vault is the transit engine of a Vault (or OpenBao) server.
type Vault struct {
	// Address is the server's URL: https, or http on the loopback.
	Address string `yaml:"address"`
	// Mount is where the transit engine is mounted.
	Mount string `yaml:"mount"`
	// Namespace is the namespace, where the server has such.
	Namespace string `yaml:"namespace"`
	// TokenFile is a file (0600) with the token. It is read for every request, so
	// that Vault Agent can renew it.
	TokenFile string `yaml:"token_file"`
	// CAFile is a PEM file with the roots of the server's certificate. Empty: the
	// system's.
	CAFile string `yaml:"ca_file"`
}

// CloudKMS is Google Cloud KMS.
type CloudKMS struct {
	// CredentialsFile is a service account's key. Empty: the machine's own identity.
	CredentialsFile string `yaml:"credentials_file"`
}

// AzureKMS is Azure Key Vault. Credentials come from the environment or the
// machine's own identity.
type AzureKMS struct {
	// Vault is the name of the vault. Required.
	Vault string `yaml:"vault"`
	// HSM makes new keys in an HSM (a premium vault).
	HSM bool `yaml:"hsm"`
}

// Key is one key.
type Key struct {
	// Name is what clients call it: 1 to 64 of a-z, 0-9 and '-'.
	Name string `yaml:"name"`
	// Store is the name of one of Stores.
	Store string `yaml:"store"`
	// Ref is what the store calls it; `assay-signer keys create` prints it.
	Ref string `yaml:"ref"`
	// Purposes are what it may sign. Required; more than one is unusual.
	Purposes []signerwire.Purpose `yaml:"purposes"`
}

// Log says how the signer logs.
type Log struct {
	// Level is debug, info, warn or error.
	Level string `yaml:"level"`
	// Format is text or json.
	Format string `yaml:"format"`
}

// Default is what holds where the file says nothing.
func Default() Config {
	return Config{
		Socket:         DefaultSocket,
		RequestTimeout: 10 * time.Second,
		Log:            Log{Level: "info", Format: "text"},
	}
}
