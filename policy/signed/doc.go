// Package signed puts signatures around a policy: who wrote it, who approved
// it, which policy it is and of which revision, so that a server can refuse
// what the right people have not signed.
//
//	doc, err := signed.Sign("policy.yaml", src, alice)          // one signer: COSE_Sign1
//	doc, err := signed.SignJoint("policy.yaml", src, alice)     // others will follow: COSE_Sign
//	doc, err  = signed.Approve(doc, bob)                        // another person, offline
//
//	who, err := signed.NewSigners(2, alicePub, bobPub, carolPub)
//	v, err := signed.Verify("policy.signed", doc, who)          // the bundle, compiled
//
// A signed policy is one COSE message (RFC 9052) whose payload is the policy
// file byte for byte: comments, order and blank lines are what was approved. Its
// protected header says what it is (typ, so that no other signature of the same
// key can be passed off as one of a policy), and names the bundle, its trust
// domain and its revision, which must be what the payload says of itself. The
// format, and each check by name, is docs/spec/signed-policy.md.
//
// What is read must be the one deterministic encoding of what it says: the
// reader decodes, encodes again and compares, so that unknown header
// parameters, duplicate keys, long forms and trailing bytes have no place to
// hide.
//
// Until [Verify] returns, nothing in a document can be believed: [Open] shows it
// as an [Unverified].
package signed
