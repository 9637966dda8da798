package collateral

import (
	"crypto"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/assay-project/assay/attest"
)

// Imported says what an import did.
type Imported struct {
	Sequence uint64    `json:"sequence"`
	IssuedAt time.Time `json:"issued_at"`
	Expires  time.Time `json:"expires"`
	Stored   int       `json:"stored"` // objects that are new here
	Kept     int       `json:"kept"`   // objects that were here already, or for which something newer was
}

// accepted is what the directory remembers of a key's last bundle.
type accepted struct {
	Sequence uint64 `json:"sequence"`
	SHA256   string `json:"sha256"`
}

// maxBundlesFile bounds the record of bundles.
const maxBundlesFile = 1 << 20

// Import verifies a bundle ([OpenBundle]), refuses one that is older than what its
// key brought here before, verifies every item under the pinned roots, and puts
// them into the cache: all of them, or none if one does not verify. Its own
// checks, beyond OpenBundle's:
//
//	bundle_rollback   Untrusted: the sequence is not below the last, and equal only
//	                  for the very same bundle
//	bundle_item       Untrusted: every item verifies under the pinned roots
//	bundle_record     Internal: the directory's record of bundles can be read and written
//
// Two processes may import at once; one of them waits.
func (c *Cache) Import(doc []byte, trusted []crypto.PublicKey) (*Imported, error) {
	b, signer, err := OpenBundle(doc, trusted, c.now())
	if err != nil {
		return nil, err
	}
	if err := c.verifyItems(b); err != nil {
		return nil, err
	}
	record, done, err := c.admitSequence(b, signer, digestOf(doc))
	if err != nil {
		return nil, err
	}
	// The record comes first: stopped half way, the same bundle can be imported
	// again, and an older one cannot.
	err = c.saveRecord(record)
	done()
	if err != nil {
		return nil, err
	}
	return c.putItems(b)
}

// verifyItems verifies everything before anything is written. ASKs and ASVKs
// of the bundle count for its own VCEKs and VLEKs.
func (c *Cache) verifyItems(b *Bundle) error {
	bad := func(what string, i int, err error) error {
		return fail(attest.Untrusted, "bundle_item", "nothing was imported; was it exported from a server with other roots (simulated, hardware)?", "%s %d of the bundle: %w", what, i, err)
	}
	with := newBundleTrust(c.trust)
	for i, der := range b.Certificates {
		with.issuer(i, der)
	}
	for i, der := range b.Certificates {
		if with.verified[i] {
			continue
		}
		if _, err := with.trust.certificate(der); err != nil {
			return bad("certificate", i, err)
		}
	}
	for i, l := range b.CRLs {
		o, err := with.trust.crl(l.DER, slot{l.Product, l.SigningKey})
		if err == nil && o.NotBefore.After(c.now()) {
			err = fmt.Errorf("it is of %s, which is in the future", o.NotBefore.UTC().Format(time.RFC3339))
		}
		if err != nil {
			return bad("CRL", i, err)
		}
	}
	return nil
}

// admitSequence refuses a rollback. It returns the record with this bundle in it,
// and holds the directory's lock until done is called.
func (c *Cache) admitSequence(b *Bundle, signer, sum [32]byte) (record map[string]accepted, done func(), err error) {
	unlock, err := lock(c.dir)
	if err != nil {
		return nil, nil, fail(attest.Internal, "bundle_record", "", "%w", err)
	}
	record, err = c.loadRecord()
	if err == nil {
		key, this := hex.EncodeToString(signer[:]), accepted{b.Sequence, hex.EncodeToString(sum[:])}
		last, seen := record[key]
		if seen && (b.Sequence < last.Sequence || b.Sequence == last.Sequence && last != this) {
			err = fail(attest.Untrusted, "bundle_rollback", "import the newest bundle, or export a new one",
				"the bundle is older than what this key brought before (sequence %d, at least %d is wanted)", b.Sequence, last.Sequence)
		}
		record[key] = this
	}
	if err != nil {
		unlock()
		return nil, nil, err
	}
	return record, unlock, nil
}

// loadRecord fails closed: without the record, an old bundle could pass.
func (c *Cache) loadRecord() (map[string]accepted, error) {
	record := make(map[string]accepted)
	b, _, err := readFile(c.dir, bundlesFile, maxBundlesFile)
	if errors.Is(err, fs.ErrNotExist) {
		return record, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &record)
	}
	if err != nil {
		return nil, fail(attest.Internal, "bundle_record", "restore the file, or remove it: then the next bundle is taken whatever its age", "%s/%s: %w", c.path, bundlesFile, err)
	}
	if record == nil { // the file says null
		record = make(map[string]accepted)
	}
	return record, nil
}

func (c *Cache) saveRecord(record map[string]accepted) error {
	text, err := json.MarshalIndent(record, "", "  ")
	if err == nil {
		err = writeFile(c.dir, bundlesFile, append(text, '\n'))
	}
	if err != nil {
		return fail(attest.Internal, "bundle_record", "", "%s/%s: %w", c.path, bundlesFile, err)
	}
	return nil
}

// putItems writes what verifyItems has seen: issuers first, for the others need
// them.
func (c *Cache) putItems(b *Bundle) (*Imported, error) {
	out := &Imported{Sequence: b.Sequence, IssuedAt: b.IssuedAt, Expires: b.Expires}
	count := func(stored bool) {
		if stored {
			out.Stored++
		} else {
			out.Kept++
		}
	}
	for _, issuers := range []bool{true, false} {
		for i, der := range b.Certificates {
			if isIssuer(der) != issuers {
				continue
			}
			_, stored, err := c.PutCertificate(der)
			if err != nil {
				return nil, fmt.Errorf("certificate %d of the bundle: %w", i, err)
			}
			count(stored)
		}
	}
	for i, l := range b.CRLs {
		_, stored, err := c.PutCRL(l.Product, l.SigningKey, l.DER)
		if err != nil {
			return nil, fmt.Errorf("CRL %d of the bundle: %w", i, err)
		}
		count(stored)
	}
	return out, nil
}
