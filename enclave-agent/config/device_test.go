package config

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/assay-project/assay/attest"
	agent "github.com/assay-project/assay/enclave-agent"
)

// settings parses a good configuration with more lines.
func settings(t *testing.T, more string) (*Settings, string) {
	t.Helper()
	dir := t.TempDir()
	root(t, filepath.Join(dir, "root.pem"), "attested.example.org")
	s, err := Parse(filepath.Join(dir, "a.yaml"), []byte("trust_domain: attested.example.org\nserver: 10.0.0.1:8443\nbootstrap_roots: [root.pem]\n"+more))
	if err != nil {
		t.Fatal(err)
	}
	return s, dir
}

// machine makes a root directory with devices.
func machine(t *testing.T, devices ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range devices {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(d)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, d), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestTheDeviceIsTheOneThatTheConfigurationNamesOrThatIsFound(t *testing.T) {
	discard := slog.New(slog.DiscardHandler)
	for _, c := range []struct {
		more     string
		devices  []string
		platform attest.Platform
		path     string // DIR stands for the configuration's directory
	}{
		{"", []string{agent.NitroDevice}, attest.AWSNitro, agent.NitroDevice},
		{"", []string{agent.SNPDevice}, attest.AMDSEVSNP, "configfs-tsm"}, // tried first, when asked
		{"tee: auto\n", []string{agent.NitroDevice}, attest.AWSNitro, agent.NitroDevice},
		{"tee: amd-sev-snp\n", []string{agent.NitroDevice}, attest.AMDSEVSNP, "configfs-tsm"},
		{"tee: amd-sev-snp\nsnp: {device: configfs-tsm}\n", nil, attest.AMDSEVSNP, "configfs-tsm"},
		{"tee: amd-sev-snp\nsnp: {device: dev}\n", nil, attest.AMDSEVSNP, "DIR/dev"},
		{"tee: aws-nitro\n", []string{agent.SNPDevice}, attest.AWSNitro, agent.NitroDevice},
		{"", []string{agent.TPMDevice}, attest.TPM2, agent.TPMDevice},
		{"", []string{agent.TPMDevice, agent.SNPDevice}, attest.AMDSEVSNP, "configfs-tsm"},
		{"tee: tpm2\n", nil, attest.TPM2, agent.TPMDevice}, // tried first, when asked
		{"tee: tpm2\ntpm: {device: /dev/tpm0, ak: gce, ek: rsa-2048, event_log: none}\n", nil, attest.TPM2, "/dev/tpm0"},
		{"tee: tpm2\ntpm: {device: \"unix:t.sock\"}\n", nil, attest.TPM2, "DIR/t.sock"},
		// A simulator is used instead of the real device.
		{"tpm: {socket: t.sock, event_log: boot.log}\n", []string{agent.SNPDevice}, attest.TPM2, "DIR/t.sock"},
		{"nitro: {socket: nsm.sock}\n", nil, attest.AWSNitro, "DIR/nsm.sock"},
		{"nitro: {socket: nsm.sock}\n", []string{agent.SNPDevice}, attest.AWSNitro, "DIR/nsm.sock"},
		{"snp: {socket: guest.sock}\n", []string{agent.NitroDevice}, attest.AMDSEVSNP, "DIR/guest.sock"},
		{"tee: amd-sev-snp\nsnp: {socket: guest.sock}\nnitro: {socket: nsm.sock}\n", nil, attest.AMDSEVSNP, "DIR/guest.sock"},
		{"tee: aws-nitro\nsnp: {socket: guest.sock}\nnitro: {socket: nsm.sock}\n", nil, attest.AWSNitro, "DIR/nsm.sock"},
	} {
		s, dir := settings(t, c.more)
		d, err := s.attester(machine(t, c.devices...), discard)
		if err != nil {
			t.Errorf("%q: %v", c.more, err)
			continue
		}
		if want := strings.Replace(c.path, "DIR", dir, 1); d.Platform() != c.platform || d.String() != want {
			t.Errorf("%q: %s at %s, want %s at %s", c.more, d.Platform(), d, c.platform, want)
		}
	}
}

func TestWithoutATEETheErrorListsWhatWasLookedFor(t *testing.T) {
	s, _ := settings(t, "")
	_, err := s.attester(machine(t), slog.New(slog.DiscardHandler))
	if attest.KindOf(err) != attest.Unavailable || attest.CheckOf(err) != "tee" {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{agent.NitroDevice, agent.ConfigFS, agent.SNPDevice, agent.TPMDevice, agent.TPMRawDevice} {
		if !strings.Contains(err.Error(), want+" is not there") {
			t.Errorf("%s is not in %q", want, err)
		}
	}
}

func TestACertificateIsFetchedOnlyWhereTheConfigurationSaysSo(t *testing.T) {
	for more, want := range map[string]string{
		"":                        "",
		"snp: {device: auto}\n":   "",
		"snp: {fetch_vcek: {}}\n": agent.AMDKDS + "/",
		"snp: {fetch_vcek: {kds: \"http://127.0.0.1:9/k\"}}\n": "http://127.0.0.1:9/k/",
	} {
		s, _ := settings(t, more)
		got := ""
		if s.KDS != nil {
			got = s.KDS.String()
		}
		if got != want {
			t.Errorf("%q: the KDS is %q, want %q", more, got, want)
		}
	}
}
