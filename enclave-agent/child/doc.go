// Package child starts the programs that an agent runs, and reaps every child of
// this process: those it started, and those that it was left with.
//
// The agent can be the first process of its environment, as in an enclave's image.
// The kernel gives process 1 all orphans, and whoever does not wait for them fills
// the process table. So one place waits for any child at all, and tells whose it was.
// It follows that no other part of a program with a [Keeper] may wait for a child of
// its own, with os/exec for one: its status could be taken from it.
//
// Invariants: a child is signalled only while it has not been waited for, so that no
// signal reaches a stranger under a number that was given away again; a [Child]'s
// status is told once it was waited for, and never changes.
package child
