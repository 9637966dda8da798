// Package sevsnp is a simulated AMD secure processor (AMD-SP), which signs the
// attestation reports of SEV-SNP guests, with the certificates behind it and the
// key distribution service (KDS) that hands them out. Import it as simsnp.
//
// It exists so that the real verifier can be tested, and the product tried,
// without the hardware. Nothing is mocked: reports are the 1184 bytes of AMD
// publication 56860, versions 2 to 5, signed with ECDSA P-384 by a real key
// under a real chain of RSA-4096 certificates, with AMD's names, extensions and
// serial numbers, in AMD's order. Only the roots are ours, and they say that
// they are simulated.
//
//	a, err := simsnp.NewAuthority(simsnp.Options{})
//	chip, err := a.Chip(simsnp.Genoa, "host-1")
//	guest, err := chip.Launch(simsnp.Launch{Measurement: simsnp.MeasurementFromSeed("ledger")})
//	report, err := guest.Report(reportData)
//	verify(report, guest.Endorsements(), a.RootsPEM())
//
// What a verifier must refuse is asked for by name: every [Fault] makes exactly
// one thing wrong, and says in which check of the verifier it must end.
//
//	fault, ok := simsnp.FaultByName("leaf-expired")
//	guest, err := chip.Launch(simsnp.Launch{}, fault)
//
// # Well-known keys
//
// Making nine RSA-4096 keys takes most of a minute, so NewAuthority opens an
// authority whose private keys are part of this package (testdata/authority).
// Everybody has them, and so can sign whatever they like: evidence under these
// roots proves nothing, which is what a simulated root is for. A trust domain
// that accepts simulated evidence is simulated for life, and says so in every
// identity that it issues. For a simulation among several people who should not
// be able to play one another, OpenAuthority keeps keys of its own in a
// directory.
//
// Chips' keys are derived from the authority's, so that processes that open the
// same authority (a guest, a KDS, a test) agree on them without talking to each
// other.
//
// The shapes (names, extensions and their order, serial numbers, lifetimes, what
// firmware writes into a report) are those observed in reports and certificates
// of real Milan, Genoa, Bergamo and Turin machines between 2022 and 2026. The
// package speaks the device's own bytes and shares no code with the verifier,
// the agent or the server.
package sevsnp
