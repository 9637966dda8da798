package sevsnp

import (
	"context"
	"time"

	"github.com/assay-project/assay/attest"
)

// Key names the endorsement that a report needs. Everything in it comes from a
// report whose signature nobody could check yet.
type Key struct {
	Product    string       // "milan", "genoa" or "turin"
	SigningKey string       // "vcek" or "vlek"
	ChipID     attest.Bytes // 64 bytes as in the report; on Turin the first 8 are the chip's; all zero when masked
	TCB        attest.TCB   // the reported TCB, with FMC exactly for Turin
}

// Collateral is what a verifier can ask for beyond what the attester brought.
// Implementations are safe for concurrent use.
//
// Both methods return DER, or an error. An error of kind [attest.Unavailable]
// says that the source failed (the KDS is dead, or the rate limit is reached);
// any other error, and nil DER, say that it has none.
//
// A Key comes from a stranger. An implementation that goes over the network must
// do so only for chips that the operator named.
type Collateral interface {
	// Endorsement finds the certificate of the report's signing key.
	Endorsement(ctx context.Context, k Key) (der []byte, err error)
	// CRL finds the newest CRL of the product line's ARK, from the distribution
	// point of its ASK (signingKey "vcek") or ASVK ("vlek"): AMD has one for each.
	CRL(ctx context.Context, product, signingKey string) (der []byte, err error)
}

// IssuerSource is implemented by a [Collateral] that holds ASKs and ASVKs newer
// than the built-in ones. They are verified under the pinned ARK like any that
// come along.
type IssuerSource interface {
	// Issuers returns the ASKs (signingKey "vcek") or ASVKs ("vlek") of a product
	// line that are at hand, as DER. It does not go over the network.
	Issuers(ctx context.Context, product, signingKey string) [][]byte
}

// Keeper is implemented by a [Collateral] that fetches endorsements and keeps for
// good only those that were needed.
type Keeper interface {
	// Keep is called when a report's signature has verified with what Endorsement
	// returned for the key. It may be called again for the same.
	Keep(ctx context.Context, k Key, der []byte)
}

// RevocationPolicy says what a missing or expired CRL means. A CRL of the ARK
// that names a certificate of the chain always refuses, however old it is.
type RevocationPolicy struct {
	// Require refuses reports that no current CRL covers.
	Require bool
	// Grace is how long after its nextUpdate a CRL still counts. Claims that rest
	// on one say "grace".
	Grace time.Duration
}

// What claims say of revocation (attest.SNP.Revocation).
const (
	RevocationOK         = "ok"          // a current CRL of the pinned root covers the chain
	RevocationGrace      = "grace"       // the newest one has expired, within the operator's grace
	RevocationNotChecked = "not_checked" // there is none that counts
)
