package collateral

import "time"

// Stats are for metrics. The unmarked fields are counters, which only grow; those
// under "now" are gauges.
type Stats struct {
	// Cache.
	Hits      uint64 // endorsements found in memory
	FileReads uint64 // files read and verified
	Corrupt   uint64 // files that did not verify, or are not what their name says
	Writes    uint64

	// What was asked for and not held.
	NotAllowed  uint64 // chips that the operator has not named: no request was made
	Negative    uint64 // the KDS said lately that there is none
	ChipLimited uint64 // the limit for one chip was reached
	Joined      uint64 // waited for somebody else's request

	// KDS.
	Requests      uint64
	Failures      uint64 // no answer, a wrong one, or 429
	RateLimited   uint64 // not asked: the limit was reached
	Paused        uint64 // not asked: it failed lately, or wants to be left alone
	Refused       uint64 // answers that did not verify or are not what was asked for; any is worth a look
	Fetched       uint64 // VCEKs
	FetchFailures uint64
	Refreshed     uint64 // CRLs and chains, on schedule
	RefreshFailed uint64

	// Now.
	Endorsements int                // in the directory
	Foreign      int                // files in the directory that are none of ours
	InMemory     int                // endorsements
	MemoryBytes  int64              // of those, with what they cost beside their bytes
	Pause        time.Duration      // how long the KDS is left alone; 0 if it is not
	CRLs         map[string]CRLInfo // by "milan vcek"; those that are missing are missing
}

// CRLInfo are the dates of a CRL that is held.
type CRLInfo struct{ ThisUpdate, NextUpdate, Checked time.Time }

// CRLs are the CRLs that are held, by "milan vcek".
func (c *Cache) CRLs() map[string]CRLInfo {
	out := make(map[string]CRLInfo)
	c.mu.RLock()
	defer c.mu.RUnlock()
	for at, o := range c.crls {
		out[at.String()] = CRLInfo{o.NotBefore, o.NotAfter, c.checked[at]}
	}
	return out
}

// Stats returns the counters.
func (s *Source) Stats() Stats {
	c := s.cache
	out := Stats{
		Hits: c.hits.Load(), FileReads: c.reads.Load(), Corrupt: c.corrupt.Load(), Writes: c.writes.Load(),
		NotAllowed: s.notAllowed.Load(), Negative: s.negative.Load(), ChipLimited: s.chipLimited.Load(), Joined: s.joined.Load(),
		Refused: s.refused.Load(), Fetched: s.fetched.Load(), FetchFailures: s.fetchFailed.Load(),
		Refreshed: s.refreshed.Load(), RefreshFailed: s.refreshFailed.Load(),
		Foreign: int(c.foreign.Load()),
	}
	out.InMemory, out.MemoryBytes = c.hot.Len(), c.hot.Weight()
	c.mu.RLock()
	out.Endorsements = c.entries
	c.mu.RUnlock()
	out.CRLs = c.CRLs()
	if k := s.kds; k != nil {
		out.Pause = k.pause()
		k.mu.Lock()
		out.Requests, out.Failures, out.RateLimited, out.Paused = k.requests, k.failed, k.limited, k.paused
		k.mu.Unlock()
	}
	return out
}
