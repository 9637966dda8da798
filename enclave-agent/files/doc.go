// Package files keeps identities in files, for software that reads PEM and knows
// nothing of the SPIFFE Workload API.
//
// A [Dir] is a directory that the host cannot read: on a tmpfs or a ramfs, unless its
// opener and the policy of each identity both say otherwise. It is laid out as
// Kubernetes does secrets: one link, "..data", names the directory that holds the
// present set, and each file is a link through it.
//
//	svid.pem -> ..data/svid.pem
//	svid.key -> ..data/svid.key
//	..data   -> ..set-5d1f…
//
// A [Writer] is a client of the agent's socket like any workload, and is judged like
// one: it gets the identities whose selectors its process shows.
//
// Invariants: a name is always a whole file, of the mode and owner that it is to have
// from its first byte on; a set is switched by one rename, and the one before stays
// until the next, so that who resolves "..data" once reads files that belong together;
// nobody but the owner of the process and root can change the directory.
package files
