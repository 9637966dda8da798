package collateral

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
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

// held is an endorsement in memory.
type held struct {
	der                 []byte
	notBefore, notAfter time.Time
	// scan is the index from which this was found to be the best there is, though
	// it is not valid; 0 if it was valid or nobody looked.
	scan uint64
	// retry is when to try again to write it, after that failed; see [Source.Keep].
	retry time.Time
}

func (h *held) validAt(t time.Time) bool { return !t.Before(h.notBefore) && !t.After(h.notAfter) }

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

// Rescan reads the directory again if it changed, so that what another process
// imported is seen. A server calls it now and then ([Source.Run] does).
func (c *Cache) Rescan() error {
	info, err := c.dir.Stat(".")
	if err != nil {
		return fmt.Errorf("collateral: %w", err)
	}
	c.mu.RLock()
	same, settled, unread := info.ModTime().Equal(c.scanned), c.settled, c.unread
	c.mu.RUnlock()
	if same && settled && !unread {
		return nil
	}
	files, err := fs.ReadDir(c.dir.FS(), ".")
	if err != nil {
		return fmt.Errorf("collateral: %w", err)
	}
	c.index(files, info.ModTime())
	c.mu.Lock()
	c.settled = same
	c.mu.Unlock()
	return nil
}

// index replaces what is known of the directory.
func (c *Cache) index(files []fs.DirEntry, modified time.Time) {
	chips, vleks := make(map[chipKey][]tcbKey), make(map[objectKey][]string)
	var cas, crls []fileName
	entries, foreign := 0, uint64(0)
	bad := make(map[string]time.Time)
	for _, f := range files {
		name := f.Name()
		n, ok := parseName(name)
		if !ok || !f.Type().IsRegular() {
			if !ownFile(name) {
				foreign++
			}
			continue
		}
		if c.known(name, f, bad) {
			continue
		}
		switch n.kind {
		case fileASK, fileASVK:
			cas = append(cas, n)
			continue
		case fileCRL:
			crls = append(crls, n)
			continue
		}
		if entries++; entries > MaxEntries {
			continue
		}
		addEntry(chips, vleks, n, name)
	}
	c.foreign.Store(foreign)
	if entries > MaxEntries {
		c.log.Warn("the collateral cache holds more endorsements than are seen", "directory", c.path, "limit", MaxEntries, "files", entries)
	}
	c.mu.Lock()
	c.chips, c.vleks, c.entries, c.scanned, c.bad = chips, vleks, min(entries, MaxEntries), modified, bad
	c.scans++
	c.unread = false
	c.mu.Unlock()
	c.loadCAs(cas)
	c.loadCRLs(crls)
}

// known reports whether the file was found bad before and has not changed since.
func (c *Cache) known(name string, f fs.DirEntry, keep map[string]time.Time) bool {
	c.mu.RLock()
	at, ok := c.bad[name]
	c.mu.RUnlock()
	if !ok {
		return false
	}
	if info, err := f.Info(); err != nil || !info.ModTime().Equal(at) {
		return false
	}
	keep[name] = at
	return true
}

func addEntry(chips map[chipKey][]tcbKey, vleks map[objectKey][]string, n fileName, name string) {
	chip := vleksOf(n.product)
	if n.kind == fileVCEK {
		chip = chipOf(n.product, unhex(n.middle))
	} else {
		k := objectKey{chip, n.tcb}
		if names := vleks[k]; !slices.Contains(names, name) {
			// A new slice each time: readers may hold the old one.
			vleks[k] = slices.Sorted(slices.Values(append(slices.Clone(names), name)))
		}
	}
	if !slices.Contains(chips[chip], n.tcb) {
		chips[chip] = append(chips[chip], n.tcb)
	}
}

// loadCAs reads the ASKs and ASVKs beyond the roots' own. One that cannot be read
// just now stays, if it is known.
func (c *Cache) loadCAs(names []fileName) {
	out := make(map[slot][]*x509.Certificate)
	for _, n := range names {
		o, err := c.load(n.kind+"."+n.product+"."+n.middle+".der", n)
		if isUnread(err) {
			at, cert := c.knownIssuer(n)
			c.lookAgain()
			if cert != nil && len(out[at]) < maxIssuers {
				out[at] = append(out[at], cert)
			}
			continue
		}
		if err != nil {
			continue // counted and logged
		}
		cert, err := x509.ParseCertificate(o.DER)
		at := slot{o.Product, o.SigningKey}
		if err == nil && len(out[at]) < maxIssuers {
			out[at] = append(out[at], cert)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.issuers
	c.issuers = out
	for at, certs := range out {
		for _, i := range certs {
			if !slices.ContainsFunc(before[at], i.Equal) {
				c.pardon()
			}
		}
	}
}

// pardon gives files that were found bad another chance: they may be good under
// an issuer that has become known. The caller holds mu.
func (c *Cache) pardon() {
	if len(c.bad) > 0 {
		clear(c.bad)
		c.unread = true
	}
}

// knownIssuer is the ASK or ASVK in memory that a file is named after.
func (c *Cache) knownIssuer(n fileName) (slot, *x509.Certificate) {
	at := slot{n.product, sevsnp.VCEK}
	if n.kind == fileASVK {
		at.signingKey = sevsnp.VLEK
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, i := range c.issuers[at] {
		if sum := digestOf(i.Raw); hex.EncodeToString(sum[:]) == n.middle {
			return at, i
		}
	}
	return at, nil
}

// lookAgain has the next Rescan read the directory, though it has not changed.
func (c *Cache) lookAgain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unread = true
}

// loadCRLs reads the CRLs. One that is older than the one in memory is left
// alone.
func (c *Cache) loadCRLs(names []fileName) {
	out, checked := make(map[slot]*Object), make(map[slot]time.Time)
	for _, n := range names {
		at := slot{n.product, n.middle}
		o, err := c.load(crlFile(at), n)
		if isUnread(err) {
			c.lookAgain()
		}
		if err != nil {
			continue // counted and logged
		}
		out[at] = o
		if info, err := c.dir.Stat(crlFile(at)); err == nil {
			checked[at] = info.ModTime()
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.crls == nil {
		c.crls, c.checked = make(map[slot]*Object), make(map[slot]time.Time)
	}
	for at, o := range out {
		if o.newerThan(c.crls[at]) {
			c.crls[at] = o
		}
		if checked[at].After(c.checked[at]) {
			c.checked[at] = checked[at]
		}
	}
}

// unreadError is that of a file that could not be opened or read: nothing is known
// of its content.
type unreadError struct{ err error }

func (e *unreadError) Error() string { return "it cannot be read: " + e.err.Error() }
func (e *unreadError) Unwrap() error { return e.err }

// unreadable leaves the file's name out: it has the chip's id in it, and the error
// goes further than our own log.
func unreadable(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		err = p.Err
	}
	return &unreadError{err}
}

func isUnread(err error) bool {
	_, ok := errors.AsType[*unreadError](err)
	return ok
}

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

func (c *Cache) extraIssuers(at slot) []*x509.Certificate {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return slices.Clone(c.issuers[at])
}

// endorsement finds an endorsement: in memory, or in its file. It reads no file
// that is not in the index. Of several it is one that is valid; one that is not is
// the answer only where there is no other, and is looked past again when the
// directory has changed.
//
// The error is that of a file that could not be read, where no other is good.
func (c *Cache) endorsement(w wanted) (*held, error) {
	id, now := w.id(), c.now()
	c.mu.RLock()
	there, names, scan := slices.Contains(c.chips[id.chip], id.tcb), c.vleks[id], c.scans
	c.mu.RUnlock()
	if h, ok := c.hot.Get(id); ok && (h.validAt(now) || h.scan == scan || !there) {
		c.hits.Add(1)
		return h, nil
	}
	if !there {
		return nil, nil
	}
	if w.signingKey == sevsnp.VCEK {
		names = []string{vcekFile(w.product, w.hwid, w.tcb)}
	}
	var other *Object // not valid
	var unread error
	for _, name := range names {
		n, ok := parseName(name)
		if !ok {
			continue
		}
		o, err := c.load(name, n)
		switch {
		case isUnread(err):
			unread = err
		case err != nil: // counted and logged
		case o.validAt(now):
			return c.remember(id, o, 0), nil
		case other == nil || o.NotAfter.After(other.NotAfter):
			other = o
		}
	}
	switch {
	case other != nil && unread == nil:
		return c.remember(id, other, scan), nil
	case other != nil:
		return c.remember(id, other, 0), unread
	case unread != nil:
		return nil, unread
	}
	// No file of it is good.
	c.forget(id)
	return nil, nil
}

// remember keeps an endorsement in memory. scan is 0, or the index from which it
// is the best there is, though it is not valid.
func (c *Cache) remember(id objectKey, o *Object, scan uint64) *held {
	h := &held{der: o.DER, notBefore: o.NotBefore, notAfter: o.NotAfter, scan: scan}
	c.hot.Put(id, h)
	return h
}

func (c *Cache) forget(id objectKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.chips[id.chip]
	after := slices.DeleteFunc(slices.Clone(before), func(k tcbKey) bool { return k == id.tcb })
	if len(after) == 0 {
		delete(c.chips, id.chip)
	} else {
		c.chips[id.chip] = after
	}
	delete(c.vleks, id)
	c.entries -= len(before) - len(after)
}

// tcbsOf is how many TCBs of a chip are in the index.
func (c *Cache) tcbsOf(chip chipKey) int {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return len(c.chips[chip])
}

// crl is the newest CRL of a slot, or nil, and when it was last known to be that.
func (c *Cache) crl(at slot) (o *Object, checked time.Time) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.crls[at], c.checked[at]
}

// Issuers returns the ASKs (signingKey "vcek") or ASVKs ("vlek") beyond those of
// the roots, in DER, all signed by the line's ARK.
func (c *Cache) Issuers(product, signingKey string) [][]byte {
	c.mu.RLock()
	defer c.mu.RUnlock()
	var out [][]byte
	for _, i := range c.issuers[slot{product, signingKey}] {
		out = append(out, i.Raw)
	}
	return out
}

// PutCertificate verifies a VCEK, VLEK, ASK or ASVK and keeps it. What is there
// already and good is left as it is; stored is false then.
func (c *Cache) PutCertificate(der []byte) (o *Object, stored bool, err error) {
	if o, err = c.trust.certificate(der); err != nil {
		return nil, false, fmt.Errorf("collateral: %w", err)
	}
	if o.Kind == ASK || o.Kind == ASVK {
		stored, err = c.putIssuer(o)
		return o, stored, err
	}
	w := wanted{slot: slot{o.Product, o.SigningKey}, hwid: o.ChipID, tcb: *o.TCB}
	name := fileOf(o)
	c.mu.RLock()
	full := c.entries >= MaxEntries
	there := slices.Contains(c.chips[w.chip()], w.id().tcb)
	c.mu.RUnlock()
	if there && c.fileGood(name) {
		return o, false, nil
	}
	if full && !there {
		return nil, false, fmt.Errorf("collateral: the cache is full: %d endorsements", MaxEntries)
	}
	if err := c.write(name, o.DER); err != nil {
		return nil, false, err
	}
	n, _ := parseName(name) // it is our own
	c.mu.Lock()
	delete(c.bad, name)
	if !there {
		c.entries++
	}
	addEntry(c.chips, c.vleks, n, name)
	c.mu.Unlock()
	c.remember(w.id(), o, 0)
	return o, true, nil
}

// fileGood reports whether the file holds an endorsement that is still valid.
func (c *Cache) fileGood(name string) bool {
	n, ok := parseName(name)
	if !ok {
		return false
	}
	o, err := c.load(name, n)
	return err == nil && o.validAt(c.now())
}

// putIssuer keeps an ASK or ASVK that is not one of the roots' own.
func (c *Cache) putIssuer(o *Object) (stored bool, err error) {
	at := slot{o.Product, o.SigningKey}
	cert, err := x509.ParseCertificate(o.DER)
	if err != nil {
		return false, fmt.Errorf("collateral: %w", err)
	}
	same := func(i *x509.Certificate) bool { return bytes.Equal(i.Raw, o.DER) }
	known := c.extraIssuers(at)
	switch {
	case slices.ContainsFunc(c.trust.roots.Issuers(at.product, at.signingKey), same), slices.ContainsFunc(known, same):
		return false, nil
	case len(known) >= maxIssuers:
		return false, fmt.Errorf("collateral: there are %d issuers for %s already: remove old ones from %s", len(known), at, c.path)
	}
	if err := c.write(fileOf(o), o.DER); err != nil {
		return false, err
	}
	c.mu.Lock()
	c.issuers[at] = append(slices.Clone(known), cert)
	c.pardon()
	c.mu.Unlock()
	return true, nil
}

// PutCRL verifies a CRL and keeps it if it is newer than the one that is there.
// One that has expired is kept on the same terms, for it may revoke more than
// the one before; its dates tell the verifier.
func (c *Cache) PutCRL(product, signingKey string, der []byte) (o *Object, stored bool, err error) {
	at := slot{product, signingKey}
	if !slices.Contains(slots(c.trust.roots), at) {
		return nil, false, fmt.Errorf("collateral: no root is pinned for the CRL of %s", at)
	}
	if o, err = c.trust.crl(der, at); err != nil {
		return nil, false, fmt.Errorf("collateral: %w", err)
	}
	if o.NotBefore.After(c.now()) {
		// It must not take the place of one that counts already.
		return nil, false, fmt.Errorf("collateral: the CRL of %s is of %s, which is in the future: check the clock of this machine", at, o.NotBefore.UTC().Format(time.RFC3339))
	}
	unlock, err := lock(c.dir)
	if err != nil {
		return nil, false, fmt.Errorf("collateral: %w", err)
	}
	defer unlock()
	// Another process may have stored a newer one.
	if n, ok := parseName(crlFile(at)); ok {
		c.loadCRLs([]fileName{n})
	}
	before, _ := c.crl(at)
	if o.newerThan(before) {
		if err := c.write(crlFile(at), o.DER); err != nil {
			return nil, false, err
		}
		stored = true
	}
	c.mu.Lock()
	if stored {
		c.crls[at] = o
		delete(c.bad, crlFile(at))
	}
	c.mu.Unlock()
	return o, stored, nil
}

// touch notes that the CRL was the newest at this time; a restart remembers it by
// the file's date.
func (c *Cache) touch(at slot, now time.Time) {
	c.mu.Lock()
	c.checked[at] = now
	c.mu.Unlock()
	if err := c.dir.Chtimes(crlFile(at), now, now); err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.log.Warn("a file of the collateral cache cannot be dated", "directory", c.path, "file", crlFile(at), "error", err.Error())
	}
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
