package nitro

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"github.com/hf/nitrite"

	"github.com/assay-project/assay/verifiers/internal/check"
)

// checkSignature is the COSE signature check of record: hf/nitrite over the
// whole document, with the leaf that was just verified as its only root.
//
// What nitrite says of the chain means nothing then, since a certificate that
// is a root itself is not verified any further; it builds no chain and checks
// one signature, the document's. Its Result is looked at only without an error,
// because it returns one beside an error too.
func (v *Verifier) checkSignature(body []byte, env envelope, d *document, leaf *link, at time.Time) error {
	res, err := v.nitrite(body, leaf, at)
	if err != nil {
		return err
	}
	return agree(res, env, d)
}

// nitrite runs the library behind a recover: it has panicked on documents of
// strangers, and assayd must go on.
func (v *Verifier) nitrite(body []byte, leaf *link, at time.Time) (res *nitrite.Result, err error) {
	defer check.Recover(&err, &v.cache.panics, refuse)
	res, err = nitrite.Verify(body, nitrite.VerifyOptions{Roots: leaf.pool, CurrentTime: at})
	if err != nil {
		return nil, refuse(CheckCOSESignature, detail{
			Err:  fmt.Errorf("the document is not signed by its certificate: %w", err),
			Hint: "the document was changed after the NSM signed it, or cut together from two",
		})
	}
	return res, nil
}

// agree checks that nitrite verified the very bytes that were decoded here, so
// that no difference between two decoders can give a claim that nobody signed.
func agree(res *nitrite.Result, env envelope, d *document) error {
	if res != nil && res.SignatureOK && res.Document != nil &&
		bytes.Equal(res.Protected, env.protected) &&
		bytes.Equal(res.Payload, env.payload) &&
		bytes.Equal(res.Signature, env.signature) &&
		bytes.Equal(res.Document.Certificate, d.certificate) {
		return nil
	}
	return refuse(CheckCOSESignature, detail{Err: errors.New("two decoders read the document differently")})
}

// clockSkew is how far a document's time and the server's may lie apart.
const clockSkew = 5 * time.Minute

// checkTimes holds the document's time against its leaf and the server's clock.
// The document's time is never used as a clock.
func checkTimes(d *document, leaf *link, at time.Time) error {
	nb, na := leaf.cert.NotBefore, leaf.cert.NotAfter
	if d.timestamp.Before(nb) || d.timestamp.After(na) {
		return refuse(CheckTimestampLeaf, detail{
			Err:      errors.New("the document was made outside the validity of its own certificate"),
			Expected: nb.UTC().Format(time.RFC3339) + " to " + na.UTC().Format(time.RFC3339),
			Got:      d.timestamp.Format(time.RFC3339Nano),
		})
	}
	if off := at.Sub(d.timestamp).Abs(); off > clockSkew {
		return refuse(CheckTimestampWindow, detail{
			Err:      errors.New("the document was not made now"),
			Expected: fmt.Sprintf("within %s of %s", clockSkew, at.UTC().Format(time.RFC3339)),
			Got:      d.timestamp.Format(time.RFC3339Nano),
			Hint:     "ask for a fresh document; a recorded one is verified with the time at which it was recorded",
		})
	}
	return nil
}
