package config

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/internal/strictyaml"
)

// maxSocketPath is what fits into sockaddr_un with its final zero (unix(7)).
const maxSocketPath = 107

// maxConfig is far more than a configuration needs.
const maxConfig = 1 << 20 // bytes

// Load reads and validates a configuration file. A file that cannot be read is
// a [cli.UsageError]; everything wrong inside it is in one [strictyaml.Errors].
// The files of tenants are not read: see [LoadAll].
func Load(path string) (*Config, error) {
	c, _, err := load(path, false)
	return c, err
}

func load(path string, tenant bool) (*Config, *strictyaml.Document, error) {
	src, err := cli.ReadFile(path, maxConfig)
	if err != nil {
		hint := ""
		if errors.Is(err, fs.ErrNotExist) {
			hint = "make one with `assayd init --trust-domain TD`, or name it with --config or --data-dir"
		}
		return nil, nil, cli.Usagef(hint, "cannot read the configuration: %w", err)
	}
	return parse(path, src, tenant)
}

// Parse validates the content of a configuration file. Relative paths in it
// become relative to the directory of file.
func Parse(file string, src []byte) (*Config, error) {
	c, _, err := parse(file, src, false)
	return c, err
}

func parse(file string, src []byte, tenant bool) (*Config, *strictyaml.Document, error) {
	c := Default()
	doc := strictyaml.Open(file, src)
	if err := doc.Decode(&c); err != nil {
		return nil, nil, err // the struct cannot be decoded into: a mistake of ours
	}
	if doc.Root() == nil {
		return nil, nil, doc.Err()
	}
	v := validator{doc, &c}
	base := filepath.Dir(file)
	v.trustDomain()
	v.paths(base)
	v.policySigners(base)
	v.server()
	v.database()
	v.keys()
	v.authorities()
	v.jwt()
	v.addresses()
	v.web()
	v.federation()
	v.administration()
	v.log()
	v.tracing()
	v.sevsnp()
	v.tpm()
	v.durations()
	v.limits()
	v.tenants(base)
	if tenant {
		v.ofATenant()
		v.distinct(c.ownListeners())
	} else {
		v.distinct(c.listeners())
	}
	if err := doc.Err(); err != nil {
		return nil, nil, err
	}
	return &c, doc, nil
}

// Simulated reports whether the trust domain is one of simulated hardware.
func (c *Config) Simulated() bool { return strings.HasPrefix(c.TrustDomain, SimulatedPrefix) }

// CheckTrustDomain says what is wrong with the name of a trust domain, if
// anything. The error is a sentence without the name.
func CheckTrustDomain(name string) error {
	td, err := spiffeid.TrustDomainFromString(name)
	switch {
	case name == "":
		return errors.New("it is empty")
	case strings.Contains(name, "://"):
		return errors.New("it has a scheme; the name alone is wanted")
	case err != nil:
		return err
	case td.Name() != name:
		return fmt.Errorf("want the bare name %q", td.Name())
	}
	return nil
}

type validator struct {
	doc *strictyaml.Document
	c   *Config
}

func (v validator) report(msg, hint string, path ...string) {
	v.doc.Report(v.doc.At(path...), msg, hint)
}

func (v validator) trustDomain() {
	if n := v.doc.Root().Get("trust_domain"); v.c.TrustDomain == "" && n != nil && n.Value != "" {
		return // its type is wrong, which is reported already
	}
	if err := CheckTrustDomain(v.c.TrustDomain); err != nil {
		v.report("trust_domain is not the name of a trust domain: "+err.Error(), "for example trust_domain: attested.example.org", "trust_domain")
		return
	}
	v.simulatedRoots()
}

// simulatedRoots: a trust domain of simulated hardware names its simulators'
// roots, and one of hardware names none.
func (v validator) simulatedRoots() {
	given := 0
	for _, r := range []struct {
		value string
		path  []string
	}{
		{v.c.Nitro.SimulatedRoot, []string{"nitro", "simulated_root"}},
		{v.c.SEVSNP.SimulatedRoots, []string{"sevsnp", "simulated_roots"}},
		{v.c.TPM.SimulatedRoot, []string{"tpm", "simulated_root"}},
	} {
		if r.value == "" {
			continue
		}
		given++
		if !v.c.Simulated() {
			v.report("a simulated root in a trust domain of hardware", "simulated trust domains have names that begin with \""+SimulatedPrefix+"\"", r.path...)
		}
	}
	if v.c.Simulated() && given == 0 {
		v.report("a simulated trust domain needs the root of its simulator", "nitro: {simulated_root: FILE}; `teesim nitro root` prints one", "nitro", "simulated_root")
	}
}

func (v validator) paths(base string) {
	for _, p := range []struct {
		value *string
		need  bool
		path  []string
	}{
		{&v.c.DataDir, true, []string{"data_dir"}},
		{&v.c.Policy, true, []string{"policy"}},
		{&v.c.AdminSocket, true, []string{"admin_socket"}},
		{&v.c.Nitro.SimulatedRoot, false, []string{"nitro", "simulated_root"}},
		{&v.c.SEVSNP.SimulatedRoots, false, []string{"sevsnp", "simulated_roots"}},
		{&v.c.SEVSNP.Collateral, false, []string{"sevsnp", "collateral"}},
		{&v.c.TPM.Roots, false, []string{"tpm", "roots"}},
		{&v.c.TPM.SimulatedRoot, false, []string{"tpm", "simulated_root"}},
		{&v.c.CheckpointSink, false, []string{"checkpoint_sink"}},
		{&v.c.Database.PasswordFile, false, []string{"database", "password_file"}},
		{&v.c.Authorities.Upstream.Certificate, false, []string{"authorities", "upstream", "certificate"}},
		{&v.c.Authorities.Upstream.Key, false, []string{"authorities", "upstream", "key"}},
		{&v.c.Web.Certificate, false, []string{"web", "certificate"}},
		{&v.c.Web.Key, false, []string{"web", "key"}},
		{&v.c.Administration.Bundle, false, []string{"administration", "bundle"}},
	} {
		switch {
		case *p.value == "" && p.need:
			v.report(strings.Join(p.path, ".")+" is empty", "remove the line for the default", p.path...)
		case *p.value != "" && !filepath.IsAbs(*p.value):
			abs, err := filepath.Abs(filepath.Join(base, *p.value))
			if err != nil {
				v.report("the path cannot be made absolute: "+err.Error(), "", p.path...)
				continue
			}
			*p.value = abs
		}
	}
	if n := len(v.c.AdminSocket); n > maxSocketPath {
		v.report(fmt.Sprintf("the path of the admin socket has %d bytes; the system takes %d", n, maxSocketPath), "choose a shorter directory", "admin_socket")
	}
}

// policySigners: all or nothing. A threshold without keys would look like a
// protection and be none.
func (v validator) policySigners(base string) {
	s := &v.c.PolicySigners
	switch n := len(s.Keys); {
	case n == 0 && (s.Threshold != 0 || s.Bundle != ""):
		v.report("policy_signers names no key: no signature would be asked for", "keys: [FILE, …]; `assay policy keygen` makes them", "policy_signers")
	case n > 0 && (s.Threshold < 1 || s.Threshold > n):
		v.report(fmt.Sprintf("policy_signers.threshold is %d, want 1 to %d, the number of keys", s.Threshold, n), "how many different signers a policy needs", "policy_signers", "threshold")
	}
	for i, k := range s.Keys {
		if k == "" {
			v.report("the name of a key file is empty", "", "policy_signers", "keys", strconv.Itoa(i))
			continue
		}
		if filepath.IsAbs(k) {
			continue
		}
		abs, err := filepath.Abs(filepath.Join(base, k))
		if err != nil {
			v.report("the path cannot be made absolute: "+err.Error(), "", "policy_signers", "keys", strconv.Itoa(i))
			continue
		}
		s.Keys[i] = abs
	}
}

func (v validator) addresses() {
	if err := checkAddress(v.c.Listen); err != nil {
		v.report("listen is not an address: "+err.Error(), `for example listen: ":8443"`, "listen")
	}
	if v.c.MetricsListen != "" {
		if err := checkAddress(v.c.MetricsListen); err != nil {
			v.report("metrics_listen is not an address: "+err.Error(), `for example metrics_listen: "127.0.0.1:9464", or "" to turn it off`, "metrics_listen")
		}
	}
}

func checkAddress(s string) error {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		var ae *net.AddrError
		if errors.As(err, &ae) {
			return fmt.Errorf("%s in %q", ae.Err, s)
		}
		return err
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		return fmt.Errorf("port %q, want 0 to 65535", port)
	}
	if strings.ContainsAny(host, " \t/") {
		return fmt.Errorf("host %q", host)
	}
	return nil
}

func (v validator) log() {
	switch v.c.Log.Level {
	case "debug", "info", "warn", "error":
	default:
		v.report(fmt.Sprintf("unknown log level %q", v.c.Log.Level), "debug, info, warn or error", "log", "level")
	}
	switch v.c.Log.Format {
	case "text", "json":
	default:
		v.report(fmt.Sprintf("unknown log format %q", v.c.Log.Format), "text or json", "log", "format")
	}
}

// sevsnp checks what the SEV-SNP section says of the KDS and of chips.
func (v validator) sevsnp() {
	if k := v.c.SEVSNP.KDS; k != "" && k != KDSOff {
		if u, err := url.Parse(k); err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
			v.report(fmt.Sprintf("%q is not the URL of a KDS", k), `for example kds: "https://kds.example.org", or off`, "sevsnp", "kds")
		}
	}
	for product, chips := range v.c.SEVSNP.Inventory {
		switch product {
		case "milan", "genoa", "turin":
		default:
			v.report(fmt.Sprintf("unknown product line %q", product), "milan, genoa or turin", "sevsnp", "inventory", product)
			continue
		}
		for i, chip := range chips {
			if _, err := ParseChipID(product, chip); err != nil {
				v.report(err.Error(), "as in a report: `assay evidence inspect` shows it", "sevsnp", "inventory", product, strconv.Itoa(i))
			}
		}
	}
	v.between("sevsnp.crl_grace", v.c.SEVSNP.CRLGrace, 0, 30*24*time.Hour)
}

// tpm checks what the TPM section says of banks and roots.
func (v validator) tpm() {
	switch v.c.TPM.PCRBank {
	case "sha256", "sha384":
	case "sha1":
		v.report("the bank sha1 is never accepted: SHA-1 is broken", "sha256 or sha384", "tpm", "pcr_bank")
	default:
		v.report(fmt.Sprintf("unknown bank %.40q", v.c.TPM.PCRBank), "sha256 or sha384", "tpm", "pcr_bank")
	}
	if v.c.TPM.Roots != "" && v.c.Simulated() {
		v.report("roots of manufacturers in a trust domain of simulated hardware", "its one root is tpm.simulated_root", "tpm", "roots")
	}
}

// KDSOff is the word that turns fetching off.
const KDSOff = "off"

// ParseChipID reads a chip id as an inventory writes it: the 64 bytes of
// reports, or on Turin its 8 alone. It returns the 64 bytes.
func ParseChipID(product, text string) ([]byte, error) {
	b, err := hex.DecodeString(text)
	if err == nil && product == "turin" && len(b) == 8 {
		b = append(b, make([]byte, 56)...)
	}
	if err != nil || len(b) != 64 || bytes.Equal(b, make([]byte, 64)) {
		return nil, fmt.Errorf("%.40q is not a chip id: want 128 hex digits, not all zero", text)
	}
	return b, nil
}

func (v validator) durations() {
	v.between("retain_evidence", v.c.RetainEvidence, time.Hour, 10*365*24*time.Hour)
	v.between("reattest_spread", v.c.ReattestSpread, 0, time.Hour)
	v.between("shutdown_timeout", v.c.ShutdownTimeout, 0, 10*time.Minute)
	v.between("limits.handshake_timeout", v.c.Limits.HandshakeTimeout, time.Second, time.Minute)
}

func (v validator) between(key string, d, low, high time.Duration) {
	if d < low || d > high {
		v.report(fmt.Sprintf("%s is %s, want %s to %s", key, d, low, high), "", strings.Split(key, ".")...)
	}
}

func (v validator) limits() {
	l, q := v.c.Limits, v.c.Quotas
	for _, x := range []struct {
		key   string
		value int
	}{
		{"limits.handshakes", l.Handshakes},
		{"limits.handshakes_per_address", l.HandshakesPerAddress},
		{"limits.connections", l.Connections},
		{"limits.strangers_per_address", l.StrangersPerAddress},
		{"limits.unverified", l.Unverified},
		{"limits.unverified_per_address", l.UnverifiedPerAddress},
		{"limits.event_log_mib", l.EventLogMiB},
		{"limits.streams_per_connection", l.StreamsPerConnection},
		{"limits.in_flight", l.InFlight},
		{"limits.attestations_per_instance", l.AttestationsPerInstance},
		{"limits.attestations_per_second", l.AttestationsPerSecond},
		{"limits.tokens_per_instance", l.TokensPerInstance},
		{"limits.admin_calls", l.AdminCalls},
		{"quotas.evidence_mib", q.EvidenceMiB},
		{"quotas.denied_evidence_mib", q.DeniedEvidenceMiB},
		{"quotas.evidence_per_instance", q.EvidencePerInstance},
		{"quotas.denials", q.Denials},
		{"quotas.denials_per_hour", q.DenialsPerHour},
		{"quotas.denials_per_instance", q.DenialsPerInstance},
	} {
		if x.value < 1 || x.value > 1_000_000 {
			v.report(fmt.Sprintf("%s is %d, want 1 to 1000000", x.key, x.value), "", strings.Split(x.key, ".")...)
		}
	}
}
