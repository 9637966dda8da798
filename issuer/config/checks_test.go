package config

import (
	"errors"
	"strings"
	"testing"

	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/internal/strictyaml"
)

// Each is wrong for the one reason that is named, at the place that is named.
func TestEveryMistakeOfAProductionServerIsReportedWithItsPlace(t *testing.T) {
	admins := "administration: {listen: \":8445\", trust_domain: admins.example, bundle: b.pem, roles: {operator: [%]}}\n"
	for name, c := range map[string]struct{ src, want string }{
		"server in capitals":             {"server: EU-1\n", ":2:9: server is not a server's name: \"EU-1\", want a-z"},
		"empty server":                   {"server: \"\"\n", ":2:9: server is not a server's name: 0 bytes"},
		"server with a dash":             {"server: eu-\n", ":2:9: server is not a server's name: \"eu-\" begins or ends with -"},
		"long server":                    {"server: " + strings.Repeat("a", 64) + "\n", "64 bytes, want 1 to 63"},
		"MySQL":                          {"database: {url: \"mysql://x/y\"}\n", ":2:17: database.url has the scheme \"mysql\""},
		"no database":                    {"database: {url: assay}\n", ":2:17: database.url is neither a URL nor key=value"},
		"password without a database":    {"database: {password_file: p}\n", ":2:27: database.password_file without a database"},
		"two passwords":                  {"database: {url: \"postgres://u:secret@h/n\", password_file: p}\n", "two passwords"},
		"signer without slashes":         {"keys: {location: \"signer:/x\"}\n", ""},
		"signer on a host":               {"keys: {location: \"signer://run/x\"}\n", ":2:18: keys.location is not a scheme and an absolute path"},
		"keys in the cloud":              {"keys: {location: \"awskms:///x\"}\n", ":2:18: keys.location is not where keys can be"},
		"relative keys":                  {"keys: {location: keys}\n", ":2:18: keys.location is not where keys can be"},
		"authority for a moment":         {"authorities: {propagation: 1s, refresh_hint: 1s, x509_ttl: 1s}\n", "authorities.x509_ttl is 1s, want 10s to"},
		"authority that ends first":      {"authorities: {propagation: 1h, jwt_ttl: 90m}\n", ":2:41: authorities.jwt_ttl is 1h30m0s, less than twice the propagation time of 1h0m0s"},
		"no propagation":                 {"authorities: {propagation: 0s}\n", "authorities.propagation is 0s, want 1s"},
		"hint after propagation":         {"authorities: {propagation: 1m, refresh_hint: 2m}\n", ":2:46: authorities.refresh_hint is 2m0s, longer than"},
		"upstream key alone":             {"authorities: {upstream: {key: k}}\n", "upstream.key without its certificate"},
		"dedicated to nobody":            {"authorities: {upstream: {dedicated: true}}\n", "dedicated without an upstream CA"},
		"issuer over http":               {"jwt: {issuer: \"http://o.example\"}\n", ":2:15: jwt.issuer is not an https URL"},
		"issuer with a slash":            {"jwt: {issuer: \"https://o.example/\"}\n", ":2:15: jwt.issuer ends with a slash"},
		"issuer with a query":            {"jwt: {issuer: \"https://o.example/?a\"}\n", "jwt.issuer is not a host and a path"},
		"issuer with an escape":          {"jwt: {issuer: \"https://o.example/\u00e9\"}\n", "jwt.issuer is not written as relying parties compare it"},
		"issuer of two slashes":          {"jwt: {issuer: \"https://o.example/a//b\"}\n", ":2:15: jwt.issuer has a path"},
		"issuer with a dot segment":      {"jwt: {issuer: \"https://o.example/a/../b\"}\n", ":2:15: jwt.issuer has a path"},
		"issuer in capitals":             {"jwt: {issuer: \"https://O.example\"}\n", "jwt.issuer has capitals"},
		"token for a week":               {"jwt: {max_ttl: 168h}\n", "jwt.max_ttl is 168h0m0s, want 1s to 24h0m0s"},
		"web without a certificate":      {"web: {listen: \":443\"}\n", "web.listen without web.certificate"},
		"web without a key":              {"web: {listen: \":443\", certificate: c}\n", "web.certificate without web.key"},
		"web that is off":                {"web: {certificate: c, key: k}\n", "web is configured and not turned on"},
		"web at no address":              {"web: {listen: x}\n", ":2:15: web.listen is not an address"},
		"plain to the world":             {"web: {listen: \":80\", plain_http: true}\n", "web.plain_http on an address that is neither loopback nor private"},
		"plain to a public address":      {"web: {listen: \"203.0.113.7:80\", plain_http: true}\n", "neither loopback nor private"},
		"plain beside a certificate":     {"web: {listen: \"127.0.0.1:80\", plain_http: true, certificate: c, key: k}\n", "web.plain_http beside a certificate"},
		"bundle endpoint":                {"federation: {spiffe_listen: \"8444\"}\n", ":2:29: federation.spiffe_listen is not an address"},
		"a private endpoint by name":     {"federation: {private_endpoints: [bank.internal]}\n", "\"bank.internal\" is not a network"},
		"a network with a host in it":    {"federation: {private_endpoints: [10.1.2.3/16]}\n", "\"10.1.2.3/16\" is not a network"},
		"plain to a link":                {"web: {listen: \"169.254.1.1:80\", plain_http: true}\n", "neither loopback nor private"},
		"polling all the time":           {"federation: {poll: 0s}\n", "federation.poll is 0s, want 1s"},
		"two listeners at one address":   {"web: {listen: \":8443\", certificate: c, key: k}\n", ":2:15: listen and web.listen are the same address :8443"},
		"administration that is off":     {"administration: {bundle: b.pem}\n", "administration is configured and not turned on"},
		"administrators without bundle":  {"administration: {listen: \":8445\", trust_domain: admins.example, roles: {viewer: [spiffe://admins.example/a]}}\n", "administration.bundle is empty"},
		"administrators of one's own":    {strings.ReplaceAll(strings.ReplaceAll(admins, "admins.example", "a.example"), "%", "spiffe://a.example/a"), "is the one that this server issues for"},
		"administrators of nowhere":      {strings.ReplaceAll(strings.ReplaceAll(admins, "admins.example", "ADMINS"), "%", ""), "administration.trust_domain is not the name"},
		"administrators without a role":  {strings.ReplaceAll(admins, "%", ""), "administration.roles names nobody"},
		"role of no SPIFFE ID":           {strings.ReplaceAll(admins, "%", "alice"), "\"alice\" is not a SPIFFE ID"},
		"role of another trust domain":   {strings.ReplaceAll(admins, "%", "spiffe://b.example/alice"), "spiffe://b.example/alice is not of the trust domain admins.example"},
		"role of a whole trust domain":   {strings.ReplaceAll(admins, "%", "spiffe://admins.example"), "spiffe://admins.example has no path"},
		"one with two roles":             {strings.ReplaceAll(admins, "%", "spiffe://admins.example/a, spiffe://admins.example/a"), "spiffe://admins.example/a has the role operator already"},
		"traces to a file":               {"tracing: {endpoint: /var/log/traces}\n", ":2:21: \"/var/log/traces\" is not the URL of an OTLP collector"},
		"more than all":                  {"tracing: {sample_percent: 101}\n", "tracing.sample_percent is 101, want 0 to 100"},
		"nothing in flight":              {"limits: {in_flight: 0}\n", "limits.in_flight is 0"},
		"no attestation of an instance":  {"limits: {attestations_per_instance: 0}\n", "limits.attestations_per_instance is 0"},
		"no attestation in a second":     {"limits: {attestations_per_second: -1}\n", "limits.attestations_per_second is -1"},
		"no token":                       {"limits: {tokens_per_instance: 0}\n", "limits.tokens_per_instance is 0"},
		"no call":                        {"limits: {admin_calls: 0}\n", "limits.admin_calls is 0"},
		"a tenant without a name":        {"tenants: [\"\"]\n", ":2:10: the name of a tenant's file is empty"},
		"a tenant twice":                 {"tenants: [b.yaml, ./b.yaml]\n", ":2:10: the file is named twice"},
		"fewer places than tenants":      {"tenants: [b.yaml]\nlimits: {connections: 1}\n", "limits.connections is 1, less than one for each of 2"},
		"more tenants than one can hold": {"tenants: [" + strings.Repeat("x.yaml, ", 64) + "]\n", "64 tenants, want at most 63"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Parse("/x/assayd.yaml", []byte("trust_domain: a.example\n"+c.src))
			if c.want == "" {
				if err != nil {
					t.Errorf("refused: %v", err)
				}
				return
			}
			var all strictyaml.Errors
			if !errors.As(err, &all) || cli.ExitCode(err) != cli.Usage || got != nil {
				t.Fatalf("%T %v", err, err)
			}
			if !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "/x/assayd.yaml:") {
				t.Errorf("got %q, want %q", err, c.want)
			}
			if len(all) != 1 && name != "more tenants than one can hold" && name != "authority for a moment" && name != "no propagation" {
				t.Errorf("%d problems, want the one: %v", len(all), err)
			}
		})
	}
}

func TestAProductionServersConfigurationIsTaken(t *testing.T) {
	c, err := Parse("/etc/assay/assayd.yaml", []byte(`trust_domain: a.example
server: eu-1
tenants: [b.yaml]
database: {url: "postgres://assay@db.example/assay?sslmode=verify-full", password_file: db-password}
keys: {location: "signer:///run/assay-signer/signer.sock"}
authorities: {x509_ttl: 720h, jwt_ttl: 168h, propagation: 12h, upstream: {certificate: up.pem, key: up.key, dedicated: true}}
jwt: {issuer: "https://oidc.a.example/td", max_ttl: 30m}
web: {listen: ":443", certificate: web.pem, key: web.key}
federation: {spiffe_listen: ":8444", poll: 1m}
administration:
  listen: ":8445"
  trust_domain: admins.example
  bundle: admins.pem
  roles: {viewer: ["spiffe://admins.example/auditor"], policy_author: ["spiffe://admins.example/sec"], operator: ["spiffe://admins.example/ops"]}
tracing: {endpoint: "https://otel.example:4317", sample_percent: 5}
`))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{c.Database.PasswordFile, c.Authorities.Upstream.Certificate, c.Authorities.Upstream.Key, c.Web.Certificate, c.Web.Key, c.Administration.Bundle, c.Tenants[0]} {
		if !strings.HasPrefix(p, "/etc/assay/") {
			t.Errorf("%q is not in the file's directory", p)
		}
	}
}

func TestPlainHTTPIsTakenWhereNobodyElseListensIn(t *testing.T) {
	for _, address := range []string{"127.0.0.1:80", "localhost:80", "10.1.2.3:80", "[::1]:80", "[fd00::1]:80"} {
		if _, err := Parse("/x", []byte("trust_domain: a.example\nweb: {listen: \""+address+"\", plain_http: true}\n")); err != nil {
			t.Error(err)
		}
	}
}
