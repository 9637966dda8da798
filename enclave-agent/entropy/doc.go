// Package entropy gives the kernel's random number generator what the TEE's hardware
// has.
//
// A virtual machine that has just started has seen little that nobody could guess,
// and a hostile host decides most of what it sees: interrupts, clocks, devices, the
// seed that a boot loader hands over. Keys made then are only as good as what the host
// does not know. A Nitro Security Module and a TPM have a generator of their own; an
// SEV-SNP guest has the CPU's RDRAND, which the kernel takes by itself (see
// docs/guides/boot.md).
//
// [Seed] takes bytes from such a [Source] and hands them to the kernel, and to nobody
// else: it mixes them into what it has, so that bytes which somebody knows make
// nothing worse. The agent's keys come from the kernel, as ever. Nothing here decides
// whether the agent starts: what was not done is an error with a name, and a line in the log.
package entropy
