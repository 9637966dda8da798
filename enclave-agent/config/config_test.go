package config

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	agent "github.com/assay-project/assay/enclave-agent"
	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/internal/strictyaml"
)

// root writes the bootstrap root of a trust domain.
func root(t *testing.T, path, td string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{Organization: []string{td}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestTheStructCanBeDecodedInto(t *testing.T) {
	c := Default()
	if err := strictyaml.Check(&c); err != nil {
		t.Error(err)
	}
}

func TestTheStarterFileMeansTheDefaults(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, FileName)
	want := Default()
	want.TrustDomain, want.Server = "attested.example.org", "10.0.0.1:8443"
	want.BootstrapRoots = []string{root(t, filepath.Join(dir, "root.pem"), want.TrustDomain)}
	want.Socket = filepath.Join(dir, SocketName)
	src := Starter(file, want)
	got, err := Parse(file, src)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got.Config); d != "" {
		t.Error(d)
	}
	if got.KeyType != agent.P256 || got.SocketMode != agent.DefaultSocketMode || len(got.Memberships) != 1 || got.Memberships[0].BootstrapRoots.Len() != 1 || got.Memberships[0].TrustDomain.Name() != want.TrustDomain {
		t.Errorf("%+v", got)
	}
	// Every key that it shows commented is accepted as it stands there.
	var open []string
	for l := range strings.Lines(string(src)) {
		if t := strings.TrimPrefix(l, "# "); t != l && strings.Contains(t, ": ") && strings.ToLower(t) == t && !strings.Contains(t, ". ") {
			l = t
		}
		open = append(open, l)
	}
	if got, err = Parse(file, []byte(strings.Join(open, ""))); err != nil {
		t.Fatal(err)
	}
	if len(got.Memberships[0].Identities) != 1 {
		t.Errorf("the commented keys were not opened:\n%s", strings.Join(open, ""))
	}
	want.Identities = got.Config.Identities
	if d := cmp.Diff(want, got.Config); d != "" {
		t.Errorf("a commented key is not the default\n%s", d)
	}
}

func TestEveryMistakeIsReportedWhereItIs(t *testing.T) {
	dir := t.TempDir()
	root(t, filepath.Join(dir, "root.pem"), "attested.example.org")
	root(t, filepath.Join(dir, "other.pem"), "other.example.org")
	if err := os.WriteFile(filepath.Join(dir, "noise.pem"), []byte("noise"), 0o600); err != nil {
		t.Fatal(err)
	}
	root(t, filepath.Join(dir, "partner.pem"), "partner.example.org")
	root(t, filepath.Join(dir, "simulated.pem"), "simulated.example.org")
	good := "trust_domain: attested.example.org\nserver: 10.0.0.1:8443\nbootstrap_roots: [root.pem]\n"
	partnerItem := "  - trust_domain: partner.example.org\n    server: 10.0.0.2:8443\n    bootstrap_roots: [partner.pem]\n"
	partner := "trust_domains:\n" + partnerItem
	if _, err := Parse(filepath.Join(dir, "a.yaml"), []byte(good)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ src, want string }{
		{"server: 10.0.0.1:8443\nbootstrap_roots: [root.pem]\n", "a.yaml:1:1: trust_domain is not"},
		{strings.Replace(good, "server: 10.0.0.1:8443\n", "", 1), "a.yaml:1:1: server is required"},
		{strings.Replace(good, "attested", "spiffe://attested", 1), "a.yaml:1:15: trust_domain is not the name of a trust domain: it has a scheme"},
		{strings.Replace(good, "attested.example", "Attested.example", 1), "a.yaml:1:15: trust_domain is not"},
		{strings.Replace(good, "10.0.0.1:8443", "10.0.0.1", 1), "a.yaml:2:9: server is not an address: missing port"},
		{strings.Replace(good, "10.0.0.1:8443", `":8443"`, 1), `a.yaml:2:9: server is not an address: host ""`},
		{strings.Replace(good, "8443", "0", 1), `a.yaml:2:9: server is not an address: port "0"`},
		{strings.Replace(good, "[root.pem]", "[]", 1), "a.yaml:3:18: no bootstrap root"},
		{strings.Replace(good, "root.pem", "none.pem", 1), "a.yaml:3:19: cannot use the bootstrap root"},
		{strings.Replace(good, "root.pem", "root.pem, noise.pem", 1), "a.yaml:3:29: cannot use the bootstrap root"},
		{strings.Replace(good, "root.pem", "other.pem", 1), "a.yaml:3:18: the bootstrap root is that of trust domain other.example.org"},
		{good + "tee: tpm3\n", `a.yaml:4:6: unknown tee "tpm3", want auto, aws-nitro, amd-sev-snp or tpm2`},
		{good + "key_type: dsa\n", `a.yaml:4:11: unknown key type "dsa"`},
		{good + "socket: \"@agent\"\n", "a.yaml:4:9: an abstract socket"},
		{good + "socket: /" + strings.Repeat("x", 120) + "\n", "a.yaml:4:9: the socket path has 121 bytes"},
		{good + "socket_mode: \"0755\"\n", `a.yaml:4:14: socket_mode "0755"`},
		{good + "not_before: yesterday\n", `a.yaml:4:13: not_before "yesterday" is no time`},
		{good + "socket_mode: \"rw\"\n", `a.yaml:4:14: socket_mode "rw"`},
		{good + "socket_group: root\n", "a.yaml:4:15: socket_group says nothing while socket_mode lets everybody in"},
		{good + "socket_group: no-such-group\nsocket_mode: \"0660\"\n", "a.yaml:4:15: socket_group: group: unknown group no-such-group"},
		{good + "identities: [spiffe://other.example.org/a]\n", "a.yaml:4:14: not the name of a workload in the trust domain"},
		{good + "identities: [nonsense]\n", "a.yaml:4:14: not a SPIFFE ID"},
		{good + "identities: [spiffe://attested.example.org/a, spiffe://attested.example.org/a]\n", "a.yaml:4:47: the same SPIFFE ID twice"},
		{good + "nitro: {device: \"\"}\n", "a.yaml:4:17: nitro.device is empty"},
		{good + "snp: {device: \"\"}\n", "a.yaml:4:15: snp.device is empty"},
		{good + "snp: {socket: a}\nnitro: {socket: b}\n", "a.yaml:4:15: two simulated devices"},
		{good + "snp: {fetch_vcek: {kds: kdsintf.amd.com}}\n", "a.yaml:4:25: snp.fetch_vcek.kds is no address of a KDS"},
		{good + "snp: {fetch_vcek: {kds: \"ftp://kds\"}}\n", "a.yaml:4:25: snp.fetch_vcek.kds is no address of a KDS"},
		{good + "snp: {fetch_vcek: }\n", "a.yaml:4:19: want a mapping, got nothing"},
		{good + "snp: {socket: a}\ntpm: {socket: b}\n", "a.yaml:5:15: two simulated devices"},
		{good + "tpm: {device: \"\"}\n", "a.yaml:4:15: tpm.device is empty"},
		{good + "tpm: {ek: \"\"}\n", "a.yaml:4:11: tpm.ek is empty"},
		{good + "tpm: {ek: gce}\n", `a.yaml:4:11: unknown endorsement key "gce", want ecc-p256, ecc-p384 or rsa-2048`},
		{good + "tpm: {ak: ecc-p384}\n", `a.yaml:4:11: unknown attestation key "ecc-p384", want ecc-p256, rsa-2048 or gce`},
		{good + "tpm: {ak: \"\"}\n", "a.yaml:4:11: tpm.ak is empty"},
		{good + "tpm: {event_log: \"\"}\n", "a.yaml:4:18: tpm.event_log is empty"},
		{good + "key_residency: drawer\n", `a.yaml:4:16: unknown key residency "drawer", want software or tpm`},
		{good + "key_residency: tpm\nkey_type: ecdsa-p384\n", "a.yaml:5:11: keys in the TPM are of type ecdsa-p256, not ecdsa-p384"},
		{good + "key_residency: tpm\ntee: aws-nitro\n", "a.yaml:4:16: there is no TPM to keep keys in"},
		{good + "log: {level: loud}\n", `a.yaml:4:14: unknown log level "loud"`},
		{good + "trust_domains: [{trust_domain: attested.example.org, server: 10.0.0.2:8443, bootstrap_roots: [root.pem]}]\n", "a.yaml:4:32: the trust domain attested.example.org twice"},
		{good + "trust_domains: [{trust_domain: simulated.example.org, server: 10.0.0.2:8443, bootstrap_roots: [simulated.pem]}]\n", "a.yaml:4:32: a simulated trust domain beside one that is not"},
		{good + partner + partnerItem, "a.yaml:8:19: the trust domain partner.example.org twice"},
		{good + "trust_domains:\n  - {server: 10.0.0.2:8443, bootstrap_roots: [partner.pem]}\n", "a.yaml:5:5: trust_domain is not the name of a trust domain: it is empty"},
		{good + strings.Replace(partner, "10.0.0.2:8443", "10.0.0.2", 1), "a.yaml:6:13: server is not an address: missing port"},
		{good + strings.Replace(partner, "10.0.0.2:8443", "vsock:3", 1), `a.yaml:6:13: server is not an address: "vsock:3" has no port: want vsock:CID:PORT`},
		{good + strings.Replace(partner, "[partner.pem]", "[]", 1), "a.yaml:7:22: no bootstrap root"},
		{good + strings.Replace(partner, "partner.pem", "root.pem", 1), "a.yaml:7:22: the bootstrap root is that of trust domain attested.example.org, not of partner.example.org"},
		{good + partner + "    identities: [spiffe://attested.example.org/a]\n", "a.yaml:8:18: not the name of a workload in the trust domain partner.example.org"},
		{good + partner + "    socket: /run/x\n", "a.yaml:8:5: unknown key"},
		{good + "trust_domains:\n" + strings.Repeat(partnerItem, 8), "a.yaml:5:3: 9 trust domains, at most 8"},
		{strings.Replace(good, "10.0.0.1:8443", "vsock:parent:0", 1), `a.yaml:2:9: server is not an address: "0" is no port of a vsock`},
		{good + "log: {format: xml}\n", `a.yaml:4:15: unknown log format "xml"`},
		{good + "sockets: /x\n", "a.yaml:4:1: unknown key"},
		{good + "server: 10.0.0.2:8443\n", "a.yaml:4:1: duplicate key"},
	} {
		_, err := Parse(filepath.Join(dir, "a.yaml"), []byte(c.src))
		var all strictyaml.Errors
		if !errors.As(err, &all) || len(all) != 1 || !strings.HasPrefix(strings.TrimPrefix(err.Error(), dir+"/"), c.want) {
			t.Errorf("got  %v\nwant %s", err, c.want)
		}
	}
}

func TestFurtherTrustDomainsComeInTheOrderOfTheFile(t *testing.T) {
	dir := t.TempDir()
	for _, td := range []string{"a", "b", "c"} {
		root(t, filepath.Join(dir, td+".pem"), td+".example.org")
	}
	s, err := Parse(filepath.Join(dir, "x.yaml"), []byte(`trust_domain: b.example.org
server: vsock:parent:9443
bootstrap_roots: [b.pem]
trust_domains:
  - {trust_domain: c.example.org, server: "10.0.0.3:8443", bootstrap_roots: [c.pem], identities: ["spiffe://c.example.org/x"]}
  - {trust_domain: a.example.org, server: "10.0.0.1:8443", bootstrap_roots: [a.pem]}
`))
	if err != nil {
		t.Fatal(err)
	}
	c := s.Agent(agent.NewNitro(agent.NitroDevice), nil)
	got := []string{c.TrustDomain.Name() + " " + c.Server}
	for _, m := range c.Further {
		got = append(got, fmt.Sprint(m.TrustDomain.Name(), " ", m.Server, " ", m.Identities, " ", m.BootstrapRoots.Len()))
	}
	want := []string{"b.example.org vsock:parent:9443", "c.example.org 10.0.0.3:8443 [spiffe://c.example.org/x] 1", "a.example.org 10.0.0.1:8443 [] 1"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if _, err := agent.New(c); err != nil {
		t.Error(err)
	}
}

func TestAFileThatCannotBeReadIsAMistakeOfUsage(t *testing.T) {
	_, err := Load(filepath.Join(t.TempDir(), "none.yaml"))
	if cli.ExitCode(err) != cli.Usage {
		t.Errorf("exit code %d: %v", cli.ExitCode(err), err)
	}
}

func TestWhoTellsProcessesApartIsNamedWhole(t *testing.T) {
	dir := t.TempDir()
	root(t, filepath.Join(dir, "root.pem"), "attested.example.org")
	base := "trust_domain: attested.example.org\nserver: 10.0.0.1:8443\nbootstrap_roots: [root.pem]\nsocket: " + filepath.Join(dir, "a.sock") + "\n"
	for text, want := range map[string]string{
		"processes: {docker_socket: /var/run/docker.sock}\n":                                                      "",
		"processes: {kubelet: {url: \"https://127.0.0.1:10250\", ca: root.pem, token: token}}\n":                  "",
		"processes: {kubelet: {url: \"https://127.0.0.1:10250\"}}\n":                                              "the kubelet's CA is not named",
		"processes: {kubelet: {url: \"http://127.0.0.1:10255\", ca: root.pem}}\n":                                 "is not one of https",
		"processes: {kubelet: {url: \"https://127.0.0.1:10250\", ca: nothing.pem}}\n":                             "the kubelet's CA:",
		"processes: {kubelet: {url: \"https://127.0.0.1:10250\", ca: root.pem, skip_kubelet_verification: true}}": `unknown key "skip_kubelet_verification"`,
	} {
		s, err := Parse(filepath.Join(dir, FileName), []byte(base+text))
		switch {
		case want == "" && (err != nil || s.Processes == nil):
			t.Errorf("%s: %v", text, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

func TestTheSocketsGroupIsFoundByNameAndByNumber(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]int{"root": 0, "\"54321\"": 54321} {
		dir := t.TempDir()
		file := filepath.Join(dir, "a.yaml")
		root(t, filepath.Join(dir, "root.pem"), "attested.example.org")
		s, err := Parse(file, []byte("trust_domain: attested.example.org\nserver: 10.0.0.1:8443\nbootstrap_roots: [root.pem]\nsocket_mode: \"0660\"\nsocket_group: "+name+"\n"))
		if err != nil {
			t.Fatal(err)
		}
		if got := s.Agent(nil, nil).SocketGroup; got == nil || *got != want {
			t.Errorf("socket_group %s: %v", name, got)
		}
	}
}

func TestAMomentBeforeWhichItCannotBeIsADayOrATime(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Time{
		"2026-11-22": time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC), "\"2026-11-22T14:00:00+01:00\"": time.Date(2026, 11, 22, 13, 0, 0, 0, time.UTC),
	} {
		dir := t.TempDir()
		root(t, filepath.Join(dir, "root.pem"), "attested.example.org")
		s, err := Parse(filepath.Join(dir, "a.yaml"), []byte("trust_domain: attested.example.org\nserver: 10.0.0.1:8443\nbootstrap_roots: [root.pem]\nnot_before: "+text+"\n"))
		if err != nil {
			t.Fatal(err)
		}
		if got := s.Agent(nil, nil).NotBefore; !got.Equal(want) {
			t.Errorf("not_before %s: %s, want %s", text, got, want)
		}
	}
}
