// Package backup is the file that `assayd backup` writes and `assayd restore`
// reads: a tar archive, so that it can be looked into with what every machine
// has, and whose first member lists all others with their digests.
//
//	manifest.json      what this is, of which trust domain, and every file below
//	data/…             the data directory: a snapshot of the database, keys, public files
//	config/…           the configuration and what it names, where that is elsewhere
//
// The archive holds private keys. It has mode 0600, and is not encrypted: pipe it
// through a program that does (docs/guides/recovery.md). Nor is it signed, since
// whoever can alter it has the keys to sign with: digests find damage, and the
// ledger's chain and checkpoints find a database that was altered.
//
// What is read may be anything. Members that the manifest does not list, of
// another size or content, twice or not at all, that are no regular files, or
// whose names leave the directory, are refused, each by the name of a check.
package backup

import (
	"fmt"
	"io/fs"
	"time"

	"github.com/assay-project/assay/attest"
)

// Format is what the manifest begins with.
const Format = "assay.backup.v1"

// Where files go.
const (
	DataDir   = "data"
	ConfigDir = "config"

	manifestName = "manifest.json"
	maxManifest  = 4 << 20 // bytes
	maxFiles     = 20_000
)

// Kinds of databases.
const (
	SQLite     = "sqlite"     // its snapshot is in the archive
	PostgreSQL = "postgresql" // it is not: pg_dump has it
)

// Manifest says what an archive holds.
type Manifest struct {
	Format      string    `json:"format"`
	CreatedAt   time.Time `json:"created_at"`
	Version     string    `json:"version"` // of the software
	TrustDomain string    `json:"trust_domain"`
	Simulated   bool      `json:"simulated"`
	Server      string    `json:"server"`
	Database    string    `json:"database"`
	// Chains are the ledger's ends in the database, as of the snapshot.
	Chains []Chain `json:"chains,omitempty"`
	// Policy is the policy that was in force, "name@revision".
	Policy string `json:"policy,omitempty"`
	// Sink is where the checkpoints went: what the ledger is compared with when it
	// is restored.
	Sink string `json:"sink,omitempty"`
	// Config is the path of the configuration in the archive.
	Config string `json:"config,omitempty"`
	Files  []File `json:"files"`
}

// Chain is the end of a chain of the ledger.
type Chain struct {
	Name     string       `json:"name"`
	Sequence uint64       `json:"sequence"`
	Hash     attest.Bytes `json:"hash"`
}

// File is one file of an archive.
type File struct {
	Path   string       `json:"path"` // "data/keys/checkpoint.key"
	Mode   fs.FileMode  `json:"mode"` // permission bits
	Size   int64        `json:"size"` // bytes
	SHA256 attest.Bytes `json:"sha256"`
	Origin string       `json:"origin,omitempty"` // where a file below config was
}

// fault is an error about an archive. The checks:
//
//	backup_manifest   it begins with a manifest of this form, complete and consistent
//	backup_member     a member is not a regular file that the manifest lists, or comes twice
//	backup_digest     a file's content or size is not what the manifest says
//	backup_truncated  the archive ends too early
//	backup_write      a file could not be written
func fault(check, hint, format string, args ...any) error {
	return &attest.Error{Kind: attest.Malformed, Check: check, Err: fmt.Errorf(format, args...), Hint: hint}
}

const damaged = "the archive is damaged or not one of `assayd backup`: use another one"
