// Package collateral finds the certificates and CRLs that a SEV-SNP report does
// not carry: it is the [sevsnp.Collateral] of a server and of the command line.
//
// What the attester brings is the verifier's own business and comes first. What
// it does not bring is looked for here, in this order:
//
//	memory    what was used lately, bounded in bytes
//	cache     a directory per server: one file per product, chip and TCB
//	bundle    what an operator carried to a server without a network; importing
//	          one fills the cache (see [Bundle], docs/spec/collateral-bundle.md)
//	KDS       AMD's Key Distribution Service (publication 57230), last of all
//
// Who may cause what is the point of the package. A report is a stranger's until
// its signature has verified, and its endorsement is needed to verify it. So:
//
//   - ASKs, ASVKs and CRLs are fetched on a schedule ([Source.Run]), never because
//     of a request.
//   - A VCEK is fetched only for a chip that the operator has named
//     ([Config.Allowed]). Everything else in a report, and every other chip, costs
//     one look into a map: no request, no file, no memory.
//   - For a chip that is named, requests are bounded for the chip and in all, held
//     back while the KDS is failing or asks for patience, made once for all who
//     wait, and not repeated for what the KDS does not have.
//   - A VLEK is never fetched: the KDS hands them to cloud providers only.
//
// Nothing here is trusted later on. What is read from the directory, a bundle or
// the KDS is verified under the pinned roots before it is kept or returned, and
// verified again by the verifier that asked.
//
// docs/design/collateral.md tells the whole story.
package collateral
