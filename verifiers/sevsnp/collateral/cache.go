package collateral

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/assay-project/assay/internal/lru"
	"github.com/assay-project/assay/verifiers/sevsnp"
)

// Bounds of a cache.
const (
	// DefaultMemory is how many bytes of certificates are held in memory: more
	// than 10,000 endorsements.
	DefaultMemory = 24 << 20
	// MaxEntries is how many endorsements a cache directory may hold. Files beyond
	// it are not seen.
	MaxEntries = 200_000
	// maxIssuers is how many ASKs or ASVKs are kept for each slot.
	maxIssuers = 8
	// entryOverhead is what an endorsement costs in memory beside its bytes.
	entryOverhead = 256
)

// Cache is a directory of collateral, with an index of it in memory. It is safe
// for concurrent use, and several processes may use one directory: a file
// appears whole or not at all.
//
// What it keeps to:
//
//   - Nothing is written that has not verified under the roots, and nothing is
//     returned from a file that has not: a file that is damaged, or is not what its
//     name says, is counted, left alone, and as if it were not there.
//   - A file that cannot be read just now (no descriptor left, a bad disk) stays
//     known. Only what was read and did not verify, or is gone, is forgotten.
//   - An endorsement is written once. It is replaced only when it has expired or
//     its file is bad. A CRL is replaced only by a newer one.
//   - A lookup of what is not there reads no file. A lookup of what was used lately
//     reads none either.
type Cache struct {
	dir   *os.Root
	path  string
	trust trust
	now   func() time.Time
	log   *slog.Logger

	hot *lru.Cache[objectKey, *held]

	mu      sync.RWMutex
	scanned time.Time // the directory's date when it was read last
	settled bool      // it was read twice with that date: nothing of the same moment was missed
	unread  bool      // a CA's or a CRL's file could not be read: look again, whatever the date
	scans   uint64    // how often the index was made
	chips   map[chipKey][]tcbKey
	vleks   map[objectKey][]string // file names, sorted: a TCB has one for each cloud provider
	entries int
	bad     map[string]time.Time // files that were found bad, and their times then
	issuers map[slot][]*x509.Certificate
	crls    map[slot]*Object
	checked map[slot]time.Time // when the CRL was last known to be the newest

	hits, reads, corrupt, foreign, writes atomic.Uint64
}

// CacheConfig says where a cache is and whom it trusts.
type CacheConfig struct {
	Dir    string           // made with mode 0700 if it is not there
	Roots  sevsnp.Roots     // what everything must verify under
	Memory int64            // bytes of certificates in memory; 0 = DefaultMemory
	Now    func() time.Time // nil = time.Now
	Log    *slog.Logger     // nil = no log
}

// OpenCache opens a directory, or makes it. A directory that others may write to
// is refused: they could put an older CRL in the place of the newest.
func OpenCache(c CacheConfig) (*Cache, error) {
	if len(c.Roots.Products()) == 0 {
		return nil, errors.New("collateral: no roots")
	}
	if c.Memory == 0 {
		c.Memory = DefaultMemory
	}
	if c.Memory < 0 {
		return nil, fmt.Errorf("collateral: %d bytes of memory, want more than 0", c.Memory)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	dir, err := openDir(c.Dir)
	if err != nil {
		return nil, fmt.Errorf("collateral: %w", err)
	}
	k := &Cache{
		dir: dir, path: c.Dir, now: c.Now, log: c.Log,
		hot: lru.NewWeighted[objectKey](c.Memory, func(h *held) int64 { return int64(len(h.der)) + entryOverhead }),
	}
	k.trust = trust{roots: c.Roots, issuers: k.extraIssuers}
	k.bad = make(map[string]time.Time)
	if err := k.Rescan(); err != nil {
		_ = dir.Close() // only read
		return nil, err
	}
	return k, nil
}

// Close lets go of the directory.
func (c *Cache) Close() error { return c.dir.Close() }

// load reads and verifies one file. Its content must be what its name says. The
// error is an *unreadError where that could not be seen.
func (c *Cache) load(name string, n fileName) (*Object, error) {
	c.reads.Add(1)
	limit := int64(maxCertificateSize)
	if n.kind == fileCRL {
		limit = maxCRLSize
	}
	der, modified, err := readFile(c.dir, name, limit)
	var o *Object
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, err // removed meanwhile: no fault
	case isUnread(err):
		c.log.Warn("a file of the collateral cache cannot be read", "directory", c.path, "file", name, "error", err.Error())
		return nil, err
	case err != nil:
	case n.kind == fileCRL:
		o, err = c.trust.crl(der, slot{n.product, n.middle})
	default:
		o, err = c.trust.certificate(der)
	}
	if err == nil && fileOf(o) != name {
		err = fmt.Errorf("it holds what belongs into %s", fileOf(o))
	}
	if err == nil && !bytes.Equal(o.DER, der) {
		err = errors.New("something follows the object")
	}
	if err != nil {
		c.corrupt.Add(1)
		c.log.Warn("a file of the collateral cache is not used", "directory", c.path, "file", name, "error", err.Error())
		c.mu.Lock()
		c.bad[name] = modified
		c.mu.Unlock()
		return nil, err
	}
	return o, nil
}

func (c *Cache) write(name string, der []byte) error {
	if err := writeFile(c.dir, name, der); err != nil {
		return fmt.Errorf("collateral: %s: %w", c.path, err)
	}
	c.writes.Add(1)
	return nil
}

// List reads every file and returns what is good, sorted by kind, product, chip
// and TCB, and how many files are not.
func (c *Cache) List() (good []*Object, bad int, err error) {
	files, err := fs.ReadDir(c.dir.FS(), ".")
	if err != nil {
		return nil, 0, fmt.Errorf("collateral: %w", err)
	}
	for _, f := range files { // sorted by name
		n, ok := parseName(f.Name())
		if !ok || !f.Type().IsRegular() {
			if !ownFile(f.Name()) {
				bad++
			}
			continue
		}
		o, err := c.load(f.Name(), n)
		if err != nil {
			bad++
			continue
		}
		good = append(good, o)
	}
	order := []Kind{CRL, ASK, ASVK, VCEK, VLEK}
	slices.SortStableFunc(good, func(a, b *Object) int { return slices.Index(order, a.Kind) - slices.Index(order, b.Kind) })
	return good, bad, nil
}

// digestOf is SHA-256, as the fingerprint of keys and bundles.
func digestOf(b []byte) [sha256.Size]byte { return sha256.Sum256(b) }
