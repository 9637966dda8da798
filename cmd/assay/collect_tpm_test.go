package main

import (
	"context"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
	simtpm "github.com/assay-project/assay/simulators/tpm"
)

// simulatedTPM serves a machine's TPM on a socket, and returns that, the
// manufacturer's root, and the file with the machine's boot event log.
func simulatedTPM(t *testing.T, boot simtpm.Boot) (socket, roots, log string) {
	t.Helper()
	if err := simtpm.Installed(); err != nil {
		t.Skipf("SKIPPED WITHOUT A SOFTWARE TPM: %v", err)
	}
	dir, err := os.MkdirTemp("", "assay") // a socket's path is short
	check(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	a, err := simtpm.NewAuthority(simtpm.Options{})
	check(t, err)
	socket, roots, log = filepath.Join(dir, "tpm"), filepath.Join(dir, "roots.pem"), filepath.Join(dir, "log")
	machine, err := a.Start(simtpm.Machine{EKs: []simtpm.EKKind{simtpm.P256}, Boot: boot, EventLogFile: log})
	check(t, err)
	l, err := simtpm.Listen(socket)
	check(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- machine.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		check(t, machine.Close())
	})
	check(t, os.WriteFile(roots, append(a.RootPEM(), a.IntermediatePEM()...), 0o600))
	return socket, roots, log
}

// A quote of a real software TPM, with a measured boot's log, in both boot loaders.
func TestACollectedQuoteVerifiesWithItsBootLog(t *testing.T) {
	for _, loader := range simtpm.Loaders() {
		t.Run(string(loader), func(t *testing.T) {
			socket, roots, log := simulatedTPM(t, simtpm.Boot{Loader: loader, CommandLine: "quiet ro"})
			file := filepath.Join(t.TempDir(), "quote.json")
			got := assay(t, nil, "evidence", "collect", "--tee", "tpm2", "--socket", socket, "--event-log", log, "--nonce", "c0ffee", "--output", "json", file)
			var c collected
			got.decode(t, &c)
			if got.code != cli.OK || c.AK == nil || *c.AK != file+".ak.pem" || c.Endorsements != nil {
				t.Fatalf("exit code %d\n%s%s", got.code, got.stdout, got.stderr)
			}
			verify := func(more ...string) (ran, verdict) {
				t.Helper()
				got := assay(t, nil, append(append([]string{"evidence", "verify", "--tee", "tpm2", "--output", "json"}, more...), file)...)
				var v verdict
				got.decode(t, &v)
				return got, v
			}
			got, v := verify("--roots", roots, "--ak", *c.AK, "--nonce", "c0ffee")
			if got.code != cli.OK || v.Nonce != stateOK {
				t.Fatalf("exit code %d\n%s", got.code, got.stdout)
			}
			m := v.Claims.TPM
			if !v.Claims.Simulated || m.AKTrust != attest.AKOperator || m.Clock == nil || len(m.PCRs) == 0 {
				t.Errorf("%s", got.stdout)
			}
			b := m.Boot
			if b == nil || b.SecureBoot == nil || b.Firmware == "" || len(b.Loaders) == 0 || len(b.Keys) != 4 || !strings.Contains(b.CommandLine, "quiet ro") {
				t.Fatalf("%+v", b)
			}
			if loader == simtpm.GRUB && (len(b.GRUBCommands) == 0 || len(b.GRUBFiles) == 0) {
				t.Errorf("GRUB: %+v", b)
			}
			// Nobody vouches for the key; another challenge; what a server would make of it.
			if _, v := verify("--roots", roots); v.Check == nil || *v.Check != "ak_unactivated" {
				t.Errorf("without --ak: %s", *v.Check)
			}
			if _, v := verify("--roots", roots, "--ak", *c.AK, "--nonce", "c0ffef"); v.Check == nil || *v.Check != "binding_nonce" {
				t.Error("another nonce passes")
			}
			if _, v := verify("--roots", roots, "--ak", *c.AK, "--expect-binding", hex.EncodeToString(make([]byte, 32))); v.Check == nil || *v.Check != "binding_extra_data" {
				t.Error("it passes for an attestation")
			}
			// The log by itself yields what was quoted.
			measured := assay(t, nil, "measure", "tpm-eventlog", "--output", "json", log)
			var l tpmMeasured
			measured.decode(t, &l)
			for i, value := range l.PCRs {
				if i < staticPCRs && value.String() != m.PCRs[i].String() {
					t.Errorf("PCR %d: the log yields %s, the quote has %s", i, value, m.PCRs[i])
				}
			}
			if len(l.PCRs) < 8 {
				t.Errorf("%d PCRs", len(l.PCRs))
			}
		})
	}
}

func TestACollectedQuoteWithoutALogSaysSo(t *testing.T) {
	socket, roots, _ := simulatedTPM(t, simtpm.Boot{})
	file := filepath.Join(t.TempDir(), "quote.json")
	got := assay(t, nil, "evidence", "collect", "--tee", "tpm2", "--socket", socket, file)
	if got.code != cli.OK || !strings.HasPrefix(got.stdout, "COLLECTED, not verified: TPM 2.0 evidence") {
		t.Fatalf("exit code %d\n%s%s", got.code, got.stdout, got.stderr)
	}
	// The command that it prints works as it is, but for the simulator's roots.
	_, command, ok := strings.Cut(got.stdout, " assay evidence verify ")
	if !ok {
		t.Fatalf("no command:\n%s", got.stdout)
	}
	command, _, _ = strings.Cut("evidence verify "+command, "\n")
	got = assay(t, nil, append(strings.Fields(command), "--roots", roots)...)
	if got.code != cli.OK || !strings.Contains(got.stdout, "none came along") {
		t.Errorf("%s: exit code %d\n%s%s", command, got.code, got.stdout, got.stderr)
	}
}
