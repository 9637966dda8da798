package config

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/internal/strictyaml"
)

// maxTenants bounds how many trust domains one process serves. Each has its own
// share of what all use, which has to be worth something.
const maxTenants = 64

// LoadAll reads a configuration file and those of the tenants that it names. The
// first result is the file's own; it says what belongs to the process. Everything
// wrong inside the files is in one [strictyaml.Errors].
func LoadAll(path string) ([]*Config, error) {
	all, left, err := LoadStart(path)
	if err == nil && len(left) == 0 {
		return all, nil
	}
	var wrong strictyaml.Errors
	if err != nil && !errors.As(err, &wrong) {
		return nil, err
	}
	for _, l := range left {
		var es strictyaml.Errors
		if !errors.As(l.Err, &es) {
			return nil, fmt.Errorf("a tenant's configuration: %w", l.Err)
		}
		wrong = append(wrong, es...)
	}
	return nil, wrong
}

// LeftOut is a tenant whose configuration file cannot be used.
type LeftOut struct {
	File        string
	TrustDomain string // "" where the file does not say it
	Err         error
}

// LoadStart is [LoadAll] for the start of a server. It leaves out the tenants whose
// files cannot be read, or have a mistake: that is no reason to serve nobody after a
// reboot. What is wrong with the first file is an error; the others' mistakes come with
// it.
func LoadStart(path string) (all []*Config, left []LeftOut, err error) {
	first, doc, err := load(path, false)
	if err != nil {
		return nil, nil, err
	}
	all = []*Config{first}
	docs, files := map[*Config]*strictyaml.Document{first: doc}, map[*Config]string{first: path}
	for _, file := range first.Tenants {
		c, doc, err := load(file, true)
		if err != nil {
			left = append(left, LeftOut{file, trustDomainIn(file), err})
			continue
		}
		c.inherit(first)
		all = append(all, c)
		docs[c], files[c] = doc, file
	}
	var wrong error // in the first file
	loaded := all
	all = nil
	for i, c := range loaded {
		v := validator{docs[c], c}
		for _, other := range loaded[:i] {
			v.beside(other, other == first)
		}
		for _, other := range loaded {
			if other != c && c.Administration.TrustDomain != "" && c.Administration.TrustDomain == other.TrustDomain {
				v.report("administration.trust_domain is one that this process issues for", "its policy could make administrators of "+c.TrustDomain+"; give them a trust domain of their own", "administration", "trust_domain")
			}
		}
		switch err := docs[c].Err(); {
		case err == nil:
			all = append(all, c)
		case c == first:
			wrong = err
		default:
			left = append(left, LeftOut{files[c], c.TrustDomain, err})
		}
	}
	if wrong != nil {
		return nil, left, wrong
	}
	return all, left, nil
}

// trustDomainIn is the trust domain that a file with mistakes is for, or "".
func trustDomainIn(file string) string {
	src, err := cli.ReadFile(file, maxConfig)
	if err != nil {
		return ""
	}
	if n := strictyaml.Open(file, src).Root().Get("trust_domain"); n != nil && CheckTrustDomain(n.Value) == nil {
		return n.Value
	}
	return ""
}

// tenants checks the list itself.
func (v validator) tenants(base string) {
	if n := len(v.c.Tenants); n >= maxTenants {
		v.report(fmt.Sprintf("%d tenants, want at most %d", n, maxTenants-1), "start another process", "tenants")
	}
	seen := map[string]bool{}
	for i, file := range v.c.Tenants {
		at := []string{"tenants", strconv.Itoa(i)}
		if file == "" {
			v.report("the name of a tenant's file is empty", "", at...)
			continue
		}
		if !filepath.IsAbs(file) {
			abs, err := filepath.Abs(filepath.Join(base, file))
			if err != nil {
				v.report("the path cannot be made absolute: "+err.Error(), "", at...)
				continue
			}
			file = abs
		}
		file = filepath.Clean(file)
		if seen[file] {
			v.report("the file is named twice", "", at...)
		}
		seen[file] = true
		v.c.Tenants[i] = file
	}
	if n := len(v.c.Tenants) + 1; n > 1 {
		for _, x := range []struct {
			key   string
			value int
		}{{"handshakes", v.c.Limits.Handshakes}, {"connections", v.c.Limits.Connections}} {
			if x.value < n {
				v.report(fmt.Sprintf("limits.%s is %d, less than one for each of %d trust domains", x.key, x.value, n), "", "limits", x.key)
			}
		}
	}
}

// ofTheProcess are the keys that stand in the first file only.
var ofTheProcess = [][]string{
	{"listen"}, {"metrics_listen"}, {"log"}, {"tracing"}, {"shutdown_timeout"}, {"reflection"}, {"tenants"},
	{"limits", "handshakes"}, {"limits", "handshakes_per_address"}, {"limits", "handshake_timeout"},
	{"limits", "connections"}, {"limits", "strangers_per_address"}, {"limits", "streams_per_connection"},
}

// OfTheProcess reports whether a key stands in the first file only.
func OfTheProcess(key string) bool {
	for _, path := range ofTheProcess {
		if k := joined(path); key == k || strings.HasPrefix(key, k+".") {
			return true
		}
	}
	return false
}

// ofATenant reports what a tenant's file cannot say: a tenant does not decide
// about the process.
func (v validator) ofATenant() {
	for _, path := range ofTheProcess {
		n := v.doc.Root()
		for _, k := range path {
			n = n.Get(k)
		}
		if n != nil {
			v.report(joined(path)+" belongs to the process", "it stands in the first configuration file; remove it here", path...)
		}
	}
	// A client cannot ask for it: SNI holds no IP addresses (RFC 6066, section 3).
	if _, err := netip.ParseAddr(v.c.TrustDomain); err == nil {
		v.report("the trust domain of a tenant cannot be an IP address", "agents could not name it in the TLS handshake; serve it by the first file, or alone", "trust_domain")
	}
}

// inherit takes over what the first file says of the process.
func (c *Config) inherit(first *Config) {
	c.Listen, c.MetricsListen, c.Log, c.Tracing = first.Listen, first.MetricsListen, first.Log, first.Tracing
	c.ShutdownTimeout, c.Reflection = first.ShutdownTimeout, first.Reflection
	l, p := &c.Limits, first.Limits
	l.Handshakes, l.HandshakesPerAddress, l.HandshakeTimeout = p.Handshakes, p.HandshakesPerAddress, p.HandshakeTimeout
	l.Connections, l.StrangersPerAddress, l.StreamsPerConnection = p.Connections, p.StrangersPerAddress, p.StreamsPerConnection
}

// beside reports what two trust domains of one process cannot share.
func (v validator) beside(other *Config, first bool) {
	if v.c.TrustDomain == other.TrustDomain {
		v.report("trust domain "+v.c.TrustDomain+" is served by another file", "each file is one trust domain's", "trust_domain")
	}
	if v.c.JWT.Issuer != "" && v.c.JWT.Issuer == other.JWT.Issuer { // written in the one way: see checkIssuer
		v.report("jwt.issuer is also that of "+other.TrustDomain, "each trust domain has its own", "jwt", "issuer")
	}
	v.elsewhere(other)
	theirs := map[string]string{}
	listeners := other.ownListeners()
	if first {
		listeners = other.listeners()
	}
	for _, l := range listeners {
		if l.address != "" && !l.anyPort() {
			theirs[l.address] = l.key()
		}
	}
	for _, l := range v.c.ownListeners() {
		if key := theirs[l.address]; key != "" {
			v.report(fmt.Sprintf("%s is also %s of %s", l.key(), key, other.TrustDomain), "each trust domain has its own", l.path...)
		}
	}
}
