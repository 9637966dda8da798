package collateral

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"
)

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

// crl is the newest CRL of a slot, or nil, and when it was last known to be that.
func (c *Cache) crl(at slot) (o *Object, checked time.Time) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.crls[at], c.checked[at]
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
