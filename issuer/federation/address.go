package federation

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"syscall"

	"github.com/assay-project/assay/attest"
)

// Who may say where an endpoint is may not thereby look around in the server's own
// network: whoever administers a trust domain names URLs, a foreign endpoint names
// others in redirects, and what is answered, or is not, they are told. So endpoints
// are at public addresses, but for those of the configuration. It is the address that
// counts that is connected to, whatever name led there.

// closed lists what is not public beside what the standard library names: addresses
// of carriers, of networks of their own, and those that hold an IPv4 address, which a
// gateway would connect to.
func closed() []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix("0.0.0.0/8"),     // this network (RFC 791)
		netip.MustParsePrefix("100.64.0.0/10"), // shared by a carrier's customers (RFC 6598)
		netip.MustParsePrefix("192.0.0.0/24"),  // protocol assignments (RFC 6890)
		netip.MustParsePrefix("198.18.0.0/15"), // benchmarks (RFC 2544)
		netip.MustParsePrefix("240.0.0.0/4"),   // reserved (RFC 1112)
		netip.MustParsePrefix("::/96"),         // IPv4-compatible (RFC 4291)
		netip.MustParsePrefix("64:ff9b::/96"),  // IPv4 behind a NAT64 (RFC 6052)
		netip.MustParsePrefix("64:ff9b:1::/48"),
		netip.MustParsePrefix("2002::/16"), // IPv4 behind a 6to4 relay (RFC 3056)
		netip.MustParsePrefix("2001::/32"), // and Teredo (RFC 4380)
		netip.MustParsePrefix("fec0::/10"), // site-local, of old (RFC 3879)
	}
}

// reachable reports whether an endpoint may be at an address.
func reachable(ip netip.Addr, private []netip.Prefix) bool {
	ip = ip.Unmap().WithZone("")
	for _, p := range private {
		if p.Contains(ip) {
			return true
		}
	}
	if !ip.IsGlobalUnicast() || ip.IsPrivate() {
		return false
	}
	for _, p := range closed() {
		if p.Contains(ip) {
			return false
		}
	}
	return true
}

// errAddress tells nothing of what is there: nobody has looked.
func errAddress() error {
	return &attest.Error{
		Kind: attest.Unavailable, Check: "endpoint_address", Err: errors.New("the endpoint is not at a public address"),
		Hint: "where it is one of your network, name its address in the server's configuration: federation.private_endpoints",
	}
}

// guarded connects to endpoints, and to a proxy that the environment names: which
// addresses can be reached through that is for the proxy to say.
type guarded struct {
	private []netip.Prefix
	proxies sync.Map // of host:port
}

// proxy is http.ProxyFromEnvironment, remembered.
func (g *guarded) proxy(req *http.Request) (*url.URL, error) {
	u, err := http.ProxyFromEnvironment(req)
	if err == nil && u != nil {
		port := u.Port()
		if port == "" {
			port = map[string]string{"https": "443", "socks5": "1080", "socks5h": "1080"}[u.Scheme]
		}
		if port == "" {
			port = "80"
		}
		g.proxies.Store(net.JoinHostPort(u.Hostname(), port), nil)
	}
	return u, err
}

// dial connects to an address that may be an endpoint's, as the name resolves at this
// moment.
func (g *guarded) dial(ctx context.Context, network, address string) (net.Conn, error) {
	d := net.Dialer{Timeout: connectTimeout}
	if _, ok := g.proxies.Load(address); !ok {
		d.Control = func(_, resolved string, _ syscall.RawConn) error {
			if at, err := netip.ParseAddrPort(resolved); err != nil || !reachable(at.Addr(), g.private) {
				return errAddress()
			}
			return nil
		}
	}
	return d.DialContext(ctx, network, address)
}
