package collateral

import (
	"fmt"
	"io/fs"
	"slices"
	"time"
)

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

// pardon gives files that were found bad another chance: they may be good under
// an issuer that has become known. The caller holds mu.
func (c *Cache) pardon() {
	if len(c.bad) > 0 {
		clear(c.bad)
		c.unread = true
	}
}

// lookAgain has the next Rescan read the directory, though it has not changed.
func (c *Cache) lookAgain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unread = true
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
