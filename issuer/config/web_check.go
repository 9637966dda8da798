package config

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"time"
)

// web: HTTPS with a certificate, or plain HTTP where nobody else can listen in.
func (v validator) web() {
	w := v.c.Web
	if w.Listen == "" {
		if w.Certificate != "" || w.Key != "" || w.PlainHTTP {
			v.report("web is configured and not turned on", `set web.listen, for example ":443"`, "web")
		}
		return
	}
	if err := checkAddress(w.Listen); err != nil {
		v.report("web.listen is not an address: "+err.Error(), `for example listen: ":443"`, "web", "listen")
		return
	}
	switch {
	case w.PlainHTTP && (w.Certificate != "" || w.Key != ""):
		v.report("web.plain_http beside a certificate", "keep one of the two", "web", "plain_http")
	case w.PlainHTTP && !private(w.Listen):
		v.report("web.plain_http on an address that is neither loopback nor private", "anybody on the way could change what relying parties read; name a private address, or use a certificate", "web", "plain_http")
	case !w.PlainHTTP && w.Certificate == "":
		v.report("web.listen without web.certificate", "a PEM file with the chain of the web's PKI, or plain_http: true behind a balancer", "web", "certificate")
	case !w.PlainHTTP && w.Key == "":
		v.report("web.certificate without web.key", "a PEM file (0600) with its private key", "web", "key")
	}
}

// private reports whether an address names a loopback or private IP.
func private(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && (ip.IsLoopback() || ip.IsPrivate())
}

func (v validator) federation() {
	f := v.c.Federation
	v.between("federation.poll", f.Poll, time.Second, day)
	for _, s := range f.PrivateEndpoints {
		if p, err := netip.ParsePrefix(s); err != nil || p.Masked() != p {
			v.report(fmt.Sprintf("%.60q is not a network", s), "for example 10.1.0.0/16, or 10.1.2.3/32 for one address", "federation", "private_endpoints")
		}
	}
	if f.SPIFFEListen != "" {
		if err := checkAddress(f.SPIFFEListen); err != nil {
			v.report("federation.spiffe_listen is not an address: "+err.Error(), `for example spiffe_listen: ":8444"`, "federation", "spiffe_listen")
		}
	}
}

// tracing: a collector's URL, as OTLP exporters take it.
func (v validator) tracing() {
	t := v.c.Tracing
	if t.SamplePercent < 0 || t.SamplePercent > 100 {
		v.report(fmt.Sprintf("tracing.sample_percent is %d, want 0 to 100", t.SamplePercent), "", "tracing", "sample_percent")
	}
	if t.Endpoint == "" {
		return
	}
	u, err := url.Parse(t.Endpoint)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		v.report(fmt.Sprintf("%.100q is not the URL of an OTLP collector", t.Endpoint), "for example endpoint: https://otel.example.org:4317", "tracing", "endpoint")
	}
}

// distinct: no two of one file at one address.
func (v validator) distinct(all []listener) {
	seen := map[string]string{}
	for _, l := range all {
		if l.address == "" || l.anyPort() {
			continue
		}
		if other, dup := seen[l.address]; dup {
			v.report(fmt.Sprintf("%s and %s are the same address %s", other, l.key(), l.address), "", l.path...)
			continue
		}
		seen[l.address] = l.key()
	}
}

type listener struct {
	address string
	path    []string
}

func (l listener) key() string { return joined(l.path) }

// anyPort reports whether the system chooses the port.
func (l listener) anyPort() bool {
	_, port, err := net.SplitHostPort(l.address)
	return err == nil && port == "0"
}

func (c *Config) listeners() []listener {
	return append([]listener{
		{c.Listen, []string{"listen"}},
		{c.MetricsListen, []string{"metrics_listen"}},
	}, c.ownListeners()...)
}

// ownListeners are those that each trust domain has for itself.
func (c *Config) ownListeners() []listener {
	return []listener{
		{c.Web.Listen, []string{"web", "listen"}},
		{c.Federation.SPIFFEListen, []string{"federation", "spiffe_listen"}},
		{c.Administration.Listen, []string{"administration", "listen"}},
	}
}
