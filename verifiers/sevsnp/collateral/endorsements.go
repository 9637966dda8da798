package collateral

import (
	"fmt"
	"slices"
	"time"

	"github.com/assay-project/assay/verifiers/sevsnp"
)

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
