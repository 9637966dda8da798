package config

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/assay-project/assay/internal/strictyaml"
)

// maxTenants bounds how many trust domains one process serves. Each has its own
// share of what all use, which has to be worth something.
const maxTenants = 64

// LoadAll reads a configuration file and those of the tenants that it names. The
// first result is the file's own; it says what belongs to the process. Everything
// wrong inside the files is in one [strictyaml.Errors].
func LoadAll(path string) ([]*Config, error) {
	first, doc, err := load(path, false)
	if err != nil {
		return nil, err
	}
	all, docs := []*Config{first}, []*strictyaml.Document{doc}
	var wrong strictyaml.Errors
	for _, file := range first.Tenants {
		c, doc, err := load(file, true)
		var es strictyaml.Errors
		if errors.As(err, &es) {
			wrong = append(wrong, es...)
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("a tenant's configuration: %w", err)
		}
		c.inherit(first)
		all, docs = append(all, c), append(docs, doc)
	}
	for i, c := range all {
		v := validator{docs[i], c}
		for _, other := range all[:i] {
			v.beside(other, other == first)
		}
		for _, other := range all {
			if other != c && c.Administration.TrustDomain != "" && c.Administration.TrustDomain == other.TrustDomain {
				v.report("administration.trust_domain is one that this process issues for", "its policy could make administrators of "+c.TrustDomain+"; give them a trust domain of their own", "administration", "trust_domain")
			}
		}
		var es strictyaml.Errors
		if errors.As(docs[i].Err(), &es) {
			wrong = append(wrong, es...)
		}
	}
	if len(wrong) > 0 {
		return nil, wrong
	}
	return all, nil
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
	for _, x := range []struct {
		mine, theirs string
		path         []string
	}{
		{v.c.DataDir, other.DataDir, []string{"data_dir"}},
		{v.c.AdminSocket, other.AdminSocket, []string{"admin_socket"}},
		{v.c.CheckpointSink, other.CheckpointSink, []string{"checkpoint_sink"}},
		{v.c.Policy, other.Policy, []string{"policy"}},
		{v.c.SEVSNP.Collateral, other.SEVSNP.Collateral, []string{"sevsnp", "collateral"}},
		{v.c.Keys.Location, other.Keys.Location, []string{"keys", "location"}},
		{v.c.JWT.Issuer, other.JWT.Issuer, []string{"jwt", "issuer"}},
	} {
		if x.mine != "" && x.theirs != "" && filepath.Clean(x.mine) == filepath.Clean(x.theirs) {
			v.report(fmt.Sprintf("%s is also that of %s", joined(x.path), other.TrustDomain), "each trust domain has its own", x.path...)
		}
	}
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
