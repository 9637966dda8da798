package federation

import (
	"net"
	"net/http"
	"net/netip"
	"testing"
)

func TestEndpointsAreAtPublicAddresses(t *testing.T) {
	for address, want := range map[string]bool{
		"93.184.216.34": true, "2606:2800:220:1:248:1893:25c8:1946": true, "::ffff:93.184.216.34": true, "172.32.0.1": true, "100.128.0.1": true, "192.0.1.1": true,
		"127.0.0.1": false, "127.255.255.254": false, "::1": false, "::ffff:127.0.0.1": false, "0.0.0.0": false, "0.1.2.3": false, "::": false, "::127.0.0.1": false,
		"169.254.169.254": false, "::ffff:169.254.169.254": false, "fe80::1": false, "fe80::1%eth0": false, "fd00:ec2::254": false, "fec0::1": false,
		"10.0.0.1": false, "172.16.0.1": false, "172.31.255.255": false, "192.168.1.1": false, "::ffff:10.0.0.1": false, "100.64.0.1": false, "100.127.255.255": false,
		"224.0.0.1": false, "ff02::1": false, "255.255.255.255": false, "240.0.0.1": false, "198.18.0.1": false, "192.0.0.170": false,
		"64:ff9b::7f00:1": false, "64:ff9b:1::a00:1": false, "2002:7f00:1::": false, "2001:0:7f00:1::": false,
	} {
		if got := reachable(netip.MustParseAddr(address), nil); got != want {
			t.Errorf("%s: reachable %t", address, got)
		}
	}
	own := []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd12::/16")}
	for address, want := range map[string]bool{"10.1.2.3": true, "::ffff:10.1.2.3": true, "10.2.0.1": false, "fd12::1": true, "fd13::1": false, "127.0.0.1": false, "93.184.216.34": true} {
		if got := reachable(netip.MustParseAddr(address), own); got != want {
			t.Errorf("%s beside own networks: reachable %t", address, got)
		}
	}
}

// Whether something is there or not, and what it says, is not told: nobody looks.
func TestAFederationIsNoWayToLookAroundInTheServersNetwork(t *testing.T) {
	s, _ := newStore(t)
	f := open(t, s, func(c *Config) { c.Private = nil })
	web := newAuthority(t, "")
	e := newEndpoint(t, web.leaf(t, ""), serving(document(t, bundle(1, 0, newAuthority(t, "")))))
	_, port, err := net.SplitHostPort(e.Listener.Addr().String())
	must(t, err)
	told := map[string]bool{}
	for _, at := range []string{e.URL, "https://localhost:" + port + "/", "https://127.0.0.1:1/", "https://[::ffff:127.0.0.1]:" + port + "/", "https://169.254.169.254/", "https://10.0.0.1/", "https://0.0.0.0:" + port + "/", "https://[::1]:1/"} {
		_, err := f.Set(t.Context(), byWeb(web, at), "")
		must(t, err)
		_, err = f.Refresh(t.Context(), theirs.Name())
		wantCheck(t, err, "endpoint_address")
		if err != nil {
			told[err.Error()] = true
		}
	}
	if n := e.asked.Load(); n != 0 {
		t.Errorf("it was asked %d times", n)
	}
	if len(told) != 1 {
		t.Errorf("the errors differ: %v", told)
	}
}

func TestARedirectLeadsToPublicAddressesToo(t *testing.T) {
	s, _ := newStore(t)
	f := open(t, s, nil)
	web := newAuthority(t, "")
	e := newEndpoint(t, web.leaf(t, ""), func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "https://169.254.169.254/latest/meta-data", http.StatusFound)
	})
	_, err := f.Set(t.Context(), byWeb(web, e.URL), "")
	must(t, err)
	_, err = f.Refresh(t.Context(), theirs.Name())
	wantCheck(t, err, "endpoint_address")
}
