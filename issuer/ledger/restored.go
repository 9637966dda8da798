package ledger

import (
	"strings"
	"time"
)

// A database that was restored from a backup is older than what the world has
// seen: checkpoints over entries that it lacks are in the sink, with witnesses
// and with agents. If its chain went on, the same key would sign another entry
// under a number that was signed before, and nobody could tell that from an
// attack. So the server begins a new chain, whose name says since when; the old
// one ends where the backup ends, and what is missing from it stays visible.

// restoredFormat is the form of the second part of such a name.
const restoredFormat = "20060102t150405"

// RestoredChain names the chain that a server begins after its database was
// restored: "main.20261122t080000".
func RestoredChain(server string, at time.Time) string {
	return server + "." + at.UTC().Format(restoredFormat)
}

// ChainOwner is the server that writes the chain: the name of a server has no
// dot.
func ChainOwner(chain string) string {
	server, _, _ := strings.Cut(chain, ".")
	return server
}

// ValidChain reports whether the name is one that a chain can have.
func ValidChain(name string) bool { return validChain(name) }
