// Package signerwire is what is said on assay-signer's socket: frames, and the
// messages in them, as docs/spec/signer-socket.md describes. Both ends use it;
// it opens no socket, and holds no key.
//
//	client                                   assay-signer
//	  │ List                                       │
//	  ├───────────────────────────────────────────▶│
//	  │ Keys{name, purposes, algorithm, SPKI}…     │
//	  │◀───────────────────────────────────────────┤
//	  │ Sign{name, purpose, scheme, hash, input}   │
//	  ├───────────────────────────────────────────▶│
//	  │ Signature, or Failure                      │
//	  │◀───────────────────────────────────────────┤
//
// There is no message that makes, changes, exports or removes a key: those are
// an operator's commands, with an operator's credentials.
//
// The parsers of this package read bytes of a peer. They never panic, allocate
// no more than the frame is long, and accept one encoding of each message only.
package signerwire
