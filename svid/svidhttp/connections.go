package svidhttp

import (
	"crypto/tls"
	"runtime"
	"sync"
	"time"
	"weak"

	"github.com/assay-project/assay/svid/internal/lease"
)

// connections remembers when each connection should be replaced by another. net/http
// hands the same TLS state to every request of a connection, and lets it go with it.
type connections struct {
	retire sync.Map // of weak.Pointer[tls.ConnectionState] to time.Time
}

// late reports whether it is time, for a connection whose client can pass for so
// long yet.
func (c *connections) late(cs *tls.ConnectionState, left time.Duration) bool {
	if cs == nil {
		return false
	}
	key := weak.Make(cs)
	if at, ok := c.retire.Load(key); ok {
		return !time.Now().Before(at.(time.Time)) //nolint:forcetypeassert // nothing else is stored
	}
	if _, ok := c.retire.LoadOrStore(key, time.Now().Add(lease.Retire(left))); !ok {
		runtime.AddCleanup(cs, func(key weak.Pointer[tls.ConnectionState]) { c.retire.Delete(key) }, key)
	}
	return false
}
