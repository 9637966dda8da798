package postgres

// ChainLock is the key of a chain's lock, for tests that hold it.
func ChainLock(trustDomain, chain string) int64 { return chainLock(trustDomain, chain) }
