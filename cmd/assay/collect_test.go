package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
	simnitro "github.com/assay-project/assay/simulators/nitro"
	simsnp "github.com/assay-project/assay/simulators/sevsnp"
	"github.com/assay-project/assay/verifiers/nitro"
	"github.com/assay-project/assay/verifiers/sevsnp"
)

// simulatedDevice is a TEE behind a socket.
type simulatedDevice struct{ tee, socket, roots string }

// simulatedDevices serves an enclave's NSM and a guest's secure processor.
func simulatedDevices(t *testing.T) []simulatedDevice {
	t.Helper()
	dir, err := os.MkdirTemp("", "assay") // a socket's path is short
	check(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	serve := func(name string, roots []byte, run func(context.Context, net.Listener) error, l net.Listener) simulatedDevice {
		t.Helper()
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- run(ctx, l) }()
		t.Cleanup(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
		file := filepath.Join(dir, name+".pem")
		check(t, os.WriteFile(file, roots, 0o600))
		return simulatedDevice{name, filepath.Join(dir, name), file}
	}
	na, err := simnitro.NewAuthority(simnitro.AuthorityOptions{Now: time.Now})
	check(t, err)
	module, err := na.Launch(launched)
	check(t, err)
	nl, err := simnitro.Listen(filepath.Join(dir, "aws-nitro"))
	check(t, err)
	sa, err := simsnp.NewAuthority(simsnp.Options{Now: time.Now})
	check(t, err)
	chip, err := sa.Chip(simsnp.Turin, "a chip")
	check(t, err)
	guest, err := chip.Launch(simsnp.Launch{CRL: true})
	check(t, err)
	sl, err := simsnp.Listen(filepath.Join(dir, "amd-sev-snp"))
	check(t, err)
	return []simulatedDevice{
		serve("aws-nitro", na.RootPEM(), module.Serve, nl),
		serve("amd-sev-snp", sa.RootsPEM(), guest.Serve, sl),
	}
}

func TestCollectedEvidenceVerifiesCarriesItsNonceAndAttestsNothing(t *testing.T) {
	for _, d := range simulatedDevices(t) {
		t.Run(d.tee, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "evidence")
			got := assay(t, nil, "evidence", "collect", "--tee", d.tee, "--socket", d.socket, "--output", "json", file)
			var c collected
			got.decode(t, &c)
			if got.code != cli.OK || got.stderr != "" || len(c.Nonce) != 32 || c.Device != d.socket || c.Evidence != file || string(c.TEE) != d.tee {
				t.Fatalf("exit code %d\n%s%s", got.code, got.stdout, got.stderr)
			}
			args := []string{"evidence", "verify", "--tee", d.tee, "--roots", d.roots, "--output", "json"}
			if (c.Endorsements != nil) != (d.tee == "amd-sev-snp") {
				t.Fatalf("endorsements: %v", c.Endorsements)
			}
			if c.Endorsements != nil {
				args = append(args, "--endorsement", *c.Endorsements, "--require-crl")
			}
			verify := func(more ...string) (ran, verdict) {
				t.Helper()
				got := assay(t, nil, append(append(args[:len(args):len(args)], more...), file)...)
				var v verdict
				got.decode(t, &v)
				return got, v
			}
			got, v := verify("--nonce", c.Nonce.String())
			if got.code != cli.OK || !v.Verified || v.Nonce != "ok" || len(v.Unused) != 0 {
				t.Fatalf("exit code %d\n%s", got.code, got.stdout)
			}
			other := bytes.Clone(c.Nonce)
			other[31] ^= 1
			if got, v := verify("--nonce", hex.EncodeToString(other)); got.code != cli.Untrusted || v.Check == nil || *v.Check != "binding_nonce" {
				t.Errorf("another nonce: exit code %d\n%s", got.code, got.stdout)
			}
			// Neither as B, nor as anything that a verifier takes for an attestation's.
			digest, err := attest.CollectedBinding(c.Nonce)
			check(t, err)
			if got, _ := verify("--expect-binding", hex.EncodeToString(digest[:])); got.code != cli.Untrusted {
				t.Errorf("it passes for an attestation: exit code %d\n%s", got.code, got.stdout)
			}
			b := attest.Binding{B: digest, Nonce: [32]byte(c.Nonce), Keys: []attest.BoundKey{{SPKI: []byte("key")}}}
			if bound(t, v.Claims, b) == nil {
				t.Error("the verifier takes it for an attestation")
			}
			if text := assay(t, nil, "evidence", "inspect", "--tee", d.tee, file); !strings.Contains(text.stdout, "collected by assay, nonce digest "+hex.EncodeToString(digest[:])) {
				t.Errorf("inspect does not say what it is:\n%s", text.stdout)
			}
		})
	}
}

// bound asks the server's own verifier.
func bound(t *testing.T, c *attest.Claims, b attest.Binding) error {
	t.Helper()
	if c.Nitro != nil {
		v, err := nitro.New(nitro.HardwareRoots())
		check(t, err)
		return v.Bound(c, b)
	}
	v, err := sevsnp.New(sevsnp.HardwareRoots())
	check(t, err)
	return v.Bound(c, b)
}

func TestCollectWritesItsStory(t *testing.T) {
	for _, d := range simulatedDevices(t) {
		file := filepath.Join(t.TempDir(), "evidence")
		got := assay(t, nil, "evidence", "collect", "--tee", d.tee, "--socket", d.socket, "--nonce", "c0ffee", file)
		if got.code != cli.OK || !strings.HasPrefix(got.stdout, "COLLECTED, not verified: ") {
			t.Fatalf("%s: exit code %d\n%s%s", d.tee, got.code, got.stdout, got.stderr)
		}
		// The command that it prints works as it is, but for the simulator's roots.
		_, command, ok := strings.Cut(got.stdout, " assay evidence verify ")
		if !ok {
			t.Fatalf("no command:\n%s", got.stdout)
		}
		command, _, _ = strings.Cut("evidence verify "+command, "\n")
		if got := assay(t, nil, append(strings.Fields(command), "--roots", d.roots)...); got.code != cli.OK {
			t.Errorf("%s: exit code %d\n%s%s", command, got.code, got.stdout, got.stderr)
		}
	}
}

func TestCollectingWithoutADeviceIsUnavailable(t *testing.T) {
	dir := t.TempDir()
	for _, tee := range teeNames() {
		for _, flag := range []string{"--device", "--socket"} {
			got := assay(t, nil, "evidence", "collect", "--tee", tee, flag, filepath.Join(dir, "none"), filepath.Join(dir, "out"))
			if got.code != cli.Unavailable || !strings.HasPrefix(got.stderr, "error: ") || !strings.Contains(got.stderr, "\nhint: ") || strings.Contains(got.stderr, "configuration") {
				t.Errorf("%s %s: exit code %d\n%s", tee, flag, got.code, got.stderr)
			}
			if _, err := os.Stat(filepath.Join(dir, "out")); err == nil {
				t.Errorf("%s %s: a file was written", tee, flag)
			}
		}
	}
}

func TestCollectTakesNoDataToSign(t *testing.T) {
	for _, args := range [][]string{
		{"--tee", "amd-sev-snp", "--report-data", "00", "out"},
		{"--tee", "aws-nitro", "--user-data", "00", "out"},
		{"--tee", "amd-sev-snp", "-"},
		{"--tee", "amd-sev-snp", "--nonce", "", "out"},
		{"--tee", "amd-sev-snp", "--nonce", strings.Repeat("00", 513), "out"},
		{"--tee", "amd-sev-snp", "--device", "a", "--socket", "b", "out"},
		{"out"},
	} {
		if got := assay(t, nil, append([]string{"evidence", "collect"}, args...)...); got.code != cli.Usage {
			t.Errorf("%q: exit code %d\n%s", args, got.code, got.stderr)
		}
	}
}
