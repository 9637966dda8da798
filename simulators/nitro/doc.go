// Package nitro is a simulated AWS Nitro Security Module (NSM), the device that
// signs attestation documents inside a Nitro Enclave, together with the public
// key infrastructure behind it. Import it as simnitro.
//
// It exists so that the real verifier can be tested, and the product tried,
// without the hardware. Nothing is mocked: documents are real COSE_Sign1
// structures (RFC 9052) signed with ES384 by a real certificate under a real
// chain of five P-384 certificates. Only the root is ours, made afresh by each
// [Authority], and its names say that it is simulated.
//
//	a, err := simnitro.NewAuthority(simnitro.AuthorityOptions{})
//	document, err := a.Mint(simnitro.Document{Nonce: nonce})           // a document, now
//	module, err := a.Launch(simnitro.Launch{Image: simnitro.ImageFromSeed("orders")})
//	err = module.Serve(ctx, listener)                                  // a running enclave's NSM
//
// What a verifier must refuse is asked for by name: every [Fault] makes exactly
// one thing wrong, and says in which check of the verifier it must end.
//
//	fault, ok := simnitro.FaultByName("leaf-p521")
//	document, err := a.Mint(simnitro.Document{}, fault)
//
// The shapes (names, extensions and their order, path lengths, lifetimes,
// serial numbers, key order and encoding of the document) are those observed in
// documents from real enclaves between 2021 and 2025; where AWS documents them
// (the Nitro Enclaves user guide, "Cryptographic attestation" and "Verifying the
// root of trust"), they agree. The package speaks the device's own bytes and
// shares no code with the verifier, the agent or the server.
package nitro
