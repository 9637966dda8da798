package process

import (
	"net/netip"
	"net/url"
)

// isLoopback reports whether a URL names an address of this machine. Names are
// not looked up: what they mean is somebody else's to say.
func isLoopback(raw string) bool {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "https" {
		return false
	}
	a, err := netip.ParseAddr(u.Hostname())
	return err == nil && a.IsLoopback()
}
