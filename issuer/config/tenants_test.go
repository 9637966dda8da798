package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/internal/strictyaml"
)

// files writes a first file with the tenants b and c, each followed by more.
func files(t *testing.T, first, b, c string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"a.yaml": "trust_domain: a.example\ndata_dir: a\npolicy: a-policy.yaml\nadmin_socket: a.sock\ntenants: [b.yaml, c.yaml]\n" + first,
		"b.yaml": "trust_domain: b.example\ndata_dir: b\npolicy: b-policy.yaml\nadmin_socket: b.sock\n" + b,
		"c.yaml": "trust_domain: c.example\ndata_dir: c\npolicy: c-policy.yaml\nadmin_socket: c.sock\n" + c,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "a.yaml")
}

func TestEachTenantHasItsOwnAndTheProcessBelongsToTheFirst(t *testing.T) {
	all, err := LoadAll(files(t, "listen: \"127.0.0.1:1\"\nlimits: {connections: 30, in_flight: 5}\nlog: {level: debug}\n", "limits: {in_flight: 7}\n", ""))
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 3 || all[0].TrustDomain != "a.example" || all[1].TrustDomain != "b.example" || all[2].TrustDomain != "c.example" {
		t.Fatalf("%+v", all)
	}
	for _, c := range all {
		if c.Listen != "127.0.0.1:1" || c.Limits.Connections != 30 || c.Log.Level != "debug" {
			t.Errorf("%s: %+v", c.TrustDomain, c)
		}
	}
	if all[0].Limits.InFlight != 5 || all[1].Limits.InFlight != 7 || all[2].Limits.InFlight != Default().Limits.InFlight {
		t.Error("limits of one tenant in another")
	}
}

func TestATenantsFileCannotSpeakForTheProcess(t *testing.T) {
	for _, line := range []string{
		"listen: \":1\"", "metrics_listen: \"\"", "log: {level: debug}", "tracing: {sample_percent: 1}", "shutdown_timeout: 1s", "reflection: true", "tenants: [x.yaml]",
		"limits: {handshakes: 1}", "limits: {handshakes_per_address: 1}", "limits: {handshake_timeout: 5s}", "limits: {connections: 5}", "limits: {strangers_per_address: 1}", "limits: {streams_per_connection: 1}",
	} {
		_, err := LoadAll(files(t, "", line+"\n", ""))
		if err == nil || !strings.Contains(err.Error(), "belongs to the process") || !strings.Contains(err.Error(), "b.yaml:5:") {
			t.Errorf("%s: %v", line, err)
		}
	}
}

func TestTwoTenantsShareNothingOnDiskAndNoListener(t *testing.T) {
	for line, want := range map[string]string{
		"data_dir: b":                            "data_dir is also that of b.example",
		"policy: b-policy.yaml":                  "policy is also that of b.example",
		"admin_socket: b.sock":                   "admin_socket is also that of b.example",
		"trust_domain: b.example":                "trust domain b.example is served by another file",
		"checkpoint_sink: sink":                  "checkpoint_sink is also that of b.example",
		"jwt: {issuer: \"https://o.example\"}":   "jwt.issuer is also that of b.example",
		"sevsnp: {collateral: col}":              "sevsnp.collateral is also that of b.example",
		"keys: {location: \"signer:///s\"}":      "keys.location is also that of b.example",
		"web: {listen: \":8443\", " + cert:       "web.listen is also listen of a.example",
		"web: {listen: \":9999\", " + cert:       "web.listen is also federation.spiffe_listen of b.example",
		"federation: {spiffe_listen: \":9999\"}": "federation.spiffe_listen is also federation.spiffe_listen of b.example",
		"administration: {listen: \":8445\", trust_domain: b.example, bundle: b, roles: {viewer: [spiffe://b.example/x]}}": "administration.trust_domain is one that this process issues for",
	} {
		path := files(t, "", "checkpoint_sink: sink\nsevsnp: {collateral: col}\njwt: {issuer: \"https://o.example\"}\nkeys: {location: \"signer:///s\"}\nfederation: {spiffe_listen: \":9999\"}\n", "")
		c := filepath.Join(filepath.Dir(path), "c.yaml")
		src, err := os.ReadFile(c)
		if err != nil {
			t.Fatal(err)
		}
		var kept []string
		for l := range strings.Lines(string(src)) {
			if strings.SplitN(l, ":", 2)[0] != strings.SplitN(line, ":", 2)[0] {
				kept = append(kept, l)
			}
		}
		if err := os.WriteFile(c, []byte(strings.Join(kept, "")+line+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err = LoadAll(path)
		var all strictyaml.Errors
		if !errors.As(err, &all) || len(all) != 1 || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "c.yaml:") || cli.ExitCode(err) != cli.Usage {
			t.Errorf("%s: got %v, want %q", line, err, want)
		}
	}
}

const cert = "certificate: c, key: k}"

func TestATenantWithoutAFileOrWithAnAddressForANameIsRefused(t *testing.T) {
	path := files(t, "", "", "")
	if err := os.Remove(filepath.Join(filepath.Dir(path), "c.yaml")); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadAll(path); err == nil || !strings.Contains(err.Error(), "a tenant's configuration: cannot read") || cli.ExitCode(err) != cli.Usage {
		t.Errorf("a missing file: %v", err)
	}
	path = files(t, "", "", "")
	c := filepath.Join(filepath.Dir(path), "c.yaml")
	if err := os.WriteFile(c, []byte("trust_domain: 10.0.0.1\ndata_dir: c\npolicy: p\nadmin_socket: s\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadAll(path); err == nil || !strings.Contains(err.Error(), "cannot be an IP address") {
		t.Errorf("an address: %v", err)
	}
}

func TestMistakesInAllFilesAreReportedAtOnce(t *testing.T) {
	_, err := LoadAll(files(t, "", "nope: 1\n", "nope: 1\n"))
	var all strictyaml.Errors
	if !errors.As(err, &all) || len(all) != 2 || !strings.Contains(err.Error(), "b.yaml:5") || !strings.Contains(err.Error(), "c.yaml:5") {
		t.Error(err)
	}
}

func TestTheStarterFileOfATenantSaysNothingOfTheProcess(t *testing.T) {
	path := files(t, "", "", "")
	dir := filepath.Join(filepath.Dir(path), "tenant")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	l := LayoutIn(dir)
	l.Tenant = true
	for name, text := range map[string]string{path: "trust_domain: a.example\ntenants: [tenant/assayd.yaml]\n", l.File: string(Starter("b.example", l))} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	all, err := LoadAll(path)
	if err != nil || len(all) != 2 || all[1].TrustDomain != "b.example" {
		t.Fatalf("%v %v", all, err)
	}
	// Nor does any line of it that waits behind a #.
	var lines []string
	for line := range strings.Lines(string(Starter("b.example", l))) {
		if rest, ok := strings.CutPrefix(line, "# "); ok && strings.Contains(rest, ":") && !strings.Contains(strings.SplitN(rest, ":", 2)[0], " ") {
			line = rest
		} else if rest, ok := strings.CutPrefix(line, "#   "); ok {
			line = "  " + rest
		}
		lines = append(lines, line)
	}
	if err := os.WriteFile(l.File, []byte(strings.Join(lines, "")), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadAll(path); err != nil {
		t.Error(err)
	}
}
