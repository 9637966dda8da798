package tpm

import (
	"crypto"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-eventlog/extract"
	"github.com/google/go-eventlog/register"
	"github.com/google/go-eventlog/tcg"
)

// replayed has an independent implementation replay a log to registers.
func replayed(log []byte, bank crypto.Hash, pcrs map[int][]byte) ([]tcg.Event, error) {
	var mrs []register.MR
	for i, v := range pcrs {
		mrs = append(mrs, register.PCR{Index: i, Digest: v, DigestAlg: bank})
	}
	return tcg.ParseAndReplay(log, mrs, tcg.ParseOpts{})
}

func boots() map[string]Boot {
	return map[string]Boot{
		"grub":         {Image: "ledger"},
		"insecure":     {Image: "ledger", SecureBootOff: true},
		"systemd-boot": {Image: "ledger", Loader: SystemdBoot},
		"locality 3":   {Image: "ledger", Locality: 3},
		"command line": {CommandLine: "root=/dev/sda1 init=/bin/sh"},
		"firmware":     {Firmware: "Simulated UEFI 2.0"},
	}
}

func TestTheEventLogReplaysToTheTPMsOwnRegisters(t *testing.T) {
	for name, b := range boots() {
		tpm := startMachine(t, Machine{Boot: b})
		for _, bank := range Banks() {
			events, err := replayed(tpm.EventLog(), bank, readPCRs(t, tpm, bank))
			if err != nil {
				t.Errorf("%s, %v: %v", name, bank, err)
			}
			if len(events) < 30 {
				t.Errorf("%s, %v: only %d events", name, bank, len(events))
			}
		}
	}
}

func TestAnIndependentParserUnderstandsTheEventLog(t *testing.T) {
	for name, b := range boots() {
		m, err := Measurements(b)
		if err != nil {
			t.Fatal(err)
		}
		for _, bank := range Banks() {
			events, err := replayed(m.Log, bank, m.PCRs[bank])
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			opts := extract.Opts{}
			if b.Loader != SystemdBoot {
				opts.Loader = extract.GRUB
			}
			state, err := extract.FirmwareLogState(events, bank, extract.TPMRegisterConfig, opts)
			if err != nil {
				t.Errorf("%s, %v: %v", name, bank, err)
				continue
			}
			if got := state.GetSecureBoot().GetEnabled(); got == b.SecureBootOff {
				t.Errorf("%s: secure boot %v", name, got)
			}
			if n := len(state.GetSecureBoot().GetDb().GetCerts()); n != 1 {
				t.Errorf("%s: %d certificates in db", name, n)
			}
			if n := len(state.GetSecureBoot().GetDbx().GetHashes()); n != 3 {
				t.Errorf("%s: %d hashes in dbx", name, n)
			}
			if n := len(state.GetEfi().GetApps()); n != 3 {
				t.Errorf("%s: %d programs were started", name, n)
			}
			if b.Loader == SystemdBoot {
				continue
			}
			b, err := b.complete()
			if err != nil {
				t.Fatal(err)
			}
			// The library leaves GRUB's end mark in place.
			if diff := cmp.Diff("/boot/vmlinuz-"+b.Image+" "+b.CommandLine+"\x00", state.GetLinuxKernel().GetCommandLine()); diff != "" {
				t.Errorf("%s: command line: %s", name, diff)
			}
			if n := len(state.GetGrub().GetFiles()); n != 4 {
				t.Errorf("%s: %d files of GRUB", name, n)
			}
		}
	}
}

func TestEveryInputOfABootChangesARegisterOfItsOwn(t *testing.T) {
	base, err := Measurements(Boot{})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		boot Boot
		pcrs []int
	}{
		"nothing":      {Boot{Image: DefaultImage, Loader: GRUB, CommandLine: DefaultCommandLine, Firmware: DefaultFirmware}, nil},
		"image":        {Boot{Image: "other"}, []int{4, 8, 9}},
		"command line": {Boot{CommandLine: "ro"}, []int{8, 9}},
		"secure boot":  {Boot{SecureBootOff: true}, []int{7}},
		"firmware":     {Boot{Firmware: "2"}, []int{0, 1, 2}},
		"locality":     {Boot{Locality: 3}, []int{0}},
		"loader":       {Boot{Loader: SystemdBoot}, []int{1, 4, 7, 8, 9, 11, 12, 14}},
	} {
		got, err := Measurements(c.boot)
		if err != nil {
			t.Fatal(err)
		}
		for _, bank := range Banks() {
			var changed []int
			for i := range registers {
				if !cmp.Equal(base.PCRs[bank][i], got.PCRs[bank][i]) {
					changed = append(changed, i)
				}
			}
			if diff := cmp.Diff(c.pcrs, changed); diff != "" {
				t.Errorf("%s, %v: (-want +changed)\n%s", name, bank, diff)
			}
		}
	}
}

func TestABootThatCannotBeIsRefused(t *testing.T) {
	for _, b := range []Boot{{Loader: "lilo"}, {Locality: 4}, {Image: "a\x00b"}, {CommandLine: "\xff"}, {Firmware: string(make([]byte, maxText+1))}} {
		if _, err := Measurements(b); err == nil {
			t.Errorf("%+v was measured", b)
		}
	}
}
