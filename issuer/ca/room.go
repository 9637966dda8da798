package ca

import (
	"fmt"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/issuer/store"
)

// MaxAuthorities is how many authorities of a use, of all servers, the trust
// domain may have at a time. Agents refuse a bundle with more X.509 or JWT
// authorities, whole, and so do other trust domains; and a document of the verifier
// root names no more keys.
const MaxAuthorities = 64

// Of these, what is planned (the next of a server that signs, or one that an
// operator has prepared) leaves a reserve for what is not: the successor of a
// tainted one, and the first of a server that joins. And these leave a few, because
// servers that make one at the same moment do not know of one another.
const (
	maxPlanned   = MaxAuthorities - 16
	maxUnplanned = MaxAuthorities - 4
)

// trusted counts the authorities of a use that are in the bundle or in a document,
// or will be when the upstream CA has answered. Those of a dedicated upstream count
// each: a bundle may have to name them instead of its root.
func (s *snapshot) trusted(use store.Use) (n int) {
	for _, a := range s.all {
		if a.row.Use == use && !a.revoked() {
			n++
		}
	}
	return n
}

// room is nil while another authority of a use may be made. The check:
//
//	authority_limit  relying parties take a bundle with one more
func (c *CA) room(s *snapshot, use store.Use, unplanned bool) error {
	limit := maxPlanned
	if unplanned {
		limit = maxUnplanned
	}
	n := s.trusted(use)
	if n < limit {
		return nil
	}
	return &attest.Error{
		Kind: attest.Denied, Check: "authority_limit",
		Err:  fmt.Errorf("%w: %d %s authorities are trusted, and agents take at most %d, of which some are kept for emergencies", ErrTooEarly, n, use, MaxAuthorities),
		Hint: "`assay authority revoke` those that are tainted or have retired: `assay authority list`",
	}
}
